"""What qualifiers cost and buy, read off trials and proofs that are made up."""

import pytest

from autotune.search.tradeoffs import most_accurate_fastest, setting_costs, switches
from autotune.store.records import Choice, Interval, Measurement, Proof, Trial, Verdict, Winner

NAMES = ("compute_dtype", "group_size")
BASELINE = {"implementation": "torch", "compute_dtype": "bfloat16", "threads": 2}
FLOAT32 = {**BASELINE, "compute_dtype": "float32"}
NATIVE = {"implementation": "native", "compute_dtype": "bfloat16"}


def tried(number, configuration, p50_us, verdict=Verdict.OK):
    samples = tuple(int(1000 * p50_us * (1 + 0.01 * (i - 25) / 25)) for i in range(51))
    measured = Measurement(samples, "converged", "monotonic") if verdict is Verdict.OK else None
    return Trial(
        number, configuration, verdict, "screening", error=1e-3, memory_bytes=9, measurement=measured
    )


def decided(configuration, ratio):
    proof = Proof(40, 0.99, 0.01, 1e5 / ratio, 1e5, Interval(ratio, 0.9 * ratio, 1.1 * ratio))
    choice = Choice(0, configuration, 1e5 / ratio, 2e-3, 5, proof)
    return Winner(
        workload="linear",
        problem="p",
        dimensions={},
        neighbourhood="n",
        device="d",
        stack="s",
        objective="latency",
        space="x",
        baseline_error=1.7e-3,
        choices=(choice,),
        decided_at=0.0,
    )


TRIALS = [
    tried(0, {**BASELINE, "threads": 1}, 150.0),
    tried(1, FLOAT32, 50.0),
    tried(2, {**FLOAT32, "threads": 1}, 40.0),
    tried(3, {"implementation": "int4", "group_size": 32}, 20.0),
    tried(7, {"implementation": "int4", "group_size": 64}, 25.0),
    tried(4, NATIVE, 100.2),
    tried(5, {**NATIVE, "compute_dtype": "float32"}, 30.0),
    tried(6, {"implementation": "broken"}, 1.0, Verdict.CRASHED),
]
WINNERS = [decided(FLOAT32, 2.2)]


def costs(trials=TRIALS, winners=WINNERS, **more):
    return setting_costs(trials, winners, NAMES, BASELINE, **more)


def test_every_combination_is_told_by_its_fastest_configuration_fastest_first():
    found = costs(winners=[])
    assert [20e3, 25e3, 30e3, 40e3, 100.2e3, 150e3] == [cost.p50_ns for cost in found]
    assert {"implementation": "int4", "group_size": 32} == found[0].qualifiers
    assert (2, 1) == (found[3].trials, found[3].configuration["threads"])
    assert [None] * 6 == [cost.speedup for cost in found], "nothing is known of the baseline"
    assert not switches(found)


def test_what_was_in_a_final_is_told_by_its_proof():
    proven = next(cost for cost in costs() if cost.configuration == FLOAT32)
    assert proven.proven
    assert Interval(2.2, 0.9 * 2.2, 1.1 * 2.2) == proven.speedup
    assert pytest.approx(1e5 / 2.2) == proven.p50_ns
    assert pytest.approx(50.5e3, rel=0.01) == proven.p99_ns
    assert (2e-3, 5) == (proven.error, proven.memory_bytes)


def test_the_baseline_is_among_them():
    (baseline,) = (cost for cost in costs() if cost.is_baseline)
    assert (1e5, 1.7e-3) == (baseline.p50_ns, baseline.error)
    assert {"implementation": "torch", "compute_dtype": "bfloat16"} == baseline.qualifiers


def test_a_difference_that_may_be_none_is_noise():
    by_name = {str(cost.configuration): cost for cost in costs()}
    assert by_name[str(NATIVE)].within_noise
    int4 = by_name[str({"implementation": "int4", "group_size": 32})]
    assert not int4.within_noise
    assert not int4.proven
    assert int4.speedup.low < 5.0 < int4.speedup.high


def test_a_screening_of_a_few_samples_bounds_nothing():
    """One sample that looks five times as fast is no proof of anything."""
    once = Trial(
        0, NATIVE, Verdict.OK, "screening", measurement=Measurement((20_000,), "time_cap", "monotonic")
    )
    (cost,) = (cost for cost in costs(trials=[once]) if cost.configuration == NATIVE)
    assert (5.0, None, None) == (cost.speedup.ratio, cost.p99_ns, cost.variation)
    assert cost.within_noise


def test_a_million_tokens_cost_the_devices_time():
    priced = costs(tokens=4, price_per_hour=3.6)
    # 100 us for four tokens: a million take 25 s, at 0.001 a second.
    assert pytest.approx(0.025) == next(cost for cost in priced if cost.is_baseline).cost_per_million
    assert all(cost.cost_per_million is None for cost in costs(tokens=4))


def test_what_serves_tokens_has_a_rate():
    assert pytest.approx(4 / 100e-6) == next(c for c in costs(tokens=4) if c.is_baseline).tokens_per_second


def test_settings_that_may_be_as_fast_as_the_fastest_tie_with_it():
    """The fastest itself; not one whose interval lies beyond its own."""
    by_name = {str(cost.configuration): cost for cost in costs()}
    assert by_name[str({"implementation": "int4", "group_size": 32})].ties_with_fastest
    assert not by_name[str(NATIVE)].ties_with_fastest
    alike = [*TRIALS, tried(8, {"implementation": "int4", "group_size": 128}, 20.01)]
    tied = {str(cost.configuration) for cost in costs(trials=alike) if cost.ties_with_fastest}
    assert 2 == len(tied)


def test_a_switch_away_from_the_winner_is_told_against_it():
    found = costs()
    winner = most_accurate_fastest(found)
    assert winner is None, "FLOAT32 has more error than the baseline"
    proven = next(cost for cost in found if cost.configuration == FLOAT32)
    back = {(s.qualifier, s.after): s.gain for s in switches(found, proven)}
    assert pytest.approx(1 / 2.2) == back["compute_dtype", "bfloat16"].ratio
    assert pytest.approx(1 / (1.1 * 2.2)) == back["compute_dtype", "bfloat16"].low


def test_a_switch_differs_from_the_baseline_in_one_qualifier_alone():
    found = {(s.qualifier, s.before, s.after): s.cost.speedup.ratio for s in switches(costs())}
    # Group sizes are int4's own, the faster counts; native in float32 differs in two.
    assert {
        ("implementation", "torch", "int4"): pytest.approx(5.0),
        ("implementation", "torch", "native"): pytest.approx(100 / 100.2),
        ("compute_dtype", "bfloat16", "float32"): pytest.approx(2.2),
    } == found
