"""The search over a pool: what it never does, and what it finds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from autotune.search.sampler import PoolSearch, PriorStudy, Settings, pool_search
from autotune.search.sampler.covariance import Beliefs
from autotune.search.sampler.prior import forecast
from autotune.space.pool import INACTIVE, Parameter, Pool

TILES = (16, 32, 64, 128, 256)
WARPS = (1, 2, 4, 8)
STAGES = (1, 2, 3, 4, 5)
LAYOUTS = ("row", "column", "blocked")


def kernel_pool() -> Pool:
    parameters = (
        Parameter("block_m", TILES),
        Parameter("block_n", TILES),
        Parameter("warps", WARPS),
        Parameter("stages", STAGES),
        Parameter("layout", LAYOUTS),
    )
    codes = [c for c in product(*(range(len(p.values)) for p in parameters)) if c[0] + c[1] < 7]
    return Pool(parameters, np.array(codes, np.int32))


def latency(configuration) -> float:
    """A kernel's habits: best at a middling tile, warps that grow with it, one layout, few stages too few."""
    tile = np.log2(configuration["block_m"]) + np.log2(configuration["block_n"])
    warps = np.log2(configuration["warps"])
    penalty = {"row": 0.3, "column": 0.0, "blocked": 0.6}[configuration["layout"]]
    return float(
        np.exp(
            0.1 * (tile - 12) ** 2 + 0.2 * (warps - tile / 6) ** 2 + penalty + 0.3 / configuration["stages"]
        )
    )


def replay(search: PoolSearch, pool: Pool, evaluations: int, cost=latency) -> list[float]:
    costs = []
    for _ in range(evaluations):
        row = search.ask()
        costs.append(cost(pool.configuration(row)))
        search.tell(row, costs[-1])
    return costs


def test_the_optimum_of_a_thousand_is_all_but_found_in_forty():
    pool = kernel_pool()
    optimum = min(latency(pool.configuration(row)) for row in range(len(pool)))
    for seed in range(3):
        assert min(replay(PoolSearch(pool, seed), pool, 40)) < 1.02 * optimum


def test_every_row_is_proposed_once_and_then_none():
    pool = kernel_pool()
    small = Pool(pool.parameters, pool.codes[::40])
    search = PoolSearch(small, 0)
    proposed = [search.ask() for _ in range(8)]
    for row in proposed:
        search.tell(row, latency(small.configuration(row)))
    while (row := search.ask()) is not None:
        proposed.append(row)
        search.tell(row, None if row % 3 == 0 else latency(small.configuration(row)))
    assert sorted(proposed) == list(range(len(small)))


def test_what_is_still_expected_shrinks_as_the_optimum_is_found():
    pool = kernel_pool()
    search = PoolSearch(pool, 0)
    assert search.expected_improvement is None
    expected = []
    for _ in range(80):
        row = search.ask()
        expected.append(search.expected_improvement)
        search.tell(row, latency(pool.configuration(row)))
    assert expected[:4] == [None] * 4, "no model chose the starts"
    assert expected[4] > 0.05, "the first finds are far from what a model of so few trials holds possible"
    assert 0 <= max(expected[60:]) < 0.01


def test_a_seed_decides_everything():
    pool = kernel_pool()
    assert replay(PoolSearch(pool, 5), pool, 12) == replay(PoolSearch(pool, 5), pool, 12)
    assert replay(PoolSearch(pool, 5), pool, 12) != replay(PoolSearch(pool, 6), pool, 12)


def test_a_batch_holds_different_rows_and_is_learnt_in_any_order():
    pool = kernel_pool()
    search = PoolSearch(pool, 1)
    tried = set()
    for _ in range(4):
        batch = [search.ask() for _ in range(6)]
        assert len(set(batch) | tried) == len(tried) + 6
        tried |= set(batch)
        for row in reversed(batch):
            search.tell(row, latency(pool.configuration(row)))
    assert search.told == 24


def test_the_best_is_none_until_something_worked():
    search = PoolSearch(kernel_pool(), 0)
    assert search.best is None
    search.tell(3, None)
    assert search.best is None
    search.tell(7, 2.0)
    search.tell(8, 1.0)
    assert search.best == 8


def test_a_row_measured_again_counts_with_its_median():
    search = PoolSearch(kernel_pool(), 0)
    for value in (1.0, 9.0, 8.0):
        search.tell(3, value)
    search.tell(4, 5.0)
    assert search.best == 4


