"""A plan: the most valuable first, within its time, none of its problems starving the others."""

from __future__ import annotations

import time
from typing import Any

import pytest

from autotune.errors import TrialError, UsageError
from autotune.measure.comparison import Rules
from autotune.search.study import Budget
from autotune.search.tuning import LEAST_STUDY_SECONDS, Goal, Tuner
from autotune.space.declared import limited
from autotune.store import open_history
from autotune.store.records import Verdict
from autotune.workloads.registry import declaration
from tests.search.simulated import DECLARATION, SimulatedWorker, latency_ns, optimum_ns
from tests.store.factories import AnyDevice


def linear(n: int):
    return declaration("linear").problem({"m": 1, "n": n, "k": 1024})


SMALL = [linear(n) for n in (256, 512, 1024)]
HUGE = declaration("fused_moe").problem(
    {"tokens": 1, "experts": 384, "top_k": 8, "hidden": 7168, "intermediate": 96}
)


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Recorded(Tuner):
    """A tuner whose studies take the time that they are told to, and decide nothing."""

    def __init__(self, clock: Clock, spends: Any) -> None:
        from autotune.search.preparation import Preparations

        self._preparations = Preparations()
        self._clock = clock
        self._spends = spends
        self.sharing = None
        self.studies: list[tuple[Any, Budget]] = []

    def decided(self, *_: Any) -> None:
        return None

    def tune(self, problem: Any, _goal: Goal, budget: Budget, *_: Any) -> Any:
        self.studies.append((problem, budget))
        self._clock.now += self._spends(budget)
        return None


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def run(tuner: Recorded, problems: list[Any], total: float) -> list[Any]:
    return [outcome.problem for outcome in tuner.tune_all(problems, Goal(), Budget(60.0), total)]


def test_a_problem_whose_making_takes_the_time_of_all_comes_last(clock) -> None:
    tuner = Recorded(clock, lambda _: 10.0)
    assert [*SMALL, HUGE] == run(tuner, [HUGE, *SMALL], 240.0)
    tuner = Recorded(clock, lambda budget: budget.seconds)
    assert [HUGE, *SMALL] == run(tuner, [HUGE, *SMALL], 4000.0)


def test_what_there_is_no_time_to_make_is_left_out_unless_it_is_all_there_is(clock) -> None:
    tuner = Recorded(clock, lambda budget: budget.seconds)
    assert SMALL == run(tuner, [HUGE, *SMALL], 60.0)
    tuner = Recorded(clock, lambda budget: budget.seconds)
    assert [HUGE] == run(tuner, [HUGE], 60.0)


def test_every_study_is_given_the_end_of_the_plan_and_none_starts_too_late(clock) -> None:
    tuner = Recorded(clock, lambda _: 21.0)
    run(tuner, SMALL * 4, 60.0)
    assert {1060.0} == {budget.deadline for _, budget in tuner.studies}
    # The third began 18 s before the end; a fourth would have had less than the least.
    assert 3 == len(tuner.studies)
    assert all(budget.seconds >= LEAST_STUDY_SECONDS for _, budget in tuner.studies)


def test_a_study_that_ran_out_of_time_is_told_apart_from_a_failed_baseline(clock) -> None:
    def fails(budget: Budget) -> float:
        verdict = Verdict.PREEMPTED if len(tuner.studies) == 1 else Verdict.WRONG
        raise TrialError(verdict, "so it was")

    tuner = Recorded(clock, fails)
    failures = [outcome.failure for outcome in tuner.tune_all(SMALL[:2], Goal(), Budget(60.0), 60.0)]
    assert ["undecided: so it was", "the baseline failed: wrong: so it was"] == failures


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("autotune.search.tuning.declaration", lambda _: DECLARATION)
    with open_history(str(tmp_path / "state")) as history:
        yield history


def tuned(
    history: Any,
    worker: Any,
    trials: int | None = None,
    objective: str = "latency",
    rounds: int = 40,
    device: Any = None,
) -> Any:
    """Tune the simulated problem; returns the study and its winner's configuration."""
    tuner = Tuner(history, worker, device or AnyDevice(), Rules(round_cap=rounds))
    problem = DECLARATION.problem({"m": 16, "n": 64})
    winner = tuner.tune(problem, Goal(objective), Budget(1e6, trials, 0.1))
    return history.studies()[0], winner.choices[0].configuration


def test_a_search_ends_once_more_is_improbable_and_says_so(history) -> None:
    study, best = tuned(history, SimulatedWorker())
    assert "improbable" == study.end_reason
    assert study.trials < 150
    assert latency_ns(best, 16) <= 1.05 * optimum_ns(16)


def test_a_batch_is_compiled_ahead_and_its_time_is_the_trials(history) -> None:
    worker = SimulatedWorker(compilers=4, compile_seconds=2.0)
    study, _ = tuned(history, worker, trials=10)
    assert [4, 4, 2] == worker.compiled
    assert "trials" == study.end_reason
    assert {2.0} == {trial.compile_seconds for trial in history.trials(study.id)} - {0.0}


def test_a_compiler_that_hangs_ahead_costs_no_trial(history) -> None:
    worker = SimulatedWorker(compilers=4, compile_seconds=None)
    study, _ = tuned(history, worker, trials=10)
    assert [4] == worker.compiled
    assert 10 == study.trials
    assert Verdict.HUNG not in {trial.verdict for trial in history.trials(study.id)}


