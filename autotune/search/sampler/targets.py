"""What the surrogate is fitted to: what trials cost against the best, less what earlier studies predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


FEW = 10
"""Trials up to which the unit is at least the expectation's amplitude. With more it may fall below, in
proportion: an expectation that is wrong altogether would else keep it too large for good."""

COMPRESSION = 0.5
"""Power of the transform of costs: 0 would be the logarithm, 1 is proportional to speed."""

AUGMENTATION = 0.05
"""Share of the plain sum in a scalarisation, as in ParEGO: it breaks ties towards what is better in all."""


def cost_scale(values: Floats) -> Floats:
    """Costs on the scale on which they are compared: by ratio to the best of them, where the values allow it.

    (1 - r**-p) / p for `r` times the best, a Box-Cox transform of power -p = -`COMPRESSION`: near the best
    that is the relative difference, and what is many times slower is all about equally bad. So the model
    spends little on telling bad from worse.

    A failure counts as the worst success: the model then keeps away from where failures lie, and no made-up
    penalty distorts its length scales.

    Args:
        values: lower is better; NaN for a failure. All positive, or all negative (a rate to maximise), are
            taken by ratio; values of both signs as they are.

    Returns:
        The same shape, finite, 0 at the best where by ratio.
    """
    succeeded = np.isfinite(values)
    if not succeeded.any():
        return np.zeros(len(values))
    known = values[succeeded]
    if (known > 0).all():
        known = _compressed(np.log(known))
    elif (known < 0).all():
        known = _compressed(-np.log(-known))
    scaled = np.full(len(values), known.max())
    scaled[succeeded] = known
    return scaled


def _compressed(logarithms: Floats) -> Floats:
    """From logarithms of costs to the scale of `cost_scale`."""
    scaled: Floats = -np.expm1(-COMPRESSION * (logarithms - logarithms.min())) / COMPRESSION
    return scaled


def scalarised(values: Floats, weights: Floats) -> Floats:
    """One cost for several objectives: their augmented Chebyshev combination (ParEGO, Knowles 2006).

    Args:
        values: shape (trials, objectives), each lower is better; NaN for a failure.
        weights: shape (objectives,), of sum 1.

    Returns:
        Shape (trials,).
    """
    costs = np.stack([cost_scale(column) for column in values.T], axis=1)
    spread = np.ptp(costs, axis=0)
    weighted = weights * (costs - costs.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    combined: Floats = weighted.max(axis=1) + AUGMENTATION * weighted.sum(axis=1)
    return combined


def standardised(values: Floats, least: float = 0.0) -> tuple[Floats, float, float]:
    """Values of mean zero and unit variance, with the mean and standard deviation taken out of them.

    Args:
        values: any number of them.
        least: the standard deviation is not taken to be less.
    """
    center, scale = float(values.mean()), max(float(values.std()), least)
    scale = scale if scale > 1e-9 else 1.0
    return (values - center) / scale, center, scale


@dataclass(frozen=True, eq=False)
class Targets:
    """Observations in the unit of the surrogate, in which their residuals have mean zero and variance one.

    Attributes:
        residual: shape (trials,): cost less the expectation.
        offset: shape (configurations,): the expectation, in the same unit.
        unit: that unit, on the scale of the costs.
    """

    residual: Floats
    offset: npt.NDArray[np.float32]
    unit: float

    @classmethod
    def of(
        cls,
        costs: Floats,
        rows: npt.NDArray[np.intp],
        expectation: npt.NDArray[np.float32],
        amplitude: float = 0.0,
    ) -> Targets:
        """Residuals of what was told from what was expected.

        Args:
            costs: shape (trials,), as `cost_scale` or `scalarised` gives them.
            rows: shape (trials,).
            expectation: shape (configurations,), of the cost, up to a constant.
            amplitude: by how much the expectation tells configurations apart. The unit is not less than this
                at first: the first trials are those expected to be best, and that they hardly differ says
                nothing of how far the expectation may be wrong elsewhere. Beyond `FEW` trials it wanes.
        """
        least = amplitude * min(FEW / max(len(rows), 1), 1.0)
        residual, _, scale = standardised(costs - expectation[rows], least)
        return cls(residual, expectation / np.float32(scale), scale)