def test_a_withdrawn_row_may_be_proposed_again():
    pool = Pool((Parameter("i", (1, 2)),), np.array([[0], [1]], np.int32))
    search = PoolSearch(pool, 0)
    first, second = search.ask(), search.ask()
    assert {first, second} == {0, 1}
    search.withdraw(first)
    assert search.ask() == first


def test_an_excluded_row_is_never_proposed():
    pool = Pool((Parameter("i", (1, 2, 3)),), np.array([[0], [1], [2]], np.int32))
    search = PoolSearch(pool, 0)
    search.exclude(1)
    assert {search.ask(), search.ask()} == {0, 2}
    assert search.ask() is None


def test_it_learns_where_failure_lies():
    pool = kernel_pool()

    def runs(row: int) -> bool:
        return pool.configuration(row)["block_m"] <= 64

    search, failed = PoolSearch(pool, 2), []
    for _ in range(60):
        row = search.ask()
        failed.append(not runs(row))
        search.tell(row, latency(pool.configuration(row)) if runs(row) else None)
    share = np.mean([not runs(row) for row in range(len(pool))])
    assert np.mean(failed[20:]) < share / 2


def test_it_goes_on_when_everything_fails():
    search = PoolSearch(kernel_pool(), 0)
    rows = [search.ask() for _ in range(2)]
    for _ in range(20):
        search.tell(rows[-1], None)
        rows.append(search.ask())
    assert len(set(rows)) == 22


def test_implementations_with_parameters_of_their_own_share_one_search():
    parameters = (
        Parameter("implementation", ("torch", "triton")),
        Parameter("threads", (1, 2, 4, 8)),
        Parameter("tile", TILES),
        Parameter("warps", WARPS),
    )
    torch = [(0, t, INACTIVE, INACTIVE) for t in range(4)]
    triton = [(1, INACTIVE, tile, warps) for tile in range(5) for warps in range(4)]
    pool = Pool(parameters, np.array(torch + triton, np.int32))

    def cost(c):
        if c["implementation"] == "torch":
            return 10.0 / c["threads"]
        return 1.0 + abs(np.log2(c["tile"]) - 6) + abs(np.log2(c["warps"]) - 2)

    assert min(replay(PoolSearch(pool, 0), pool, 18, cost)) == 1.0


def test_a_pool_beyond_what_is_predicted_at_once_is_refined_around_the_best():
    pool = kernel_pool()
    optimum = min(latency(pool.configuration(row)) for row in range(len(pool)))
    search = PoolSearch(pool, 0, settings=Settings(candidates=100))
    assert min(replay(search, pool, 80)) < 1.05 * optimum


def test_rates_to_maximise_are_told_negated():
    pool = kernel_pool()
    best = max(1 / latency(pool.configuration(row)) for row in range(len(pool)))
    costs = replay(PoolSearch(pool, 0), pool, 40, lambda c: -1 / latency(c))
    assert -min(costs) == pytest.approx(best)


def test_the_pareto_front_of_two_objectives_is_covered():
    pool = kernel_pool()

    def objectives(row):
        configuration = pool.configuration(row)
        return latency(configuration), 1.0 + configuration["block_m"] * configuration["stages"]

    every = np.array([objectives(row) for row in range(len(pool))])
    front = [i for i, v in enumerate(every) if not ((every <= v).all(axis=1) & (every < v).any(axis=1)).any()]
    search, found = PoolSearch(pool, 0), []
    for _ in range(60):
        row = search.ask()
        found.append(row)
        search.tell(row, objectives(row))
    assert len(set(front) & set(found)) >= 0.7 * len(front)


def studied(scale: float, shift: float, seed: int) -> PriorStudy:
    """An earlier study on another device: all is slower there, and larger tiles are a little worse."""
    pool = kernel_pool()
    rows = np.random.default_rng(seed).choice(len(pool), 120, replace=False)
    configurations = [pool.configuration(row) for row in rows]
    return PriorStudy(configurations, [scale * latency(c) * c["block_m"] ** shift for c in configurations])


def test_earlier_studies_save_trials():
    pool = kernel_pool()
    optimum = min(latency(pool.configuration(row)) for row in range(len(pool)))
    prior = [studied(3.0, 0.1, 0), studied(0.5, -0.1, 1)]
    assert min(replay(PoolSearch(pool, 0, prior), pool, 8)) < 1.02 * optimum


