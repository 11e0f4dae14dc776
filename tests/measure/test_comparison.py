"""Interleaved comparison on simulated machines: drift, outliers, ties, drops and caps."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from autotune.errors import InternalError
from autotune.measure.comparison import Comparison, Outcome, Rules, compare, decide


class Machine:
    """Takes samples of contenders with given latencies, with noise, outliers and drift per sample taken."""

    def __init__(self, latencies, seed=0, *, sigma=0.01, outliers=0.02, drift=lambda _: 1.0):
        self.latencies = list(latencies)
        self.generator = np.random.default_rng(seed)
        self.sigma, self.outliers, self.drift = sigma, outliers, drift
        self.taken: list[int] = []

    def sample(self, i: int) -> float:
        latency = 1e6 * self.latencies[i] * self.drift(len(self.taken))
        self.taken.append(i)
        latency *= math.exp(self.generator.normal(0, self.sigma))
        if self.generator.random() < self.outliers:
            latency *= 1 + self.generator.exponential(0.3)
        return latency


def _compare(latencies, names=None, *, seed=0, rounds=400, margin=0.01, confidence=0.99, **machine):
    names = names or ["baseline", *(f"c{i}" for i in range(1, len(latencies)))]
    rules = Rules(1e9, margin, confidence, rounds)
    incumbent = "incumbent" if "incumbent" in names else None
    sample = Machine(latencies, seed, **machine).sample
    return compare(sample, names, baseline="baseline", incumbent=incumbent, rules=rules, seed=seed)


DRIFTS = {
    "linear": lambda i: 1 + 0.03 * i / 400,
    "step": lambda i: 1.03 if i > 31 else 1.0,
    "periodic": lambda i: 1 + 0.03 * math.sin(i / 7),
    "as fast as a round": lambda i: 1 + 0.015 * (i % 2),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_two_percent_are_told_apart_under_drift(drift):
    comparisons = [_compare([1.0, 1 / 1.02], seed=i, drift=DRIFTS[drift]) for i in range(20)]
    outcomes = [comparison.outcome("c1") for comparison in comparisons]
    assert outcomes.count(Outcome.FASTER) >= 19
    assert Outcome.SLOWER not in outcomes


@pytest.mark.parametrize("drift", DRIFTS)
def test_equal_contenders_are_found_different_no_more_often_than_claimed(drift):
    """Without a margin and with 90 % confidence, so that the claim is put to the test."""
    outcomes = [
        _compare([1.0, 1.0], seed=i, margin=0.0, confidence=0.9, rounds=100, drift=DRIFTS[drift]).outcome(
            "c1"
        )
        for i in range(100)
    ]
    # Claimed are 5 % on either side: 5 expected at most, more than 11 by chance in 0.4 % of such tests.
    assert outcomes.count(Outcome.FASTER) <= 11
    assert outcomes.count(Outcome.SLOWER) <= 11


def test_the_interval_holds_the_true_ratio():
    for seed in range(20):
        interval = _compare([1.0, 0.8], seed=seed).proofs["c1"].against_baseline
        assert interval.low <= 1.25 <= interval.high
        assert interval.low <= interval.ratio <= interval.high


def test_a_difference_below_the_margin_is_a_tie_and_keeps_the_defender():
    comparison = _compare([1.0, 0.995])
    assert comparison.outcome("c1") is Outcome.TIE
    assert decide(comparison) == "baseline"


def test_a_slower_challenger_is_dropped_and_the_rounds_end():
    comparison = _compare([1.0, 1.1])
    assert comparison.outcome("c1") is Outcome.SLOWER
    assert comparison.stopped == "decided"
    assert comparison.proofs["c1"].rounds < 40


def test_a_challenger_must_beat_the_incumbent_too():
    names = ["baseline", "incumbent", "c1"]
    tie = _compare([1.0, 0.8, 0.8], names)
    assert tie.outcome("c1") is Outcome.TIE
    assert tie.winner == "incumbent"
    assert tie.proofs["c1"].against_baseline.low > 1.01
    assert _compare([1.0, 0.8, 0.7], names).winner == "c1"


def test_the_incumbent_that_became_slower_than_the_baseline_gives_way_to_it():
    comparison = _compare([1.0, 1.2, 1.3], ["baseline", "incumbent", "c1"])
    assert comparison.outcome("baseline") is Outcome.FASTER
    assert comparison.winner == "baseline"


def test_the_fastest_of_several_proven_challengers_wins():
    for seed in range(10):
        assert _compare([1.0, 0.8, 0.7, 0.75, 2.0], seed=seed).winner == "c2"


def test_near_ties_between_challengers_go_to_the_first_listed():
    for seed in range(10):
        assert _compare([1.0, 0.702, 0.7, 0.703], seed=seed, sigma=0.004).winner == "c1"


def test_beaten_challengers_and_settled_references_rest():
    comparison = _compare([20.0, 1.0, 3.0, 0.992], rounds=200)
    rounds = comparison.rounds_ns()
    ran = dict(zip(comparison.contenders, np.sum(~np.isnan(rounds), axis=0), strict=True))
    assert ran["baseline"] < 30
    assert ran["c2"] < 30
    assert ran["c1"] > ran["baseline"]


def test_rounds_end_at_their_cap_when_nothing_can_be_decided():
    comparison = _compare([1.0, 1 / 1.01], rounds=25)
    assert comparison.stopped == "round_cap"
    assert len(comparison.rounds_ns()) == 25


def test_rounds_end_before_the_one_that_would_exceed_the_budget():
    seconds = [0.0]

    def sample(i):
        seconds[0] += 0.25
        return 1e6

    rules = Rules(budget_seconds=3.0)
    comparison = compare(sample, ["b", "c"], baseline="b", rules=rules, clock=lambda: seconds[0])
    assert comparison.stopped == "time_cap"
    assert len(comparison.rounds_ns()) == 6


def test_one_round_alone_proves_nothing():
    comparison = compare(lambda i: [2e6, 1e6][i], ["b", "c"], baseline="b", rules=Rules(0.0))
    assert comparison.outcome("c") is Outcome.TIE
    assert comparison.proofs["c"].against_baseline.ratio == pytest.approx(2)


def test_the_order_within_rounds_is_random_and_seeded():
    taken = []
    for seed in (1, 1, 2):
        machine = Machine([1.0, 1.0, 1.0], sigma=0.5)
        compare(machine.sample, ["a", "b", "c"], baseline="a", rules=Rules(math.inf, round_cap=30), seed=seed)
        taken.append(machine.taken[:30])
    assert taken[0] == taken[1] != taken[2]
    assert len({tuple(taken[0][i : i + 3]) for i in range(0, 30, 3)}) > 3


def test_a_lopsided_ratio_must_be_faster_in_its_median_too():
    """Most rounds a little slower, some much faster: the centre says faster, the median does not."""
    generator = np.random.default_rng(3)

    def sample(i):
        return 1e6 * (1.0 if i == 0 else (0.5 if generator.random() < 0.45 else 1.005))

    comparison = compare(sample, ["b", "c"], baseline="b", rules=Rules(math.inf, round_cap=300))
    assert comparison.outcome("c") is Outcome.TIE


def test_a_comparison_survives_the_wire():
    comparison = _compare([1.0, 0.9, 2.0])
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(comparison), type=Comparison) == comparison
    assert msgspec.json.decode(msgspec.json.encode(comparison), type=Comparison) == comparison


@pytest.mark.parametrize("names", [["a", "a"], ["b", "c"]])
def test_contenders_must_be_distinct_and_include_the_baseline(names):
    with pytest.raises(InternalError, match="must be distinct and include 'a'"):
        compare(lambda _: 1.0, names, baseline="a")


def heavy_tailed(generator, scale: float):
    return float(1e6 * np.exp(0.05 * generator.standard_normal()) + scale * 1e6 * generator.pareto(2.0))


def test_equal_tails_are_never_told_apart() -> None:
    for seed in range(40):
        generator = np.random.default_rng(seed)
        rules = Rules(round_cap=800, percentile=99)
        found = compare(lambda _, g=generator: heavy_tailed(g, 0.3), ["a", "b"], baseline="a", rules=rules)
        assert found.winner == "a"
        assert found.outcome("b") is Outcome.TIE


def test_a_shorter_tail_is_found_though_the_medians_are_equal() -> None:
    generator = np.random.default_rng(0)
    rules = Rules(round_cap=1000, percentile=99)
    found = compare(lambda i: heavy_tailed(generator, (1.0, 0.1)[i]), ["a", "b"], baseline="a", rules=rules)
    assert found.winner == "b"
    proof = found.proofs["b"]
    assert proof.against_baseline.low > 1.01
    assert proof.baseline_ns == pytest.approx(np.percentile(found.samples_ns["a"], 99), rel=0.01)
    few = Rules(round_cap=400, percentile=99)
    found = compare(lambda i: heavy_tailed(generator, (1.0, 0.1)[i]), ["a", "b"], baseline="a", rules=few)
    assert found.winner == "a"


def test_equal_means_are_found_different_no_more_often_than_claimed() -> None:
    """Of 200 comparisons of a contender with itself, at a confidence of 95 % and no margin."""
    found = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        rules = Rules(margin=0.0, confidence=0.95, round_cap=200, percentile=None)
        comparison = compare(
            lambda _, g=generator: heavy_tailed(g, 0.3), ["a", "b"], baseline="a", rules=rules
        )
        found += comparison.outcome("b") is not Outcome.TIE
    assert found <= 20


def test_a_better_mean_is_found_though_the_median_is_worse() -> None:
    """`b` is 5 % slower, and spared what takes `a` three times as long in one of five calls."""
    generator = np.random.default_rng(0)

    def sample(i: int) -> float:
        spike = 3.0 if i == 0 and generator.random() < 0.2 else 1.0
        return 1e6 * (1.0, 1.05)[i] * spike * math.exp(generator.normal(0, 0.01))

    found = compare(sample, ["a", "b"], baseline="a", rules=Rules(round_cap=300, percentile=None))
    proof = found.proofs["b"]
    assert found.winner == "b"
    assert proof.latency_ns == pytest.approx(1.05e6, rel=0.01)
    assert proof.baseline_ns == pytest.approx(1.4e6, rel=0.05)
    assert proof.against_baseline.low < 1.4 / 1.05 < proof.against_baseline.high
    assert compare(sample, ["a", "b"], baseline="a", rules=Rules(round_cap=300)).winner == "a"


def test_under_a_limit_only_what_surely_keeps_it_wins() -> None:
    """`b` is the fastest, but takes three times as long in one of twenty calls."""
    generator = np.random.default_rng(0)

    def sample(i: int) -> float:
        spike = 3.0 if i == 1 and generator.random() < 0.05 else 1.0
        return 1e6 * (2.0, 1.0, 1.5)[i] * spike * math.exp(generator.normal(0, 0.01))

    found = {
        (rounds, limit): compare(
            sample,
            ["a", "b", "c"],
            baseline="a",
            rules=Rules(round_cap=rounds, percentile=None, limit_ns=limit),
        )
        for rounds, limit in ((800, 4e6), (800, 2.5e6), (800, 1e6), (300, 2.5e6))
    }
    assert ["b", "c", "a", "a"] == [comparison.winner for comparison in found.values()]
    assert found[800, 2.5e6].breaks_limit("b")
    assert not found[300, 2.5e6].keeps_limit("c"), "too few rounds to bound a 99th percentile"
    assert not found[300, 2.5e6].breaks_limit("c")


def test_a_defender_over_the_limit_gives_way_to_the_baseline() -> None:
    generator = np.random.default_rng(0)
    comparison = compare(
        lambda i: 1e6 * (1.2, 1.0)[i] * (3.0 if i == 1 and generator.random() < 0.05 else 1.0),
        ["a", "incumbent"],
        baseline="a",
        incumbent="incumbent",
        rules=Rules(round_cap=800, percentile=None, limit_ns=2e6),
    )
    assert comparison.winner == "a"
