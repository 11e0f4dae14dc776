"""Two sides of a comparison: the winners that a study, a device, a stack or a generation stands for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from autotune.cli import options
from autotune.store.encoding import unpack_samples
from autotune.store.records import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping
    from sqlite3 import Row

    from autotune.store import HistoryReader

CONFIDENCE = 0.99
"""Of each of the two medians; the interval of their ratio then holds with 98 % at least."""

_COLUMNS = """SELECT w.workload, w.problem, w.objective, w.device, w.stack, w.dimensions, w.decided_at,
    c.configuration, c.latency_ns FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0"""
_OF = {
    "study": f"{_COLUMNS} WHERE w.study = ? ORDER BY w.decided_at",
    "device": f"{_COLUMNS} WHERE w.state = 'current' AND w.device = ? ORDER BY w.decided_at",
    "stack": f"{_COLUMNS} WHERE w.state = 'current' AND w.stack = ? ORDER BY w.decided_at",
}
_SAMPLES = """SELECT c.samples FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0
    WHERE w.workload = ? AND w.problem = ? AND w.objective = ? AND w.device = ? AND w.stack = ?
    AND w.decided_at = ? AND c.samples IS NOT NULL LIMIT 1"""


class Held(NamedTuple):
    """A winner that a side has."""

    workload: str
    problem: str
    objective: str
    device: str
    stack: str
    dimensions: dict[str, Any]
    decided_at: float
    configuration: dict[str, Any]
    latency_ns: float


@dataclass(frozen=True)
class Side:
    """One side, with its winners by what both sides must have in common."""

    name: str
    winners: Mapping[tuple[str, ...], Held]


class Contrast(msgspec.Struct, frozen=True):
    """The winners of both sides for one problem.

    Attributes:
        ratio: first latency over the second, above 1 where the second is faster; its bounds are those of 0
            and a million where the samples are not known.
    """

    workload: str
    problem: str
    objective: str
    dimensions: dict[str, Any]
    first_ns: float
    second_ns: float
    ratio: Interval
    first_configuration: dict[str, Any]
    second_configuration: dict[str, Any]


def side(reader: HistoryReader, kind: str, name: str) -> Side:
    """The winners of a study, device, stack or generation.

    Raises:
        UnknownNameError: there is none of that name.
        StateError: a generation's file cannot be read.
    """
    if kind == "generation":
        return Side(f"generation {name}", _published(reader, int(name)))
    if kind == "study":
        reader.study(int(name))  # says so if there is none
        value: Any = int(name)
    else:
        value = options.digest(reader, kind, name)
    held = reader.records(_held, _OF[kind], value)
    # Of several for one problem, say under different stacks, the latest counts.
    return Side(f"{kind} {name}", {(one.workload, one.problem, one.objective): one for one in held})


def contrasts(reader: HistoryReader, first: Side, second: Side, limit: int) -> list[Contrast]:
    """The common problems whose winners differ most in latency, those first."""
    common = sorted(
        first.winners.keys() & second.winners.keys(),
        key=lambda key: (-abs(_log_ratio(first.winners[key], second.winners[key])), key),
    )
    return [_contrast(reader, first.winners[key], second.winners[key]) for key in common[:limit]]


def mean_ratio(first: Side, second: Side) -> float | None:
    """Geometric mean of first over second latency of the common problems; None without any."""
    common = first.winners.keys() & second.winners.keys()
    if not common:
        return None
    logs = [_log_ratio(first.winners[key], second.winners[key]) for key in common]
    return math.exp(math.fsum(logs) / len(logs))


def _published(reader: HistoryReader, number: int) -> dict[tuple[str, ...], Held]:
    from autotune.store.difference import contents
    from autotune.store.snapshot import require_kept

    winners = contents(require_kept(reader, number))
    return {
        tuple(key): Held(*key, one.dimensions, one.decided_at, one.configuration, one.latency_ns)
        for key, one in winners.items()
    }


def _held(row: Row) -> Held:
    values = dict(row)
    decoded = {name: msgspec.json.decode(values[name]) for name in ("dimensions", "configuration")}
    return Held(**{**values, **decoded})


def _contrast(reader: HistoryReader, first: Held, second: Held) -> Contrast:
    (low, high), (other_low, other_high) = _bounds(reader, first), _bounds(reader, second)
    ratio = Interval(first.latency_ns / second.latency_ns, low / other_high, high / other_low)
    return Contrast(
        second.workload,
        second.problem,
        second.objective,
        second.dimensions,
        first.latency_ns,
        second.latency_ns,
        ratio,
        first.configuration,
        second.configuration,
    )


def _bounds(reader: HistoryReader, held: Held) -> tuple[float, float]:
    """Of the median of the measurement after the decision; where it is not known, such as say nothing."""
    from autotune.measure.statistics import median_interval

    rows = reader.rows(_SAMPLES, *held[:5], held.decided_at)
    samples = unpack_samples(rows[0]["samples"]) if rows else ()
    if len(samples) < 2:
        return held.latency_ns * 1e-6, held.latency_ns * 1e6
    return median_interval(samples, CONFIDENCE)


def _log_ratio(first: Held, second: Held) -> float:
    return math.log(first.latency_ns / second.latency_ns)
