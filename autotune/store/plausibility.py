"""What a history or snapshot may say: values that SQLite takes and autotune never writes.

A disk that changes a digit, or somebody with another tool, leaves a database that is whole and tells
nonsense. Views do not check every figure they show: when one fails, this says whether it is to blame.
"""

from __future__ import annotations

import math
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import msgspec

from autotune.errors import AutotuneError, DatabaseError
from autotune.store import schema
from autotune.store.database import DATABASE_ERRORS, connect, faults, one_line, require
from autotune.store.records import Verdict
from autotune.store.statedir import StateDir

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

LAST_MOMENT = 253_402_300_799.0
"""The end of the year 9999, the last that calendars know."""
LARGEST_COUNT = 2**53
"""Larger numbers are not exact everywhere."""

_OBJECTS = ("facts", "space_facts", "clocks", "detail")
_SCALAR = (str, int, float, bool, type(None))


def blamed(state_dir: str) -> DatabaseError | None:
    """What is wrong with the databases of a state folder, if anything is: the first of it."""
    state = StateDir(state_dir)
    for path, kind in ((state.history, "history"), (state.snapshot, "snapshot")):
        if os.path.isfile(path):
            try:
                fault = next(implausible(path, kind), None)
            except AutotuneError as error:
                return error if isinstance(error, DatabaseError) else None
            if fault is not None:
                return DatabaseError(
                    f"{path}: holds what autotune never writes ({fault}); "
                    "`autotune db restore` brings the last good backup back"
                )
    return None


def implausible(path: str, kind: str) -> Iterator[str]:
    """Values that cannot be, the first of each table, a line each; damage that SQLite sees counts too.

    Args:
        path: of the database.
        kind: `history` or `snapshot`.

    Raises:
        DatabaseError: it is of another kind, or of a newer version.
    """
    try:
        with closing(connect(path, "ro")) as connection:
            require(connection, path, kind)
            damage = faults(connection, thorough=True, most=1)
            if damage:
                yield damage[0]
                return
            tables = {table for table, _, _ in schema.columns(kind)}
            present = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_schema")}
            if tables - present:
                yield f"lacks its table {min(tables - present)}"
                return
            for table in sorted(tables):
                yield from _first(connection, table)
            yield from _missing(connection, kind)
    except DATABASE_ERRORS as error:
        yield one_line(error)


def _first(connection: sqlite3.Connection, table: str) -> Iterator[str]:
    for number, row in enumerate(connection.execute(f"SELECT * FROM {table}")):
        for name in row.keys():  # noqa: SIM118 - a row is no mapping
            if row[name] is not None and not _rule(name)(row[name]):
                yield f"{table}: row {number + 1} has {name} = {one_line(ValueError(repr(row[name])))[:60]}"
                return


def _missing(connection: sqlite3.Connection, kind: str) -> Iterator[str]:
    """Rows without which others say nothing."""
    if kind == "history":
        for table, lacking in (
            ("publication", "SELECT count(*) = 0 FROM publication"),
            ("choice", "SELECT EXISTS(SELECT 1 FROM winner w WHERE NOT EXISTS "
                "(SELECT 1 FROM choice c WHERE c.winner = w.id AND c.rank = 0))"),
        ):  # fmt: skip
            if connection.execute(lacking).fetchone()[0]:
                yield f"{table}: lacks a row"


def _rule(name: str) -> Callable[[Any], bool]:
    if name in _RULES:
        return _RULES[name]
    if name.endswith("_at") or name == "at":
        return _is_moment
    if name.endswith("_ns") or name.startswith(("speedup", "over_incumbent")):
        return _is_positive
    return _is_anything


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 < value < 2**62


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 <= value < 2**62


def _is_moment(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= LAST_MOMENT


def _is_verdict(value: Any) -> bool:
    return value in {one.value for one in Verdict}


def _is_configuration(value: Any) -> bool:
    decoded = msgspec.json.decode(value)
    return isinstance(decoded, dict) and all(isinstance(one, _SCALAR) for one in decoded.values())


def _are_dimensions(value: Any) -> bool:
    decoded = msgspec.json.decode(value)
    return isinstance(decoded, dict) and all(type(one) in (int, str) for one in decoded.values())


def _is_object(value: Any) -> bool:
    return isinstance(msgspec.json.decode(value), dict)


def _is_anything(value: Any) -> bool:
    return not isinstance(value, int | float) or abs(value) < LARGEST_COUNT


def _decodes(rule: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        try:
            return rule(value)
        except (msgspec.MsgspecError, RecursionError, ValueError, TypeError):
            return False

    return holds


_RULES: dict[str, Callable[[Any], bool]] = {
    "verdict": _is_verdict,
    "configuration": _decodes(_is_configuration),
    "dimensions": _decodes(_are_dimensions),
    **{name: _decodes(_is_object) for name in _OBJECTS},
    **dict.fromkeys(("compile_seconds", "measure_seconds", "memory_bytes", "sample_count"), _is_share),
    **dict.fromkeys(("variation", "confidence", "margin", "limit_share", "rounds"), _is_share),
    # Of a result that is no number at all, the error is infinite; a seed is any integer.
    **dict.fromkeys(("error", "seed"), lambda _: True),
}
