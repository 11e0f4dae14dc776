"""What earlier studies of the same workload say of a pool: their trials, carried over by a model of each."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from autotune.search.sampler.covariance import Beliefs, Covariance
from autotune.search.sampler.encoding import Encoding
from autotune.search.sampler.surrogate import Posterior, fit
from autotune.search.sampler.targets import cost_scale, standardised
from autotune.space.pool import INACTIVE, Parameter, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from autotune.search.sampler.covariance import Experience

    Floats32 = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]

MOST_TRIALS = 300
"""Trials of one study that its model is fitted to: half the best, half at random of the others."""

SILENT = 1e-3
"""Spread of a prediction, in units of the study's own, below which it tells no configuration from another."""

BLOCK = 20_000
"""Rows predicted at once, which bounds the memory a large pool takes."""


@dataclass(frozen=True)
class PriorStudy:
    """The trials of an earlier study.

    Attributes:
        configurations: what was tried; parameters and values that the new pool lacks are allowed.
        values: what each cost, in the same order and any unit; NaN for one that failed.
    """

    configurations: Sequence[Mapping[str, Any]]
    values: Sequence[float]


@dataclass(frozen=True, eq=False)
class Forecast:
    """What all earlier studies say of a pool.

    Attributes:
        columns: shape (configurations, studies): each study's prediction of the cost, in units of the
            standard deviation of its own trials, of mean zero. A study that makes no sense predicts zero.
        amplitude: that standard deviation, in the middle of the studies, on the scale of `cost_scale`.
        experience: what their models found of the hyperparameters, on average.
    """

    columns: Floats32
    amplitude: float
    experience: Experience

    def __bool__(self) -> bool:
        return bool(self.columns.size)

    @property
    def consensus(self) -> Floats32:
        """The cost to expect, every study having the same say: shape (configurations,)."""
        if not self:
            return np.zeros(len(self.columns), np.float32)
        mean: Floats32 = np.float32(self.amplitude) * self.columns.mean(axis=1)
        return mean


def forecast(pool: Pool, studies: Sequence[PriorStudy], beliefs: Beliefs, seed: int = 0) -> Forecast:
    """Carry earlier studies over to a pool.

    A study is carried over by a model fitted to its own trials, not by its winner: the winner of one device
    can cost several times the optimum on another, while most of what makes a configuration good is shared.
    Where the study tried the very configuration, what it cost there replaces the model's prediction.

    Args:
        pool: the configurations to predict.
        studies: those without two successes, or without a parameter in common with the pool, say nothing and
            are left out.
        beliefs: prior of the hyperparameters.
        seed: of the trials left out of very long studies.

    """
    random = np.random.default_rng(seed)
    predictions = [
        _prediction(pool, study, beliefs, random)
        for study in studies
        if np.isfinite(np.asarray(study.values, np.float64)).sum() > 1
    ]
    said = [prediction for prediction in predictions if np.ptp(prediction.column) > SILENT]
    if not said:
        return Forecast(np.zeros((len(pool), 0), np.float32), 0.0, {})
    return Forecast(
        np.stack([prediction.column for prediction in said], axis=1),
        float(np.median([prediction.scale for prediction in said])),
        _average([prediction.experience for prediction in said]),
    )


def _average(experiences: Sequence[Experience]) -> Experience:
    """The mean over the studies that tell of each hyperparameter."""
    names = {name for experience in experiences for name in experience}
    return {name: fmean(e[name] for e in experiences if name in e) for name in names}


class _Prediction(NamedTuple):
    """What one study says.

    Attributes:
        column: of a forecast.
        scale: the standard deviation that is its unit.
        experience: of a forecast.
    """

    column: Floats32
    scale: float
    experience: Experience


def _prediction(pool: Pool, study: PriorStudy, beliefs: Beliefs, random: np.random.Generator) -> _Prediction:
    """Carry one study over to the pool."""
    values = np.asarray(study.values, np.float64)
    joint = _joined(pool, study.configurations)
    costs = cost_scale(values)
    y, _, scale = standardised(costs)
    order = np.argsort(costs)
    best, others = order[: MOST_TRIALS // 2], order[MOST_TRIALS // 2 :]
    chosen = np.concatenate(
        [best, random.choice(others, min(len(others), MOST_TRIALS - len(best)), replace=False)]
    )
    encoding = Encoding(joint)
    covariance = Covariance(encoding, None, beliefs)
    rows = len(pool) + chosen
    theta = fit(covariance.training(rows), y[chosen], covariance.center, iterations=50)
    mean = np.empty(len(pool), np.float32)
    for start in range(0, len(pool), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(pool)))
        posterior = Posterior(covariance, theta, block)
        posterior.extend(rows)
        mean[block] = posterior.predict(y[chosen])[0]
    tried, trials = _tried(joint, len(pool))
    mean[tried] = y[trials]
    return _Prediction(mean - mean.mean(), scale, covariance.experience(theta))


def _tried(joint: Pool, size: int) -> tuple[Rows, Rows]:
    """Configurations of the pool that the study tried itself: their rows, and their trials."""
    trial_of = {codes.tobytes(): trial for trial, codes in enumerate(joint.codes[size:])}
    found = [(row, trial_of.get(codes.tobytes(), -1)) for row, codes in enumerate(joint.codes[:size])]
    rows, trials = np.array(found, np.intp).reshape(-1, 2).T
    return rows[trials >= 0], trials[trials >= 0]


def _joined(pool: Pool, configurations: Sequence[Mapping[str, Any]]) -> Pool:
    """The pool's rows, then one row per configuration, over the pool's parameters with values of both.

    A parameter that a configuration lacks is inactive there, which is equally far from all of its values.
    """
    parameters, columns = [], []
    for column, parameter in enumerate(pool.parameters):
        foreign = [c[parameter.name] for c in configurations if parameter.name in c]
        values = tuple(dict.fromkeys([*parameter.values, *foreign]))
        joint = Parameter(parameter.name, values)
        if joint.is_ordinal:
            joint = Parameter(parameter.name, tuple(sorted(values)))
        code = {value: i for i, value in enumerate(joint.values)}
        recode = np.array([code[value] for value in parameter.values] + [INACTIVE], np.int32)
        added = [code[c[parameter.name]] if parameter.name in c else INACTIVE for c in configurations]
        parameters.append(joint)
        columns.append(np.concatenate([recode[pool.codes[:, column]], np.array(added, np.int32)]))
    return Pool(tuple(parameters), np.stack(columns, axis=1).astype(np.int32))
