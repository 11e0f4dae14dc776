"""What changed between two published generations, as their files tell it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from autotune.errors import UsageError
from autotune.store.database import CONTENT_ERRORS, connect, damaged, require, told
from autotune.store.encoding import from_json
from autotune.store.snapshot import generation_files, require_kept

if TYPE_CHECKING:
    from autotune.store.reading import HistoryReader
    from autotune.store.records import Configuration

_WINNERS = """SELECT workload, problem, objective, device, stack, dimensions, configuration, latency_ns,
    speedup, speedup_low, speedup_high, is_baseline, error, decided_at FROM choice WHERE rank = 0"""


KEYS = 5
"""Columns of `_WINNERS` that say what a winner is for; the others are the fields of `PublishedWinner`."""


class Key(NamedTuple):
    """What a published winner is for."""

    workload: str
    problem: str
    objective: str
    device: str
    stack: str


class PublishedWinner(msgspec.Struct, frozen=True):
    """A winner as a generation publishes it."""

    dimensions: dict[str, int | str]
    configuration: Configuration
    latency_ns: float
    speedup: float
    speedup_low: float
    speedup_high: float
    is_baseline: bool
    error: float
    decided_at: float


class Change(msgspec.Struct, frozen=True):
    """One winner that two generations do not share.

    Attributes:
        kind: `added`, `removed`, `changed` (another configuration) or `measured` (decided anew, the same).
        before: None when it was added.
        after: None when it was removed.
    """

    kind: str
    workload: str
    problem: str
    objective: str
    device: str
    stack: str
    before: PublishedWinner | None
    after: PublishedWinner | None

    @property
    def dimensions(self) -> dict[str, int | str]:
        """The problem's."""
        known = self.after or self.before
        return known.dimensions if known else {}


def contents(path: str) -> dict[Key, PublishedWinner]:
    """The winners of a snapshot file.

    Raises:
        DatabaseError: it is damaged, or of another program or version.
        StateDirError: it cannot be read.
    """
    try:
        return {Key(*key): _decoded(row) for key, row in _rows(path).items()}
    except CONTENT_ERRORS as error:
        raise damaged(path, error) from error


def difference(reader: HistoryReader, before: int, after: int) -> list[Change]:
    """What the second generation publishes otherwise than the first, by problem.

    Raises:
        UnknownNameError: one of them is not kept.
        StateError: one of them cannot be read.
    """
    paths = [require_kept(reader, number) for number in (before, after)]
    old, new = map(_rows, paths)
    # Most rows are the same, and are not worth decoding.
    differing = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    try:
        return [_change(key, _winner(old.get(key)), _winner(new.get(key))) for key in differing]
    except CONTENT_ERRORS as error:
        raise damaged(" or ".join(paths), error) from error


def latest_two(reader: HistoryReader) -> tuple[int, int]:
    """The two newest generations whose files are kept.

    Raises:
        UsageError: there are no two.
    """
    kept = generation_files(reader.state)
    if len(kept) < 2:
        raise UsageError(f"{reader.state.generations}: holds {len(kept)} generations; two are needed")
    return kept[-2], kept[-1]


def _rows(path: str) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """The rows of the winners by their keys, as they are stored."""
    with told(path), closing(connect(path, "immutable")) as connection:
        require(connection, path, "snapshot")
        connection.row_factory = None
        rows = connection.execute(_WINNERS).fetchall()
    return {row[:KEYS]: row[KEYS:] for row in rows}


def _winner(row: tuple[Any, ...] | None) -> PublishedWinner | None:
    return None if row is None else _decoded(row)


def _decoded(row: tuple[Any, ...]) -> PublishedWinner:
    values = dict(zip(PublishedWinner.__struct_fields__, row, strict=True))
    values |= {name: from_json(values[name]) for name in ("dimensions", "configuration")}
    return PublishedWinner(**{**values, "is_baseline": bool(values["is_baseline"])})


def _change(key: tuple[Any, ...], before: PublishedWinner | None, after: PublishedWinner | None) -> Change:
    if before is None or after is None:
        kind = "added" if before is None else "removed"
    else:
        kind = "measured" if before.configuration == after.configuration else "changed"
    return Change(kind, *Key(*key), before=before, after=after)
