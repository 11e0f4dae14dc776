"""Publishing: all current winners in one fresh file, renamed to `best.db`; earlier generations are kept.

The order makes an acknowledged promotion safe at any moment of a crash:

1. the promotion is committed to the history, which from then on says that `best.db` is behind;
2. the fresh file is written and synced under another name;
3. the history records the generation, and that `best.db` is no longer behind;
4. the file gets its name under `generations/`, then the name `best.db`, and both folders are synced.

A crash between 1 and 3 leaves the mark, one between 3 and 4 a `best.db` older than the last generation that
the history recorded: either way `autotune.store.open_history` publishes again.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sqlite3
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import autotune
from autotune.errors import UnknownNameError
from autotune.store import schema
from autotune.store.database import (
    SNAPSHOT_ID,
    SNAPSHOT_VERSION,
    connect,
    faults,
    identify,
    require,
    told,
)
from autotune.store.entries import Generation
from autotune.store.history import insert, note
from autotune.store.statedir import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.store.history import History
    from autotune.store.reading import HistoryReader
    from autotune.store.statedir import StateDir

KEPT = 32
"""Generations that are kept, the newest; those pinned come on top."""

_FRESH = ".best.db.new"

_PAGE_BYTES = 16384
"""Of a snapshot: fewer and larger pages are written in less time, and are read in as little."""

_CACHE_WHILE_COPYING = -32768
"""KiB, negated, of the history while its winners are copied: 2 MiB, the default, are read over and over."""

_UNSYNCED = ("synchronous = OFF", "journal_mode = OFF", "cache_size = -65536")
"""For a fresh file: it is synced once, when it is whole, and thrown away if it never gets there."""
_GENERATION_FILE = re.compile(r"best-(\d{8,})\.db")

_COPY_DEVICES = """INSERT INTO fresh.device
    SELECT digest, kind, name, family, facts, local_index FROM main.device ORDER BY digest"""
_COPY_STACKS = """INSERT INTO fresh.stack SELECT digest, facts FROM main.stack
    WHERE digest IN (SELECT stack FROM main.winner WHERE state = 'current') ORDER BY digest"""
_COPY_CHOICES = """INSERT INTO fresh.choice
    SELECT w.workload, w.problem, w.objective, w.device, w.stack, c.rank, w.neighbourhood, w.dimensions,
        c.configuration, c.latency_ns, c.p99_ns, c.error, c.memory_bytes, c.baseline_ns, w.baseline_error,
        c.speedup, c.speedup_low, c.speedup_high, c.is_baseline, c.limit_share, w.study, c.trial,
        w.decided_at, w.origin
    FROM main.winner w JOIN main.choice c ON c.winner = w.id
    WHERE w.state = 'current' AND (w.origin IS NULL
        OR ifnull((SELECT value FROM main.fleet_state WHERE key = 'serve'), '1') = '1')
    ORDER BY 1, 2, 3, 4, 5, 6"""


def publish(history: History, reason: str) -> int:
    """Publish all current winners; returns the new generation's number.

    Args:
        history: whose winners.
        reason: one line, kept with the generation.

    Raises:
        StateError: the disk is full or the folder cannot be written; `best.db` is as it was.
    """
    state = history.state
    fresh = os.path.join(state.path, _FRESH)
    number = 1 + max(latest_generation(history), *generation_files(state), 0)
    with told(state.snapshot):
        try:
            _remove(fresh)  # of a publisher that was killed
            choices = _write(history, fresh, number)
            sync_file(fresh)
            _record(history, number, reason, digest_of(fresh), choices)
            _put_in_place(state, fresh, number)
        finally:
            _remove(fresh)
        _prune(history)
    return number


def latest_generation(history: HistoryReader) -> int:
    """The number of the newest generation that the history knows; 0 before the first."""
    return int(history.rows("SELECT ifnull(max(number), 0) FROM generation")[0][0])


def is_stale(history: HistoryReader) -> bool:
    """Whether winners changed since the last generation."""
    return bool(history.rows("SELECT stale FROM publication")[0][0])


def generations(history: HistoryReader, *, limit: int = 100, offset: int = 0) -> list[Generation]:
    """Published generations, the newest first."""
    kept = set(generation_files(history.state))
    newest = "SELECT * FROM generation ORDER BY number DESC LIMIT ? OFFSET ?"
    rows = history.rows(newest, limit, offset)
    return [Generation(**dict(row), kept=row["number"] in kept) for row in rows]


def pin(history: History, number: int, reason: str) -> None:
    """Keep a generation's file for good.

    Raises:
        UnknownNameError: its file is not there any more.
    """
    require_kept(history, number)
    _set_pin(history, number, reason)


def unpin(history: History, number: int) -> None:
    """Let a generation be deleted again when it is no longer among the newest."""
    require_kept(history, number)
    _set_pin(history, number, None)


def require_kept(history: HistoryReader, number: int) -> str:
    """The path of a generation's file.

    Raises:
        UnknownNameError: it is not there.
    """
    kept = generation_files(history.state)
    if number not in kept:
        raise UnknownNameError("generation", str(number), map(str, kept), history.state.generations)
    return history.state.generation(number)


def generation_files(state: StateDir) -> list[int]:
    """The numbers of the generations whose file is there, in order."""
    with told(state.generations):
        matches = map(_GENERATION_FILE.fullmatch, os.listdir(state.generations))
    return sorted(int(match[1]) for match in matches if match)


def published_generation(path: str) -> int | None:
    """The generation that a snapshot file holds; None if it is missing, damaged or something else.

    Raises:
        DatabaseError: it is of a newer version.
    """
    if not os.path.isfile(path):  # opening a named pipe would wait for ever
        return None
    try:
        with closing(connect(path, "immutable")) as connection:
            if identify(connection).kind != "snapshot":
                return None
            require(connection, path, "snapshot")
            # A torn file can look whole from its first page.
            if faults(connection, thorough=True, most=1):
                return None
            row = connection.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()
            return int(row[0]) if row else None
    except (sqlite3.Error, ValueError):
        return None


def is_unchanged(history: HistoryReader, path: str, generation: int) -> bool:
    """Whether a snapshot file is what was published; one that the history does not know is taken as it is."""
    rows = history.rows("SELECT digest FROM generation WHERE number = ?", generation)
    with told(path):
        return not rows or rows[0]["digest"] == digest_of(path)


def digest_of(path: str) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def attached(connection: sqlite3.Connection, address: str, name: str) -> Iterator[None]:
    """Another database beside the history, for the time of one step; not within a transaction."""
    connection.execute(f"ATTACH ? AS {name}", (address,))
    try:
        yield
    finally:
        connection.execute(f"DETACH {name}")


def _write(history: History, path: str, number: int) -> int:
    """Write a snapshot of the current winners; returns how many choices it has."""
    script = schema.snapshot_script()
    with _unsynced(path) as connection:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        identity = f"PRAGMA application_id = {SNAPSHOT_ID}; PRAGMA user_version = {SNAPSHOT_VERSION};"
        connection.executescript(f"BEGIN; {identity} {script.tables} COMMIT;")
    with attached(history.connection, path, "fresh"), _cached(history.connection):
        for setting in _UNSYNCED:
            history.connection.execute(f"PRAGMA fresh.{setting}")
        with history.writing() as connection:
            connection.execute(_COPY_DEVICES)
            connection.execute(_COPY_STACKS)
            choices = connection.execute(_COPY_CHOICES).rowcount
            meta = {
                "generation": number,
                "published_at": time.time(),
                "autotune_version": autotune.__version__,
                "choices": choices,
            }
            connection.executemany(
                "INSERT INTO fresh.meta VALUES (?, ?)", [(name, str(value)) for name, value in meta.items()]
            )
    with _unsynced(path) as connection:
        connection.executescript(f"BEGIN; {script.indexes} COMMIT;")
    return choices


@contextmanager
def _cached(connection: sqlite3.Connection) -> Iterator[None]:
    """Room for all winners, which lie far apart in a long history; given back afterwards."""
    (before,) = connection.execute("PRAGMA main.cache_size").fetchone()
    connection.execute(f"PRAGMA main.cache_size = {_CACHE_WHILE_COPYING}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA main.cache_size = {before}")
        connection.execute("PRAGMA shrink_memory")


@contextmanager
def _unsynced(path: str) -> Iterator[sqlite3.Connection]:
    with closing(connect(path, "rwc")) as connection:
        for setting in _UNSYNCED:
            connection.execute(f"PRAGMA {setting}")
        yield connection


def _remove(path: str) -> None:
    for leftover in (path, f"{path}-journal"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)


def _record(history: History, number: int, reason: str, digest: str, choices: int) -> None:
    with history.writing() as connection:
        restored_from = connection.execute("SELECT restored_from FROM publication").fetchone()[0]
        row = {"number": number, "published_at": time.time(), "reason": reason, "digest": digest}
        insert(connection, "generation", {**row, "choices": choices, "restored_from": restored_from})
        connection.execute("UPDATE publication SET stale = 0, restored_from = NULL")


def _put_in_place(state: StateDir, fresh: str, number: int) -> None:
    kept = state.generation(number)
    try:
        os.link(fresh, kept)
    except OSError:  # a file system without hard links
        shutil.copyfile(fresh, kept)
        sync_file(kept)
    sync_folder(state.generations)
    os.replace(fresh, state.snapshot)
    sync_folder(state.path)


def _prune(history: History) -> None:
    """Delete generations that are neither among the newest nor pinned."""
    rows = history.rows("SELECT number FROM generation WHERE pin_reason IS NOT NULL")
    pinned = {row["number"] for row in rows}
    for number in generation_files(history.state)[:-KEPT]:
        if number not in pinned:
            os.unlink(history.state.generation(number))


def _set_pin(history: History, number: int, reason: str | None) -> None:
    with history.writing() as connection:
        connection.execute("UPDATE generation SET pin_reason = ? WHERE number = ?", (reason, number))
        kind = "unpinned" if reason is None else "pinned"
        note(connection, kind, f"generation {number}", {"reason": reason or ""})
