"""The confidence sequence errs no more often than it claims, however often one looks."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.measure.confidence import (
    LARGEST_LOG_RATIO,
    confidence_sequence,
    lower_bound,
    rejects_at_most,
)

NOISES = {
    "normal": lambda g, n: g.normal(0, 1, n),
    "student": lambda g, n: g.standard_t(2, n),
    "cauchy": lambda g, n: g.standard_cauchy(n),
    "two-sided outliers": lambda g, n: g.normal(0, 1, n) + (g.random(n) < 0.1) * g.normal(0, 50, n),
    # Scatter that grows and shrinks: only the earlier rounds' scatter may set the clip.
    "changing scatter": lambda g, n: g.normal(0, 1, n) * (1 + 9 * (np.arange(n) // 50 % 2)),
}


@pytest.mark.parametrize("noise", NOISES)
def test_the_true_centre_is_refuted_at_any_of_500_rounds_no_more_often_than_alpha(noise):
    generator = np.random.default_rng(7)
    alpha, paths = 0.1, 400
    refuted = sum(rejects_at_most(0.5 + NOISES[noise](generator, 500), 0.5, alpha) for _ in range(paths))
    # Expected at most 40; 55 would be a chance of 0.7 % even if the bound were exactly met.
    assert refuted <= 55


@pytest.mark.parametrize("noise", NOISES)
def test_a_clear_difference_is_found(noise):
    generator = np.random.default_rng(8)
    found = [rejects_at_most(1.0 + NOISES[noise](generator, 1000), 0.0, 0.005) for _ in range(40)]
    assert np.mean(found) >= 0.95


def test_eleven_rounds_of_one_sign_are_enough_and_six_are_not():
    differences = np.linspace(1, 1.1, 11)
    assert rejects_at_most(differences, 0.0, 0.005)
    assert not rejects_at_most(differences[:6], 0.0, 0.005)


def test_the_interval_agrees_with_the_refutations():
    differences = np.random.default_rng(9).normal(0.2, 1, 300)
    low, high = confidence_sequence(differences, 0.01)
    assert low < 0.2 < high
    assert rejects_at_most(differences, low - 1e-4, 0.005)
    assert not rejects_at_most(differences, low + 1e-4, 0.005)
    assert rejects_at_most(-differences, -high - 1e-4, 0.005)


def test_the_interval_never_widens_with_more_rounds():
    differences = np.random.default_rng(10).standard_t(3, 200)
    bounds = [lower_bound(differences[:n], 0.005) for n in (20, 50, 100, 200)]
    assert bounds == sorted(bounds)


def test_too_few_rounds_give_the_widest_interval():
    assert confidence_sequence(np.array([0.1, 0.2]), 0.01) == (-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def test_rounds_without_any_scatter_are_judged_by_their_sign():
    assert rejects_at_most(np.full(30, 0.01), 0.0, 0.005)
    assert not rejects_at_most(np.zeros(1000), 0.0, 0.005)
