"""The overview: devices, the daemon and what holds it back, what waits, and what was decided lately."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from autotune.cli import output
from autotune.cli.status import duration
from autotune.daemon.control import NoDaemonError, Requests, Status, ask
from autotune.errors import AutotuneError
from autotune.space.problem import Problem
from autotune.store.listing import summaries, winner_rows
from autotune.web.page import Page, Plot
from autotune.web.pages import shown
from autotune.web.tables import Column, Table

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.web.question import Question

PATIENCE_SECONDS = 1.0
"""How long the daemon may take to answer; it stands for a page that is quick."""
RECENT = 20

_STATES = {"tuning": "good", "idle": "calm", "watching": "calm", "busy": "warn", "leased": "warn"}
_DECISIONS = {"current": "holds", "superseded": "decided again", "withdrawn": "withdrawn"}


def overview(reader: HistoryReader, _: Question) -> Page:
    """The first page."""
    status, requests, why = _daemon()
    running = reader.studies(state="running", limit=RECENT)
    tables = [
        _devices(reader, status),
        *([_conditions(status), _agenda(requests), _requests(requests)] if status else []),
        _speedups(reader),
        _running(running),
        _recent(reader),
        _events(reader),
    ]
    return Page(
        title="Overview",
        section="Overview",
        lead=[why],
        tables=tables,
        plots=[
            Plot(
                "speedups",
                "Speed-ups over the baseline",
                "How many of the present winners are how many times as fast as the framework's default; "
                "1 is where the baseline was kept.",
                "/plot/speedups",
            )
        ],
        live=bool(running),
    )


def _daemon() -> tuple[dict[str, Any], dict[str, Any], str]:
    """What the daemon says of itself and of what waits, and a sentence on how it is."""
    try:
        status = ask(Status(), PATIENCE_SECONDS)
        requests = ask(Requests(), PATIENCE_SECONDS)
    except NoDaemonError:
        return {}, {}, "No daemon runs; what it did is below."
    except AutotuneError as error:
        return {}, {}, f"The daemon does not tell how it is: {error}"
    told = (
        f"The daemon {status['version']} has run for {duration(status['uptime_seconds'])} as process "
        f"{status['pid']}; {status['requests']} requests wait."
    )
    for lease in status["leases"]:
        told += f" {lease['user']} holds a lease on {lease['device']}" + (
            f": {lease['reason']}." if lease["reason"] else "."
        )
    return status, requests, told + (f" Last error: {status['last_error']}" if status["last_error"] else "")


def _devices(reader: HistoryReader, status: dict[str, Any]) -> Table:
    live = {device["digest"]: device for device in status.get("devices", [])}
    rows = []
    for device in reader.devices():
        now = live.get(device.digest, {})
        rows.append(
            {
                "digest": device.digest,
                "name": device.name,
                "kind": device.kind,
                "family": device.family,
                "here": device.local_index is not None,
                "state": now.get("state", ""),
                "since": now.get("since"),
                "reason": now.get("reason", ""),
                "study": now.get("study"),
            }
        )
    columns = [
        Column("device", shown.text("name")),
        Column("family", shown.text("family")),
        Column("digest", shown.text("digest")),
        Column("here", lambda row: "yes" if row["here"] else "no"),
    ]
    if status:
        columns += [
            shown.marked("state", _STATES, "state"),
            Column("for", lambda row: duration(time.time() - row["since"]) if row["since"] else "-"),
            Column("because", shown.text("reason")),
            Column("tunes", lambda row: _study(row["study"]) if row["study"] else "-"),
        ]
    return Table("devices", "Devices", columns, rows, empty="Nothing was tuned yet.")


def _study(study: dict[str, Any]) -> str:
    told = _problem(study)
    if "tried" in study:
        told += f": {study['phase']}, {study['tried']} of {study['possible']} tried"
        if study["best_ns"]:
            told += f", best {output.latency(study['best_ns'])}"
    return told


def _conditions(status: dict[str, Any]) -> Table:
    rows = [
        {"device": device["device"], **condition}
        for device in status["devices"]
        for condition in device["conditions"]
    ]
    columns = [
        Column("device", shown.text("device")),
        Column("condition", shown.text("condition")),
        Column(
            "holds",
            lambda row: "yes" if row["holds"] else "no",
            mark=lambda row: "good" if row["holds"] else "bad",
        ),
        Column("now", shown.text("told")),
    ]
    return Table("conditions", "What the daemon waits for", columns, rows)


def _agenda(requests: dict[str, Any]) -> Table:
    columns = [
        Column("device", shown.text("device")),
        Column("problem", _problem),
        Column("why", shown.text("why")),
        Column("budget", lambda row: f"{row['seconds']:g} s", number=True),
    ]
    rows = requests["agenda"]
    return Table("queue", "Queue, the next first", columns, rows[:RECENT], empty="Nothing waits.")


def _requests(requests: dict[str, Any]) -> Table:
    columns = [
        Column("problem", _problem),
        Column("asked", shown.text("asked"), number=True),
        Column("last", shown.figure("last_at", output.moment), moment=True),
        Column("found", shown.text("match")),
        Column("failed", lambda row: row["failure"] or "-"),
    ]
    return Table("requests", "Requests of look-ups", columns, requests["requests"][:RECENT])


def _speedups(reader: HistoryReader) -> Table:
    columns = [
        Column("workload", shown.text("workload"), shown.workload_link),
        Column("device", shown.device_name(reader)),
        Column("objective", shown.text("objective")),
        Column("problems", shown.text("problems"), number=True),
        Column("baseline kept", shown.text("kept"), number=True),
        Column("geometric mean", lambda row: f"{row['mean']:.2f}x", number=True),
        Column("least", lambda row: f"{row['least']:.2f}x", number=True),
        Column("most", lambda row: f"{row['most']:.2f}x", number=True),
        Column("of the roofline", shown.figure("limit_share", output.share), number=True),
        Column("latest", shown.figure("decided_at", output.moment), moment=True),
    ]
    rows = output.as_rows(summaries(reader))
    return Table("speedups", "Speed-ups at a glance", columns, rows, empty="Nothing is decided yet.")


def _running(studies: list[Any]) -> Table:
    from autotune.web.pages.studies import STUDY_COLUMNS, study_rows

    columns = [column._replace(order="") for column in STUDY_COLUMNS]
    return Table("running", "Studies that run", columns, study_rows(studies), empty="None runs.")


def _recent(reader: HistoryReader) -> Table:
    rows = output.as_rows(winner_rows(reader, order="changed", limit=RECENT))
    columns = [
        Column("when", shown.figure("changed_at", output.moment), shown.winner_link, moment=True),
        Column(
            "decision",
            lambda row: _DECISIONS[row["state"]],
            mark=lambda row: shown.STATE_MARKS[row["state"]],
        ),
        Column("problem", shown.problem),
        Column("configuration", shown.chosen),
        Column("speed-up", shown.speedup),
        Column("why", shown.text("note")),
    ]
    return Table("decisions", "Recent promotions and withdrawals", columns, rows)


def _events(reader: HistoryReader) -> Table:
    rows = output.as_rows(reader.events(limit=RECENT))
    columns = [
        Column("when", shown.figure("at", output.moment), moment=True),
        Column("what", lambda row: row["kind"].replace("_", " ")),
        Column("to", shown.text("subject")),
        Column("because", lambda row: str(row["detail"].get("reason", "-") or "-")),
    ]
    return Table("events", "Events", columns, rows)


def _problem(item: dict[str, Any]) -> str:
    return output.problem(Problem(item["workload"], item["problem"]))
