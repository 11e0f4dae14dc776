"""Opening a history: taking the lock, mending what a crash left, and bringing `best.db` up to date."""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from autotune import paths
from autotune.config import load_settings
from autotune.errors import DatabaseError, StateError, UsageError
from autotune.store import statedir
from autotune.store.backup import backup_if_due, check, newest_whole, replace_history
from autotune.store.database import DATABASE_ERRORS, connect, faults, is_damage, one_line, require, told
from autotune.store.history import History
from autotune.store.lock import WriterLock
from autotune.store.reading import HistoryReader
from autotune.store.rollback import take_over
from autotune.store.schema import latest_version
from autotune.store.snapshot import (
    generation_files,
    is_stale,
    is_unchanged,
    latest_generation,
    publish,
    published_generation,
)

if TYPE_CHECKING:
    from autotune.store.statedir import StateDir


LARGEST_CHECKED_BYTES = 64 * 2**20
"""Up to here, some 100,000 trials, opening checks as thoroughly as `autotune db check`, which takes about a
second; beyond, it only looks at every page."""


def open_history(directory: str | None = None) -> History:
    """Become the writer of the history, which is made if there is none.

    A damaged one is set aside and the newest good backup takes its place; `best.db` goes on serving, and
    winners that only it knows are taken over. If a crash left `best.db` behind, it is published again.

    Args:
        directory: the state folder; None for `autotune.paths.state_dir()`.

    Raises:
        HistoryLockedError: another process is the writer.
        StateDirError: the folder cannot be used.
        DatabaseError: a database there belongs to another program or to a newer version.
    """
    state = statedir.prepare(directory or paths.state_dir())
    lock = WriterLock(state.lock)
    try:
        return _open(state, lock, _mend(state))
    except BaseException:
        lock.release()
        raise


def restore_history(directory: str | None = None, backup: str | None = None) -> History:
    """Put a backup in the place of the history, which is set aside, and open it as `open_history` does.

    Args:
        directory: the state folder; None for `autotune.paths.state_dir()`.
        backup: its path; None for the newest that is whole.

    Raises:
        DatabaseError: there is no backup, or it is damaged.
        HistoryLockedError: another process is the writer.
        StateDirError: the folder cannot be used.
    """
    state = statedir.prepare(directory or paths.state_dir())
    lock = WriterLock(state.lock)
    try:
        source = backup or newest_whole(state)
        if source is None:
            raise DatabaseError(f"{state.backups}: holds no backup that is whole")
        if not os.path.isfile(source):
            raise DatabaseError(f"{source}: is missing; choose another backup")
        checked = check(source)
        if checked.kind != "history" or checked.faults:
            raise DatabaseError(f"{source}: {(*checked.faults, 'is no history')[0]}; choose another backup")
        aside = replace_history(state, source, "replaced")
        kept = f"; what was there is kept as {aside}" if aside else ""
        return _open(state, lock, [f"{state.history}: restored from {source}{kept}"])
    except BaseException:
        lock.release()
        raise


def read_history(directory: str | None = None) -> HistoryReader:
    """Open the history for reading, beside its writer or without one.

    Args:
        directory: the state folder; None for `autotune.paths.state_dir()`.

    Raises:
        DatabaseError: there is none yet, or it is damaged, foreign or of another version.
        StateDirError: it cannot be read.
    """
    state = statedir.StateDir(directory or paths.state_dir())
    path = state.history
    with told(path):
        try:
            empty = os.stat(path).st_size == 0
        except FileNotFoundError:
            empty = True
        if empty:
            raise DatabaseError(_none_yet(path))
        connection = connect(path, "ro")
        try:
            identity = require(connection, path, "history", "empty")
            if identity.kind == "empty":
                raise DatabaseError(_none_yet(path))
            if identity.version < latest_version():
                raise DatabaseError(
                    f"{path}: needs an upgrade, which its next writer makes; run `autotune tune` as its owner"
                )
        except BaseException:
            connection.close()
            raise
    return HistoryReader(connection, state)


def _none_yet(path: str) -> str:
    return f"{path}: there is no history yet; `autotune tune` makes one"


def _mend(state: StateDir) -> list[str]:
    """Set a damaged history aside and put the newest whole backup in its place; returns what to tell."""
    path = state.history
    fault = _damage(path) if os.path.exists(path) and os.path.getsize(path) else None
    if fault is None:
        return []
    source = newest_whole(state)
    aside = replace_history(state, source, "damaged")
    cure = f"restored from {source}" if source else "there is no whole backup, so a new history was begun"
    return [f"{path}: was damaged ({fault}); {cure}; the damaged file is kept as {aside}"]


def _damage(path: str) -> str | None:
    with told(path):
        try:
            # The first recovers what a killed writer left; the second reads four times as fast.
            with closing(connect(path, "rw")) as connection:
                require(connection, path, "history", "empty")
            with closing(connect(path, "ro")) as connection:
                thorough = os.path.getsize(path) <= LARGEST_CHECKED_BYTES
                return next(iter(faults(connection, thorough=thorough, most=1)), None)
        except DATABASE_ERRORS as error:
            if not is_damage(error):
                raise
            return one_line(error)


def _open(state: StateDir, lock: WriterLock, notices: list[str]) -> History:
    history = History(state, lock)
    try:
        for notice in notices:
            history.record_event("restored", state.history, {"notice": notice})
        notices += _reconcile(history)
        try:
            backup_if_due(history, _backups_kept())
        except StateError as error:  # the history works without
            notices.append(str(error))
        history.notices += notices
    except BaseException:
        history.close()
        raise
    return history


def _backups_kept() -> int | None:
    """How many the operator wants; None, so that none is deleted, while the settings cannot be read."""
    try:
        return load_settings().retention.backups
    except UsageError:
        return None


def _reconcile(history: History) -> list[str]:
    """Make history and `best.db` agree; returns what to tell.

    The higher generation is right: that of `best.db` if the history was lost or restored, else the history's.
    """
    state = history.state
    known = latest_generation(history)
    serving = published_generation(state.snapshot)
    if serving is None or not is_unchanged(history, state.snapshot, serving):
        return _replace_snapshot(history, known)
    if serving > known:
        take_over(history, state.snapshot, serving)
        return [f"{state.history}: took over the winners of generation {serving}, which it did not know"]
    if serving < known or is_stale(history):
        publish(history, "published again after a crash")
    return []


def _replace_snapshot(history: History, known: int) -> list[str]:
    """Publish in place of a missing or damaged `best.db`."""
    state = history.state
    notices = []
    if os.path.lexists(state.snapshot):
        aside = f"{state.snapshot}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        with told(state.snapshot):
            os.replace(state.snapshot, aside)
        notices.append(f"{state.snapshot}: was damaged and is published again; the old file is {aside}")
    for number in reversed(generation_files(state)):
        if number > known and published_generation(state.generation(number)) == number:
            take_over(history, state.generation(number), number)
            break
    if latest_generation(history) or is_stale(history):
        publish(history, "best.db was missing or damaged")
    return notices
