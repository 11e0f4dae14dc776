"""One exchange with the fleet: read what is new, send what waits, say that this node is there.

Nothing that a kill or an outage interrupts is lost or done twice: what came is kept together with how far it
goes, what goes is known by its digest, and it counts as sent only once the server has said so.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import msgspec
from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import insert

import autotune
from autotune.daemon.fleet_messages import Told
from autotune.fleet.schema import DEVICE, ENTRY, NODE, VERIFICATION
from autotune.store.fleet import AT_ONCE, Cursor, Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Engine, Select

    from autotune.daemon.fleet_messages import Cell
    from autotune.store.fleet import Standpoint

MOST_PAGES = 1000
"""Of one exchange; a node that has just come goes on with the next one."""

_TOLD = [ENTRY.c[name] for name in Entry.__struct_fields__]
_PLAIN = (
    "digest",
    "kind",
    "device",
    "stack",
    "workload",
    "problem",
    "objective",
    "subject",
    "body",
    "made_at",
)
_SENT = (*_PLAIN, "node", "latency_ns", "baseline_ns", "speedup")
_VERIFIED = (
    "digest",
    "node",
    "device",
    "stack",
    "workload",
    "problem",
    "objective",
    "latency_ns",
    "baseline_ns",
)


class Store(Protocol):
    """Where a node keeps what it exchanges: the daemon, or a history itself."""

    def prepare(self) -> tuple[Standpoint, list[Cell]]:
        """Put into the outbox what belongs there; where the exchange starts, and this node's devices."""

    def take(self, entries: list[Entry], cursors: list[Cursor], sent: list[str], mark: str) -> Standpoint:
        """Keep what was exchanged, durably; where it goes on."""

    def forget(self) -> Standpoint:
        """Begin anew: what counted as sent or read does not."""


