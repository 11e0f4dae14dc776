"""Earlier studies: which of them are near, and what they spare a new one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from autotune.measure.comparison import Rules
from autotune.search.objective import LATENCY, TAIL
from autotune.search.proposals import Proposals
from autotune.search.sampler.prior import PriorStudy
from autotune.search.study import Budget
from autotune.search.transfer import Earlier, FromHistory, nearest, prior_of
from autotune.search.tuning import Goal, Tuner
from autotune.space import SearchSpace
from autotune.store import open_history
from autotune.store.records import Measurement, StudyKey, Verdict
from tests.search.simulated import DECLARATION, SimulatedWorker, latency_ns, optimum_ns
from tests.store.factories import AnyDevice, gpu, trial

TRIALS_BEFORE = 40
ENOUGH = 1.05


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    with open_history(str(tmp_path / "state")) as history:
        yield history


def problem(m: int = 16, n: int = 64) -> Any:
    return DECLARATION.problem({"m": m, "n": n})


def tuner(history: Any, monkeypatch: Any, **options: Any) -> Tuner:
    monkeypatch.setattr("autotune.search.tuning.declaration", lambda _: DECLARATION)
    return Tuner(history, SimulatedWorker(), AnyDevice(), Rules(round_cap=40), **options)


def best_after(tuner: Tuner, m: int, trials: int) -> float:
    """How far from the optimum a study of so many trials ends."""
    winner = tuner.tune(problem(m), Goal(), Budget(1e6, trials, screen_seconds=0.1))
    return latency_ns(winner.choices[0].configuration, m) / optimum_ns(m)


def test_a_neighbouring_size_spares_the_search(history, monkeypatch) -> None:
    tuning = tuner(history, monkeypatch)
    assert best_after(tuning, 64, trials=10) > ENOUGH, "or the search is too easy to show anything"
    best_after(tuning, 16, trials=TRIALS_BEFORE)
    assert best_after(tuning, 32, trials=3) < ENOUGH


def test_other_sources_are_asked_too(history, monkeypatch) -> None:
    told = told_by(np.random.default_rng(1), m=16)
    asked = []

    def shipped(problem, objective, but=None):
        asked.append(problem.key)
        assert objective is LATENCY
        yield Earlier(1.0, told)

    assert best_after(tuner(history, monkeypatch, sources=[shipped]), 32, trials=4) < ENOUGH
    assert asked == ["m=32,n=64"]


def told_by(random: np.random.Generator, m: int, shuffled: bool = False) -> PriorStudy:
    """A study of a random sample of the configurations."""
    pool = SearchSpace.build(DECLARATION, problem(m), {"kind": "cpu"}).pool
    rows = random.choice(len(pool), 80, replace=False)
    configurations = [pool.configuration(row) for row in rows]
    values = [_cost(configuration, m) for configuration in configurations]
    if shuffled:
        values = random.permutation(values).tolist()
    return PriorStudy(configurations, values)


def _cost(configuration: dict[str, Any], m: int) -> float:
    from autotune.errors import TrialError

    try:
        return latency_ns(configuration, m)
    except TrialError:
        return math.nan


def trials_until_good(prior: list[PriorStudy], seed: int, m: int = 32) -> int:
    """Proposals until one is within 5 % of the best, the baseline being known."""
    space = SearchSpace.build(DECLARATION, problem(m), {"kind": "cpu"})
    proposals = Proposals(space.pool, seed, prior)
    proposals.learn(space.baseline, _cost(space.baseline, m))
    for count in range(1, len(space)):
        configuration = proposals.ask()
        assert configuration is not None
        cost = _cost(configuration, m)
        if cost < ENOUGH * optimum_ns(m):
            return count
        proposals.learn(configuration, None if math.isnan(cost) else cost)
    raise AssertionError("the optimum was never proposed")


@pytest.mark.slow
def test_a_misleading_prior_costs_a_few_trials() -> None:
    seeds = range(3)
    cold = [trials_until_good([], seed) for seed in seeds]
    led = [trials_until_good([told_by(np.random.default_rng(s), 16)], s) for s in seeds]
    misled = [trials_until_good([told_by(np.random.default_rng(s), 16, shuffled=True)], s) for s in seeds]
    assert np.median(led) < np.median(cold)
    assert np.median(misled) < np.median(cold) + 10


def record(history: Any, device: AnyDevice, stack: str, m: int, p50: float, n: int = 64) -> int:
    """A study of three trials; its first took `p50` nanoseconds."""
    history.record_device(device)
    history.record_stack(stack, {})
    one = problem(m, n)
    key = StudyKey("simulated", one.key, device.digest, stack, "latency", "5a" * 8)
    study = history.begin_study(key, one.dimensions)
    for number in range(3):
        from tests.store.factories import measurement

        samples = measurement(p50 * (1 + number), variation=0.0)
        history.add_trial(study, trial(number, measurement=samples))
    return study


def test_the_nearest_studies_come_first_and_strangers_not_at_all(history) -> None:
    here, sibling = AnyDevice(), AnyDevice(name="AMD EPYC 9754", digest="c1" * 8)
    stranger = AnyDevice(family="arm-neon", digest="c2" * 8)
    now, before = "51" * 8, "50" * 8
    itself = record(history, here, now, m=16, p50=1e3)
    record(history, here, now, m=512, p50=6e3)
    record(history, here, now, m=32, p50=4e3)
    record(history, sibling, now, m=16, p50=5e3)
    record(history, here, before, m=16, p50=2e3)
    record(history, stranger, now, m=16, p50=9e3)
    record(history, here, now, m=16, n=128, p50=9e3)
    source = FromHistory(history, here, now)
    found = list(source(problem(16), LATENCY, but=itself))
    assert [2e3, 4e3, 5e3, 6e3] == [earlier.study.values[0] for earlier in found]
    assert [0.5, 1.0, 2.0, 5.0] == [earlier.distance for earlier in found]
    assert [1e3, 2e3, 4e3, 5e3] == [study.values[0] for study in nearest([source], problem(16))]


def test_gpus_of_another_family_are_farther_and_another_vendor_farthest(history) -> None:
    here, stack = gpu(), "51" * 8
    hopper = AnyDevice("cuda", 0, "NVIDIA H100 80GB HBM3", "nvidia-h100-sxm", {}, "c1" * 8)
    instinct = AnyDevice("rocm", 0, "AMD Instinct MI300X", "amd-mi300x", {}, "c2" * 8)
    record(history, gpu(digest="c3" * 8), stack, m=16, p50=2e3)
    record(history, hopper, stack, m=16, p50=3e3)
    record(history, instinct, stack, m=16, p50=4e3)
    record(history, AnyDevice(), stack, m=16, p50=9e3)
    found = [(e.distance, e.study.values[0]) for e in FromHistory(history, here, stack)(problem(16), LATENCY)]
    assert [(2.0, 2e3), (3.0, 3e3), (4.0, 4e3)] == found


def test_failures_count_as_failures_and_what_was_stopped_not_at_all() -> None:
    prior = prior_of([trial(0), trial(1, Verdict.PREEMPTED), trial(2, Verdict.CRASHED)])
    assert [trial(0).configuration, trial(2).configuration] == prior.configurations
    assert [1e6, math.nan] == pytest.approx(prior.values, rel=0.01, nan_ok=True)


def test_trials_count_by_the_objective_of_the_new_study() -> None:
    spiky = trial(0, measurement=Measurement((100,) * 97 + (900,) * 3, "converged", "monotonic"))
    assert [100.0] == prior_of([spiky]).values
    assert [900.0] == prior_of([spiky], TAIL).values


def test_a_study_of_hardly_a_success_is_left_out(history) -> None:
    here, stack = AnyDevice(), "51" * 8
    study = record(history, here, stack, m=16, p50=1e3)
    with history.writing() as connection:
        connection.execute("UPDATE trial SET verdict = 'noisy', number = number + 10 WHERE number = 0")
        connection.execute("UPDATE trial SET verdict = 'crashed' WHERE number = 1")
    assert history.study(study).trials == 3
    assert not list(FromHistory(history, here, stack)(problem(16), LATENCY))
