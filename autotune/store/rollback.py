"""Going back to an earlier generation, and taking over one that the history does not know."""

from __future__ import annotations

import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

from autotune.errors import DatabaseError, UsageError
from autotune.store.database import address, connect, told
from autotune.store.history import insert, mark_stale, note
from autotune.store.snapshot import (
    attached,
    digest_of,
    generation_files,
    generations,
    is_unchanged,
    publish,
    published_generation,
    require_kept,
)

if TYPE_CHECKING:
    import sqlite3

    from autotune.store.history import History

Key = tuple[str, ...]

_KEY = ("workload", "problem", "objective", "device", "stack")
_DECIDED = ", ".join([*_KEY, "decided_at"])
_WINNER_IN_SNAPSHOT = (*_KEY, "dimensions", "neighbourhood", "baseline_error", "decided_at")
_CHOICE_IN_SNAPSHOT = (
    "rank", "configuration", "latency_ns", "p99_ns", "error", "memory_bytes", "is_baseline", "limit_share",
    "baseline_ns", "speedup", "speedup_low", "speedup_high",
)  # fmt: skip

# The decision behind each group of choices: the history's own number for it, if it knows it.
_BEHIND = """SELECT k.*, (SELECT max(w.id) FROM main.winner w
        WHERE w.workload = k.workload AND w.problem = k.problem AND w.objective = k.objective
        AND w.device = k.device AND w.stack = k.stack AND w.decided_at = k.decided_at) AS known
    FROM kept.choice k ORDER BY k.workload, k.problem, k.objective, k.device, k.stack, k.rank"""

_TAKE_DEVICES = """INSERT INTO main.device SELECT digest, kind, name, family, facts, local_index, ?
    FROM kept.device WHERE true ON CONFLICT DO NOTHING"""
_TAKE_STACKS = """INSERT INTO main.stack SELECT digest, facts, ?
    FROM kept.stack WHERE true ON CONFLICT DO NOTHING"""
_COUNT_CHOICES = "SELECT count(*) FROM choice c JOIN winner w ON w.id = c.winner WHERE w.state = 'current'"


def rollback(history: History, generation: int | None = None, reason: str = "") -> int:
    """Publish an earlier generation's content again, as a new generation; returns the new number.

    What was decided since is withdrawn: it comes back only when it is proven again.

    Args:
        history: whose winners.
        generation: to go back to; None means the latest one before the present with other winners.
        reason: one line, kept with the new generation and with what is withdrawn.

    Raises:
        UnknownNameError: that generation is not kept any more.
        UsageError: there is nothing to go back to.
        DatabaseError: its file is damaged.
    """
    target = _previous(history) if generation is None else generation
    path = require_kept(history, target)
    _require_whole(history, path, target)
    why = f"rollback to generation {target}" + (f": {reason}" if reason else "")
    adopt(history, path, target, kind="rolled_back", why=why)
    return publish(history, why)


def take_over(history: History, path: str, generation: int) -> None:
    """Take over a published snapshot that the history does not know, because it was lost or restored.

    Nothing is published: the snapshot goes on serving.
    """
    adopt(history, path, generation, kind="taken_over", why=f"published before as generation {generation}")
    with told(path):
        row = {"number": generation, "published_at": time.time(), "digest": digest_of(path)}
    with history.writing() as connection:
        choices = connection.execute(_COUNT_CHOICES).fetchone()[0]
        insert(connection, "generation", {**row, "reason": "taken over", "choices": choices})
        connection.execute("UPDATE publication SET stale = 0")


