"""How values stand in cells, and where they lead: the same on every page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.cli import output
from autotune.space.problem import Problem
from autotune.store.records import Interval
from autotune.web.question import address
from autotune.web.tables import Column

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.store import HistoryReader
    from autotune.web.question import Question

Row = dict[str, Any]

VERDICT_MARKS = {"ok": "good", "noisy": "warn", "preempted": "calm", "infeasible": "calm"}
STATE_MARKS = {
    "current": "good",
    "superseded": "calm",
    "withdrawn": "bad",
    "running": "warn",
    "ended": "calm",
    "interrupted": "warn",
}


def problem(row: Row) -> str:
    """A problem without what is declared as default."""
    return output.problem(Problem(row["workload"], row["dimensions"]))


def speedup(row: Row) -> str:
    """With its interval."""
    return output.speedup(Interval(row["speedup"], row["speedup_low"], row["speedup_high"]))


def chosen(row: Row) -> str:
    """A winner's configuration."""
    kept = "baseline kept: " if row["is_baseline"] else ""
    return kept + output.configuration(row["configuration"])


def figure(name: str, written: Callable[[Any], str]) -> Callable[[Row], str]:
    """A value of a row in its unit."""
    return lambda row: written(row[name])


def text(name: str) -> Callable[[Row], str]:
    """A value of a row as it is; a dash for none."""
    return lambda row: "-" if row[name] in (None, "") else str(row[name])


def marked(name: str, marks: dict[str, str], title: str, order: str = "") -> Column:
    """A column of words that are coloured by what they mean."""
    return Column(title, text(name), mark=lambda row: marks.get(row[name], "bad"), order=order)


def study_link(row: Row) -> str | None:
    """To the study of a row."""
    return None if row["study"] is None else f"/study/{row['study']}"


def trial_link(row: Row) -> str | None:
    """To the trial of a row."""
    known = row["study"] is not None and row["trial"] is not None
    return f"/study/{row['study']}/trial/{row['trial']}" if known else None


def winner_link(row: Row) -> str:
    """To the decision of a row."""
    return f"/winner/{row['id']}"


def workload_link(row: Row) -> str:
    """To the winners of a row's workload."""
    return address("/workload", name=row["workload"])


def device_name(reader: HistoryReader) -> Callable[[Row], str]:
    """Names of devices by their digests, with the start of the digest."""
    names = {device.digest: device.name for device in reader.devices()}
    return lambda row: f"{names.get(row['device'], 'unknown')} {row['device'][:8]}"


def told_study() -> Column:
    """A column of studies' numbers."""
    return Column("study", text("study"), study_link, number=True)


def filtered(question: Question, *names: tuple[str, str]) -> list[tuple[str, str, str]]:
    """The fields of a form with their present values."""
    return [(name, label, question.text(name) or "") for name, label in names]
