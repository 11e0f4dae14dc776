"""One Optuna study that several nodes search together, in a storage that all of them reach.

Optuna keeps the trials, tells by heartbeats which nodes are dead, and tries again what those left behind.
Here is what it has no part for: heartbeats of trials that were asked for in batches, and which node decides.

The final is a trial too, one without a configuration. Any node whose search has ended may claim it; the first
claim holds, and ends with its node. A database numbers the trials of a study one after the other, under a
lock, so there is a first one.
"""

from __future__ import annotations

import hashlib
import time
import uuid
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState, create_trial

from autotune.search.heartbeat import Heartbeat
from autotune.search.sampler.pool_sampler import RETURNED, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from autotune.search.sampler import PoolSampler
    from autotune.space.pool import Pool
    from autotune.store.records import Configuration, StudyKey

FINAL = "autotune:final"
"""User attribute of a claim on the final; its value is the claim's own."""

NODE = "node"

MOST_RETRIES = 3
"""Times a trial whose node died is tried again. A node dies of much else, but a configuration that four nodes
died of has failed."""


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """What a storage does with a trial of a dead node: another node tries it, unless it was the final.

    For `optuna.storages.RDBStorage(heartbeat_stale_trial_callback=retry)`.
    """
    if FINAL not in trial.user_attrs:
        with _without_warnings():
            RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, trial)


def name_of(key: StudyKey) -> str:
    """The name under which equal nodes find the study of the same problem, goal and space."""
    digest = hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()
    return f"autotune:{key.workload}:{digest[:32]}"


@dataclass(frozen=True)
class Sharing:
    """How this node takes part in studies of others.

    Attributes:
        node: its name, for people who look at the study.
        open: connects to the storage for the time of one study, so that an outage ends with its study.
        lost: called with a line for people when a study goes on without the others.
    """

    node: str
    open: Callable[[], AbstractContextManager[BaseStorage]]
    lost: Callable[[str], None] = lambda _: None


