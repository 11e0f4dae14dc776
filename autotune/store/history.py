"""The history and its one writer: what a method has returned from survives a crash and a power cut."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from autotune.errors import InternalError
from autotune.store import schema
from autotune.store.database import DATABASE_ERRORS, HISTORY_ID, connect, require, told
from autotune.store.encoding import choice_columns, to_json, trial_columns, winner_columns
from autotune.store.parties import Parties
from autotune.store.recorder import Recorder
from autotune.store.statedir import READABLE_FILE

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping

    from autotune.fingerprint.fingerprint import Device
    from autotune.store.lock import WriterLock
    from autotune.store.reading import HistoryReader
    from autotune.store.records import StudyKey, Trial, Winner
    from autotune.store.statedir import StateDir

LARGEST_IDLE_LOG = 64 * 2**20
"""Bytes that the write-ahead log may keep on disk between transactions."""

# Devices that are equal share one digest, and look-ups expect the index of the first of them.
_RECORD_DEVICE = """INSERT INTO device VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    name = excluded.name, family = excluded.family, facts = excluded.facts,
    local_index = min(ifnull(local_index, excluded.local_index), ifnull(excluded.local_index, local_index))"""

_SUPERSEDE = """UPDATE winner SET state = 'superseded', changed_at = ?, note = ?
    WHERE state = 'current' AND device = ? AND stack = ? AND workload = ? AND problem = ? AND objective = ?"""


_NEXT_NUMBER = "SELECT ifnull(max(number) + 1, 0) FROM trial WHERE study = ?"

_ORIGIN = """SELECT origin FROM winner
    WHERE state = 'current' AND device = ? AND stack = ? AND workload = ? AND problem = ? AND objective = ?"""


class History(Recorder):
    """The history, to be read and written; `autotune.store.open_history` makes one.

    Attributes:
        notices: what happened while it was opened that a person should know, a line each.

    Args:
        state: the folder it lies in.
        lock: that makes this process the writer; released with this history.

    Raises:
        StateDirError: it cannot be opened or created.
        DatabaseError: it is damaged, or belongs to another program or a newer version.
    """

    def __init__(self, state: StateDir, lock: WriterLock) -> None:
        with told(state.history):
            super().__init__(_open(state.history), state)
        self.notices: list[str] = []
        self._lock = lock
        self._parties = Parties()

    def close(self) -> None:
        """Let go of the database and of the lock."""
        # Without a write-ahead log the file can be read by users who may not write in its folder. If somebody
        # reads just now, or the disk is full, it keeps its log, and nothing is lost.
        with suppress(*DATABASE_ERRORS):
            self.connection.execute("PRAGMA busy_timeout = 0")
            self.connection.execute("PRAGMA journal_mode = DELETE")
        self.connection.close()
        self._lock.release()

    @property
    def lock_descriptor(self) -> int:
        """Of the lock's file: a process that inherits it keeps the lock until it ends, too."""
        return self._lock.descriptor

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; see `transaction`.

        Raises:
            StateError: the disk is full, or the database cannot be written.
        """
        with transaction(self) as connection:
            yield connection

    def record_devices(self, devices: Iterable[Device]) -> None:
        """Record the devices of this host, all of them; one that it lacks now was taken out."""
        with self.writing() as connection:
            connection.execute("UPDATE device SET local_index = NULL")
            for device in devices:
                _record_device(connection, device)

    def record_device(self, device: Device) -> None:
        """Record one device; one with a negative index is not on this host."""
        with self.writing() as connection:
            _record_device(connection, device)

    def record_stack(self, digest: str, facts: Mapping[str, Any]) -> None:
        """Record a software stack."""
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO stack VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (digest, to_json(facts), time.time()),
            )

    def begin_study(
        self,
        key: StudyKey,
        dimensions: Mapping[str, int | str],
        *,
        seed: int = 0,
        space_facts: Mapping[str, Any] | None = None,
    ) -> int:
        """Start a study, or take up the earlier one with the same key; returns its number.

        Args:
            key: whose device and stack were recorded before.
            dimensions: the problem's, in declared order.
            seed: of its random choices; a study that is resumed keeps the first.
            space_facts: what to remember of the search space, e.g. counts before and after constraints.
        """
        found = self.find_study(key)
        with self.writing() as connection:
            if found is None:
                row = {
                    **{name: getattr(key, name) for name in key.__struct_fields__},
                    "dimensions": to_json(dimensions),
                    "seed": seed,
                    "space_facts": to_json(space_facts or {}),
                    "state": "running",
                    "started_at": time.time(),
                }
                kind, found = "study_started", insert(connection, "study", row)
            else:
                kind = "study_resumed"
                reopen = "UPDATE study SET state = 'running', ended_at = NULL, end_reason = '' WHERE id = ?"
                connection.execute(reopen, (found,))
            note(connection, kind, f"study {found}", {"workload": key.workload, "problem": key.problem})
        self._parties.join(found)
        return found

    def add_trial(self, study_id: int, trial: Trial) -> int:
        """Record a trial that has ended; returns its number.

        That is the trial's own, or the next that is free where several devices work on the study.
        """
        with self.writing() as connection:
            if self._parties.are_several(study_id):
                following = connection.execute(_NEXT_NUMBER, (study_id,)).fetchone()[0]
                trial = replace(trial, number=max(trial.number, following))
            insert(connection, "trial", trial_columns(study_id, trial))
        return trial.number

    def end_study(self, study_id: int, reason: str) -> None:
        """Record that a study has ended, and why; while other devices go on, it has not."""
        ended = self._parties.leave(study_id, reason)
        if ended is None:
            return
        with self.writing() as connection:
            connection.execute(
                "UPDATE study SET state = 'ended', ended_at = ?, end_reason = ? WHERE id = ?",
                (time.time(), ended, study_id),
            )
            note(connection, "study_ended", f"study {study_id}", {"reason": ended})

    def promote(self, study_id: int, winner: Winner) -> int:
        """Make a winner the current one for its key, in place of the one before.

        Returns:
            The decision's number.

        Raises:
            InternalError: the winner is not this study's, or lacks its rank 0.
        """
        _check_winner(winner, self.study(study_id).key)
        key = (winner.device, winner.stack, winner.workload, winner.problem, winner.objective)
        before = self.incumbent(*key)
        with self.writing() as connection:
            now = time.time()
            self._judge(connection, key, winner)
            connection.execute(_SUPERSEDE, (now, f"decided again by study {study_id}", *key))
            row = {**winner_columns(winner), "study": study_id, "state": "current", "changed_at": now}
            decision = insert(connection, "winner", row)
            for choice in winner.choices:
                insert(connection, "choice", choice_columns(decision, choice))
            mark_stale(connection)
            kind, detail = _promotion(winner, before)
            note(
                connection,
                kind,
                f"{winner.workload}({winner.problem})",
                {"decision": decision, "study": study_id, **detail},
            )
        return decision

    def _judge(self, connection: sqlite3.Connection, key: tuple[str, ...], winner: Winner) -> None:
        """Tell the fleet what became of its winner, if one of its stood here."""
        row = connection.execute(_ORIGIN, key).fetchone()
        if row is not None and row["origin"] is not None:
            from autotune.store.fleet import note_verdict

            note_verdict(connection, row["origin"], winner)

    def publish(self, reason: str) -> int:
        """Publish all current winners to look-ups; returns the new generation's number.

        Args:
            reason: one line, kept with the generation.
        """
        from autotune.store.snapshot import publish

        return publish(self, reason)

    def record_event(self, kind: str, subject: str, detail: Mapping[str, Any] | None = None) -> None:
        """Record that something happened."""
        with self.writing() as connection:
            note(connection, kind, subject, detail or {})


@contextmanager
def transaction(history: HistoryReader) -> Iterator[sqlite3.Connection]:
    """One transaction: all of it is durable when this ends, or nothing of it was done.

    Args:
        history: of the writer, or of a process that it started to write for it.

    Raises:
        StateError: the disk is full, or the database cannot be written.
    """
    connection = history.connection
    with told(history.state.history):
        try:
            # Taken at once: a transaction that starts by reading cannot always become a writing one.
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
    """Insert a row whose columns are named in this package, and return its number."""
    columns = ", ".join(row)
    values = ", ".join("?" * len(row))
    done = connection.execute(f"INSERT INTO {table}({columns}) VALUES ({values})", tuple(row.values()))
    return done.lastrowid or 0


def note(connection: sqlite3.Connection, kind: str, subject: str, detail: Mapping[str, Any]) -> None:
    """Record an event within a transaction."""
    row = {"at": time.time(), "kind": kind, "subject": subject, "detail": to_json(detail)}
    insert(connection, "event", row)


def mark_stale(connection: sqlite3.Connection, restored_from: int | None = None) -> None:
    """Record, within the transaction that changes the winners, that `best.db` is behind them now."""
    connection.execute("UPDATE publication SET stale = 1, restored_from = ?", (restored_from,))


def _open(path: str) -> sqlite3.Connection:
    """A connection for the writer: every commit is on the disk when it returns."""
    connection = connect(path, "rwc")
    try:
        identity = require(connection, path, "history", "empty")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {LARGEST_IDLE_LOG}")
        if identity.version < schema.latest_version():
            os.chmod(path, READABLE_FILE)
            schema.apply(connection, HISTORY_ID)
        # Of a writer that was killed.
        connection.execute("UPDATE study SET state = 'interrupted' WHERE state = 'running'")
    except BaseException:
        connection.close()
        raise
    return connection


def _record_device(connection: sqlite3.Connection, device: Device) -> None:
    connection.execute(
        _RECORD_DEVICE,
        (
            device.digest,
            device.kind,
            device.name,
            device.family,
            to_json(device.facts),
            device.index if device.index >= 0 else None,
            time.time(),
        ),
    )


def _promotion(winner: Winner, before: Winner | None) -> tuple[str, dict[str, Any]]:
    """Kind and particulars of the event: the same configuration again confirms the incumbent."""
    best = winner.choices[0]
    confirmed = before is not None and before.choices[0].configuration == best.configuration
    speedup = best.proof.against_baseline
    return "confirmed" if confirmed else "promoted", {
        "objective": winner.objective,
        "device": winner.device,
        "stack": winner.stack,
        "configuration": best.configuration,
        "speedup": [speedup.low, speedup.ratio, speedup.high],
    }


def _check_winner(winner: Winner, key: StudyKey) -> None:
    for name in ("workload", "problem", "device", "stack", "objective"):
        decided, studied = getattr(winner, name), getattr(key, name)
        if decided != studied:
            raise InternalError(f"a winner for {name} {decided!r} out of a study of {studied!r}")
    ranks = [choice.rank for choice in winner.choices]
    if not ranks or ranks != list(range(len(ranks))):
        raise InternalError(
            f"{winner.workload}({winner.problem}): choices ranked {ranks}, expected 0, 1, ..."
        )
