"""What a trial is worth before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import ndtr

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats32 = npt.NDArray[np.float32]

NEGLIGIBLE = 1e-12
"""Expected improvement, in standard deviations of the targets, below which single precision ranks no more."""


def expected_improvement(mean: Floats32, deviation: Floats32, best: float) -> Floats32:
    """By how much each candidate is expected to fall below `best` (Mockus 1978; Jones et al. 1998).

    Args:
        mean: shape (candidates,).
        deviation: shape (candidates,), standard deviations, positive.
        best: what there is to improve on.

    Returns:
        Shape (candidates,), in the unit of `mean`; where all are negligible, negative numbers in their order.
    """
    reach = (np.float32(best) - mean) / deviation
    density = np.exp(-0.5 * reach * reach) * np.float32(1 / np.sqrt(2 * np.pi))
    expected: Floats32 = deviation * (reach * ndtr(reach) + density)
    if expected.max() > NEGLIGIBLE:
        return expected
    shortfall: Floats32 = reach - reach.max() - np.float32(NEGLIGIBLE)
    return shortfall
