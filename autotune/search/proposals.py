"""Which configuration to try next: an in-memory Optuna study over the pool of valid configurations.

The history is the record; this study is rebuilt from it whenever a search starts or resumes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from autotune.space.pool import INACTIVE
from autotune.store.records import Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.space.pool import Pool
    from autotune.store.records import Configuration

ASKS = 20
"""Asks per proposal before a free configuration is drawn at random: on small spaces TPE repeats itself."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Proposals:
    """Proposes each configuration of a pool at most once.

    Args:
        pool: the valid configurations.
        seed: of the sampler.
    """

    def __init__(self, pool: Pool, seed: int) -> None:
        self._pool = pool
        self._free = np.ones(len(pool), dtype=bool)
        self._random = np.random.default_rng(seed)
        self._queue: list[int] = []
        self._distributions = {
            parameter.name: CategoricalDistribution(parameter.values) for parameter in pool.parameters
        }
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=8))

    def first(self, configurations: Iterable[Configuration]) -> None:
        """Propose these before any other; those outside the pool are passed over."""
        rows = (self._pool.find(configuration) for configuration in configurations)
        self._queue += [row for row in rows if row is not None]

    def exclude(self, configurations: Iterable[Configuration]) -> None:
        """Never propose these."""
        for configuration in configurations:
            row = self._pool.find(configuration)
            if row is not None:
                self._free[row] = False

    def learn(self, configuration: Configuration, value: float | None) -> None:
        """Note what a configuration cost; None means that it failed."""
        row = self._pool.find(configuration)
        if row is None:
            return
        self._free[row] = False
        active = {
            p.name for p, code in zip(self._pool.parameters, self._pool.codes[row], strict=True) if code >= 0
        }
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if value is None else TrialState.COMPLETE,
                # Ratios matter, not differences: a surrogate of the logarithm sees them.
                value=None if value is None else float(np.log(value)),
                params=dict(configuration),
                distributions={name: d for name, d in self._distributions.items() if name in active},
            )
        )

    def learn_trial(self, trial: Trial) -> None:
        """Note how a trial ended; a preempted one may be tried again."""
        if trial.verdict is Verdict.PREEMPTED:
            return
        measured = trial.verdict is Verdict.OK and trial.measurement
        self.learn(trial.configuration, trial.measurement.p50_ns if measured and trial.measurement else None)

    def ask(self) -> Configuration | None:
        """The next configuration to try; None when all have been."""
        while self._queue:
            row = self._queue.pop(0)
            if self._free[row]:
                return self._pool.configuration(row)
        if not self._free.any():
            return None
        for _ in range(ASKS):
            found = self._suggest()
            if found is not None and self._free[found]:
                return self._pool.configuration(found)
        return self._pool.configuration(int(self._random.choice(np.flatnonzero(self._free))))

    def _suggest(self) -> int | None:
        trial = self._study.ask()
        chosen: dict[str, Any] = {}
        implementation = trial.suggest_categorical("implementation", self._pool.parameters[0].values)
        chosen["implementation"] = implementation
        rows = self._pool.codes[
            self._pool.codes[:, 0] == self._pool.parameters[0].values.index(implementation)
        ]
        for column, parameter in enumerate(self._pool.parameters[1:], start=1):
            if rows[0, column] != INACTIVE:
                chosen[parameter.name] = trial.suggest_categorical(parameter.name, parameter.values)
        # The suggestion is only that; what is learnt is told with its result.
        self._study.tell(trial, state=TrialState.PRUNED)
        return self._pool.find(chosen)
