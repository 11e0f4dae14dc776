"""What is forgotten, and what is kept however old it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from autotune.config import RetentionSettings
from autotune.store import open_history
from autotune.store.backup import check
from autotune.store.records import Verdict
from autotune.store.retention import retire
from autotune.store.rollback import rollback
from autotune.store.snapshot import publish
from tests.store.factories import (
    EPOCH,
    OTHER_STACK,
    STACK_FACTS,
    problem,
    promote,
    record_host,
    study_key,
    trial,
    winner,
)

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import History

MONTH = RetentionSettings(studies_days=30, events_days=30)
DAY = 86_400.0


def age(history: History, study: int, days: float) -> None:
    """Make a study and its trials so many days old."""
    moment = time.time() - days * DAY
    history.connection.execute(
        "UPDATE study SET started_at = ?1, ended_at = iif(ended_at IS NULL, NULL, ?1) WHERE id = ?2",
        (moment, study),
    )
    history.connection.execute("UPDATE trial SET started_at = ? WHERE study = ?", (moment, study))


def retire_all(history: History, settings: RetentionSettings = MONTH) -> int:
    total = 0
    while forgotten := retire(history, settings):
        total += forgotten
    return total


def left(history: History) -> set[int]:
    return {study.id for study in history.studies()}


def searched(history: History, m: int, *verdicts: Verdict, stack: str | None = None) -> int:
    """A study that decided nothing."""
    record_host(history)
    key = study_key(m)
    if stack is not None:
        history.record_stack(stack, STACK_FACTS)
        key = study_key(m, stack=stack)
    study = history.begin_study(key, problem(m).dimensions)
    for number, verdict in enumerate(verdicts):
        history.add_trial(study, trial(number, verdict))
    history.end_study(study, "budget")
    return study


def test_an_old_study_without_a_winner_is_forgotten_whole(history: History) -> None:
    old, young = searched(history, 1, Verdict.OK), searched(history, 2, Verdict.OK)
    age(history, old, 31)
    age(history, young, 29)
    assert retire_all(history) == 1
    assert left(history) == {young}
    assert history.trials(old) == []
    assert [event.subject for event in history.events(kind="study_retired")] == [f"study {old}"]


def test_a_study_whose_decision_holds_is_kept_with_its_trials(history: History) -> None:
    study = promote(history)
    age(history, study, 1000)
    assert retire_all(history) == 0
    assert len(history.trials(study)) == 3


def test_a_superseded_decision_goes_with_its_study(history: History, state: Path) -> None:
    first = promote(history)
    age(history, first, 100)
    second = history.begin_study(study_key(max_error=0.1), problem().dimensions)
    history.promote(second, winner(decided_at=EPOCH + 1))
    history.end_study(second, "trials")
    assert retire_all(history) == 1
    assert left(history) == {second}
    assert [decision.study for decision in history.decisions()] == [second]
    history.close()
    assert check(str(state / "history.db")).faults == ()


def test_a_generation_can_still_be_brought_back_when_its_decisions_are_forgotten(history: History) -> None:
    first = promote(history, latency_ns=4e5)
    publish(history, "first")
    second = history.begin_study(study_key(max_error=0.1), problem().dimensions)
    history.promote(second, winner(latency_ns=3e5, decided_at=EPOCH + 1))
    history.end_study(second, "trials")
    publish(history, "second")
    age(history, first, 100)
    assert retire_all(history) == 1
    rollback(history, 1)
    held = history.decisions(state="current")
    assert [(decision.study, decision.winner.choices[0].latency_ns) for decision in held] == [(None, 4e5)]


@pytest.mark.parametrize("verdict", [Verdict.CRASHED, Verdict.HUNG, Verdict.WRONG, Verdict.OUT_OF_MEMORY])
def test_what_must_not_be_tried_again_is_kept_while_its_stack_is_in_use(
    verdict: Verdict, history: History
) -> None:
    old = searched(history, 1, Verdict.OK, verdict)
    age(history, old, 100)
    young = searched(history, 2, Verdict.OK)
    assert retire_all(history) == 0
    age(history, young, 31)
    assert retire_all(history) == 2


def test_what_was_quarantined_under_another_stack_is_not_kept(history: History) -> None:
    old = searched(history, 1, Verdict.CRASHED, stack=OTHER_STACK)
    age(history, old, 100)
    young = searched(history, 2, Verdict.OK)
    assert retire_all(history) == 1
    assert left(history) == {young}


def test_an_interrupted_study_is_as_old_as_its_last_trial(history: History, state: Path) -> None:
    record_host(history)
    study = history.begin_study(study_key(), problem().dimensions)
    history.add_trial(study, trial(0))
    age(history, study, 100)
    assert retire_all(history) == 0, "it runs"
    history.connection.execute("UPDATE study SET state = 'interrupted'")
    history.add_trial(study, trial(1, started_at=time.time()))
    assert retire_all(history) == 0
    age(history, study, 100)
    assert retire_all(history) == 1


def test_a_forgotten_study_can_be_run_again_from_its_first_trial(history: History) -> None:
    study = searched(history, 1, Verdict.OK, Verdict.OK)
    age(history, study, 100)
    retire_all(history)
    again = searched(history, 1, Verdict.OK)
    assert [found.number for found in history.trials(again)] == [0]


def test_old_events_are_forgotten(history: History) -> None:
    for _ in range(1200):
        history.record_event("old", "x")
    history.connection.execute("UPDATE event SET at = ? WHERE kind = 'old'", (time.time() - 31 * DAY,))
    history.record_event("young", "x")
    assert retire_all(history) == 1200
    assert {event.kind for event in history.events()} == {"young"}


def test_it_stops_when_its_time_is_up_and_goes_on_when_called_again(history: History) -> None:
    for m in (1, 2, 3):
        age(history, searched(history, m, Verdict.OK), 100)
    assert [retire(history, MONTH, budget_seconds=0) for _ in range(4)] == [1, 1, 1, 0]


def test_the_space_is_used_again(state: Path) -> None:
    """A history that forgets as much as it records stays as large as it is."""
    with open_history(str(state)) as history:
        sizes = []
        for round_ in range(6):
            study = searched(history, 100 + round_, *[Verdict.OK] * 50)
            age(history, study, 100)
            if round_ >= 1:
                retire_all(history)
            pages = history.rows("PRAGMA page_count")[0][0]
            sizes.append(pages)
    assert max(sizes[2:]) <= max(sizes[:2])