class SharedStudy:
    """This node's part in a study. Every method may raise whatever the storage raises.

    Args:
        sharing: how the storage is reached.
        key: of the study.
        sampler: proposes, and learns what others found.
        pool: the valid configurations.
    """

    def __init__(self, sharing: Sharing, key: StudyKey, sampler: PoolSampler, pool: Pool) -> None:
        self._node = sharing.node
        self._sampler = sampler
        self._distributions: dict[str, BaseDistribution] = {
            parameter.name: CategoricalDistribution(parameter.values) for parameter in pool.parameters
        }
        self._checked = 0.0
        self._claim: FrozenTrial | None = None
        self._mine: set[int] = set()
        self._until_left = ExitStack()
        try:
            storage = self._until_left.enter_context(sharing.open())
            with _without_warnings():
                self._study = optuna.create_study(
                    storage=storage, sampler=sampler, study_name=name_of(key), load_if_exists=True
                )
            # Optuna wraps a database's storage in a cache.
            self._heartbeat = Heartbeat(self._study._storage)
            self._until_left.callback(self._heartbeat.end)
            self.refresh()
            self._before = {trial.number for trial in self.trials}
            if not self.trials:
                for name, value in msgspec.to_builtins(key).items():
                    self._study.set_user_attr(name, value)
        except BaseException:
            self._until_left.close()
            raise

    def refresh(self) -> None:
        """Look at the study anew, and have dead nodes' trials tried again."""
        interval = self._heartbeat.interval
        if interval is not None and time.monotonic() - self._checked > interval:
            self._checked = time.monotonic()
            with _without_warnings():
                fail_stale_trials(self._study)
        self.trials: Sequence[FrozenTrial] = self._study.get_trials(deepcopy=False)
        self._heartbeat.greet(trial for trial in self.trials if trial.state is TrialState.RUNNING)

    @property
    def left(self) -> int:
        """Configurations that no node has tried or is trying, and trials that wait for a node."""
        waiting = sum(trial.state is TrialState.WAITING for trial in self.trials)
        return self._sampler.learn(self._study, self.trials) + waiting

    @property
    def running_elsewhere(self) -> int:
        """Trials that other nodes are running."""
        running = (trial for trial in self.trials if trial.state is TrialState.RUNNING)
        return sum(trial.number not in self._mine and FINAL not in trial.user_attrs for trial in running)

    @property
    def finished_elsewhere(self) -> int:
        """Trials that others have finished since this node joined."""
        ours = self._before | self._mine
        done = (trial for trial in self.trials if trial.state.is_finished() and trial.number not in ours)
        return sum(FINAL not in t.user_attrs and t.user_attrs.get(NODE) != self._node for t in done)

    @property
    def is_closed(self) -> bool:
        """Whether another node has come to the final since this one joined."""
        return self._holder() is not None

    def outcomes(self) -> list[tuple[Configuration, float | None]]:
        """What was tried on whichever node, and its value; None where it failed."""
        told = [t for t in self.trials if t.state.is_finished() and FINAL not in t.user_attrs]
        said = [(t.params, outcome(t)) for t in told if not self._sampler.says_nothing(t)]
        return [(params, values[0] if values else None) for params, values in said]

    def best_first(self) -> list[Configuration]:
        """What succeeded on whichever node, the best first."""
        kept = [(value, params) for params, value in self.outcomes() if value is not None]
        return [params for _, params in sorted(kept, key=lambda pair: pair[0])]

    def knows(self, configuration: Configuration) -> bool:
        """Whether any node has finished a trial of it."""
        return any(t.state.is_finished() and t.params == configuration for t in self.trials)

    def ask(self) -> tuple[optuna.Trial, Configuration]:
        """A trial of this node and its configuration."""
        with _without_warnings():
            trial = self._study.ask()
        self._mine.add(trial.number)
        self._heartbeat.watch(trial._trial_id)
        trial.set_user_attr(NODE, self._node)
        return trial, self._sampler.suggest(trial)

    def tell(
        self, trial: optuna.Trial, value: float | None, violated: Mapping[str, float], why: str = ""
    ) -> None:
        """Tell the others how a trial ended.

        Args:
            trial: from `ask`.
            value: None where it failed.
            violated: constraints that it does not keep, and by how much.
            why: it failed, for people.
        """
        self._heartbeat.forget(trial._trial_id)
        try:
            if why:
                trial.set_user_attr("why", why)
            for name, by in violated.items():
                trial.set_constraint(name, by)
            self._study.tell(trial, value, TrialState.FAIL if value is None else TrialState.COMPLETE)
        except (UpdateFinishedTrialError, ValueError):
            # It was taken for dead, and another node tries the same: two measurements are better than one.
            if value is not None:
                self.add(trial.params, value, violated)

    def hand_back(self, trial: optuna.Trial) -> None:
        """A trial came to nothing: its configuration may be proposed again."""
        self._heartbeat.forget(trial._trial_id)
        with _unless_finished():
            trial.set_user_attr(RETURNED, True)
            self._study.tell(trial, state=TrialState.FAIL)

    def add(self, configuration: Configuration, value: float | None, violated: Mapping[str, float]) -> None:
        """Tell the others of a trial that was not asked for."""
        trial = create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=configuration,
            distributions={name: self._distributions[name] for name in configuration},
            user_attrs={NODE: self._node},
            constraints=dict(violated),
        )
        self._study.add_trial(trial)

    def enqueue(self, configuration: Configuration) -> None:
        """Have some node try a configuration next, unless one has."""
        self._study.enqueue_trial(configuration, skip_if_exists=True)

    def claim(self) -> bool:
        """Whether this node is to decide: no other has, or is about to."""
        self._checked = 0.0
        self.refresh()
        if self.is_closed:
            return False
        mark = str(uuid.uuid4())
        template = create_trial(state=TrialState.RUNNING, user_attrs={FINAL: mark, NODE: self._node})
        self._study.add_trial(template)
        self.refresh()
        self._claim = next(trial for trial in self.trials if trial.user_attrs.get(FINAL) == mark)
        self._heartbeat.watch(self._claim._trial_id)
        holder = self._holder()
        if holder is None or holder > self._claim.number:
            return True
        self.end_claim(None)
        return False

    def end_claim(self, value: float | None) -> None:
        """Tell the others that the final is decided; None: that it is not, and another node may.

        Args:
            value: of the winner.
        """
        claim, self._claim = self._claim, None
        if claim is not None:
            self._heartbeat.forget(claim._trial_id)
            with _unless_finished():
                state = TrialState.FAIL if value is None else TrialState.COMPLETE
                self._study.tell(claim.number, value, state)

    def leave(self) -> None:
        """Be done with it: what this node still had is tried by another."""
        self._until_left.close()

    def _holder(self) -> int | None:
        """The first claim of another node that stands; None if there is none.

        What was decided before this node joined does not count: it was asked to decide once more.
        """
        mine = self._claim.number if self._claim else None
        for trial in self.trials:
            if FINAL not in trial.user_attrs or trial.number == mine:
                continue
            decided = trial.state is TrialState.COMPLETE and trial.number not in self._before
            if decided or trial.state is TrialState.RUNNING:
                return trial.number
        return None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Without Optuna's, that heartbeats are experimental and meant for `Study.optimize`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unless_finished() -> AbstractContextManager[None]:
    """Nothing is to be done for a trial that others have taken for dead meanwhile."""
    return suppress(UpdateFinishedTrialError, ValueError)