def test_earlier_fits_say_which_parameters_matter():
    pool = kernel_pool()
    rows = np.random.default_rng(0).choice(len(pool), 80, replace=False)
    configurations = [pool.configuration(row) for row in rows]
    studies = [
        PriorStudy(configurations, [scale * c["warps"] ** power for c in configurations])
        for scale, power in ((1.0, 0.5), (7.0, 0.9))
    ]
    told = forecast(pool, studies, Beliefs()).experience
    warps, others = told["length", 2, 0], [told["length", parameter, 0] for parameter in (0, 1, 3)]
    assert warps + 0.5 < min(others)
    assert told["mismatch", 4, 0] < 0, "the layout hardly matters"
    assert {} == forecast(pool, [], Beliefs()).experience


def test_an_earlier_study_that_misleads_is_overruled():
    pool = kernel_pool()
    optimum = min(latency(pool.configuration(row)) for row in range(len(pool)))
    told = studied(1.0, 0.0, 0)
    opposite = PriorStudy(told.configurations, [1 / value for value in told.values])
    assert min(replay(PoolSearch(pool, 0, [opposite]), pool, 50)) == pytest.approx(optimum)


def test_an_earlier_study_may_know_other_parameters_and_values():
    pool = kernel_pool()
    told = studied(2.0, 0.0, 0)
    foreign = PriorStudy(
        [
            {**{k: v for k, v in c.items() if k != "layout"}, "block_m": 3 * c["block_m"], "swizzle": True}
            for c in told.configurations
        ],
        told.values,
    )
    replay(PoolSearch(pool, 0, [foreign]), pool, 6)


def test_an_earlier_study_without_a_success_says_nothing():
    pool = kernel_pool()
    empty = PriorStudy([pool.configuration(0)], [np.nan])
    assert replay(PoolSearch(pool, 4, [empty]), pool, 8) == replay(PoolSearch(pool, 4), pool, 8)


def test_hyperparameters_of_a_long_search_are_fitted_to_a_part_of_its_trials(monkeypatch):
    fitted = []

    def fit(training, targets, start, iterations):
        fitted.append(len(targets))
        return start

    monkeypatch.setattr(pool_search, "MOST_FITTED", 20)
    monkeypatch.setattr(pool_search, "fit", fit)
    replay(PoolSearch(kernel_pool(), 0), kernel_pool(), 40)
    assert max(fitted) == 20


def test_an_earlier_study_that_shares_no_parameter_says_nothing():
    pool = kernel_pool()
    told = studied(1.0, 0.0, 0)
    other = PriorStudy([{f"other_{k}": v for k, v in c.items()} for c in told.configurations], told.values)
    assert replay(PoolSearch(pool, 4, [other]), pool, 8) == replay(PoolSearch(pool, 4), pool, 8)


def test_a_long_search_renews_its_model_piece_by_piece(monkeypatch):
    pool = kernel_pool()
    optimum = min(latency(pool.configuration(row)) for row in range(len(pool)))
    fits: list[list[int]] = [[]]  # iterations times squared trials
    extensions: list[list[int]] = [[]]
    fit, extend = pool_search.fit, pool_search.Posterior.extend

    def counted_fit(training, targets, start, iterations):
        fits[-1].append(iterations * len(targets) ** 2)
        return fit(training, targets, start, iterations)

    def counted_extend(posterior, rows):
        extensions[-1].append(len(rows))
        extend(posterior, rows)

    monkeypatch.setattr(pool_search, "AT_ONCE", 20)
    monkeypatch.setattr(pool_search, "PIECE_OF_FIT", 3 * 80**2)
    monkeypatch.setattr(pool_search, "PIECE_OF_POSTERIOR", 10 * len(pool))
    monkeypatch.setattr(pool_search, "fit", counted_fit)
    monkeypatch.setattr(pool_search.Posterior, "extend", counted_extend)
    search = PoolSearch(pool, 0)
    costs = []
    for _ in range(80):
        costs += replay(search, pool, 1)
        fits.append([])
        extensions.append([])
    assert all(sum(piece) <= pool_search.PIECE_OF_FIT for piece in fits[25:])
    assert sum(map(len, fits[25:])) >= 12, "it was renewed again and again"
    assert all(max(piece, default=0) <= 10 for piece in extensions[25:]), (
        "no proposal waits for a whole renewal"
    )
    assert min(costs) == pytest.approx(optimum)
