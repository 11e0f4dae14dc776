"""Nodes that search together: nothing twice, one decides, and a node whose storage is gone goes on alone."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import optuna
import pytest

from autotune.errors import TrialError
from autotune.search.sampler import PoolSearch
from autotune.search.shared_study import CONFIGURATION, FINAL, NODE, ROW, SharedStudy, Sharing, name_of
from autotune.search.study import Budget, Study
from autotune.space.searchspace import SearchSpace
from autotune.store import open_history
from autotune.store.records import StudyKey
from tests.search.simulated import DECLARATION, SimulatedWorker, latency_ns
from tests.store.factories import AnyDevice

SPACE = SearchSpace.build(DECLARATION, DECLARATION.problem({"m": 8, "n": 64}), {"kind": "cpu"})
STACK = "51" * 8


class OutageError(Exception):
    """What a storage raises that is gone."""


class Nodes:
    """Nodes with histories of their own, all in this process, with one storage.

    Attributes:
        storage: of the shared study; None: it cannot be reached.
        lost: what was told when a node went on alone.
    """

    def __init__(self, folder: Any) -> None:
        self.storage: optuna.storages.BaseStorage | None = optuna.storages.InMemoryStorage()
        self.lost: list[str] = []
        self._folder = folder

    @contextmanager
    def open(self):
        if self.storage is None:
            raise OutageError("connection refused")
        yield self.storage

    @contextmanager
    def study(self, node: str, worker: SimulatedWorker | None = None, **options: Any):
        """A study of a node, as `Tuner` makes it."""
        with open_history(str(self._folder / node)) as history:
            device = AnyDevice()
            history.record_device(device)
            history.record_stack(STACK, {"torch": "2.13"})
            key = StudyKey("simulated", SPACE.problem.key, device.digest, STACK, "latency", SPACE.digest)
            # Patient: whether reaching the others pays is a question of time, and the machine may be busy.
            sharing = Sharing(node, self.open, self.lost.append, patient=True)
            budget = options.pop("budget", Budget(seconds=1e6, trials=12, screen_seconds=0.01))
            yield Study(key, SPACE, worker or SimulatedWorker(), history, budget, sharing=sharing, **options)

    def trials(self, study: Study) -> list[optuna.trial.FrozenTrial]:
        """The shared study's."""
        return optuna.load_study(study_name=name_of(study.key), storage=self.storage).trials


@pytest.fixture
def nodes(tmp_path):
    return Nodes(tmp_path)


def test_a_node_alone_in_a_shared_study_decides_and_says_so(nodes) -> None:
    with nodes.study("a") as study:
        winner = study.run()
        told = nodes.trials(study)
    assert not nodes.lost
    assert winner is not None
    final = [trial for trial in told if FINAL in trial.user_attrs]
    assert ["COMPLETE"] == [trial.state.name for trial in final]
    assert {"a"} == {trial.user_attrs[NODE] for trial in told}
    assert not nodes.lost


def when(tried: int, act: Any):
    """An observer that acts once, as soon as so many trials have ended."""
    done = []

    def observe(progress) -> None:
        if progress.tried == tried and progress.phase == "searching" and not done:
            done.append(True)
            act()

    return observe


def configurations(*studies: Study) -> list[tuple[Any, ...]]:
    return [tuple(trial.configuration.items()) for s in studies for trial in s.history.trials(s.id)]


def test_two_nodes_try_nothing_twice_but_what_is_to_win_and_the_first_to_end_decides(nodes) -> None:
    winners: list[Any] = []
    with (
        nodes.study("b") as b,
        nodes.study("a", observe=when(6, lambda: winners.append(b.run()))) as a,
    ):
        assert a.run() is None
        assert a.progress.end_reason == "decided by another node"
        ours, theirs = configurations(a), configurations(b)
        told = {*ours[:5], *theirs}  # the sixth has ended, and is told next
        best = min(latency_ns(dict(one), 8) for one in told if failed(one) is None)
        assert latency_ns(winners[0].choices[0].configuration, 8) <= 1.01 * best
        assert winners[0] == b.history.decisions(state="current")[0].winner
        assert [] == a.history.decisions(state="current")
    # The node that decides tries the best of the other's too, and no more than the final has room for.
    assert theirs[:12] == list(dict.fromkeys(theirs[:12]))
    assert not {*ours} & {*theirs[:12]}
    assert {*theirs[12:]} <= {*ours}
    assert len(theirs) <= 12 + 4
    assert not nodes.lost


def failed(configuration: tuple[Any, ...]) -> TrialError | None:
    try:
        latency_ns(dict(configuration), 8)
    except TrialError as error:
        return error
    return None


def dying(nodes: Nodes) -> list[tuple[Any, ...]]:
    """A node that tries four configurations and dies before the final; what it tried."""
    with nodes.study("dying", budget=Budget(1e6, trials=4, screen_seconds=0.01)) as study:
        study._confirm = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            study.run()
        return configurations(study)


