"""Opening the databases: whose they are, of which version, whether whole; else, what a person is told."""

from __future__ import annotations

import errno
import os
import sqlite3
import zlib
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import msgspec

from autotune.errors import AutotuneError, DatabaseError, InternalError, StateDirError
from autotune.lookup import published
from autotune.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

HISTORY_ID = 0x41545548  # "ATUH"
SNAPSHOT_ID = published.APPLICATION_ID
SNAPSHOT_VERSION = published.FORMAT
BUSY_SECONDS = 10.0

CONTENT_ERRORS = (TypeError, ValueError, LookupError, zlib.error, msgspec.MsgspecError)
"""What decoding a row raises when the disk changed it in a way that SQLite cannot see."""

DATABASE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What using a database raises; the second when the name of a damaged table is put into a message."""

_JSON = ("facts", "dimensions", "space_facts", "configuration", "clocks", "detail")
"""Columns that hold JSON objects, wherever they stand."""

_LACKING = ("no such table", "no such column", "no such index")
"""How SQLite's message begins where somebody changed the schema."""

_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Identity(NamedTuple):
    """What a database says it is.

    Attributes:
        kind: `history`, `snapshot`, `empty` for one that nothing was written to yet, else `foreign`.
        version: of its schema; 0 when empty.
    """

    kind: str
    version: int


def address(path: str, mode: str) -> str:
    """The `file:` address of a database; `immutable` reads a published file, without any lock."""
    options = "mode=ro&immutable=1" if mode == "immutable" else f"mode={mode}"
    return f"file:{quote(os.path.abspath(path))}?{options}"


def connect(path: str, mode: str) -> sqlite3.Connection:
    """A connection that starts no transaction by itself.

    Args:
        path: of the database.
        mode: `rwc` (created if missing), `rw`, `ro` or `immutable`.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    connection = sqlite3.connect(address(path, mode), uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    if mode == "ro" and _has_hot_journal(connection):
        connection.close()
        with closing(connect(path, "rw")) as recovering:
            recovering.execute("SELECT count(*) FROM sqlite_schema")
        return connect(path, "ro")
    return connection


def _has_hot_journal(connection: sqlite3.Connection) -> bool:
    """Whether a writer was killed while it closed; only who may write can undo what it left."""
    try:
        connection.execute("SELECT count(*) FROM sqlite_schema")
    except DATABASE_ERRORS as error:
        return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK
    return False


def identify(connection: sqlite3.Connection) -> Identity:
    """What a database is.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if (application, version, tables) == (0, 0, 0):
        return Identity("empty", 0)
    return Identity({HISTORY_ID: "history", SNAPSHOT_ID: "snapshot"}.get(application, "foreign"), version)


def require(connection: sqlite3.Connection, path: str, *kinds: str) -> Identity:
    """What a database is, once it is sure that this version can use it.

    Args:
        connection: to the database.
        path: of it, for the message.
        kinds: `history`, `snapshot` or `empty`, whichever may be.

    Raises:
        DatabaseError: it is of another kind, or of a newer version.
        sqlite3.Error: it cannot be read.
    """
    identity = identify(connection)
    if identity.kind == "foreign":
        raise DatabaseError(
            f"{path}: is of another program; move it away, or set AUTOTUNE_STATE_DIR to another folder"
        )
    if identity.kind not in kinds:
        found = "empty" if identity.kind == "empty" else f"a {identity.kind}"
        raise DatabaseError(f"{path}: is {found}, expected a {kinds[0]}; move it away")
    newest = SNAPSHOT_VERSION if identity.kind == "snapshot" else schema.latest_version()
    if identity.version > newest:
        raise DatabaseError(
            f"{path}: this {identity.kind} has version {identity.version}, this autotune knows versions up "
            f"to {newest}; install the newer autotune that wrote it"
        )
    return identity


