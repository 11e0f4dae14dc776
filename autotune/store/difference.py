"""What changed between two published generations, as their files tell it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from autotune.errors import UsageError
from autotune.store.database import CONTENT_ERRORS, connect, damaged, require, told
from autotune.store.encoding import from_json
from autotune.store.snapshot import generation_files, require_kept

if TYPE_CHECKING:
    from sqlite3 import Row

    from autotune.store.reading import HistoryReader
    from autotune.store.records import Configuration

_WINNERS = """SELECT workload, problem, objective, device, stack, dimensions, configuration, latency_ns,
    speedup, speedup_low, speedup_high, is_baseline, error, decided_at FROM choice WHERE rank = 0"""


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
    with told(path), closing(connect(path, "immutable")) as connection:
        require(connection, path, "snapshot")
        rows = connection.execute(_WINNERS).fetchall()
    try:
        return {Key(*tuple(row)[:5]): _winner(row) for row in rows}
    except CONTENT_ERRORS as error:
        raise damaged(path, error) from error


def difference(reader: HistoryReader, before: int, after: int) -> list[Change]:
    """What the second generation publishes otherwise than the first, by problem.

    Raises:
        UnknownNameError: one of them is not kept.
        StateError: one of them cannot be read.
    """
    old = contents(require_kept(reader, before))
    new = contents(require_kept(reader, after))
    keys = sorted(old.keys() | new.keys())
    changes = (_change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key))
    return list(changes)


def latest_two(reader: HistoryReader) -> tuple[int, int]:
    """The two newest generations whose files are kept.

    Raises:
        UsageError: there are no two.
    """
    kept = generation_files(reader.state)
    if len(kept) < 2:
        raise UsageError(f"{reader.state.generations}: holds {len(kept)} generations; two are needed")
    return kept[-2], kept[-1]


def _winner(row: Row) -> PublishedWinner:
    values = {name: row[name] for name in PublishedWinner.__struct_fields__}
    values |= {name: from_json(row[name]) for name in ("dimensions", "configuration")}
    return PublishedWinner(**{**values, "is_baseline": bool(row["is_baseline"])})


def _change(key: Key, before: PublishedWinner | None, after: PublishedWinner | None) -> Change:
    if before is None or after is None:
        kind = "added" if before is None else "removed"
    else:
        kind = "measured" if before.configuration == after.configuration else "changed"
    return Change(kind, *key, before=before, after=after)
