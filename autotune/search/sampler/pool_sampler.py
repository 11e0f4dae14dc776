"""The search as an Optuna sampler, for studies that are kept, watched or plotted with Optuna."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.errors import UsageError
from autotune.search.sampler.pool_search import PoolSearch, Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

    from autotune.search.sampler.prior import PriorStudy
    from autotune.space.pool import Pool

ROW = "autotune:row"
"""System attribute of a trial: its row of the pool, so that samplers of other processes know it is taken."""


class PoolSampler(BaseSampler):
    """Proposes the configurations of a pool, each at most once, by `PoolSearch`.

    All parameters of a trial are decided together when it begins: `suggest` gives them, or
    `trial.suggest_categorical(name, values)` with the values of the pool's parameters, for those that the
    configuration has. Trials still running count as pending, in whichever process; trials that failed or
    violate a constraint (`trial.set_constraint`) count as failures, pruned ones with the last value they
    reported; trials enqueued or added by hand are learnt from. When every configuration has been proposed,
    the best is again.

    With several objectives, each proposal improves a randomly weighted combination of them, so that over many
    the Pareto front is covered (ParEGO, Knowles 2006).

    Args:
        pool: the valid configurations.
        seed: everything follows from it.
        prior: what earlier studies of the same workload found.
        settings: of the search.
    """

    def __init__(
        self, pool: Pool, seed: int = 0, prior: Sequence[PriorStudy] = (), settings: Settings | None = None
    ) -> None:
        self._pool = pool
        self._search = PoolSearch(pool, seed, prior, settings)
        self._learnt: set[int] = set()
        self._expected_improvement: float | None = None
        self._distributions: dict[str, BaseDistribution] = {
            parameter.name: CategoricalDistribution(parameter.values) for parameter in pool.parameters
        }

    @property
    def expected_improvement(self) -> float | None:
        """`PoolSearch.expected_improvement` of the last proposal; None for one that was enqueued."""
        return self._expected_improvement

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """The configuration of a trial that was asked of a study with this sampler.

        Args:
            trial: fresh from `study.ask()`, or handed to an objective.

        Returns:
            Parameter -> value, only those that are active together.
        """
        return {
            parameter.name: trial.suggest_categorical(parameter.name, parameter.values)
            for parameter in self._pool.parameters
            if parameter.name in trial.relative_params
        }

    def infer_relative_search_space(
        self,
        study: Study,
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        """Every parameter of the pool."""
        return self._distributions

    def sample_relative(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        """The next configuration, or the one that was enqueued."""
        self._learn(study)
        fixed = trial.system_attrs.get("fixed_params")
        row = self._pool.find(fixed) if fixed else None
        self._expected_improvement = None
        if row is None:
            row = self._search.ask()
            self._expected_improvement = self._search.expected_improvement
        if row is None:
            row = self._search.best
        if row is None:
            raise UsageError(
                "every configuration of the pool was tried and failed; nothing is left to propose"
            )
        study._storage.set_trial_system_attr(trial._trial_id, ROW, row)
        return self._pool.configuration(row)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refuses: what is not part of the configuration cannot be chosen apart from it.

        Raises:
            UsageError: always.
        """
        known = ", ".join(parameter.name for parameter in self._pool.parameters)
        raise UsageError(
            f"trial {trial.number} asks for {param_name!r}, which its configuration does not have, or with "
            f"other values than the pool's ({known}); take the configuration from PoolSampler.suggest"
        )

    def _learn(self, study: Study) -> None:
        """Take in what has changed in the study since the last proposal."""
        signs = [-1.0 if d is StudyDirection.MAXIMIZE else 1.0 for d in study.directions]
        for trial in study.get_trials(deepcopy=False):
            if trial.number in self._learnt:
                continue
            row = self._pool.find(trial.params)
            if row is None and "fixed_params" not in trial.system_attrs:
                row = trial.system_attrs.get(ROW)  # it ended, or still is, before it named all its parameters
            if trial.state.is_finished():
                self._learnt.add(trial.number)
                if row is not None:
                    self._search.tell(row, _outcome(trial, signs))
            elif row is not None:
                self._search.reserve(row)


def _outcome(trial: FrozenTrial, signs: list[float]) -> list[float] | None:
    """A finished trial's values, to be minimised; None where it has none or they do not count."""
    if any(value > 0 for value in trial.constraints.values()):
        return None
    values = trial.values
    if trial.state is TrialState.PRUNED and trial.intermediate_values and len(signs) == 1:
        values = [trial.intermediate_values[max(trial.intermediate_values)]]
    if values is None or trial.state is TrialState.FAIL:
        return None
    return [sign * value for sign, value in zip(signs, values, strict=True)]