def faults(connection: sqlite3.Connection, *, thorough: bool, most: int = 10) -> list[str]:
    """What is wrong inside a database, a line each; nothing if it is whole.

    Args:
        connection: to the database.
        thorough: also compare every index with its table, follow every foreign key, and decode every value.
        most: how many faults to list.
    """
    try:
        pragma = "integrity_check" if thorough else "quick_check"
        found = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}({int(most)})")]
        if thorough and found == ["ok"]:
            found += _content_faults(connection)
        if thorough and found == ["ok"]:
            violations = connection.execute("PRAGMA foreign_key_check").fetchmany(most)
            found += [f"{row[0]} row {row[1]}: names a {row[2]} that is missing" for row in violations]
    except DATABASE_ERRORS as error:
        if not is_damage(error):
            raise
        return [one_line(error)]
    return [" ".join(line.split()) for line in found if line != "ok"]


def _content_faults(connection: sqlite3.Connection) -> list[str]:
    """What SQLite cannot see: a byte that changed within the schema or within a value.

    Tables that are not ours, and databases that are still to be upgraded, are left alone.
    """
    kind, version = identify(connection)
    if version != {"history": schema.latest_version(), "snapshot": SNAPSHOT_VERSION}.get(kind):
        return []
    ours = schema.columns(kind)
    lacking = sorted(ours - {tuple(row) for row in connection.execute(schema.COLUMNS)})
    if lacking:
        return [f"{table}: lacks its column {name}" for table, name, _ in lacking]
    tables = sorted({table for table, _, _ in ours})
    return [fault for table in tables for fault in _first_undecodable(connection, table)]


def _first_undecodable(connection: sqlite3.Connection, table: str) -> list[str]:
    read = 0
    try:
        for row in connection.execute(f"SELECT * FROM {table}"):
            columns = row.keys()
            for name in _JSON:
                if name in columns and row[name] is not None:
                    msgspec.json.decode(row[name], type=dict)
            if "samples" in columns and row["samples"] is not None:
                zlib.decompress(row["samples"])
            read += 1
    except (sqlite3.OperationalError, *CONTENT_ERRORS) as error:
        return [f"{table}: row {read + 1} is damaged: {one_line(error)}"]
    return []


def is_damage(error: Exception) -> bool:
    """Whether an error says that the file itself is broken."""
    unreadable = str(error).startswith(("Could not decode", "malformed JSON"))
    return unreadable or isinstance(error, UnicodeDecodeError) or _code(error) in _DAMAGE


def damaged(path: str, error: Exception) -> DatabaseError:
    """What to tell of a database that is broken."""
    return DatabaseError(
        f"{path}: is damaged ({one_line(error)}); `autotune db check` says where, "
        "`autotune db restore` brings the last good backup back"
    )


def one_line(error: Exception) -> str:
    """An error's message without what a damaged file may have put into it."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())[:200]


@contextmanager
def told(path: str) -> Iterator[None]:
    """Turn what SQLite and the system raise into one line with the file and the remedy.

    Args:
        path: of the file that the enclosed code works on.

    Raises:
        StateDirError: no space, no permission, a failing disk.
        DatabaseError: the database is damaged, or stays locked.
        InternalError: it refused what we asked of it.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        raise _explained(path, error) from error
    except OSError as error:
        raise _system_error(path, error) from error


def _explained(path: str, error: Exception) -> AutotuneError:
    code, text = _code(error), one_line(error)
    if is_damage(error):
        return damaged(path, error)
    if code == sqlite3.SQLITE_FULL:
        return _full(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return DatabaseError(f"{path}: another process keeps it locked; try again when that has ended")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_AUTH):
        return StateDirError(
            f"{path}: cannot be opened ({text}); run as the owner of the state folder, or fix its permissions"
        )
    if code == sqlite3.SQLITE_IOERR:
        return StateDirError(f"{path}: the disk fails ({text}); check its quota and the kernel log")
    if text.startswith(_LACKING):
        return DatabaseError(
            f"{path}: lacks what a history of this version has ({text}); `autotune db restore` brings the "
            "last good backup back"
        )
    return InternalError(f"{path}: {text}")


def _system_error(path: str, error: OSError) -> StateDirError:
    where = error.filename if isinstance(error.filename, str) else path
    if error.errno in _NO_SPACE:
        return _full(where)
    return StateDirError(f"{where}: {error.strerror or error}; check the permissions of the state folder")


def _full(path: str) -> StateDirError:
    return StateDirError(
        f"{path}: the disk is full; nothing that was recorded is lost: free some space and run again"
    )


def _code(error: Exception) -> int:
    """The primary result code; 0 for a mistake that never reached SQLite."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
