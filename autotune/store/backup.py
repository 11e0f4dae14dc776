"""Checking databases, and backing the history up."""

from __future__ import annotations

import os
import shutil
import stat
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from autotune.errors import DatabaseError, StateDirError
from autotune.store.database import (
    DATABASE_ERRORS,
    connect,
    faults,
    is_damage,
    one_line,
    require,
    told,
)
from autotune.store.statedir import sync_file, sync_folder

if TYPE_CHECKING:
    import sqlite3

    from autotune.store.reading import HistoryReader
    from autotune.store.statedir import StateDir

KEPT = 7
"""Backups that are kept, the newest: a week of nightly ones."""

BACKUP_AGE_SECONDS = 24 * 3600.0
"""How old the newest backup may become before the next writer makes one."""

LEAST_LEFT_BYTES = 64 * 2**20
"""What a backup leaves free on the disk, which others may need more urgently."""

_FRESH = ".history.db.new"


class Checked(NamedTuple):
    """What was found in a database.

    Attributes:
        kind: `history`, `snapshot`, or `unknown` if the damage hides it.
        faults: what is wrong, a line each; none if it is whole.
    """

    path: str
    kind: str
    version: int
    size_bytes: int
    faults: tuple[str, ...]


def check(path: str) -> Checked:
    """Read a history, a backup or a snapshot from end to end.

    Raises:
        DatabaseError: it is missing, foreign, or of a newer version.
        StateDirError: it cannot be read.
    """
    with told(path):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            raise DatabaseError(f"{path}: is missing; `autotune tune` makes it") from None
        if not stat.S_ISREG(status.st_mode):
            raise DatabaseError(f"{path}: is not a regular file; move it away")
        kind, version, found = _read(path)
    return Checked(path, kind, version, status.st_size, tuple(found))


def backup(history: HistoryReader, keep: int | None = KEPT) -> str:
    """Copy the history to a new file under `backups/`, read it back from end to end, and return its path.

    Only then is the oldest of too many deleted.

    Args:
        history: also while another process is its writer.
        keep: backups that are kept, this one among them; None to delete none.

    Raises:
        DatabaseError: the history is damaged; earlier backups are kept.
        StateDirError: there is not enough room on the disk, or the folder cannot be written.
    """
    folder = history.state.backups
    fresh = os.path.join(folder, _FRESH)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    path = os.path.join(folder, f"history-{moment}.db")
    with told(path):
        _remove(fresh)
        _require_room(history)
        try:
            # Unlike a copy of its pages, this is a file that anybody can open without a write-ahead log.
            history.connection.execute("VACUUM INTO ?", (fresh,))
            found = check(fresh).faults
            if found:
                raise DatabaseError(f"{history.state.history}: is damaged, not backed up: {found[0]}")
            sync_file(fresh)
            os.replace(fresh, path)
            sync_folder(folder)
        finally:
            _remove(fresh)
        for old in backups(history.state)[keep:] if keep else []:
            os.unlink(old)
    return path


def backup_if_due(history: HistoryReader, keep: int | None = KEPT) -> str | None:
    """Back up a history that has trials and no backup of the last day; returns the path of a new backup."""
    newest = next(iter(backups(history.state)), None)
    if newest is not None and abs(time.time() - os.stat(newest).st_mtime) < BACKUP_AGE_SECONDS:
        return None
    return backup(history, keep) if history.rows("SELECT 1 FROM trial LIMIT 1") else None


def backups(state: StateDir) -> list[str]:
    """The backups there are, the newest first."""
    with told(state.backups):
        names = sorted(os.listdir(state.backups), reverse=True)
    return [
        os.path.join(state.backups, name)
        for name in names
        if name.startswith("history-") and name.endswith(".db")
    ]


def newest_whole(state: StateDir) -> str | None:
    """The newest backup that is not damaged."""
    for path in backups(state):
        with suppress(DatabaseError):
            if not check(path).faults:
                return path
    return None


def replace_history(state: StateDir, source: str | None, mark: str) -> str | None:
    """Put a backup in the place of the history; the caller holds the writer's lock.

    Args:
        state: the folder.
        source: the backup; None for none, so that a fresh history will be made.
        mark: what the present history is called from now on: `history.db.<mark>-<time>`.

    Returns:
        The path of what was the history, if there was one.
    """
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = f"{state.history}.{mark}-{moment}"
    fresh = os.path.join(state.path, _FRESH)
    with told(state.history):
        if source is not None:
            _copy(source, fresh)
        _fold_log(state.history)
        # The log goes first: the file that takes the history's place must not meet a log that is not its own.
        for suffix in ("-wal", "-shm", "-journal"):
            with suppress(FileNotFoundError):
                os.replace(state.history + suffix, aside + suffix)
        existed = os.path.lexists(state.history)
        if existed:
            _set_aside(state.history, aside)
        if source is not None:
            os.replace(fresh, state.history)
        elif existed:
            os.unlink(state.history)
        sync_folder(state.path)
    return aside if existed else None


def _read(path: str) -> tuple[str, int, list[str]]:
    try:
        with closing(connect(path, "ro")) as connection:
            kind, version = require(connection, path, "history", "snapshot", "empty")
            if kind == "empty":
                return "unknown", 0, ["is empty"]
            found = faults(connection, thorough=True)
            if kind == "snapshot" and not found:
                found = _snapshot_faults(connection)
            return kind, version, found
    except DATABASE_ERRORS as error:
        if not is_damage(error):
            raise
        return "unknown", 0, [one_line(error)]


def _snapshot_faults(connection: sqlite3.Connection) -> list[str]:
    meta = dict(map(tuple, connection.execute("SELECT key, value FROM meta")))
    choices = connection.execute("SELECT count(*) FROM choice").fetchone()[0]
    found = []
    if not meta.get("generation", "").isdigit():
        found.append("names no generation")
    if meta.get("choices") != str(choices):
        found.append(f"has {choices} choices, but says {meta.get('choices')}")
    return found


def _require_room(history: HistoryReader) -> None:
    needed = LEAST_LEFT_BYTES + os.path.getsize(history.state.history)
    free = shutil.disk_usage(history.state.backups).free
    if free < needed:
        raise StateDirError(
            f"{history.state.backups}: has room for {free >> 20} MiB, and a backup wants {needed >> 20} MiB; "
            "free some space"
        )


def _fold_log(path: str) -> None:
    """Bring what only the write-ahead log has into the file, as far as the damage allows."""
    with suppress(*DATABASE_ERRORS), closing(connect(path, "rw")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")


def _set_aside(path: str, aside: str) -> None:
    """Give a file a second name, so that the first is never missing until another file takes it."""
    try:
        os.link(path, aside)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, aside)


def _copy(source: str, path: str) -> None:
    _remove(path)
    with closing(connect(source, "ro")) as backed_up, closing(connect(path, "rwc")) as copy:
        backed_up.backup(copy)
    sync_file(path)


def _remove(path: str) -> None:
    for leftover in (path, f"{path}-journal", f"{path}-wal", f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)