@dataclass
class Exchange:
    """What an exchange is made with.

    Attributes:
        engine: of the fleet's database, whose transactions are single statements.
        store: where this node keeps what it exchanges.
        name: of this node, for people.
        fault: what is wrong with an entry; empty if nothing.
        rejected: told of each entry that was not right, and why.
        seen: whether the server is told that this node is there even if it has nothing to send.
    """

    engine: Engine
    store: Store
    name: str
    fault: Callable[[Entry], str]
    rejected: Callable[[Entry, str], None] = lambda *_: None
    seen: bool = True

    def run(self) -> Told:
        """Exchange everything.

        Raises:
            SQLAlchemyError: the database cannot be reached or used; what was exchanged until then is kept.
        """
        began = time.monotonic()
        standpoint, cells = self.store.prepare()
        received = sent = rejected = 0
        with self.engine.connect() as connection:
            if self._was_put_back(connection, standpoint, cells):
                standpoint = self.store.forget()
            for cell in cells:
                standpoint, came, wrong = self._read(connection, standpoint, cell)
                received, rejected = received + came, rejected + wrong
            while standpoint.unsent or (self.seen and not standpoint.mark):
                count = len(standpoint.unsent)
                standpoint = self._send(connection, standpoint, cells)
                sent += count
            if self.seen and not sent:
                connection.execute(
                    update(NODE)
                    .where(NODE.c.id == uuid.UUID(standpoint.node))
                    .values(seen_at=func.now(), name=self.name, version=_version(), cells=_cells(cells))
                )
        return Told("", time.monotonic() - began, received, sent, rejected)

    def _was_put_back(self, connection: Connection, standpoint: Standpoint, cells: Sequence[Cell]) -> bool:
        """Whether something that was sent or read before is there no more: a backup was restored."""
        if standpoint.mark:
            ours = select(NODE.c.mark).where(NODE.c.id == uuid.UUID(standpoint.node))
            if connection.execute(ours).scalar() != standpoint.mark:
                return True
        ends = {(cursor.device, cursor.stack): cursor for cursor in standpoint.cursors}
        for cell in cells:
            cursor = ends.get((cell.device, cell.stack))
            if cursor is not None and connection.execute(_chain_at(cursor)).scalar() != cursor.chain:
                return True
        return False

    def _read(
        self, connection: Connection, standpoint: Standpoint, cell: Cell
    ) -> tuple[Standpoint, int, int]:
        """Read what is new of a device and stack; returns where we stand, what came and what was wrong."""
        at = [c.seq for c in standpoint.cursors if (c.device, c.stack) == (cell.device, cell.stack)]
        after, came, wrong = (at or [0])[0], 0, 0
        for _ in range(MOST_PAGES):
            rows = connection.execute(page(cell.device, cell.stack, after)).all()
            if not rows:
                break
            after = rows[-1].seq
            right = []
            for entry in map(_entry, rows):
                fault = self.fault(entry)
                if fault:
                    self.rejected(entry, fault)
                    wrong += 1
                else:
                    right.append(entry)
            came += len(rows)
            standpoint = self.store.take(
                right, [Cursor(cell.device, cell.stack, after, rows[-1].chain)], [], ""
            )
            if len(rows) < AT_ONCE:
                break
        return standpoint, came, wrong

    def _send(self, connection: Connection, standpoint: Standpoint, cells: Sequence[Cell]) -> Standpoint:
        """Send a piece of the outbox, in one statement: no lock is held while an answer is on its way."""
        mark = uuid.uuid4().hex
        ours = {
            "name": self.name,
            "version": _version(),
            "cells": _cells(cells),
            "mark": mark,
        }
        statement = insert(NODE).values(id=uuid.UUID(standpoint.node), **ours)
        statement = statement.on_conflict_do_update(
            index_elements=[NODE.c.id], set_={**ours, "seen_at": func.now()}
        )
        for table, rows in (
            (ENTRY, [_sent_row(one) for one in standpoint.unsent if one.kind != "verification"]),
            (VERIFICATION, [_verified_row(one) for one in standpoint.unsent if one.kind == "verification"]),
            (DEVICE, [_device_row(cell) for cell in {cell.device: cell for cell in cells}.values()]),
        ):
            if rows:
                added = insert(table).values(rows).on_conflict_do_nothing().returning(literal(1))
                statement = statement.add_cte(added.cte(f"added_{table.name}"))
        connection.execute(statement)
        return self.store.take([], [], [one.digest for one in standpoint.unsent], mark)


def page(device: str, stack: str, after: int) -> Select[Any]:
    """The next entries of a device and stack."""
    return (
        select(ENTRY.c.seq, ENTRY.c.chain, *_TOLD)
        .where(ENTRY.c.device == device, ENTRY.c.stack == stack, ENTRY.c.seq > after)
        .order_by(ENTRY.c.seq)
        .limit(AT_ONCE)
    )


def _chain_at(cursor: Cursor) -> Select[Any]:
    return select(ENTRY.c.chain).where(
        ENTRY.c.device == cursor.device, ENTRY.c.stack == cursor.stack, ENTRY.c.seq == cursor.seq
    )


def _entry(row: Any) -> Entry:
    told = {name: getattr(row, name) for name in Entry.__struct_fields__}
    return Entry(**{**told, "node": str(row.node)})


def _sent_row(entry: Entry) -> dict[str, Any]:
    return {**{name: getattr(entry, name) for name in _SENT}, "node": uuid.UUID(entry.node)}


def _verified_row(entry: Entry) -> dict[str, Any]:
    told = {**{name: getattr(entry, name) for name in _VERIFIED}, "node": uuid.UUID(entry.node)}
    outcome = msgspec.json.decode(entry.body)["outcome"]
    return {
        **told,
        "winner": entry.subject,
        "outcome": outcome,
        "speedup": entry.speedup,
        "made_at": entry.made_at,
    }


def _device_row(cell: Cell) -> dict[str, Any]:
    return {"digest": cell.device, "kind": cell.kind, "name": cell.name[:512], "family": cell.family[:512]}


def _cells(cells: Sequence[Cell]) -> str:
    return msgspec.json.encode([[cell.device, cell.stack] for cell in cells]).decode()


def _version() -> str:
    return autotune.__version__