def both(*observers: Any):
    return lambda progress: [observer(progress) for observer in observers]


def test_trials_of_others_count_for_the_limit(nodes) -> None:
    with nodes.study("a", observe=when(4, lambda: dying(nodes))) as a:
        assert a.run() is not None
        own = configurations(a)
    assert 12 - 4 <= len(own) <= 12


def test_a_node_whose_storage_is_gone_goes_on_alone_with_what_the_others_found(nodes) -> None:
    theirs: list[Any] = []

    def outage() -> None:
        for name in dir(nodes.storage):
            if not name.startswith("_"):
                setattr(nodes.storage, name, refuse)

    def refuse(*_: Any, **__: Any) -> None:
        raise OutageError("server closed the connection unexpectedly")

    with nodes.study("a", observe=both(when(4, lambda: theirs.extend(dying(nodes))), when(6, outage))) as a:
        assert a.run() is not None
        ours = configurations(a)
    assert 12 == len(ours) == len(set(ours))
    assert not {*ours} & {*theirs}
    assert [
        "the study goes on without the other nodes: OutageError: server closed the connection unexpectedly"
    ] == nodes.lost


def test_a_storage_that_cannot_be_reached_costs_a_line_and_nothing_else(nodes) -> None:
    nodes.storage = None
    with nodes.study("a") as a:
        assert a.run() is not None
        assert 12 == len(configurations(a))
    assert ["the study goes on without the other nodes: OutageError: connection refused"] == nodes.lost


def test_a_node_that_is_asked_again_searches_on_and_decides_anew(nodes) -> None:
    with nodes.study("a") as a:
        assert a.run() is not None
    with nodes.study("b") as b:
        assert b.run() is not None
        finals = [trial for trial in nodes.trials(b) if FINAL in trial.user_attrs]
    assert ["a", "b"] == [trial.user_attrs[NODE] for trial in finals]


def test_a_resumed_study_tells_the_others_what_it_did_alone(nodes) -> None:
    storage, nodes.storage = nodes.storage, None
    with nodes.study("a") as a:
        a.run()
        alone = configurations(a)
    nodes.storage = storage
    with nodes.study("a", budget=Budget(1e6, trials=3, screen_seconds=0.01)) as a:
        a.run()
        told = {tuple(t.user_attrs[CONFIGURATION].items()) for t in nodes.trials(a) if ROW in t.system_attrs}
        assert {*configurations(a), tuple(SPACE.baseline.items())} == told
    assert {*alone} < told


def test_a_claim_that_came_second_yields_and_one_of_a_dead_node_is_taken_over(nodes) -> None:
    with nodes.study("a") as a:
        first, second = (shared_study(nodes, a.key, node) for node in "ab")
        assert first.claim()
        assert not second.claim()
        assert second.is_closed
        first.end_claim(None)
        assert second.claim()
        second.end_claim(0.5)
        assert not first.claim()


def shared_study(nodes: Nodes, key: StudyKey, node: str) -> SharedStudy:
    return SharedStudy(Sharing(node, nodes.open), key, SPACE.pool, PoolSearch(SPACE.pool, 0))


def test_what_another_node_says_is_tried_here_before_it_wins(nodes) -> None:
    """A node that lies costs the others a trial."""
    with nodes.study("a") as a:
        liar = shared_study(nodes, a.key, "liar")
        slow = {"implementation": "tiled", "packed": False, "rows": 32, "columns": 8, "unroll": 1}
        for unroll in (1, 2):
            liar.add(SPACE.pool.find({**slow, "unroll": unroll}), 1e-9)
        winner = a.run()
        tried = [trial.configuration for trial in a.history.trials(a.id)]
    assert winner is not None
    won = winner.choices[0].configuration
    assert {**slow, "unroll": 1} in tried
    assert latency_ns(won, 8) == min(latency_ns(one, 8) for one in tried if failed((*one.items(),)) is None)


def test_a_returned_trial_may_be_proposed_again_and_a_failed_one_may_not(nodes) -> None:
    with nodes.study("a") as a:
        node = shared_study(nodes, a.key, "a")
        returned, _ = node.ask()
        node.hand_back(returned)
        node.refresh()
        assert len(SPACE) == node.left
        node.tell(node.ask()[0], None, "crashed")
        node.refresh()
        assert len(SPACE) - 1 == node.left


def test_what_one_node_hands_back_and_another_tries_is_tried_once(nodes) -> None:
    with nodes.study("a") as a:
        first, second, third = (shared_study(nodes, a.key, node) for node in "abc")
        _, row = first.ask()
        _, another = second.ask()  # it would have liked the same, and handed it back
        assert [row, row, another] == [trial.system_attrs[ROW] for trial in nodes.trials(a)]
        third.refresh()
        assert len(SPACE) - 2 == third.left
        assert third.ask()[1] not in (row, another)
