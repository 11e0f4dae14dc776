"""Generations of the fleet: one set of winners that all ranks of a job read, on whatever node they run.

A node's own generations are numbered by that node, and hold what it has proven. One of the fleet is named by
the SHA-256 of its content, which lies in the fleet's database, so a node that has it has the very same one.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import msgspec
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

import autotune
from autotune.errors import FleetError, StateDirError, UsageError
from autotune.exports.bundle import winner_faults
from autotune.fleet.connection import connect, told
from autotune.fleet.schema import ENTRY, GENERATION
from autotune.lookup.snapshots import NAME_LENGTH, snapshot_path
from autotune.store import schema
from autotune.store.database import SNAPSHOT_ID, SNAPSHOT_VERSION
from autotune.store.database import connect as open_database
from autotune.store.encoding import choice_columns, to_json, winner_columns
from autotune.store.fleet import MOST_REFUTATIONS, certain_gain, entry_of, thinned
from autotune.store.records import Winner
from autotune.store.statedir import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection

    from autotune.config import FleetSettings
    from autotune.daemon.fleet_messages import Cell
    from autotune.fingerprint import Device
    from autotune.store.fleet import Entry

_COLUMNS = (
    "workload", "problem", "objective", "device", "stack", "rank", "neighbourhood", "dimensions",
    "configuration", "latency_ns", "p99_ns", "error", "memory_bytes", "baseline_ns", "baseline_error",
    "speedup", "speedup_low", "speedup_high", "is_baseline", "limit_share", "study", "trial", "decided_at",
    "origin",
)  # fmt: skip


class Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a generation holds.

    Attributes:
        winners: those of each key, in the order of their keys.
        origins: digests of the entries that they were taken from.
    """

    winners: list[Winner]
    origins: list[str]


def make_generation(settings: FleetSettings, cells: Iterable[Cell], fault: Callable[[Entry], str]) -> str:
    """Make a generation of what the fleet knows now; returns its name.

    Made again while nothing has changed, it is the same one.

    Args:
        settings: that name the database.
        cells: the devices and stacks that it is for.
        fault: what is wrong with an entry; empty if nothing.

    Raises:
        FleetError: the database cannot be reached, or knows nothing of these devices.
    """
    with told(settings), connect(settings, autocommit=True).connect() as connection:
        best = [one for cell in cells for one in _best(connection, cell, fault)]
        if not best:
            raise FleetError("the fleet knows no winner for the devices and the software stack of this host")
        best.sort(key=lambda one: one[0])
        winners = [_published(winner) for _, winner, _ in best]
        content = msgspec.json.encode(Content(winners, [origin for _, _, origin in best]))
        digest = hashlib.sha256(content).hexdigest()
        connection.execute(
            insert(GENERATION).values(digest=digest, body=content.decode()).on_conflict_do_nothing()
        )
    return f"fleet-{digest[:NAME_LENGTH]}"


def fetch_generation(settings: FleetSettings, name: str) -> Content:
    """The content of a generation, found to be what its name says.

    Args:
        settings: that name the database.
        name: as `make_generation` gave it.

    Raises:
        FleetError: the database cannot be reached, lacks it, or holds something else under its name.
    """
    wanted = name.removeprefix("fleet-")
    if len(wanted) != NAME_LENGTH or wanted.strip("0123456789abcdef"):
        raise UsageError(
            f"{name[:80]!r} is no generation of the fleet; expected a name such as fleet-0123456789abcdef"
        )
    with told(settings), connect(settings, autocommit=True).connect() as connection:
        found = connection.execute(
            select(GENERATION.c.body).where(GENERATION.c.digest.startswith(wanted, autoescape=True)).limit(1)
        ).scalar()
    if found is None:
        raise FleetError(f"the fleet has no generation {name}; 'autotune generation --fleet' makes one")
    body = found.encode()
    if not hashlib.sha256(body).hexdigest().startswith(wanted):
        raise FleetError(f"generation {name} is not what its name says: somebody has changed it")
    try:
        content = msgspec.json.decode(body, type=Content)
    except (msgspec.MsgspecError, RecursionError):
        raise FleetError(f"generation {name} is none that this autotune reads") from None
    fault = next((f for w in content.winners for f in winner_faults(w, {w.device})), "")
    if fault or len(content.origins) != len(content.winners):
        raise FleetError(f"generation {name} is not right: {fault or 'it lacks origins'}")
    return content