def test_what_cannot_run_on_a_gpu_is_never_built_and_costs_no_trial(history) -> None:
    """It is recorded as infeasible with its reason, and the search learns of it."""

    def infeasible(configuration: dict[str, Any]) -> str:
        return "needs too much" if configuration.get("columns", 0) > 32 else ""

    worker = SimulatedWorker(compilers=4, infeasible=infeasible)
    gpu = AnyDevice(facts={**AnyDevice().facts, "kind": "cuda", "compute_capability": 90})
    study, best = tuned(history, worker, trials=12, device=gpu)
    trials = history.trials(study.id)
    ruled_out = [trial for trial in trials if trial.verdict is Verdict.INFEASIBLE]
    assert {("feasibility", "needs too much")} == {(trial.stage, trial.reason) for trial in ruled_out}
    assert 12 == len(trials) - len(ruled_out)
    assert not [each for each in worker.built if infeasible(each)]
    assert "" == infeasible(best)
    assert {90} == {target["compute_capability"] for target in worker.targets}


def test_on_a_cpu_no_kernels_are_compiled_for_a_gpu(history) -> None:
    worker = SimulatedWorker(compilers=4)
    tuned(history, worker, trials=4)
    assert {None} == set(worker.targets)


def test_the_tail_is_an_objective_of_its_own(history) -> None:
    """Packed configurations have the better median, and a 99th percentile three times as high."""
    worker = SimulatedWorker(spiky=lambda configuration: configuration.get("packed", False))
    _, fastest = tuned(history, worker, trials=30)
    _, steadiest = tuned(history, worker, trials=30, objective="tail", rounds=1000)
    assert fastest["packed"]
    assert steadiest["implementation"] == "tiled"
    assert not steadiest["packed"]
    current = {decision.winner.objective: decision.winner for decision in history.decisions(state="current")}
    assert {"latency", "tail"} == set(current)
    best = current["tail"].choices[0]
    assert best.proof.latency_ns < 3 * optimum_ns(16), "the best that a packed one can do"
    assert best.proof.rounds == 1000
    assert best.proof.against_baseline.low > 1.01


def test_too_few_rounds_prove_nothing_of_a_tail(history) -> None:
    _, best = tuned(history, SimulatedWorker(), trials=10, objective="tail", rounds=400)
    assert {"implementation": "plain"} == best


SPIKY = {"spiky": lambda configuration: configuration.get("packed", False)}


def test_throughput_goes_by_the_mean(history) -> None:
    """Two in sixty calls that take three times as long weigh less in the mean than packing saves."""
    _, best = tuned(history, SimulatedWorker(**SPIKY), trials=30, objective="throughput", rounds=200)
    assert best["packed"]
    (decision,) = history.decisions(state="current")
    proof = decision.winner.choices[0].proof
    assert proof.latency_ns == pytest.approx((1 + 2 / 30) * latency_ns(best, 16), rel=0.03)
    assert proof.against_baseline.low > 1.01


def test_under_a_limit_the_winner_keeps_it_with_its_99th_percentile(history) -> None:
    limit_ms = 2.5 * optimum_ns(16) / 1e6
    objective = limited("throughput", limit_ms)
    study, best = tuned(history, SimulatedWorker(**SPIKY), trials=30, objective=objective, rounds=1000)
    assert best["implementation"] == "tiled"
    assert not best["packed"], "a packed one takes three times as long now and then"
    (decision,) = history.decisions(state="current")
    assert decision.winner.objective == objective
    assert decision.winner.choices[0].measurement.p99_ns <= 1e6 * limit_ms
    assert "trials" == study.end_reason


def test_too_few_rounds_prove_nothing_under_a_limit(history) -> None:
    objective = limited("throughput", 2.5 * optimum_ns(16) / 1e6)
    _, best = tuned(history, SimulatedWorker(**SPIKY), trials=10, objective=objective, rounds=400)
    assert {"implementation": "plain"} == best


def test_a_limit_that_nothing_meets_is_told_with_what_came_closest(history) -> None:
    study, best = tuned(history, SimulatedWorker(), trials=10, objective="throughput:0.01ms", rounds=600)
    assert {"implementation": "plain"} == best
    assert study.end_reason.startswith(
        "trials; nothing met the limit of 0.01 ms: the least 99th percentile was"
    )


def test_energy_goes_by_joules(history, monkeypatch) -> None:
    """Packed configurations are faster, and draw ten times the power."""
    monkeypatch.setattr("autotune.search.tuning.meter_for", lambda _: None)
    worker = SimulatedWorker(watts=lambda configuration: 1000.0 if configuration.get("packed") else 100.0)
    _, fastest = tuned(history, worker, trials=30)
    _, thriftiest = tuned(history, worker, trials=30, objective="energy", rounds=100)
    assert fastest["packed"]
    assert thriftiest["implementation"] == "tiled"
    assert not thriftiest["packed"]
    current = {decision.winner.objective: decision.winner for decision in history.decisions(state="current")}
    proof = current["energy"].choices[0].proof
    assert proof.joules == pytest.approx(100e-9 * latency_ns(thriftiest, 16), rel=0.02)
    assert proof.latency_ns == pytest.approx(latency_ns(thriftiest, 16), rel=0.02)
    assert proof.baseline_joules == pytest.approx(100e-9 * 9e5, rel=0.02)
    assert proof.against_baseline.ratio == pytest.approx(proof.baseline_joules / proof.joules, rel=0.01)


def test_energy_that_cannot_be_measured_is_refused_before_any_work(history, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("autotune.measure.energy.POWERCAP", tmp_path)
    worker = SimulatedWorker()
    with pytest.raises(UsageError, match=r"energy cannot be measured here: .* has no intel-rapl"):
        tuned(history, worker, objective="energy")
    assert not history.studies()
