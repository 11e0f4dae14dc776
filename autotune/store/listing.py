"""Lists of the history for whoever browses it: in any order, a page at a time, without what is not shown.

The samples of a trial are some hundred bytes that a list has no use for; see `HistoryReader.trial` for them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec

from autotune.errors import UnknownNameError
from autotune.store import ordering
from autotune.store.encoding import choice_of, decision_of, from_json
from autotune.store.ordering import ordered_by
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from sqlite3 import Row

    from autotune.store.entries import Decision
    from autotune.store.reading import HistoryReader
    from autotune.store.records import Configuration

_TRIAL = """SELECT number, configuration, verdict, stage, reason, error, memory_bytes, compile_seconds,
    measure_seconds, started_at, p50_ns, p90_ns, p99_ns, variation, sample_count FROM trial"""

_WINNER = """SELECT w.id, w.study, w.workload, w.problem, w.dimensions, w.neighbourhood, w.device, w.stack,
    w.objective, w.state, w.decided_at, w.changed_at, w.note, w.baseline_error, c.configuration,
    c.is_baseline, c.latency_ns, c.p99_ns, c.proof_ns, c.baseline_ns, c.speedup, c.speedup_low,
    c.speedup_high, c.error, c.memory_bytes, c.limit_share, c.rounds, c.confidence, c.margin
    FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0"""

_CURRENT = """SELECT w.workload, w.device, w.objective, c.is_baseline, c.speedup, c.limit_share, w.decided_at
    FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0 WHERE w.state = 'current'"""


class TrialRow(msgspec.Struct, frozen=True):
    """A trial without its samples; the fields are those of `Trial` and of its measurement."""

    number: int
    configuration: Configuration
    verdict: str
    stage: str
    reason: str
    error: float | None
    memory_bytes: int | None
    compile_seconds: float
    measure_seconds: float
    started_at: float
    p50_ns: float | None
    p90_ns: float | None
    p99_ns: float | None
    variation: float | None
    sample_count: int | None


class WinnerRow(msgspec.Struct, frozen=True):
    """A decision with its rank 0, without samples; the fields are those of `Winner`, `Choice` and `Proof`.

    Attributes:
        latency_ns: median of the measurement after the decision.
        proof_ns: what the interleaved comparison measured of the winner, by the objective's statistic.
        baseline_ns: the same of the baseline.
    """

    id: int
    study: int | None
    workload: str
    problem: str
    dimensions: dict[str, int | str]
    neighbourhood: str
    device: str
    stack: str
    objective: str
    state: str
    decided_at: float
    changed_at: float
    note: str
    baseline_error: float
    configuration: Configuration
    is_baseline: bool
    latency_ns: float
    p99_ns: float | None
    proof_ns: float
    baseline_ns: float
    speedup: float
    speedup_low: float
    speedup_high: float
    error: float
    memory_bytes: int
    limit_share: float | None
    rounds: int
    confidence: float
    margin: float


class WorkloadSummary(msgspec.Struct, frozen=True):
    """The current winners of one workload on one device for one objective, as figures.

    Attributes:
        problems: how many are decided.
        kept: of those, how many keep the baseline.
        mean: geometric mean of the speed-ups over the baseline.
        least: the smallest of them.
        most: the greatest.
        limit_share: mean share of the roofline; None when none is known.
        decided_at: of the latest.
    """

    workload: str
    device: str
    objective: str
    problems: int
    kept: int
    mean: float
    least: float
    most: float
    limit_share: float | None
    decided_at: float


def trial_rows(
    reader: HistoryReader,
    study: int,
    *,
    verdict: Verdict | None = None,
    order: str = "number",
    descending: bool = False,
    every: int = 1,
    limit: int = 100,
    offset: int = 0,
) -> list[TrialRow]:
    """The trials of a study without their samples.

    Args:
        reader: the history.
        study: its number.
        verdict: only those that ended so.
        order: a key of `ordering.TRIALS`.
        descending: the other way round; what lacks the figure stays last.
        every: only those whose number is a multiple of this.
        limit: how many at most.
        offset: how many to pass over.

    Raises:
        UnknownNameError: there is no such order.
    """
    values: list[Any]
    where, values = "WHERE study = ?", [study, *([verdict.value] if verdict else [])]
    if verdict:
        where += " AND verdict = ?"
    if every > 1:
        where += " AND number % ? = 0"
        values.append(every)
    by = ordered_by(ordering.TRIALS, order, descending)
    sql = f"{_TRIAL} {where} ORDER BY {by} LIMIT ? OFFSET ?"
    return reader.records(_trial_row, sql, *values, limit, offset)


def succeeded(trials: Iterable[TrialRow]) -> list[tuple[Configuration, float]]:
    """Configurations with their medians in nanoseconds, of the trials that ended well."""
    return [(one.configuration, one.p50_ns) for one in trials if one.verdict == Verdict.OK and one.p50_ns]


def winner_rows(
    reader: HistoryReader,
    *,
    workload: str | None = None,
    problem: str | None = None,
    neighbourhood: str | None = None,
    device: str | None = None,
    stack: str | None = None,
    objective: str | None = None,
    study: int | None = None,
    state: str | None = None,
    search: str | None = None,
    alternatives: str | None = None,
    order: str = "decided",
    descending: bool = False,
    limit: int = 100,
    offset: int = 0,
) -> list[WinnerRow]:
    """Decisions with what they chose, without samples.

    Args:
        reader: the history.
        workload: its name.
        problem: the problem's key.
        neighbourhood: the problem's key without its `nearest` dimensions.
        device: its digest.
        stack: its digest.
        objective: its name.
        study: that decided them.
        state: `current`, `superseded` or `withdrawn`.
        search: text that the problem's key contains.
        alternatives: anything but None for those alone that have other points of the Pareto front.
        order: a key of `ordering.WINNERS`.
        descending: the other way round.
        limit: how many at most.
        offset: how many to pass over.

    Raises:
        UnknownNameError: there is no such order.
    """
    where, values = _winners_where(locals())
    by = ordered_by(ordering.WINNERS, order, descending)
    sql = f"{_WINNER} {where} ORDER BY {by} LIMIT ? OFFSET ?"
    return reader.records(_winner_row, sql, *values, limit, offset)


def winner_count(reader: HistoryReader, **filters: str | None) -> int:
    """How many decisions `winner_rows` would list with the same filters and no limit."""
    where, values = _winners_where(filters)
    return int(reader.rows(f"SELECT count(*) FROM winner w {where}", *values)[0][0])


def speedups(reader: HistoryReader, **filters: str | None) -> list[float]:
    """Over the baseline, of all that `winner_rows` would list with the same filters and no limit."""
    where, values = _winners_where(filters)
    of = f"SELECT c.speedup FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0 {where}"
    return [row["speedup"] for row in reader.rows(of, *values)]


def study_count(
    reader: HistoryReader,
    *,
    workload: str | None = None,
    device: str | None = None,
    stack: str | None = None,
    objective: str | None = None,
    state: str | None = None,
    verdict: Verdict | None = None,
) -> int:
    """How many studies there are of what `HistoryReader.studies` describes."""
    given = {"workload": workload, "device": device, "stack": stack, "objective": objective, "state": state}
    wanted = {name: value for name, value in given.items() if value is not None}
    clauses, values = [f"s.{name} = ?" for name in wanted], list(wanted.values())
    if verdict is not None:
        clauses.append("EXISTS (SELECT 1 FROM trial t WHERE t.study = s.id AND t.verdict = ?)")
        values.append(verdict.value)
    where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
    return int(reader.rows(f"SELECT count(*) FROM study s {where}", *values)[0][0])


def decision(reader: HistoryReader, number: int) -> Decision:
    """One decision with all that it chose.

    Raises:
        UnknownNameError: there is none of that number.
    """
    choices = reader.records(choice_of, "SELECT * FROM choice WHERE winner = ? ORDER BY rank", number)
    found = reader.records(lambda row: decision_of(row, choices), "SELECT * FROM winner WHERE id = ?", number)
    if not found:
        known = [row["id"] for row in reader.rows("SELECT id FROM winner ORDER BY id DESC LIMIT 12")]
        raise UnknownNameError("decision", str(number), known, reader.state.history)
    return found[0]


def summaries(reader: HistoryReader) -> list[WorkloadSummary]:
    """The current winners by workload, device and objective, as figures; the most problems first."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in reader.rows(_CURRENT):
        groups.setdefault((row["workload"], row["device"], row["objective"]), []).append(row)
    told = [_summary(key, rows) for key, rows in groups.items()]
    return sorted(told, key=lambda one: (-one.problems, one.workload, one.device, one.objective))


