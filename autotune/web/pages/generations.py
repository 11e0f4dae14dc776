"""Generations: all that were published, and what one changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.cli import output
from autotune.cli.diff import change_row
from autotune.errors import UnknownNameError
from autotune.store.difference import difference
from autotune.store.snapshot import generation_files
from autotune.store.snapshot import generations as published
from autotune.web.page import Page
from autotune.web.pages import shown
from autotune.web.question import address
from autotune.web.tables import Column, Table

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.store.difference import Change
    from autotune.store.entries import Generation
    from autotune.web.question import Question

KINDS = {"added": "good", "removed": "bad", "changed": "warn", "measured": "calm"}


def generations(reader: HistoryReader, question: Question) -> Page:
    """Every generation, the newest first."""
    total = int(reader.rows("SELECT count(*) FROM generation")[0][0])
    found = published(reader, limit=question.limit, offset=question.offset)
    columns = [
        Column("generation", shown.text("number"), lambda row: f"/generation/{row['number']}", number=True),
        Column("published", shown.figure("published_at", output.moment), moment=True),
        Column("choices", shown.text("choices"), number=True),
        Column("file", lambda row: "kept" if row["kept"] else "gone"),
        Column("pinned", lambda row: _pinned(row["pin_reason"])),
        Column("brought back", shown.text("restored_from"), number=True),
        Column("reason", shown.text("reason")),
    ]
    rows = output.as_rows(found)
    return Page(
        title="Generations",
        section="Generations",
        lead=[
            "Each is one file of all winners, as look-ups read it. The newest serves; a job may pin another."
        ],
        tables=[
            Table("generations", "Generations", columns, rows, total, empty="Nothing was published yet.")
        ],
    )


def generation(reader: HistoryReader, question: Question) -> Page:
    """One generation: what it changed against the one before, or another one."""
    number = question.numbers["generation"]
    rows = reader.rows("SELECT * FROM generation WHERE number = ?", number)
    kept = generation_files(reader.state)
    if not rows:
        known = [one.number for one in published(reader, limit=12)]
        raise UnknownNameError("generation", str(number), map(str, known), reader.state.history)
    earlier = [one for one in kept if one < number]
    against = question.number("against", earlier[-1] if earlier else 0) or None
    lead, changes = _changes(reader, number, kept, against)
    later = [one for one in kept if one > number]
    links = [("All generations", "/generations")]
    links += [(f"Generation {one}", f"/generation/{one}") for one in (*earlier[-1:], *later[:1])]
    pins = [one for one in published(reader, limit=1000) if one.pin_reason is not None]
    return Page(
        title=f"Generation {number}",
        section="Generations",
        lead=[lead],
        links=links,
        facts={"": _facts(rows[0], number in kept)},
        fields=shown.filtered(question, ("against", "compare with generation")),
        tables=[_changed(reader, changes, question), _pins(pins)],
    )


def _changes(
    reader: HistoryReader, number: int, kept: list[int], against: int | None
) -> tuple[str, list[Change]]:
    if number not in kept:
        return "Its file is gone: what it held can no longer be told.", []
    if against is None:
        return "No earlier generation's file is kept to compare it with.", []
    changes = difference(reader, against, number)
    kinds = [change.kind for change in changes]
    counts = [f"{kinds.count(kind):,} {kind}" for kind in KINDS if kind in kinds]
    return f"Against generation {against}: {', '.join(counts) or 'the same winners'}.", changes


def _changed(reader: HistoryReader, changes: list[Change], question: Question) -> Table:
    part = changes[question.offset : question.offset + question.limit]
    rows = [{**change_row(change), "dimensions": change.dimensions} for change in part]
    columns = [
        shown.marked("change", KINDS, "change"),
        Column("problem", shown.problem, _winners_link),
        Column("device", shown.device_name(reader)),
        Column("before", lambda row: _configuration(row["before"])),
        Column(
            "after", lambda row: "the same" if row["change"] == "measured" else _configuration(row["after"])
        ),
        Column("was", shown.figure("before_ns", output.latency), number=True),
        Column("is", shown.figure("after_ns", output.latency), number=True),
    ]
    return Table("changes", "What changed", columns, rows, len(changes), empty="Nothing.")


def _winners_link(row: dict[str, Any]) -> str:
    return address("/workload", name=row["workload"], search=row["problem"])


def _pins(pins: list[Generation]) -> Table:
    columns = [
        Column("generation", shown.text("number"), lambda row: f"/generation/{row['number']}", number=True),
        Column("why", shown.text("pin_reason")),
    ]
    return Table("pins", "Pinned generations", columns, output.as_rows(pins), empty="None is pinned.")


def _facts(row: Any, kept: bool) -> dict[str, str]:
    return {
        "published": output.moment(row["published_at"]),
        "reason": row["reason"] or "-",
        "choices": f"{row['choices']:,}",
        "brought back": f"generation {row['restored_from']}" if row["restored_from"] else "-",
        "pinned": _pinned(row["pin_reason"]),
        "file": "kept" if kept else "gone",
        "SHA-256": row["digest"],
    }


def _pinned(reason: str | None) -> str:
    if reason is None:
        return "-"
    return f"yes: {reason}" if reason else "yes"


def _configuration(settings: dict[str, Any] | None) -> str:
    return "-" if settings is None else output.configuration(settings)
