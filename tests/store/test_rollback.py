"""Rolling back: an earlier generation's winners hold again; what is withdrawn stays so until proven again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.errors import DatabaseError, UnknownNameError, UsageError
from autotune.store import open_history
from autotune.store.rollback import adopt, rollback
from autotune.store.snapshot import generations, publish
from tests.store.factories import CPU, EPOCH, STACK, problem, promote
from tests.store.test_snapshot import latencies, published

if TYPE_CHECKING:
    from pathlib import Path

    from autotune.store import History

OLD, NEW = 4e5, 3e5


@pytest.fixture
def improved(history: History) -> History:
    """Generation 1 with one winner, generation 2 with a better one for it and a second problem."""
    promote(history, latency_ns=OLD)
    publish(history, "first")
    promote(history, latency_ns=NEW, decided_at=EPOCH + 1)
    promote(history, m=1, latency_ns=NEW, decided_at=EPOCH + 2)
    publish(history, "second")
    return history


def test_a_rollback_publishes_the_earlier_content_as_a_new_generation(improved: History, state: Path) -> None:
    assert 3 == rollback(improved, 1, "slower in production")
    kept = state / "generations" / "best-00000001.db"
    assert published(kept) == published(state / "best.db")
    newest = generations(improved)[0]
    assert (3, 1) == (newest.number, newest.restored_from)
    assert "rollback to generation 1: slower in production" == newest.reason


def test_a_rollback_withdraws_what_was_decided_since_and_says_why(improved: History) -> None:
    rollback(improved, 1, "slower in production")
    states = {(d.winner.problem, d.winner.decided_at): (d.state, d.note) for d in improved.decisions()}
    why = "rollback to generation 1: slower in production"
    assert {
        (problem().key, EPOCH): ("current", why),
        (problem().key, EPOCH + 1): ("withdrawn", why),
        (problem(1).key, EPOCH + 2): ("withdrawn", why),
    } == states
    assert OLD == improved.incumbent(CPU, STACK, "linear", problem().key, "latency").choices[0].latency_ns
    assert None is improved.incumbent(CPU, STACK, "linear", problem(1).key, "latency")
    (event,) = improved.events(kind="rolled_back")
    assert {"reason": why, "dropped": 2, "restored": 1, "taken": 0} == event.detail


def test_what_was_withdrawn_does_not_come_back_by_itself_but_can_win_again(
    improved: History, state: Path
) -> None:
    rollback(improved, 1)
    promote(improved, m=64, decided_at=EPOCH + 3)
    publish(improved, "another problem")
    assert {problem().key: OLD, problem(64).key: OLD} == latencies(state / "best.db")
    promote(improved, latency_ns=NEW, decided_at=EPOCH + 4)
    publish(improved, "proven again")
    assert {problem().key: NEW, problem(64).key: OLD} == latencies(state / "best.db")


def test_a_rollback_survives_reopening(state: Path, improved: History) -> None:
    rollback(improved, 1)
    improved.close()
    with open_history(str(state)) as history:
        assert [] == history.notices
        assert ({problem().key: OLD}, 3) == (latencies(state / "best.db"), generations(history)[0].number)


def test_a_rollback_that_was_killed_before_it_published_is_finished(state: Path, improved: History) -> None:
    adopt(improved, improved.state.generation(1), 1, kind="rolled_back", why="rollback")
    improved.close()
    with open_history(str(state)) as history:
        assert {problem().key: OLD} == latencies(state / "best.db")
        assert 1 == generations(history)[0].restored_from


def test_without_a_number_each_rollback_goes_further_back(improved: History, state: Path) -> None:
    promote(improved, latency_ns=2e5, decided_at=EPOCH + 3)
    publish(improved, "third")
    publish(improved, "the same again")
    assert 5 == rollback(improved)
    assert {problem().key: NEW, problem(1).key: NEW} == latencies(state / "best.db")
    assert 6 == rollback(improved)
    assert {problem().key: OLD} == latencies(state / "best.db")
    with pytest.raises(UsageError, match="holds no earlier generation with other winners to go back to"):
        rollback(improved)


def test_one_can_go_forward_again(improved: History, state: Path) -> None:
    rollback(improved, 1)
    rollback(improved, 2)
    assert {problem().key: NEW, problem(1).key: NEW} == latencies(state / "best.db")
    assert {"current", "superseded"} == {decision.state for decision in improved.decisions()}


def test_an_unknown_generation_is_told_with_those_there_are(improved: History) -> None:
    with pytest.raises(UnknownNameError, match="unknown generation '9'; expected one of 1, 2"):
        rollback(improved, 9)


@pytest.mark.parametrize("how", ["changed", "truncated"])
def test_a_damaged_generation_is_refused_and_nothing_changes(
    improved: History, state: Path, how: str
) -> None:
    kept = state / "generations" / "best-00000001.db"
    content = bytearray(kept.read_bytes())
    if how == "changed":
        content[-100] ^= 1
    kept.write_bytes(content if how == "changed" else content[:5000])
    with pytest.raises(DatabaseError, match=r"best-00000001.db: is damaged"):
        rollback(improved, 1)
    assert {problem().key: NEW, problem(1).key: NEW} == latencies(state / "best.db")
    assert 2 == len(improved.decisions(state="current"))