def _summary(key: tuple[str, str, str], rows: list[Row]) -> WorkloadSummary:
    speedups = [row["speedup"] for row in rows]
    shares = [row["limit_share"] for row in rows if row["limit_share"] is not None]
    return WorkloadSummary(
        *key,
        problems=len(rows),
        kept=sum(row["is_baseline"] for row in rows),
        mean=math.exp(math.fsum(map(math.log, speedups)) / len(speedups)),
        least=min(speedups),
        most=max(speedups),
        limit_share=sum(shares) / len(shares) if shares else None,
        decided_at=max(row["decided_at"] for row in rows),
    )


def _winners_where(given: Mapping[str, Any]) -> tuple[str, list[Any]]:
    names = ("workload", "problem", "neighbourhood", "device", "stack", "objective", "study", "state")
    wanted = {name: given[name] for name in names if given.get(name) is not None}
    clauses, values = [f"w.{name} = ?" for name in wanted], list(wanted.values())
    if given.get("search"):
        clauses.append("instr(w.problem, ?) > 0")
        values.append(given["search"])
    if given.get("alternatives"):
        clauses.append("EXISTS (SELECT 1 FROM choice f WHERE f.winner = w.id AND f.rank = 1)")
    return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _trial_row(row: Row) -> TrialRow:
    return TrialRow(**{**dict(row), "configuration": from_json(row["configuration"])})


def _winner_row(row: Row) -> WinnerRow:
    decoded = {name: from_json(row[name]) for name in ("dimensions", "configuration")}
    return WinnerRow(**{**dict(row), **decoded, "is_baseline": bool(row["is_baseline"])})
