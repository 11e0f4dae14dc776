"""Which configuration to try next, where several nodes search together."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from autotune.search.proposals import Proposals, finite
from autotune.search.sampler import PoolSearch
from autotune.search.shared_study import SharedStudy
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from autotune.search.objective import Objective
    from autotune.search.sampler.prior import PriorStudy
    from autotune.search.shared_study import Sharing
    from autotune.space.pool import Pool
    from autotune.store.records import Configuration, StudyKey, Trial

LEAST_TOLD = 3
"""Trials told before it is judged whether sharing pays."""

SLOW_SECONDS = 1.0
"""Reaching the storage for less than this per trial is never too long: most trials take longer."""


class SharedProposals(Proposals):
    """Proposals of a study that equal nodes search together; once its storage is gone, of this node's own.

    What is exchanged of a trial is its value as a share of the same node's baseline: a card that is slower
    in everything is slower in that too.

    Sharing must not cost more than it brings: where reaching the storage takes so long that this node and
    all others together try less than it would alone, it goes on alone too.

    Args:
        pool: the valid configurations.
        seed: of the sampler.
        prior: what earlier studies found.
        objective: what trials are learnt by; one over its limit counts as failed.
        allowed_error: the largest relative error that a trial may have.
        sharing: how the storage is reached.
        key: of the study.
        baseline_value: what the objective gives this node's baseline.
    """

    def __init__(
        self,
        pool: Pool,
        seed: int,
        prior: Sequence[PriorStudy],
        objective: Objective,
        allowed_error: float,
        sharing: Sharing,
        key: StudyKey,
        baseline_value: float,
    ) -> None:
        # An Optuna study of this node's own holds what is learnt too: with it the node can go on alone.
        super().__init__(pool, seed, prior, objective, allowed_error)
        self._sharing = sharing
        self._unit = baseline_value
        self._pending: dict[int, int] = {}
        self._told = 0
        self._began: float | None = None
        self._exchanging = 0.0
        self._shared: SharedStudy | None = None
        self._search = PoolSearch(pool, seed, prior)
        with self._exchange():
            self._shared = SharedStudy(sharing, key, pool, self._search)

    @property
    def closed(self) -> bool:
        """Whether another node has come to the final, so that searching on is in vain."""
        return self._shared is not None and self._shared.is_closed

    @property
    def tried_elsewhere(self) -> int:
        """Trials that other nodes have finished meanwhile."""
        return 0 if self._shared is None else self._shared.finished_elsewhere

    def first(self, configurations: Iterable[Configuration]) -> None:
        """Propose these before any other; those outside the pool or tried before are passed over."""
        configurations = list(configurations)
        found = map(self._pool.find, configurations)
        if self._shared is not None:
            with self._exchange():
                for row in found:
                    if row is not None:
                        self._shared.enqueue(row)
        if self._shared is None:
            super().first(configurations)

    def learn(
        self, configuration: Configuration, value: float | None, *, excess: float = -1.0, error: float = 0.0
    ) -> None:
        """See `Proposals.learn`; the others learn of it too."""
        row = self._pool.find(configuration)
        if row is None:
            return
        value = finite(value)
        asked = self._pending.pop(row, None)
        if self._shared is not None:
            kept = excess <= 0 and error <= self._allowed_error
            share = value / self._unit if value is not None and kept else None
            with self._exchange():
                if asked is not None:
                    self._told += 1
                    self._shared.tell(asked, share)
                    self._shared.refresh()
                elif row not in self._shared.outcomes():
                    self._shared.add(row, share)
        super().learn(configuration, value, excess=excess, error=error)

    def learn_trial(self, trial: Trial) -> None:
        """Note how a trial ended; what was preempted is handed back, for whichever node comes to it first."""
        row = self._pool.find(trial.configuration)
        if trial.verdict is Verdict.PREEMPTED and row in self._pending:
            asked = self._pending.pop(row)
            if self._shared is not None:
                with self._exchange():
                    self._shared.hand_back(asked)
        super().learn_trial(trial)

    def ask(self) -> Configuration | None:
        """The next configuration to try; None when all have been, or another node decides."""
        if self._shared is not None and not self._pays:
            self._go_alone("reaching the others takes longer than they save")
        if self._shared is not None:
            if self._began is None:
                # What it takes to join is spent, and says little of what a trial will take.
                self._began, self._exchanging = time.monotonic(), 0.0
            with self._exchange():
                return self._ask_together(self._shared)
        alone = super().ask()
        while alone is not None and self._pool.find(alone) in self._pending:
            alone = super().ask()
        return alone

    def _ask_together(self, shared: SharedStudy) -> Configuration | None:
        asked = shared.ask() if shared.left and not shared.is_closed else None
        if asked is None:
            return None
        trial, row = asked
        self._pending[row] = trial
        self._note(self._search.expected_improvement)
        return self._pool.configuration(row)

    def best(self) -> list[Configuration]:
        """What was found to be good on whichever node, the best first."""
        found = self._shared.outcomes() if self._shared else {}
        values = {row: value for row, value in found.items() if value is not None}
        return [self._pool.configuration(row) for row in sorted(values, key=values.__getitem__)]

    def claim(self) -> bool:
        """Whether the final is this node's to decide; it is where the others cannot be asked."""
        if self._shared is not None:
            with self._exchange():
                return self._shared.claim()
        return True

    def settle(self, value: float) -> None:
        """The final is decided, and the others need not."""
        if self._shared is not None:
            with self._exchange():
                self._shared.end_claim(value / self._unit)

    def leave(self) -> None:
        """The search is over: what was asked for and not tried is left to the others."""
        if self._shared is not None:
            with self._exchange():
                for trial in self._pending.values():
                    self._shared.hand_back(trial)
                self._shared.end_claim(None)
        if self._shared is not None:
            self._shared.leave()
            self._shared = None

    @property
    def _pays(self) -> bool:
        """Whether the others try more than this node would in the time that it spends on reaching them."""
        if self._sharing.patient or self._shared is None or self._began is None:
            return True
        exchanging = self._exchanging - self._shared.choosing_seconds
        if exchanging <= SLOW_SECONDS * max(self._told, LEAST_TOLD):
            return True
        trying = time.monotonic() - self._began - exchanging
        gained = self._shared.finished_elsewhere + self._shared.running_elsewhere
        return exchanging * max(self._told, 1) <= trying * gained

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Reach the storage, or go on alone: nothing that it answers or does not answer ends the study."""
        began = time.monotonic()
        try:
            yield
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            self._go_alone(f"{type(error).__name__}: {text}")
        finally:
            self._exchanging += time.monotonic() - began

    def _go_alone(self, why: str) -> None:
        """Go on with what is known of the others' trials, and without the others."""
        shared, self._shared = self._shared, None
        self._sharing.lost(f"the study goes on without the other nodes: {why}")
        if shared is None:
            return
        shared.leave()
        for row, value in shared.outcomes().items():
            if row not in self._taken:
                super().learn(self._pool.configuration(row), None if value is None else value * self._unit)
