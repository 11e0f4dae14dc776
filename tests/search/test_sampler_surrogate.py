"""The surrogate's parts against what they are defined to be."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from autotune.search.sampler.acquisition import expected_improvement
from autotune.search.sampler.covariance import Covariance
from autotune.search.sampler.encoding import Encoding
from autotune.search.sampler.surrogate import Posterior, fit
from autotune.search.sampler.targets import Targets, cost_scale, scalarised
from autotune.space.pool import INACTIVE, Parameter, Pool


def conditional_pool() -> Pool:
    """Two implementations; `tile` and `stages` belong to the second alone."""
    parameters = (
        Parameter("implementation", ("torch", "triton")),
        Parameter("threads", (1, 2, 4, 8)),
        Parameter("tile", (16, 32, 48, 64, 128)),
        Parameter("stages", (0, 1, 2)),
    )
    torch = [(0, threads, INACTIVE, INACTIVE) for threads in range(4)]
    triton = [(1, threads, tile, stages) for threads in range(4) for tile in range(5) for stages in range(3)]
    return Pool(parameters, np.array(torch + triton, np.int32))


@pytest.fixture
def covariance() -> Covariance:
    pool = conditional_pool()
    predictions = np.random.default_rng(3).normal(size=(len(pool), 2)).astype(np.float32)
    return Covariance(Encoding(pool), predictions)


def test_tables_summed_by_indicators_are_the_sums_of_their_entries():
    encoding = Encoding(conditional_pool())
    random = np.random.default_rng(0)
    tables = {p: (t := random.normal(size=(n, n))) + t.T for p, n in enumerate(encoding.counts)}
    rows, others = np.array([0, 7, 30]), np.arange(len(encoding.levels))

    summed = encoding.columns(tables, rows) @ encoding.indicators(others).T

    expected = sum(
        tables[p][np.ix_(encoding.levels[rows, p], encoding.levels[others, p])] for p in encoding.varying
    )
    np.testing.assert_allclose(summed, expected, rtol=1e-5, atol=1e-5)


def test_sizes_are_ordered_by_ratio_and_numbers_from_zero_by_position():
    threads, tile, _, _, stages = Encoding(conditional_pool()).axes
    assert [axis.parameter for axis in (threads, tile, stages)] == [1, 2, 3]
    assert tile.squared[1, 2] == pytest.approx((1 / 3) ** 2)  # 16 -> 32 of 16 .. 128
    assert stages.squared[1, 2] == stages.squared[2, 3] == pytest.approx(0.25)


def test_sizes_that_are_not_all_powers_of_two_are_also_ordered_by_alignment():
    _, _, exponent, power, _ = Encoding(conditional_pool()).axes
    level = {value: i for i, value in enumerate((16, 32, 48, 64, 128), start=1)}
    assert exponent.squared[level[16], level[48]] == 0.0
    assert exponent.squared[level[16], level[128]] == 1.0
    assert power.squared[level[16], level[128]] == 0.0
    assert power.squared[level[64], level[48]] == 1.0


def test_rows_with_an_inactive_parameter_are_equally_far_from_rows_that_differ_in_it_alone(covariance):
    cold = Covariance(covariance.encoding)
    torch, triton = np.array([0]), np.array([4 + 0, 4 + 12])  # tile 16 and tile 128
    indicators = cold.encoding.indicators(triton)
    near = cold.between(cold.center, torch, triton, indicators)
    assert near[0, 0] == pytest.approx(near[0, 1])


def test_beliefs_start_at_what_earlier_fits_found_and_are_firmer_for_it():
    encoding = Encoding(conditional_pool())
    cold = Covariance(encoding)
    theta = cold.center.copy()
    tile = next(i for i, axis in enumerate(encoding.axes) if (axis.parameter, axis.coordinate) == (2, 0))
    theta[tile] += 1.5

    experienced = Covariance(encoding, experience=cold.experience(theta))

    np.testing.assert_allclose(experienced.center, theta)
    told, rest = slice(len(encoding.axes) + len(encoding.varying)), slice(-2, None)
    np.testing.assert_allclose(experienced.spread[told], 0.5 * cold.spread[told])
    np.testing.assert_allclose(experienced.spread[rest], cold.spread[rest])
    one = Covariance(encoding, experience={("length", 2, 0): 1.5})
    assert [tile] == np.flatnonzero(one.spread != cold.spread).tolist()


def test_training_covariance_is_the_covariance_between_the_rows_plus_noise(covariance):
    rows = np.array([1, 5, 9, 40, 63])
    theta = covariance.center + 0.1
    between = covariance.between(theta, rows, rows, covariance.encoding.indicators(rows))
    matrix, _ = covariance.training(rows).value(theta)
    np.testing.assert_allclose(matrix, between + covariance.noise(theta) * np.eye(5), rtol=1e-4)
    np.testing.assert_allclose(np.diag(between), covariance.variance(theta, rows), rtol=1e-4)


def test_the_gradient_is_that_of_the_matrix(covariance):
    rows = np.array([1, 5, 9, 40, 63])
    training = covariance.training(rows)
    outer = np.random.default_rng(1).normal(size=(5, 5))
    outer += outer.T
    theta = covariance.center + np.linspace(-0.5, 0.5, len(covariance.center))

    matrix, parts = training.value(theta)
    gradient = training.gradient(theta, matrix, parts, outer)

    numeric = approx_fprime(theta, lambda t: (outer * training.value(t)[0]).sum(), 1e-7)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-3, atol=1e-4)


def test_a_fit_is_at_least_as_probable_as_where_it_started(covariance):
    rows = np.arange(0, 64, 3)
    y = np.sin(rows / 9.0)
    y = (y - y.mean()) / y.std()

    def loss(theta):
        matrix, _ = covariance.training(rows).value(theta)
        z = (theta - covariance.center) / covariance.spread
        return 0.5 * y @ np.linalg.solve(matrix, y) + 0.5 * np.linalg.slogdet(matrix)[1] + 0.5 * z @ z

    assert loss(fit(covariance.training(rows), y, covariance.center)) < loss(covariance.center)


def test_a_posterior_extended_trial_by_trial_is_the_one_computed_at_once(covariance):
    candidates, rows = np.arange(64), np.array([3, 60, 17, 33, 8])
    y = np.array([0.3, -1.0, 0.5, 1.2, -0.4])
    theta = covariance.center
    posterior = Posterior(covariance, theta, candidates)
    for row in rows:
        posterior.extend(np.array([row]))

    mean, deviation = posterior.predict(y)

    matrix, _ = covariance.training(rows).value(theta)
    cross = covariance.between(theta, rows, candidates, covariance.encoding.indicators(candidates))
    np.testing.assert_allclose(mean, cross.T @ np.linalg.solve(matrix, y), atol=2e-3)
    variance = covariance.variance(theta, candidates) - np.sum(cross * np.linalg.solve(matrix, cross), axis=0)
    np.testing.assert_allclose(deviation**2, variance, atol=2e-3)
    np.testing.assert_allclose(posterior.smoothed(y), mean[rows], atol=2e-3)


def test_pending_rows_leave_the_mean_and_lower_the_deviation_until_forgotten(covariance):
    posterior = Posterior(covariance, covariance.center, np.arange(64))
    posterior.extend(np.array([3, 60, 17]))
    y = np.array([0.3, -1.0, 0.5])
    mean, deviation = posterior.predict(y)

    posterior.extend(np.array([20, 41]))
    pending_mean, pending_deviation = posterior.predict(y)
    posterior.forget(3)
    again_mean, again_deviation = posterior.predict(y)

    np.testing.assert_array_equal(pending_mean, mean)
    assert (pending_deviation <= deviation + 1e-6).all()
    assert pending_deviation[20] < 0.2 * deviation[20]
    np.testing.assert_array_equal(again_mean, mean)
    np.testing.assert_allclose(again_deviation, deviation, atol=1e-4)


def test_expected_improvement_is_the_mean_of_what_falls_below_the_best():
    mean, deviation = np.float32([0.0, 1.0, -0.5]), np.float32([1.0, 0.5, 0.1])
    draws = np.random.default_rng(0).normal(mean, deviation, size=(200_000, 3))
    simulated = np.maximum(0.2 - draws, 0).mean(axis=0)
    np.testing.assert_allclose(expected_improvement(mean, deviation, 0.2), simulated, atol=0.01)


def test_candidates_are_still_ranked_where_no_improvement_is_expected():
    worth = expected_improvement(np.float32([30, 20, 40]), np.float32([0.1, 0.1, 0.1]), 0.0)
    assert worth.argmax() == 1
    assert len(set(worth)) == 3


def test_costs_are_compared_by_ratio_to_the_best_and_failures_count_as_the_worst():
    np.testing.assert_allclose(cost_scale(np.array([3.0, 12.0, np.nan])), [0, 1, 1])
    np.testing.assert_allclose(cost_scale(np.array([-3.0, -12.0, np.nan])), [1.0, 0, 1.0])
    np.testing.assert_allclose(cost_scale(np.array([-1.0, 2.0, 0.0])), [-1, 2, 0])
    np.testing.assert_allclose(cost_scale(np.array([np.nan, np.nan])), [0, 0])


def test_near_the_best_costs_differ_by_their_relative_difference_and_far_from_it_hardly():
    near, twice, far, furthest = cost_scale(np.array([1.0, 1.01, 2.0, 100.0, 1e6]))[1:]
    assert near == pytest.approx(0.01, rel=0.01)
    assert twice == pytest.approx(0.586, abs=0.001)
    assert 1.7 < far < furthest < 2.0


def test_residuals_and_expectation_are_in_the_same_unit():
    expectation = np.float32([0.0, 1.0, 2.0, 3.0])
    targets = Targets.of(np.array([5.0, 7.0, 12.0]), np.array([0, 1, 3]), expectation)
    assert targets.residual.mean() == pytest.approx(0)
    assert targets.residual.std() == pytest.approx(1)
    scale = np.std([5.0, 6.0, 9.0])
    np.testing.assert_allclose(targets.offset, expectation / scale, rtol=1e-6)


def test_a_wide_expectation_sets_the_unit_until_there_are_trials_enough():
    expectation = np.zeros(200, np.float32)
    for trials, unit in ((5, 2.0), (10, 2.0), (20, 1.0), (200, 0.1)):
        costs = 0.1 * np.resize([-1.0, 1.0], trials)
        assert Targets.of(costs, np.arange(trials), expectation, amplitude=2.0).unit == pytest.approx(unit)


def test_a_scalarisation_prefers_what_is_better_in_every_objective():
    values = np.array([[1.0, 2.0], [2.0, 4.0], [4.0, 1.0], [np.nan, np.nan]])
    for weight in (0.1, 0.5, 0.9):
        costs = scalarised(values, np.array([weight, 1 - weight]))
        assert costs[0] < costs[1]
        assert costs[3] == costs.max()


def test_rows_that_rounding_makes_identical_can_still_be_conditioned_on(covariance, monkeypatch):
    monkeypatch.setattr(Covariance, "noise", lambda *_: -1e-7)
    posterior = Posterior(covariance, covariance.center, np.arange(64))
    posterior.extend(np.array([3, 3, 3]))
    mean, deviation = posterior.predict(np.array([0.3, 0.3, 0.3]))
    assert np.isfinite(mean).all()
    assert np.isfinite(deviation).all()
