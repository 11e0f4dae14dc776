"""Intervals hold as often as they claim, and sampling stops for the reason it gives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from autotune.measure.statistics import (
    StoppingRule,
    clearly_slower,
    mean_ratio_interval,
    median_interval,
    paired_bootstrap,
    percentile_interval,
)


def _lognormal(seed: int, shape: tuple[int, ...], sigma: float = 0.05):
    return 1000 * np.exp(np.random.default_rng(seed).normal(0, sigma, shape))


@pytest.mark.parametrize("n", [10, 31, 200])
def test_median_interval_covers_the_median_as_often_as_it_claims(n):
    intervals = [median_interval(samples, 0.95) for samples in _lognormal(n, (2000, n))]
    covered = [low <= 1000 <= high for low, high in intervals]
    assert 0.94 <= np.mean(covered) <= 0.99


def test_median_interval_of_few_samples_is_their_whole_range():
    assert median_interval([3.0, 1.0, 2.0], 0.95) == (1.0, 3.0)
    assert median_interval([7.0], 0.95) == (7.0, 7.0)


@pytest.mark.parametrize("tail", ["normal", "heavy"])
def test_paired_bootstrap_covers_the_centre_as_often_as_it_claims(tail):
    generator = np.random.default_rng(1)
    draw = generator.standard_normal if tail == "normal" else lambda n: generator.standard_t(2, n)
    intervals = [paired_bootstrap(0.3 + draw(60), 0.95, seed=i, resamples=400) for i in range(600)]
    assert 0.92 <= np.mean([low <= 0.3 <= high for low, high in intervals]) <= 0.985


def test_paired_bootstrap_repeats_itself_for_a_seed():
    differences = np.random.default_rng(2).normal(size=50)
    assert paired_bootstrap(differences, 0.99, seed=3) == paired_bootstrap(differences, 0.99, seed=3)


def test_sampling_converges_once_the_median_is_known_to_the_target():
    rule = StoppingRule(budget_seconds=60, target=0.01)
    samples = _lognormal(4, (1000,))
    n = next(n for n in range(1, 1000) if rule.stop(samples[:n].tolist(), 0.001 * n))
    assert rule.stop(samples[:n].tolist(), 0.001 * n) == "converged"
    low, high = median_interval(samples[:n], 0.95)
    assert (high - low) / 2 <= 0.01 * np.median(samples[:n])
    assert n > rule.min_samples


def test_sampling_ends_at_the_time_cap_before_the_sample_that_would_exceed_it():
    rule = StoppingRule(budget_seconds=1.0)
    assert rule.stop([1e8, 2e8], elapsed_seconds=0.6) is None
    assert rule.stop([1e8, 2e8], elapsed_seconds=0.7) == "time_cap"
    assert rule.stop([1e10], elapsed_seconds=10) == "time_cap"


def test_sampling_ends_at_the_sample_cap():
    noisy = _lognormal(5, (40,), sigma=1.0).tolist()
    assert StoppingRule(budget_seconds=60, max_samples=40).stop(noisy, 0.1) == "sample_cap"


def test_two_samples_that_take_twice_the_limit_are_clearly_slower():
    assert clearly_slower([210.0, 205.0], 100)
    assert not clearly_slower([210.0], 100)
    assert not clearly_slower([150.0, 150.0], 100)
    assert StoppingRule(60, clearly_slower_than_ns=100).stop([210.0, 205.0], 0.1) == "clearly_slower"


def test_a_latency_at_the_limit_is_seldom_called_clearly_slower():
    samples = _lognormal(6, (2000, 12))
    assert np.mean([clearly_slower(s.tolist(), 1000) for s in samples]) <= 0.02
    assert all(clearly_slower(s.tolist(), 800) for s in samples[:200])


def test_a_percentile_is_bounded_only_by_enough_samples() -> None:
    samples = list(range(1, 529))
    low, high = percentile_interval(samples, 99, confidence=0.99)
    assert (516, 528) == (low, high)
    assert percentile_interval(samples[:-1], 99, confidence=0.99)[1] == math.inf
    assert percentile_interval([7.0], 50, confidence=0.99) == (0.0, math.inf)


def test_the_interval_of_a_percentile_covers_it_as_often_as_it_claims() -> None:
    generator = np.random.default_rng(0)
    truth = -math.log(0.01)
    covered = 0
    for _ in range(1000):
        low, high = percentile_interval(generator.exponential(size=700), 99, confidence=0.95)
        covered += low <= truth <= high
    assert 0.94 < covered / 1000 < 1.0


def test_a_ratio_of_means_lies_in_its_interval_as_often_as_claimed() -> None:
    """Lognormal latencies in pairs that share a disturbance; 300 intervals of 95 %."""
    held = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        shared = generator.lognormal(0.0, 0.5, 100)
        these, others = (shared * generator.lognormal(0.0, 0.3, 100) * scale for scale in (1.0, 1.2))
        low, high = mean_ratio_interval(others, these, 0.95, seed=seed)
        held += low <= 1.2 <= high
    assert held >= 0.92 * 300
    assert (0.0, math.inf) == mean_ratio_interval(np.array([2.0]), np.array([1.0]), 0.95, seed=0)