def adopt(history: History, path: str, generation: int, *, kind: str, why: str) -> None:
    """Make the decisions of a snapshot the current ones, and no others.

    Args:
        history: to change.
        path: of a whole snapshot.
        generation: that it holds.
        kind: of the event, `rolled_back` or `taken_over`.
        why: noted with each decision that changes.
    """
    with (
        told(path),
        attached(history.connection, address(path, "immutable"), "kept"),
        history.writing() as connection,
    ):
        now = time.time()
        connection.execute(_TAKE_DEVICES, (now,))
        connection.execute(_TAKE_STACKS, (now,))
        choices = connection.execute(_BEHIND).fetchall()
        # Ordered by rank, so the last one that stays here is the first of its group.
        winners = {_key(row): row for row in reversed(choices)}
        wanted = {row["known"] for row in winners.values() if row["known"] is not None}
        held = connection.execute("SELECT * FROM winner WHERE state = 'current'").fetchall()
        dropped = [row for row in held if row["id"] not in wanted]
        restored = wanted - {row["id"] for row in held}
        _set_states(connection, {row["id"]: _fate(row, winners) for row in dropped}, now, why)
        _set_states(connection, dict.fromkeys(restored, "current"), now, why)
        unknown = {key: row for key, row in winners.items() if row["known"] is None}
        taken = {key: _take_winner(connection, row, now, why) for key, row in unknown.items()}
        for row in choices:
            if row["known"] is None:
                _take_choice(connection, taken[_key(row)], row)
        mark_stale(connection, generation if kind == "rolled_back" else None)
        counts = {"dropped": len(dropped), "restored": len(restored), "taken": len(taken)}
        note(connection, kind, f"generation {generation}", {"reason": why, **counts})


def _previous(history: History) -> int:
    """The latest kept generation, before the one whose content is published, with other decisions."""
    published = generations(history, limit=1)
    if published:
        # After a rollback, going back means before the generation that it went back to.
        origin = published[0].restored_from or published[0].number
        present = _decided(history.connection, "winner WHERE state = 'current'")
        for number in reversed([n for n in generation_files(history.state) if n < origin]):
            if published_generation(history.state.generation(number)) is None:
                continue
            with closing(connect(history.state.generation(number), "immutable")) as connection:
                if _decided(connection, "choice WHERE rank = 0") != present:
                    return number
    raise UsageError(
        f"{history.state.generations}: holds no earlier generation with other winners to go back to"
    )


def _decided(connection: sqlite3.Connection, table: str) -> set[tuple[Any, ...]]:
    return set(map(tuple, connection.execute(f"SELECT {_DECIDED} FROM {table}")))


def _require_whole(history: History, path: str, number: int) -> None:
    if published_generation(path) != number or not is_unchanged(history, path, number):
        raise DatabaseError(f"{path}: is damaged; choose another generation")


def _fate(dropped: sqlite3.Row, winners: dict[Key, sqlite3.Row]) -> str:
    """What becomes of a decision that holds no longer: one made later for the same key supersedes it."""
    taking_its_place = winners.get(_key(dropped))
    later = taking_its_place is not None and taking_its_place["decided_at"] > dropped["decided_at"]
    return "superseded" if later else "withdrawn"


def _set_states(connection: sqlite3.Connection, states: dict[int, str], now: float, why: str) -> None:
    connection.executemany(
        "UPDATE winner SET state = ?, changed_at = ?, note = ? WHERE id = ?",
        [(state, now, why, decision) for decision, state in states.items()],
    )


def _key(row: sqlite3.Row) -> Key:
    return tuple(row[name] for name in _KEY)


def _take_winner(connection: sqlite3.Connection, row: sqlite3.Row, now: float, why: str) -> int:
    """Record a decision as far as a snapshot tells it: the study behind it is not known any more."""
    known = {name: row[name] for name in _WINNER_IN_SNAPSHOT}
    if "origin" in row.keys():  # noqa: SIM118 - a row is no mapping; earlier snapshots lack the column
        known["origin"] = row["origin"]
    return insert(
        connection, "winner", {**known, "space": "", "state": "current", "changed_at": now, "note": why}
    )


def _take_choice(connection: sqlite3.Connection, winner: int, row: sqlite3.Row) -> None:
    known = {name: row[name] for name in _CHOICE_IN_SNAPSHOT}
    unknown = {"rounds": 0, "confidence": 0.0, "margin": 0.0, "proof_ns": row["latency_ns"]}
    insert(connection, "choice", {**known, **unknown, "winner": winner, "rounds_stopped": "taken over"})
