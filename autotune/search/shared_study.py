"""One Optuna study that several nodes search together, in a storage that all of them reach.

Optuna keeps the trials, tells by heartbeats which nodes are dead, and tries again what those left behind.
Here is what it has no part for: that no two nodes choose the same, and which node decides.

A trial is created together with its row of the pool, and a database numbers the trials of a study one after
the other, under a lock. So a trial whose number follows the last that its node has seen clashes with none;
else the node looks, and of two that chose the same the first goes on. All that is read of other nodes' trials
is a row and a value: what the row stands for, each node knows from its own pool.

The final is a trial too, one without a row. Any node whose search has ended may claim it; the first claim
holds, and ends with its node.
"""

from __future__ import annotations

import hashlib
import time
import uuid
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState, create_trial

from autotune.search.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from autotune.search.sampler import PoolSearch
    from autotune.space.pool import Pool
    from autotune.store.records import StudyKey

ROW = "autotune:row"
"""System attribute of a trial: its row of the pool."""

FINAL = "autotune:final"
"""User attribute of a claim on the final; its value is the claim's own."""

RETURNED = "autotune:returned"
"""User attribute of a failed trial that came to nothing through no fault of its configuration."""

NODE, CONFIGURATION, WHY = "node", "configuration", "why"
"""User attributes for people who look at the study."""

KEY = "key"
"""User attribute of the study: what it is a study of."""

MOST_RETRIES = 3
"""Times a trial whose node died is tried again. A node dies of much else, but a configuration that four nodes
died of has failed."""


def retry(study: optuna.Study, trial: FrozenTrial) -> None:
    """What a storage does with a trial of a dead node: another node tries it, unless it was the final.

    For `optuna.storages.RDBStorage(heartbeat_stale_trial_callback=retry)`.
    """
    if FINAL not in trial.user_attrs:
        with _quiet():
            RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, trial)


