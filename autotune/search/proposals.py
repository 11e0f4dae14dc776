"""Which configuration to try next: an in-memory Optuna study over the pool of valid configurations.

The history is the record; this study is rebuilt from it whenever a search starts or resumes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autotune.search.objective import LATENCY
from autotune.search.sampler import PoolSampler
from autotune.store.records import Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from optuna.distributions import BaseDistribution

    from autotune.search.objective import Objective
    from autotune.search.sampler.prior import PriorStudy
    from autotune.space.pool import Pool
    from autotune.store.records import Configuration

IMPROBABLE = 0.001
PATIENCE = 8
"""Further improvement is improbable once so many proposals one after the other were each expected to shorten
the best time by less than this share."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Proposals:
    """Proposes each configuration of a pool at most once.

    Args:
        pool: the valid configurations.
        seed: of the sampler.
        prior: what earlier studies found.
        objective: what trials are learnt by; one over its limit counts as failed.
        allowed_error: the largest relative error that a trial may have.
    """

    def __init__(
        self,
        pool: Pool,
        seed: int,
        prior: Sequence[PriorStudy] = (),
        objective: Objective = LATENCY,
        allowed_error: float = math.inf,
    ) -> None:
        self._objective = objective
        self._allowed_error = allowed_error
        self._pool = pool
        self._sampler = PoolSampler(pool, seed, prior)
        self._study = optuna.create_study(sampler=self._sampler)
        self._taken: set[int] = set()
        self._asked: dict[int, optuna.Trial] = {}
        self._improbable = 0

    @property
    def closed(self) -> bool:
        """Whether another node has come to the final, so that searching on is in vain."""
        return False

    @property
    def tried_elsewhere(self) -> int:
        """Trials that other nodes have finished meanwhile."""
        return 0

    def best(self) -> list[Configuration]:
        """What others found to be good, the best first; it is to be tried here before it is believed."""
        return []

    def claim(self) -> bool:
        """Whether the final is this node's to decide."""
        return True

    def settle(self, value: float) -> None:
        """The final is decided.

        Args:
            value: of the winner, what the objective minimises.
        """

    def leave(self) -> None:
        """The search is over."""

    def first(self, configurations: Iterable[Configuration]) -> None:
        """Propose these before any other; those outside the pool or tried before are passed over."""
        for configuration in configurations:
            row = self._pool.find(configuration)
            if row is not None and row not in self._taken:
                self._study.enqueue_trial(configuration)
                self._taken.add(row)

    def learn(
        self, configuration: Configuration, value: float | None, *, excess: float = -1.0, error: float = 0.0
    ) -> None:
        """Note what became of a configuration. One outside the pool is passed over.

        Args:
            configuration: asked for or not.
            value: what the objective minimises; None if it failed.
            excess: share by which it exceeds the objective's limit.
            error: relative error, 0 where it was not checked.
        """
        row = self._pool.find(configuration)
        if row is None:
            return
        constraints = {"latency limit": excess, "error": error - self._allowed_error}
        value = finite(value)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        asked = self._asked.pop(row, None)
        if asked is not None:
            for name, by in constraints.items():
                asked.set_constraint(name, by)
            self._study.tell(asked, value, state)
            return
        self._taken.add(row)
        distributions: dict[str, BaseDistribution] = {
            parameter.name: CategoricalDistribution(parameter.values)
            for parameter in self._pool.parameters
            if parameter.name in configuration
        }
        self._study.add_trial(
            create_trial(
                state=state,
                value=value,
                params=configuration,
                distributions=distributions,
                constraints=constraints,
            )
        )

    def learn_trial(self, trial: Trial) -> None:
        """Note how a trial ended; a preempted one of an earlier run may be tried again."""
        if trial.verdict is Verdict.PREEMPTED:
            return
        measured = trial.measurement if trial.verdict in (Verdict.OK, Verdict.NOISY) else None
        self.learn(
            trial.configuration,
            self._objective.value(measured) if measured else None,
            excess=self._objective.excess(measured) if measured else -1.0,
            error=trial.error or 0.0,
        )

    def ask(self) -> Configuration | None:
        """The next configuration to try; None when all have been."""
        if len(self._taken) == len(self._pool) and not self._queued():
            return None
        trial = self._study.ask()
        configuration = self._sampler.suggest(trial)
        row = self._pool.find(configuration)
        assert row is not None, "the sampler proposes rows of the pool"
        self._taken.add(row)
        self._asked[row] = trial
        self._note(self._sampler.expected_improvement)
        return configuration

    def _note(self, gain: float | None) -> None:
        """Take note of what was expected of a proposal."""
        self._improbable = self._improbable + 1 if gain is not None and gain < IMPROBABLE else 0

    @property
    def are_improbable(self) -> bool:
        """Whether the model expects next to nothing of the latest proposals, and so of all that is left."""
        return self._improbable >= PATIENCE

    def _queued(self) -> bool:
        return bool(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def finite(value: float | None) -> float | None:
    """A value that means something; None for one that does not."""
    return value if value is not None and math.isfinite(value) else None
