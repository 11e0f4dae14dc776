"""The published snapshot as a look-up reads it: `best.db`, opened read-only and immutable.

It was written whole and renamed into place, so it is never seen half written and needs no lock; a connection
that stays open goes on reading the file it opened when a newer one takes its place.
"""

from __future__ import annotations

import os
import stat

from autotune.errors import DatabaseError, StateError

try:
    # The compiled half of `sqlite3`. The other half adds dates, which take 3 ms to import and are not needed.
    import _sqlite3 as sqlite3
except ImportError:
    import sqlite3  # type: ignore[no-redef]  # its whole, where the half is not to be had

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autotune.space.problem import Problem

    Rows = list[sqlite3.Row]

APPLICATION_ID = 0x41545542  # "ATUB"
FORMAT = 2
READABLE = (1, 2)
"""Format 1 lacks the origin of what the fleet proved: all that it holds was decided on this host."""

_COLUMNS = """rank, problem, device, stack, configuration, latency_ns, p99_ns, error, memory_bytes,
    baseline_ns, baseline_error, speedup, speedup_low, speedup_high, is_baseline, limit_share,
    study, trial, decided_at"""
_ORIGIN = {1: ", NULL AS origin", 2: ", origin"}
_TUNED = "WHERE workload = ? AND problem = ? AND objective = ? AND device = ?"
# A snapshot has no statistics, without which SQLite would read every choice of the workload.
_BY_NEIGHBOURHOOD = "INDEXED BY choice_neighbourhood "
_NEIGHBOURS = f"""{_BY_NEIGHBOURHOOD}WHERE workload = ? AND neighbourhood = ? AND objective = ?
    AND device = ? AND problem <> ?"""
_RELATIVES = """WHERE workload = ? AND problem = ? AND objective = ?
    AND device IN (SELECT digest FROM device WHERE kind = ? AND family = ? AND digest <> ?)"""
_OBJECTIVES = (
    f"SELECT DISTINCT objective FROM choice {_BY_NEIGHBOURHOOD}WHERE workload = ? AND neighbourhood = ?"
)
# SQLite decodes JSON in microseconds and is loaded anyway; importing `json` would cost 7 ms.
_DECODED = "SELECT key, value, type FROM json_each(?)"


class Published:
    """One published snapshot.

    Not thread-safe: the caller holds a lock. Not to be used across a fork.

    Args:
        path: of a `best.db`, or of an earlier generation.

    Attributes:
        generation: its number.

    Raises:
        StateError: it is missing or cannot be read.
        DatabaseError: it is no snapshot of autotune, damaged, or of a newer version.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        _require_file(path)
        uri = f"file:{_percent_encoded(path)}?mode=ro&immutable=1"
        try:
            self._connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            try:
                self._check_identity()
                self.generation = self._generation()
            except BaseException:
                self.close()
                raise
        except sqlite3.Error as error:
            raise DatabaseError(f"{path}: cannot be read as a snapshot: {error}") from error

    def tuned(self, problem: Problem, objective: str, device: str) -> Rows:
        """The choices for a problem on a device, under every stack."""
        return self._rows(self._choices + _TUNED, problem.workload, problem.key, objective, device)

    def neighbours(self, problem: Problem, objective: str, device: str) -> Rows:
        """The choices on a device for other problems of the same neighbourhood, under every stack."""
        return self._rows(
            self._choices + _NEIGHBOURS,
            problem.workload,
            problem.neighbourhood,
            objective,
            device,
            problem.key,
        )

    def relatives(self, problem: Problem, objective: str, device: str, kind: str, family: str) -> Rows:
        """The choices for a problem on other devices of a kind and family, under every stack."""
        return self._rows(
            self._choices + _RELATIVES, problem.workload, problem.key, objective, kind, family, device
        )

    def objectives(self, problem: Problem) -> list[str]:
        """What the problem and its neighbours have been tuned for."""
        rows = self._rows(_OBJECTIVES, problem.workload, problem.neighbourhood)
        return [str(row[0]) for row in rows]

    def configuration(self, row: sqlite3.Row) -> dict[str, Any] | None:
        """The configuration of a choice; None if the row is damaged."""
        try:
            cells = self._connection.execute(_DECODED, (row["configuration"],)).fetchall()
            decoded = {key: _decoded(value, kind) for key, value, kind in cells}
        except (sqlite3.Error, ValueError):
            return None
        return decoded if decoded and all(isinstance(key, str) for key in decoded) else None

    def device(self, digest: str) -> sqlite3.Row | None:
        """Kind, name, family, facts (JSON) and local index of a device; None if it is not in the snapshot."""
        rows = self._rows(
            "SELECT kind, name, family, facts, local_index FROM device WHERE digest = ?", digest
        )
        return rows[0] if rows else None

    def accelerators(self) -> list[tuple[int, str]]:
        """Local index and digest of this host's accelerators, by index."""
        sql = """SELECT local_index, digest FROM device
            WHERE kind = 'cuda' AND local_index IS NOT NULL ORDER BY local_index"""
        return [(int(row[0]), str(row[1])) for row in self._rows(sql)]

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _rows(self, sql: str, *parameters: Any) -> Rows:
        return self._connection.execute(sql, parameters).fetchall()

    def _check_identity(self) -> None:
        if self._rows("PRAGMA application_id")[0][0] != APPLICATION_ID:
            raise DatabaseError(f"{self.path}: is not a snapshot of autotune")
        version = self._rows("PRAGMA user_version")[0][0]
        if version not in READABLE:
            raise DatabaseError(
                f"{self.path}: has format {version}, this autotune reads {FORMAT}; install a matching version"
            )
        self._choices = f"SELECT {_COLUMNS}{_ORIGIN[version]} FROM choice "

    def _generation(self) -> int:
        rows = self._rows("SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'generation'")
        if not rows:
            raise DatabaseError(f"{self.path}: names no generation")
        return int(rows[0][0])


def _require_file(path: str) -> None:
    """Refuse what is no regular file: opening a named pipe, say, would wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise StateError(f"{path}: is not a regular file")


def _percent_encoded(path: str) -> str:
    """`path` for a `file:` address; `urllib.parse.quote` would cost an import."""
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-"
    return "".join(chr(byte) if byte in plain else f"%{byte:02X}" for byte in os.fsencode(path))


def _decoded(value: Any, kind: str) -> Any:
    if kind in ("true", "false"):
        return kind == "true"
    if kind in ("array", "object"):
        import json

        return json.loads(value)
    return value
