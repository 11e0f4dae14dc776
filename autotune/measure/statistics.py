"""Statistics of samples: intervals of a median and of a paired ratio, and when to stop sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

TRIMMED = 0.2
"""Share of the differences left out at either end."""


def median_interval(samples: Sequence[float] | Floats, confidence: float) -> tuple[float, float]:
    """Distribution-free confidence interval of the median, from order statistics.

    The ranks come from the normal approximation of the binomial distribution, continuity-corrected (Conover,
    Practical Nonparametric Statistics, section 3.2); too few samples for the confidence give their range.

    Args:
        samples: independent samples, at least one.
        confidence: two-sided, 0 to 1.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    half_width = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(n) / 2
    rank = max(math.floor((n + 1) / 2 - half_width) - 1, 0)
    return float(ordered[rank]), float(ordered[n - 1 - rank])


def percentile_interval(
    samples: Sequence[float] | Floats, q: float, confidence: float
) -> tuple[float, float]:
    """Distribution-free confidence interval of a percentile, from order statistics, exact for any number.

    How many samples lie below the percentile is binomial (Conover, section 3.2). With too few for the
    confidence a side is open: 0, or infinity. For the upper bound of the 99th percentile at 99 % that is
    below 528 samples.

    Args:
        samples: independent samples, at least one.
        q: 0 to 100, exclusive.
        confidence: two-sided, 0 to 1.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n, share = len(ordered), q / 100
    counts = np.arange(n + 1)
    log_factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorials[n] - log_factorials - log_factorials[::-1]
    at_most = np.cumsum(np.exp(log_choose + counts * math.log(share) + (n - counts) * math.log1p(-share)))
    error = (1 - confidence) / 2
    # The greatest rank that lies above the percentile with at most that probability, and the least below it.
    low = int(np.searchsorted(at_most, error, side="right"))
    high = int(np.searchsorted(at_most, 1 - error, side="left")) + 1
    return float(ordered[low - 1]) if low else 0.0, float(ordered[high - 1]) if high <= n else math.inf


def paired_bootstrap(
    differences: Floats, confidence: float, *, seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the 20 % trimmed mean of paired differences.

    Trimming bounds what outliers can do; unlike the median, a trimmed mean does not jump where an effect of
    the order within a round splits the differences in two heaps. (Wilcox, Introduction to Robust Estimation
    and Hypothesis Testing, section 5.9.)

    Args:
        differences: one per round, shape (n,), e.g. log-ratios of latencies.
        confidence: two-sided, 0 to 1.
        seed: of the resampling.
        resamples: how many.
    """
    generator = np.random.default_rng(seed)
    n = len(differences)
    trimmed = int(TRIMMED * n)
    means = np.empty(resamples)
    # In blocks of about a million values, so that many rounds do not need gigabytes.
    block = max(1, (1 << 20) // n)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        resampled = np.sort(differences[generator.integers(0, n, size=(count, n))], axis=1)
        means[start : start + count] = resampled[:, trimmed : n - trimmed].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def mean_ratio_interval(
    numerator: Floats, denominator: Floats, confidence: float, *, seed: int, resamples: int = 2000
) -> tuple[float, float]:
    """Confidence interval of a ratio of means over paired samples: what either of two methods allows.

    They are the delta method (a normal approximation of `numerator - ratio * denominator`) and the percentile
    bootstrap over pairs. Both take the pairs as independent and of finite variance; a mean that hangs on a
    few rare samples is beyond either.

    Args:
        numerator: shape (n,), positive.
        denominator: shape (n,), positive.
        confidence: two-sided, 0 to 1.
        seed: of the resampling.
        resamples: how many.
    """
    n = len(numerator)
    if n < 2:
        return 0.0, math.inf
    ratio = float(numerator.mean() / denominator.mean())
    spread = float(np.std(numerator - ratio * denominator, ddof=1)) / float(denominator.mean())
    half_width = NormalDist().inv_cdf(0.5 + confidence / 2) * spread / math.sqrt(n)
    generator = np.random.default_rng(seed)
    ratios = np.empty(resamples)
    block = max(1, (1 << 20) // n)
    for start in range(0, resamples, block):
        drawn = generator.integers(0, n, size=(min(block, resamples - start), n))
        ratios[start : start + len(drawn)] = numerator[drawn].sum(axis=1) / denominator[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2])
    return max(min(float(low), ratio - half_width), 0.0), max(float(high), ratio + half_width)


@dataclass(frozen=True)
class StoppingRule:
    """When the samples of one latency are enough.

    Attributes:
        budget_seconds: time cap; at least one sample is taken.
        target: relative half-width of the median's interval that is good enough.
        confidence: of that interval.
        min_samples: fewest before the interval is trusted.
        max_samples: sample cap.
        clearly_slower_than_ns: a latency not worth measuring precisely; None to always measure.
    """

    budget_seconds: float
    target: float = 0.01
    confidence: float = 0.95
    min_samples: int = 10
    max_samples: int = 1000
    clearly_slower_than_ns: float | None = None

    def stop(self, samples_ns: Sequence[float], elapsed_seconds: float) -> str | None:
        """Why to stop now: `clearly_slower`, `converged`, `sample_cap` or `time_cap`; None to go on.

        Args:
            samples_ns: the samples so far, at least one.
            elapsed_seconds: since sampling began.
        """
        n = len(samples_ns)
        if self.clearly_slower_than_ns is not None and clearly_slower(
            samples_ns, self.clearly_slower_than_ns
        ):
            return "clearly_slower"
        if n >= self.min_samples:
            low, high = median_interval(samples_ns, self.confidence)
            if (high - low) / 2 <= self.target * float(np.median(samples_ns)):
                return "converged"
        if n >= self.max_samples:
            return "sample_cap"
        if elapsed_seconds * (n + 1) / n > self.budget_seconds:
            return "time_cap"
        return None


def clearly_slower(samples_ns: Sequence[float], limit_ns: float) -> bool:
    """Whether the lower confidence bound of the median is above a limit.

    With `n` samples all above the limit, a median below it has a probability of at most 2**-n; below seven
    samples that is no proof, but two samples that both took twice the limit are no noise either.
    """
    if len(samples_ns) >= 2 and min(samples_ns) > 2 * limit_ns:
        return True
    return len(samples_ns) >= 7 and median_interval(samples_ns, 0.98)[0] > limit_ns
