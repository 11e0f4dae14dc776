"""Over-saturation: requests come faster than they are served, and every latency depends on when one looks.

A figure above some threshold cannot show that: a long queue may be stable, and a short one may have begun to
grow. What shows it is a trend. Latencies in the order of arrival are averaged in batches. At the very limit
of stability a queue is a random walk, and the steps from one batch to the next scatter about zero; below it
they sum to almost nothing, however long the queue is; above it they have a positive mean. So the hypothesis
"no worse than critical" is refuted where the mean step is positive by Student's t test. It is the steps that
are taken to be independent, for latencies in a queue are far from it. A queue that starts empty can at first
only grow, so at the very critical load the test errs more often than it says: `benchmarks/serving.py` counts
1 to 2 % there, and none at 0.95 of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCHES = 20
LEAST_PER_BATCH = 3
CONFIDENCE = 0.999
"""High, for a load is looked at several times, and what is called over-saturated is given up."""
LEAST_SLOPE = 0.005
"""Seconds of latency gained per second of load: below it the excess is half a per cent, and no matter."""


class Trend(msgspec.Struct, frozen=True):
    """How latency moved while the load lasted.

    Attributes:
        slope: seconds of latency gained per second of load; at an utilisation `u` above 1 about `u - 1`.
        t: Student's statistic of the steps between batches.
        saturated: whether the growth is no chance.
    """

    slope: float
    t: float
    saturated: bool

    @property
    def reason(self) -> str:
        """In words; empty where it is not saturated."""
        if not self.saturated:
            return ""
        return (
            f"over-saturated: the time to first token grew by {self.slope:.2g} s with every second of load "
            f"({100 * CONFIDENCE:g} % sure), so its figures say more of the load's length than of the server"
        )


def trend(
    arrivals: Sequence[float], latencies: Sequence[float], *, confidence: float = CONFIDENCE
) -> Trend | None:
    """The trend of latencies; None of too few to tell.

    Args:
        arrivals: moments in seconds, in order.
        latencies: of the same requests, seconds.
        confidence: one-sided.
    """
    from scipy.stats import t as student

    size = len(latencies) // BATCHES
    if size < LEAST_PER_BATCH:
        return None
    # The first ones are left out where they do not fill a batch: the end tells more.
    shape = (BATCHES, size)
    means = np.reshape(latencies[-BATCHES * size :], shape).mean(axis=1)
    moments = np.reshape(arrivals[-BATCHES * size :], shape).mean(axis=1)
    steps = np.diff(means)
    lasting = float(moments[-1] - moments[0])
    slope = float(means[-1] - means[0]) / lasting if lasting > 0 else 0.0
    scatter = float(steps.std(ddof=1))
    mean = float(steps.mean())
    if scatter == 0.0:
        statistic = math.copysign(math.inf, mean) if mean else 0.0
    else:
        statistic = mean / (scatter / math.sqrt(len(steps)))
    needed = float(student.ppf(confidence, len(steps) - 1))
    return Trend(slope, statistic, statistic > needed and slope > LEAST_SLOPE)
