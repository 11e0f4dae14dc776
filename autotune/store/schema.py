"""The schemas: the history's as steps, `db/migrations/NNNN_name.sql`; the snapshot's, `db/snapshot.sql`."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from functools import cache
from typing import Any, NamedTuple

from autotune import paths
from autotune.errors import InternalError

COLUMNS = """SELECT t.name, c.name, c.type FROM sqlite_schema t, pragma_table_info(t.name) c
    WHERE t.type = 'table'"""
"""Table, name and type of every column."""


class Migration(NamedTuple):
    """One step of the history's schema."""

    version: int
    name: str
    script: str


@cache
def migrations() -> tuple[Migration, ...]:
    """All steps, in order.

    Raises:
        InternalError: the installation lacks them, or their numbers have a gap.
    """
    folder = os.path.join(paths.data_dir("db"), "migrations")
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".sql"))
    except OSError as error:
        raise InternalError(f"{folder}: {error.strerror}; install autotune again") from error
    found = []
    for expected, name in enumerate(names, start=1):
        if name[:5] != f"{expected:04d}_":
            raise InternalError(f"{folder}/{name}: expected number {expected:04d}; install autotune again")
        with open(os.path.join(folder, name), encoding="utf-8") as script:
            found.append(Migration(expected, name.removesuffix(".sql"), script.read()))
    return tuple(found)


def latest_version() -> int:
    """The `user_version` of a history with the newest schema."""
    return len(migrations())


class SnapshotScript(NamedTuple):
    """The statements that make a snapshot: its tables first, its indexes when the rows are in."""

    tables: str
    indexes: str


@cache
def snapshot_script() -> SnapshotScript:
    """What makes a snapshot.

    Raises:
        InternalError: the installation lacks it.
    """
    path = os.path.join(paths.data_dir("db"), "snapshot.sql")
    try:
        with open(path, encoding="utf-8") as file:
            script = file.read()
    except OSError as error:
        raise InternalError(f"{path}: {error.strerror}; install autotune again") from error
    tables, create_index, rest = script.partition("CREATE INDEX")
    return SnapshotScript(tables, create_index + rest)


@cache
def columns(kind: str) -> frozenset[tuple[str, str, str]]:
    """Table, name and type of every column that a new `history` or `snapshot` has."""
    scripts = [migration.script for migration in migrations()] if kind == "history" else snapshot_script()
    with closing(sqlite3.connect(":memory:")) as connection:
        for script in scripts:
            connection.executescript(script)
        return frozenset(connection.execute(COLUMNS).fetchall())


def apply(connection: sqlite3.Connection, application_id: int) -> None:
    """Bring a history to the newest schema, in one transaction.

    Args:
        connection: that starts no transaction by itself (`isolation_level=None`).
        application_id: what the file shall say it is.

    Raises:
        sqlite3.Error: a step failed, and nothing was changed.
    """
    # Here, because it takes 200 ms to import and is needed once in the life of a history.
    from sqlite_utils import Database, Migrations

    steps = Migrations("autotune")
    for migration in migrations():
        steps(name=migration.name)(_runner(migration.script))
    # Taken at once: sqlite-utils would begin with a read, and two processes could both find a step pending.
    connection.execute("BEGIN IMMEDIATE")
    try:
        steps.apply(Database(connection, execute_plugins=False, recursive_triggers=False))
        connection.execute(f"PRAGMA application_id = {int(application_id)}")
        connection.execute(f"PRAGMA user_version = {latest_version()}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _runner(script: str) -> Any:
    def run(database: Any) -> None:
        # sqlite-utils runs the statements one by one: Python's own `executescript` would commit first.
        database.executescript(script)

    return run
