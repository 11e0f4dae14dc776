"""How many requests a tail percentile needs, and what so many allow to say.

Two rules of MLPerf's LoadGen, which are about how sure a percentile is and not about how it looks:

- *Early stopping.* A share of at least `1 - p` of all requests lies above the percentile `p`. If of `n`
  requests at most `t` lie above a bound, and so few would be improbable were the bound below the
  percentile, the percentile lies at or below it. The binomial distribution says how improbable.
- *A run of known precision.* How many requests estimate the share beyond the percentile within a twentieth
  of it (the table in the inference rules: 270,336 for a 99th percentile at 99 %, rounded up).

Requests that share a queue are not independent: both counts are the least that could do.
"""

from __future__ import annotations

import math
from enum import StrEnum
from statistics import NormalDist
from typing import TYPE_CHECKING

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
CONFIDENCE = 0.99
"""LoadGen's."""


def overlatency_allowed(requests: int, percentile: float, confidence: float = CONFIDENCE) -> int:
    """Most requests that may lie above a bound which is surely no lower than the percentile; -1 if none may.

    The greatest `t` with `P(Binomial(requests, 1 - p) <= t) <= 1 - confidence`.

    Args:
        requests: how many there were.
        percentile: 0 to 100, exclusive.
        confidence: one-sided.
    """
    from scipy.special import bdtr

    share = 1 - percentile / 100
    if bdtr(0, requests, share) > 1 - confidence:
        return -1
    # The probability rises with the bound: bisect the last that is improbable enough.
    allowed, refused = 0, requests
    while refused - allowed > 1:
        middle = (allowed + refused) // 2
        if bdtr(middle, requests, share) <= 1 - confidence:
            allowed = middle
        else:
            refused = middle
    return allowed


def least_requests(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Fewest requests after which a percentile can be told: 64 for the 90th, 662 for the 99th at 99 %.

    LoadGen's early stopping with one request above the bound: of fewer, the slowest would be the percentile.

    Args:
        percentile: 0 to 100, exclusive.
        confidence: one-sided.
    """
    low, high = 1, 2
    while overlatency_allowed(high, percentile, confidence) < 1:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if overlatency_allowed(middle, percentile, confidence) < 1:
            low = middle
        else:
            high = middle
    return high


def fewest_to_keep(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Fewest requests that can show a limit on a percentile if none misses it: 459 for the 99th at 99 %.

    Args:
        percentile: 0 to 100, exclusive.
        confidence: one-sided.
    """
    return math.ceil(math.log(1 - confidence) / math.log(percentile / 100))


def requests_for_margin(percentile: float, confidence: float = CONFIDENCE) -> int:
    """Requests that know the share beyond a percentile within a twentieth of it.

    `quantile((1 - confidence) / 2)^2 * p * (1 - p) / margin^2` with `margin = (1 - p) / 20`: 262,742 for the
    99th percentile at 99 %, before LoadGen rounds it up to a multiple of 8,192.

    Args:
        percentile: 0 to 100, exclusive.
        confidence: two-sided.
    """
    share = percentile / 100
    margin = (1 - share) / 20
    quantile = NormalDist().inv_cdf((1 - confidence) / 2)
    return round(quantile**2 * share * (1 - share) / margin**2)


class Standing(StrEnum):
    """How a limit on a percentile stands after some requests."""

    KEPT = "kept"
    BROKEN = "broken"
    OPEN = "open"


def standing(requests: int, missed: int, percentile: float, confidence: float = CONFIDENCE) -> Standing:
    """Whether a limit on a percentile is surely kept, surely broken, or neither.

    Args:
        requests: how many there were.
        missed: how many of them missed the limit.
        percentile: that the limit is on.
        confidence: one-sided, of either answer.
    """
    if missed <= overlatency_allowed(requests, percentile, confidence):
        return Standing.KEPT
    # Broken if so many misses were improbable at a share of just `1 - p`: mirror the count of hits.
    if requests - missed <= overlatency_allowed(requests, 100 - percentile, confidence):
        return Standing.BROKEN
    return Standing.OPEN


class Spread(msgspec.Struct, frozen=True):
    """A distribution in short; the unit is that of its samples.

    Attributes:
        count: samples.
        mean: of them; None where there is none.
        variation: coefficient of variation, standard deviation over mean.
        p50: percentiles, linear between samples; None where there are not enough requests to tell.
        bounds: for each percentile that can be told, what it surely does not exceed, by its name.
        missing: for each percentile that cannot, how many requests it needs.
    """

    count: int
    mean: float | None = None
    variation: float | None = None
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    p99_9: float | None = None
    bounds: dict[str, float] = {}
    missing: dict[str, int] = {}

    def percentile(self, q: float) -> float | None:
        """One of `PERCENTILES`."""
        value: float | None = getattr(self, percentile_name(q))
        return value


def percentile_name(q: float) -> str:
    """`p99_9` for the 99.9th percentile."""
    return f"p{q:g}".replace(".", "_")


def spread(
    samples: Sequence[float] | npt.NDArray[np.float64],
    *,
    confidence: float = CONFIDENCE,
    requests: int | None = None,
) -> Spread:
    """The distribution of samples, with no percentile that they do not support.

    Args:
        samples: in any order.
        confidence: one-sided, of the bounds.
        requests: that they are of, where each has several: those of one request are not independent.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    independent = n if requests is None else min(requests, n)
    missing = {
        percentile_name(q): needed
        for q in PERCENTILES
        if independent < (needed := least_requests(q, confidence))
    }
    if not n:
        return Spread(0, missing=missing)
    told = [q for q in PERCENTILES if percentile_name(q) not in missing]
    bounds = {}
    for q in told:
        allowed = overlatency_allowed(independent, q, confidence)
        bounds[percentile_name(q)] = float(ordered[n - 1 - allowed * n // independent])
    mean = float(ordered.mean())
    return Spread(
        n,
        mean,
        float(ordered.std()) / mean if mean else None,
        bounds=bounds,
        missing=missing,
        **{percentile_name(q): float(np.percentile(ordered, q)) for q in told},
    )