def fail_dead(study: optuna.Study) -> None:
    """Fail the trials of nodes whose heartbeats stopped; the storage's callback has them tried again."""
    with _quiet():
        fail_stale_trials(study)


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
        patient: whether to go on with the others however long reaching them takes: devices with one history
            would decide one after the other what each has found alone.
    """

    node: str
    open: Callable[[], AbstractContextManager[BaseStorage]]
    lost: Callable[[str], None] = lambda _: None
    patient: bool = False


class SharedStudy:
    """This node's part in a study. Every method may raise whatever the storage raises.

    Args:
        sharing: how the storage is reached.
        key: of the study.
        pool: the valid configurations.
        search: proposes, and learns what others found.

    Attributes:
        choosing_seconds: spent on proposals, which a node alone has to make too.
    """

    def __init__(self, sharing: Sharing, key: StudyKey, pool: Pool, search: PoolSearch) -> None:
        self._node = sharing.node
        self._pool = pool
        self._search = search
        self._checked = 0.0
        self.choosing_seconds = 0.0
        self._claim: FrozenTrial | None = None
        self._mine: set[int] = set()
        self._learnt: set[int] = set()
        self._retried: set[int] = set()
        self._until_left = ExitStack()
        try:
            storage = self._until_left.enter_context(sharing.open())
            with _quiet():
                self._study = optuna.create_study(
                    storage=storage, study_name=name_of(key), load_if_exists=True
                )
            # Optuna wraps a database's storage in a cache.
            self._storage = self._study._storage
            self._heartbeat = Heartbeat(self._storage)
            self._until_left.callback(self._heartbeat.end)
            self.refresh()
            self._before = {trial.number for trial in self.trials}
            if not self.trials:
                # In one statement: nodes that begin together would wait for each other with each.
                self._study.set_user_attr(KEY, msgspec.to_builtins(key))
        except BaseException:
            self._until_left.close()
            raise

    def refresh(self) -> None:
        """Look at the study anew, learn from it, and have dead nodes' trials tried again."""
        interval = self._heartbeat.interval
        if interval is not None and time.monotonic() - self._checked > interval:
            self._checked = time.monotonic()
            fail_dead(self._study)
        self.trials: Sequence[FrozenTrial] = self._study.get_trials(deepcopy=False)
        self._heartbeat.greet(trial for trial in self.trials if trial.state is TrialState.RUNNING)
        self._retried.update(number for trial in self.trials for number in _retries(trial))
        rows = [(trial, self._row(trial)) for trial in self.trials if trial.number not in self._learnt]
        for trial, row in rows:
            if row is None or not trial.state.is_finished():
                continue
            self._learnt.add(trial.number)
            if self._says_nothing(trial):
                self._search.withdraw(row)
            else:
                self._search.tell(row, _value(trial))
        # Last: one node may have handed back what another one tries.
        for trial, row in rows:
            if row is not None and not trial.state.is_finished():
                self._search.reserve(row)

    @property
    def left(self) -> int:
        """Configurations that no node has tried or is trying, and trials that wait for a node."""
        return self._search.free + sum(trial.state is TrialState.WAITING for trial in self.trials)

    @property
    def running_elsewhere(self) -> int:
        """Trials that other nodes are running."""
        running = (trial for trial in self.trials if trial.state is TrialState.RUNNING)
        return sum(trial._trial_id not in self._mine and ROW in trial.system_attrs for trial in running)

    @property
    def finished_elsewhere(self) -> int:
        """Trials that others have finished since this node joined."""
        done = (t for t in self.trials if t.state.is_finished() and t.number not in self._before)
        others = (t for t in done if ROW in t.system_attrs and t.user_attrs.get(NODE) != self._node)
        return sum(not self._says_nothing(trial) for trial in others)

    @property
    def is_closed(self) -> bool:
        """Whether another node has come to the final since this one joined."""
        return self._holder() is not None

    def outcomes(self) -> dict[int, float | None]:
        """Row -> value of what was tried on whichever node; None where it failed."""
        told = [t for t in self.trials if t.state.is_finished() and not self._says_nothing(t)]
        rows = [(self._row(trial), _value(trial)) for trial in told]
        return {row: value for row, value in rows if row is not None}

    def ask(self) -> tuple[int, int] | None:
        """A trial of this node: its id and its row; None where nothing is left.

        What waits goes first: hints, and trials of dead nodes.
        """
        for trial in self.trials:
            if trial.state is TrialState.WAITING and self._take(trial._trial_id):
                row = self._row(trial)
                if row is not None:
                    return trial._trial_id, row
                self.tell(trial._trial_id, None, "its row is none of the pool's")
        while (row := self._chosen()) is not None:
            following = len(self.trials)
            made = self._create(TrialState.RUNNING, row)
            self._mine.add(made)
            self._heartbeat.watch(made)
            study = self._study._study_id
            if self._storage.get_trial_id_from_study_id_trial_number(study, following) == made:
                return made, row
            self.refresh()
            mine = next(trial for trial in self.trials if trial._trial_id == made)
            earlier = (t for t in self.trials if t.number < mine.number and self._row(t) == row)
            if all(t.state.is_finished() and self._says_nothing(t) for t in earlier):
                return made, row
            self.hand_back(made)
        return None

    def _chosen(self) -> int | None:
        began = time.monotonic()
        row = self._search.ask()
        self.choosing_seconds += time.monotonic() - began
        return row

    def tell(self, trial_id: int, value: float | None, why: str = "") -> None:
        """Tell the others how a trial ended.

        Args:
            trial_id: from `ask`.
            value: None where it failed.
            why: it failed, for people.
        """
        self._heartbeat.forget(trial_id)
        try:
            if why:
                self._storage.set_trial_user_attr(trial_id, WHY, why)
            self._end(trial_id, value)
        except UpdateFinishedTrialError:
            # It was taken for dead, and another node tries the same: two measurements are better than one.
            row = next((self._row(trial) for trial in self.trials if trial._trial_id == trial_id), None)
            if row is not None and value is not None:
                self.add(row, value)

    def hand_back(self, trial_id: int) -> None:
        """A trial came to nothing: its configuration may be proposed again."""
        self._heartbeat.forget(trial_id)
        with suppress(UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial_id, RETURNED, True)
            self._end(trial_id, None)

    def add(self, row: int, value: float | None) -> None:
        """Tell the others of a trial that was not asked for."""
        self._create(TrialState.FAIL if value is None else TrialState.COMPLETE, row, value)

    def enqueue(self, row: int) -> None:
        """Have some node try a row next, unless one has."""
        if all(self._row(trial) != row for trial in self.trials):
            self._create(TrialState.WAITING, row)

    def claim(self) -> bool:
        """Whether this node is to decide: no other has, or is about to."""
        self._checked = 0.0
        self.refresh()
        if self.is_closed:
            return False
        mark = str(uuid.uuid4())
        template = create_trial(state=TrialState.RUNNING, user_attrs={FINAL: mark, NODE: self._node})
        self._storage.create_new_trial(self._study._study_id, template)
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
            with suppress(UpdateFinishedTrialError):
                self._end(claim._trial_id, value)

    def leave(self) -> None:
        """Be done with it: what this node still had is tried by another."""
        self._until_left.close()

    def _create(self, state: TrialState, row: int, value: float | None = None) -> int:
        """A new trial with its row, in one transaction; returns its id."""
        attributes = {NODE: self._node, CONFIGURATION: self._pool.configuration(row)}
        template = create_trial(state=state, value=value, system_attrs={ROW: row}, user_attrs=attributes)
        return self._storage.create_new_trial(self._study._study_id, template)

    def _take(self, trial_id: int) -> bool:
        """Make a trial that waits this node's, if no other was quicker."""
        with suppress(UpdateFinishedTrialError):
            if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                self._mine.add(trial_id)
                self._heartbeat.watch(trial_id)
                self._storage.set_trial_user_attr(trial_id, NODE, self._node)
                return True
        return False

    def _end(self, trial_id: int, value: float | None) -> None:
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._storage.set_trial_state_values(trial_id, state, None if value is None else [value])

    def _row(self, trial: FrozenTrial) -> int | None:
        """A trial's row; None where it has none, or one that is not the pool's."""
        row = trial.system_attrs.get(ROW)
        return row if type(row) is int and 0 <= row < len(self._pool) else None

    def _says_nothing(self, trial: FrozenTrial) -> bool:
        """Whether a finished trial came to nothing through no fault of its configuration."""
        return trial.number in self._retried or RETURNED in trial.user_attrs

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


def _value(trial: FrozenTrial) -> float | None:
    """What a finished trial found; None where it failed."""
    return trial.values[0] if trial.state is TrialState.COMPLETE and trial.values else None


def _retries(trial: FrozenTrial) -> list[int]:
    """Numbers of the trials that this one retries (`RetryHeartbeatStaleTrialCallback.retry_history`)."""
    numbers: Any = trial.system_attrs.get("retry_history")
    return [number for number in numbers if isinstance(number, int)] if isinstance(numbers, list) else []


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings that heartbeats are experimental."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
