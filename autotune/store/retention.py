"""Forgetting old studies and events, a little at a time, so that the history does not grow without end.

What still matters is kept however old it is: a study whose decision holds, with all its trials, and what must
not be tried again under a software stack that is still in use. The file does not shrink; its space is reused.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autotune.store.history import note
from autotune.store.records import QUARANTINING

if TYPE_CHECKING:
    import sqlite3

    from autotune.config import RetentionSettings
    from autotune.store.history import History

DAY_SECONDS = 86_400.0
MOST_EVENTS = 1000
"""Events that one transaction deletes: a few milliseconds."""

_QUARANTINING = ", ".join(f"'{verdict.value}'" for verdict in sorted(QUARANTINING))

# One that was resumed began long ago, and one that was interrupted has no end: what was tried last counts.
_OLD_STUDIES = f"""SELECT s.id FROM study s
    WHERE s.state != 'running' AND s.started_at < ?1 AND ifnull(s.ended_at, 0) < ?1
    AND ifnull((SELECT max(t.started_at) FROM trial t WHERE t.study = s.id), 0) < ?1
    AND NOT EXISTS (SELECT 1 FROM winner w WHERE w.study = s.id AND w.state = 'current')
    AND NOT (
        EXISTS (SELECT 1 FROM trial t WHERE t.study = s.id AND t.verdict IN ({_QUARANTINING}))
        AND EXISTS (SELECT 1 FROM study n WHERE n.stack = s.stack AND n.started_at >= ?1))
    ORDER BY s.id LIMIT 100"""


def retire(history: History, settings: RetentionSettings, budget_seconds: float = 0.2) -> int:
    """Forget some of what is older than the operator wants; returns how much it was, 0 when nothing is left.

    Each study is forgotten whole, in a transaction of its own.

    Args:
        history: to shorten.
        settings: the ages.
        budget_seconds: after which no further transaction is begun.

    Raises:
        StateError: the disk is full, or the database cannot be written.
    """
    started, now = time.monotonic(), time.time()
    forgotten = 0
    before = now - settings.studies_days * DAY_SECONDS
    for row in history.rows(_OLD_STUDIES, before):
        with history.writing() as connection:
            _forget_study(connection, row["id"])
        forgotten += 1
        if time.monotonic() - started > budget_seconds:
            return forgotten
    with history.writing() as connection:
        return forgotten + _forget_events(connection, now - settings.events_days * DAY_SECONDS)


def _forget_study(connection: sqlite3.Connection, study: int) -> None:
    trials = connection.execute("DELETE FROM trial WHERE study = ?", (study,)).rowcount
    connection.execute("DELETE FROM choice WHERE winner IN (SELECT id FROM winner WHERE study = ?)", (study,))
    connection.execute("DELETE FROM winner WHERE study = ?", (study,))
    connection.execute("DELETE FROM study WHERE id = ?", (study,))
    note(connection, "study_retired", f"study {study}", {"trials": trials})


def _forget_events(connection: sqlite3.Connection, before: float) -> int:
    old = "DELETE FROM event WHERE id IN (SELECT id FROM event WHERE at < ? ORDER BY at LIMIT ?)"
    return connection.execute(old, (before, MOST_EVENTS)).rowcount