def write_generation(
    content: Content, name: str, state_dir: str, devices: Iterable[Device], to: str = ""
) -> str:
    """Write a generation as a snapshot that look-ups read; returns its path.

    Args:
        content: of it.
        name: of it.
        state_dir: the state folder, whose `generations` it goes to.
        devices: of this host, by whose numbers look-ups name them.
        to: a folder that it goes to instead.

    Raises:
        StateDirError: it cannot be written.
    """
    path = os.path.join(to, f"{name}.db") if to else snapshot_path(state_dir, name)
    folder = os.path.dirname(os.path.abspath(path))
    fresh = os.path.join(folder, f".{name}.{os.getpid()}.new")
    try:
        os.makedirs(folder, exist_ok=True)
        _write(fresh, content, name, devices)
        sync_file(fresh)
        os.replace(fresh, path)
        sync_folder(folder)
    except OSError as error:
        raise StateDirError(f"{path}: cannot be written: {error.strerror}; give another --to") from None
    finally:
        for leftover in (fresh, f"{fresh}-journal"):
            with suppress(OSError):
                os.unlink(leftover)
    return path


def _best(
    connection: Connection, cell: Cell, fault: Callable[[Entry], str]
) -> Iterable[tuple[tuple[str, ...], Winner, str]]:
    """Key, winner and origin of the best of each key, by the rule of `autotune.store.fleet`."""
    here = (ENTRY.c.device == cell.device, ENTRY.c.stack == cell.stack)
    doubts: dict[str, set[Any]] = {}
    refuted = select(ENTRY.c.subject, ENTRY.c.node).where(*here, ENTRY.c.kind == "refutation")
    for subject, node in connection.execute(refuted):
        doubts.setdefault(subject, set()).add(node)
    latest: dict[tuple[str, ...], dict[str, Entry]] = {}
    for row in connection.execute(
        select(ENTRY).where(*here, ENTRY.c.kind == "winner").order_by(ENTRY.c.made_at, ENTRY.c.digest)
    ).mappings():
        entry = entry_of({**row, "node": str(row["node"])})
        if len(doubts.get(entry.digest, ())) < MOST_REFUTATIONS and not fault(entry):
            key = (entry.workload, entry.problem, entry.objective, entry.device, entry.stack)
            latest.setdefault(key, {})[entry.node] = entry
    for named, of_nodes in latest.items():
        gain, digest, entry = max((certain_gain(one.body), one.digest, one) for one in of_nodes.values())
        if gain > 1.0:
            yield named, msgspec.json.decode(entry.body, type=Winner), digest


def _published(winner: Winner) -> Winner:
    """What look-ups are told of a winner: the choice itself, not those that trade accuracy for speed."""
    slim = thinned(winner)
    return msgspec.structs.replace(slim, choices=slim.choices[:1])


def _write(path: str, content: Content, name: str, devices: Iterable[Device]) -> None:
    with closing(open_database(path, "rwc")) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        identity = f"PRAGMA application_id = {SNAPSHOT_ID}; PRAGMA user_version = {SNAPSHOT_VERSION};"
        script = schema.snapshot_script()
        connection.executescript(f"BEGIN; {identity} {script.tables} {script.indexes} COMMIT;")
        connection.execute("BEGIN")
        meta = {
            # Of the fleet's, the name is what counts; look-ups tell a number.
            "generation": int(name.removeprefix("fleet-")[:8], 16),
            "fleet_generation": name,
            "published_at": time.time(),
            "autotune_version": autotune.__version__,
            "choices": len(content.winners),
        }
        connection.executemany("INSERT INTO meta VALUES (?, ?)", [(k, str(v)) for k, v in meta.items()])
        for device in devices:
            index = device.index if device.index >= 0 else None
            connection.execute(
                "INSERT INTO device VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (device.digest, device.kind, device.name, device.family, to_json(device.facts), index),
            )
        values = ", ".join("?" * len(_COLUMNS))
        for winner, origin in zip(content.winners, content.origins, strict=True):
            row = {**choice_columns(0, winner.choices[0]), **winner_columns(winner), "origin": origin}
            row |= {"study": None, "trial": None}
            connection.execute(
                f"INSERT INTO choice({', '.join(_COLUMNS)}) VALUES ({values})", [row.get(c) for c in _COLUMNS]
            )
        connection.execute("COMMIT")
