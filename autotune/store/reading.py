"""Reading the history: the same questions, asked by its writer or beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar

from autotune.errors import UnknownNameError
from autotune.store import ordering
from autotune.store.database import CONTENT_ERRORS, damaged, told
from autotune.store.encoding import (
    choice_of,
    configuration_of,
    decision_of,
    device_of,
    event_of,
    from_json,
    stack_of,
    standing_of,
    study_of,
    trial_of,
)
from autotune.store.ordering import ordered_by
from autotune.store.records import QUARANTINING, Verdict

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Mapping
    from typing import Self

    from autotune.space.problem import Problem
    from autotune.store.entries import Decision, DeviceEntry, Event, StackEntry, Standing, StudyEntry
    from autotune.store.records import Configuration, StudyKey, Trial, Winner
    from autotune.store.statedir import StateDir

T = TypeVar("T")

_STUDY = """SELECT s.*,
    (SELECT count(*) FROM trial t WHERE t.study = s.id) AS trials,
    (SELECT min(t.p50_ns) FROM trial t WHERE t.study = s.id AND t.verdict = 'ok') AS best_ns
    FROM study s"""


class HistoryReader:
    """A history, to be read.

    Not thread-safe, and not to be used across a fork.

    Args:
        connection: to the database; closed with this reader.
        state: the folder it lies in.
    """

    def __init__(self, connection: sqlite3.Connection, state: StateDir) -> None:
        self.connection = connection
        self.state = state

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database."""
        self.connection.close()

    def studies(
        self,
        *,
        workload: str | None = None,
        problem: str | None = None,
        dimensions: Mapping[str, int | str] | None = None,
        device: str | None = None,
        stack: str | None = None,
        objective: str | None = None,
        state: str | None = None,
        verdict: Verdict | None = None,
        since: float | None = None,
        until: float | None = None,
        order: str = "started",
        descending: bool = False,
        limit: int = 100,
        offset: int = 0,
    ) -> list[StudyEntry]:
        """Studies, the latest first unless asked otherwise.

        Args:
            workload: its name.
            problem: the problem's key.
            dimensions: some of the problem's dimensions, with their values.
            device: its digest.
            stack: its digest.
            objective: its name.
            state: `running`, `ended` or `interrupted`.
            verdict: that at least one trial ended with.
            since: seconds since the epoch that they started at or after.
            until: seconds since the epoch that they started before.
            order: a key of `ordering.STUDIES`.
            descending: the other way round.
            limit: how many at most.
            offset: how many to pass over.

        Raises:
            UnknownNameError: there is no such order.
        """
        where, values = _where(
            {
                "s.workload = ?": workload,
                "s.problem = ?": problem,
                "s.device = ?": device,
                "s.stack = ?": stack,
                "s.objective = ?": objective,
                "s.state = ?": state,
                "s.started_at >= ?": since,
                "s.started_at < ?": until,
                "EXISTS (SELECT 1 FROM trial t WHERE t.study = s.id AND t.verdict = ?)": verdict,
            },
            dimensions or {},
        )
        by = ordered_by(ordering.STUDIES, order, descending)
        # Numbers first: the trials of all the others are then not counted.
        wanted = f"SELECT s.id FROM study s {where} ORDER BY {by} LIMIT ? OFFSET ?"
        page = (
            f"WITH wanted AS MATERIALIZED ({wanted}) {_STUDY} JOIN wanted ON wanted.id = s.id ORDER BY {by}"
        )
        return self.records(study_of, page, *values, limit, offset)

    def study(self, study_id: int) -> StudyEntry:
        """One study.

        Raises:
            UnknownNameError: there is none of that number.
        """
        found = self.records(study_of, f"{_STUDY} WHERE s.id = ?", study_id)
        if not found:
            known = self.rows("SELECT id FROM study ORDER BY id DESC LIMIT 12")
            raise UnknownNameError("study", str(study_id), [row["id"] for row in known], self.state.history)
        return found[0]

    def find_study(self, key: StudyKey) -> int | None:
        """The number of the study with a key, if there was one."""
        rows = self.rows(
            """SELECT id FROM study WHERE workload = ? AND problem = ? AND device = ? AND stack = ?
                AND objective = ? AND space = ? AND max_error IS ?""",
            key.workload,
            key.problem,
            key.device,
            key.stack,
            key.objective,
            key.space,
            key.max_error,
        )
        return rows[0]["id"] if rows else None

    def trials(
        self, study_id: int, *, verdict: Verdict | None = None, limit: int | None = None
    ) -> list[Trial]:
        """The trials of a study, in the order they ran."""
        where, values = _where({"study = ?": study_id, "verdict = ?": verdict})
        in_order = f"SELECT * FROM trial {where} ORDER BY number LIMIT ?"
        return self.records(trial_of, in_order, *values, -1 if limit is None else limit)

    def trial(self, study_id: int, number: int) -> Trial:
        """One trial.

        Raises:
            UnknownNameError: the study has none of that number.
        """
        found = self.records(trial_of, "SELECT * FROM trial WHERE study = ? AND number = ?", study_id, number)
        if not found:
            known = self.rows("SELECT number FROM trial WHERE study = ? ORDER BY number LIMIT 13", study_id)
            numbers = [row["number"] for row in known]
            raise UnknownNameError("trial", str(number), numbers, f"study {study_id}")
        return found[0]

    def verdicts(self, study_id: int) -> dict[Verdict, int]:
        """How many trials of a study ended how."""
        return dict(
            self.records(
                lambda row: (Verdict(row["verdict"]), int(row["n"])),
                "SELECT verdict, count(*) AS n FROM trial WHERE study = ? GROUP BY verdict",
                study_id,
            )
        )

    def quarantined(
        self, device: str, stack: str, workload: str, problem: str, *, allowed_error: float | None = None
    ) -> list[Configuration]:
        """Configurations that are never tried again for a problem on a device and stack.

        Args:
            device: its digest.
            stack: its digest.
            workload: its name.
            problem: the problem's key.
            allowed_error: relative error that is acceptable now; what was only less accurate than an earlier,
                stricter study allowed is then free again.
        """
        verdicts = sorted(verdict.value for verdict in QUARANTINING)
        return self.records(
            configuration_of,
            f"""SELECT t.configuration FROM study s JOIN trial t ON t.study = s.id
                WHERE s.workload = ? AND s.problem = ? AND s.device = ? AND s.stack = ?
                AND t.verdict IN ({", ".join("?" * len(verdicts))})
                AND NOT (t.verdict = 'wrong' AND t.error IS NOT NULL AND t.error <= ?)
                GROUP BY t.configuration ORDER BY min(t.id)""",
            workload,
            problem,
            device,
            stack,
            *verdicts,
            -1.0 if allowed_error is None else allowed_error,
        )

    def incumbent(
        self, device: str, stack: str, workload: str, problem: str, objective: str
    ) -> Winner | None:
        """The current winner for a key."""
        found = self.decisions(
            workload=workload,
            problem=problem,
            objective=objective,
            device=device,
            stack=stack,
            state="current",
        )
        return found[0].winner if found else None

    def decisions(
        self,
        *,
        workload: str | None = None,
        problem: str | None = None,
        objective: str | None = None,
        device: str | None = None,
        stack: str | None = None,
        study: int | None = None,
        state: str | None = None,
        since: float | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[Decision]:
        """Winners that were decided, the latest first; `state="current"` for those that hold.

        Args:
            workload: its name.
            problem: the problem's key.
            objective: its name.
            device: its digest.
            stack: its digest.
            study: that decided them.
            state: `current`, `superseded` or `withdrawn`.
            since: seconds since the epoch that they were decided at or after.
            after: a decision's number; those of higher numbers.
            limit: how many at most.
        """
        where, values = _where(
            {
                "workload = ?": workload,
                "problem = ?": problem,
                "objective = ?": objective,
                "device = ?": device,
                "stack = ?": stack,
                "study = ?": study,
                "state = ?": state,
                "decided_at >= ?": since,
                "id > ?": after,
            }
        )
        ranked = "SELECT * FROM choice WHERE winner = ? ORDER BY rank"
        return self.records(
            lambda row: decision_of(row, self.records(choice_of, ranked, row["id"])),
            f"SELECT * FROM winner {where} ORDER BY decided_at DESC, id DESC LIMIT ?",
            *values,
            -1 if limit is None else limit,
        )

    def standing(self, device: str) -> list[Standing]:
        """The current winners of a device under every stack, in short."""
        return self.records(
            standing_of,
            """SELECT w.workload, w.problem, w.dimensions, w.objective, w.stack, w.decided_at, c.is_baseline,
                c.speedup, w.origin FROM winner w JOIN choice c ON c.winner = w.id AND c.rank = 0
                WHERE w.state = 'current' AND w.device = ?""",
            device,
        )

    def neighbours(self, device: str, problem: Problem, objective: str) -> list[Configuration]:
        """Winners of a problem on a device at other sizes or under other stacks, the nearest first."""
        found = self.records(
            lambda row: (from_json(row["dimensions"]), row["configuration"]),
            """SELECT w.dimensions, c.configuration FROM winner w JOIN choice c ON c.winner = w.id
                WHERE w.state = 'current' AND w.workload = ? AND w.neighbourhood = ? AND w.objective = ?
                AND w.device = ? AND c.rank = 0 AND NOT c.is_baseline ORDER BY w.decided_at DESC""",
            problem.workload,
            problem.neighbourhood,
            objective,
            device,
        )
        found.sort(key=lambda winner: _distance(problem, winner[0]))
        return [from_json(text) for text in dict.fromkeys(text for _, text in found)]

    def devices(self) -> list[DeviceEntry]:
        """All devices, those of this host first."""
        local_first = "SELECT * FROM device ORDER BY local_index IS NULL, kind DESC, local_index, name"
        return self.records(device_of, local_first)

    def device(self, digest: str) -> DeviceEntry | None:
        """One device."""
        return next((device for device in self.devices() if device.digest == digest), None)

    def stacks(self) -> list[StackEntry]:
        """All software stacks, the latest first."""
        return self.records(stack_of, "SELECT * FROM stack ORDER BY recorded_at DESC, digest")

    def stack(self, digest: str) -> StackEntry | None:
        """One software stack."""
        return next((stack for stack in self.stacks() if stack.digest == digest), None)

    def events(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        since: float | None = None,
        limit: int = 100,
    ) -> list[Event]:
        """What happened, the latest first."""
        where, values = _where({"kind = ?": kind, "subject = ?": subject, "at >= ?": since})
        return self.records(event_of, f"SELECT * FROM event {where} ORDER BY id DESC LIMIT ?", *values, limit)

    def records(self, decode: Callable[[sqlite3.Row], T], sql: str, *values: Any) -> list[T]:
        """The rows of a query as records.

        Raises:
            StateError: the database cannot be read, or a row is damaged.
        """
        rows = self.rows(sql, *values)
        try:
            return [decode(row) for row in rows]
        except CONTENT_ERRORS as error:
            raise damaged(self.state.history, error) from error

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        """The rows of a query.

        Raises:
            StateError: the database cannot be read.
        """
        with told(self.state.history):
            return self.connection.execute(sql, values).fetchall()


def _where(
    conditions: Mapping[str, Any], dimensions: Mapping[str, int | str] | None = None
) -> tuple[str, list[Any]]:
    """The clause for those conditions whose value is given, and the values to bind."""
    given = {condition: value for condition, value in conditions.items() if value is not None}
    clauses, values = list(given), [str(v) if isinstance(v, Verdict) else v for v in given.values()]
    for name, value in (dimensions or {}).items():
        clauses.append(
            "EXISTS (SELECT 1 FROM json_each(dimensions) d WHERE d.key = ? AND CAST(d.value AS TEXT) = ?)"
        )
        values += [name, str(value)]
    return (f"WHERE {' AND '.join(clauses)}" if clauses else ""), values


def _distance(problem: Problem, other: Mapping[str, int | str]) -> float:
    """Squared distance in log2 space over the dimensions along which neighbours are sought."""
    return sum(
        math.log2(max(1, int(problem[name])) / max(1, int(other.get(name, 1)))) ** 2
        for name in problem.nearest
    )
