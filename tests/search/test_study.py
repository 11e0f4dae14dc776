"""A study with a real worker and a real history: right verdicts, proven winners, resumable."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from autotune.errors import TrialError
from autotune.measure.comparison import Rules
from autotune.search.final import Contender, affordable, pareto_front, select_finalists
from autotune.search.study import Budget, Study
from autotune.space import Dimension, Implementation, SearchSpace, SpaceDeclaration
from autotune.store import open_history
from autotune.store.records import (
    Choice,
    Interval,
    Measurement,
    Proof,
    StudyKey,
    Trial,
    Verdict,
)
from autotune.worker.worker import Limits, Worker

MODULE = str(Path(__file__).parents[1] / "worker" / "misbehaving.py")
DEVICE = {"kind": "cpu", "cores": 2}
DIMENSIONS = {"m": Dimension("m", nearest=True), "n": Dimension("n")}

HARM = {
    "segfaults": Verdict.CRASHED,
    "loops": Verdict.HUNG,
    "eats_private_memory": Verdict.OUT_OF_MEMORY,
    "returns_nan": Verdict.WRONG,
    "leaves_output_unwritten": Verdict.WRONG,
    "returns_stale_result": Verdict.WRONG,
    "does_not_build": Verdict.COMPILE_ERROR,
    "packed": Verdict.OK,
}


@pytest.fixture(scope="module")
def worker():
    """One for all: whatever a study does to it, it must work for the next."""
    with Worker(modules=[MODULE], memory_bytes=1 << 29, limits=Limits(check=4.0, measure=4.0)) as worker:
        yield worker


@pytest.fixture(autouse=True)
def a_busy_machine_is_no_reason(monkeypatch):
    """What is tested here must hold beside other processes too: no screening counts as too noisy."""
    monkeypatch.setattr("autotune.search.stages.NOISY", 1e9)


@pytest.fixture
def history(tmp_path):
    with open_history(str(tmp_path / "state")) as history:
        yield history


def space_of(baseline: dict[str, Any], **implementations: Implementation) -> SearchSpace:
    declaration = SpaceDeclaration("misbehaving", DIMENSIONS, implementations, baseline)
    return SearchSpace.build(declaration, declaration.problem({"m": 8, "n": 64}), DEVICE)


def study_of(space: SearchSpace, worker: Worker, history: Any, **options: Any) -> Study:
    from tests.store.factories import AnyDevice

    device = AnyDevice()
    history.record_device(device)
    history.record_stack("51" * 8, {"torch": "2.13"})
    key = StudyKey("misbehaving", space.problem.key, device.digest, "51" * 8, "latency", space.digest)
    budget = options.pop("budget", Budget(seconds=600.0, screen_seconds=0.05, final_share=0.003))
    return Study(key, space, worker, history, budget, **options)


def test_each_harm_costs_one_trial_and_gets_its_verdict(worker, history) -> None:
    harm = {name: Implementation() for name in HARM}
    space = space_of({"implementation": "right"}, right=Implementation(), **harm)
    study = study_of(space, worker, history)
    winner = study.run()
    trials = history.trials(study.id)
    assert HARM == {trial.configuration["implementation"]: trial.verdict for trial in trials}
    assert all(trial.reason for trial in trials if trial.verdict is not Verdict.OK)
    assert winner.choices[0].configuration["implementation"] in ("right", "packed")
    assert history.study(study.id).end_reason == "exhausted"
    # Quarantined: the next search of the same problem does not try them again.
    quarantined = history.quarantined(study.key.device, study.key.stack, "misbehaving", space.problem.key)
    assert {name for name, verdict in HARM.items() if verdict not in (Verdict.OK, Verdict.COMPILE_ERROR)} == {
        configuration["implementation"] for configuration in quarantined
    }


SLOWED = Implementation(parameters={"seconds": [0.04, 0.0, 0.02]})


def test_the_faster_configuration_is_promoted_with_its_proof(worker, history) -> None:
    space = space_of({"implementation": "slowed", "seconds": 0.04}, slowed=SLOWED)
    budget = Budget(seconds=60.0, screen_seconds=0.3, final_share=0.2)
    study = study_of(space, worker, history, budget=budget, limit_ns=lambda *_: 10.0)
    best = study.run().choices[0]
    assert best.configuration == {"implementation": "slowed", "seconds": 0.0}
    assert best.proof.against_baseline.low > 1.01
    assert best.measurement is not None
    assert best.latency_ns == best.measurement.p50_ns
    assert best.limit_share == pytest.approx(10.0 / best.latency_ns)
    held = history.decisions(state="current")
    assert [best.configuration] == [decision.winner.choices[0].configuration for decision in held]


def test_a_hopeless_configuration_costs_two_calls_and_is_no_finalist(worker, history) -> None:
    slow, compiles = Implementation(parameters={"seconds": [0.6]}), Implementation()
    space = space_of({"implementation": "right"}, right=Implementation(), slowed=slow, compiles_late=compiles)
    study = study_of(
        space, worker, history, budget=Budget(seconds=30.0, screen_seconds=0.05, final_share=0.05)
    )
    winner = study.run()
    found = {one.configuration["implementation"]: one for one in history.trials(study.id)}
    hopeless = found["slowed"]
    assert (Verdict.OK, None) == (hopeless.verdict, hopeless.error)
    assert "a call took 0.6" in hopeless.reason
    assert hopeless.measurement is not None
    assert len(hopeless.measurement.samples_ns) == 1
    # What compiles in its first call is given a second one.
    late = found["compiles_late"]
    assert late.error is not None
    assert late.compile_seconds > 0.5
    assert winner.choices[0].configuration["implementation"] != "slowed"


def test_a_study_ends_by_its_deadline_though_a_trial_would_not(worker, history) -> None:
    endless = Implementation(parameters={"seconds": [600.0]})
    space = space_of(
        {"implementation": "right"}, right=Implementation(), packed=Implementation(), slowed=endless
    )
    proposed = [{"implementation": "packed"}, {"implementation": "slowed", "seconds": 600.0}]
    worker.prepare(space.problem, seed=0)
    budget = Budget(600.0, None, 0.05, 0.003, deadline=time.monotonic() + 15.0)
    study = study_of(space, worker, history, budget=budget, hints=proposed)
    study.run()
    verdicts = [one.verdict for one in history.trials(study.id)]
    assert [Verdict.OK, Verdict.PREEMPTED] == verdicts
    assert worker.deadline is None
    assert history.study(study.id).end_reason == "budget"
    assert history.decisions(state="current")


def test_a_study_without_time_for_a_trial_decides_nothing(worker, history) -> None:
    endless = Implementation(parameters={"seconds": [600.0]})
    space = space_of({"implementation": "right"}, right=Implementation(), slowed=endless)
    worker.prepare(space.problem, seed=0)
    budget = Budget(600.0, None, 0.05, 0.003, deadline=time.monotonic() + 8.0)
    study = study_of(space, worker, history, budget=budget)
    with pytest.raises(TrialError, match="no time was left"):
        study.run()
    assert "undecided" in history.study(study.id).end_reason
    assert not history.decisions()


def test_a_study_resumes_with_what_was_tried_and_keeps_its_incumbent(worker, history) -> None:
    space = space_of({"implementation": "slowed", "seconds": 0.04}, slowed=SLOWED)
    rules = Rules(margin=0.05)
    budget = Budget(seconds=30.0, trials=2, screen_seconds=0.2, final_share=0.1)
    first = study_of(space, worker, history, budget=budget, rules=rules)
    before = first.run()
    second = study_of(space, worker, history, budget=budget, rules=rules)
    after = second.run()
    assert first.id == second.id
    assert [0, 1] == [trial.number for trial in history.trials(first.id)]
    assert before.choices[0].configuration == after.choices[0].configuration
    states = [decision.state for decision in history.decisions(study=first.id)]
    assert ["current", "superseded"] == states


def test_a_baseline_that_fails_ends_the_study_with_the_reason(worker, history) -> None:
    space = space_of({"implementation": "returns_nan"}, returns_nan=Implementation(), right=Implementation())
    study = study_of(space, worker, history)
    with pytest.raises(TrialError, match="wrong"):
        study.run()
    assert "baseline wrong" in history.study(study.id).end_reason
    assert not history.decisions()


def test_an_interruption_keeps_every_finished_trial(worker, history) -> None:
    space = space_of({"implementation": "slowed", "seconds": 0.04}, slowed=SLOWED)

    def interrupt(progress) -> None:
        if progress.tried == 1:
            raise KeyboardInterrupt

    study = study_of(space, worker, history, observe=interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.run()
    assert history.study(study.id).end_reason == "interrupted"
    assert [Verdict.OK] == [trial.verdict for trial in history.trials(study.id)]


def test_a_median_that_is_not_known_within_a_factor_of_two_is_noisy(monkeypatch) -> None:
    from autotune.search.stages import _noise

    monkeypatch.setattr("autotune.search.stages.NOISY", 2.0)
    wild = Measurement(tuple([100, 1000] * 4), "time_cap", "monotonic")
    assert "8 samples" in _noise(wild)
    assert _noise(Measurement(wild.samples_ns, "clearly_slower", "monotonic")) == ""
    assert _noise(Measurement(tuple([100, 120] * 4), "time_cap", "monotonic")) == ""


def trial(number: int, p50: int, error: float, memory: int = 0, verdict: Verdict = Verdict.OK) -> Trial:
    measurement = Measurement((p50,), "converged", "monotonic")
    return Trial(number, {"n": number}, verdict, "screening", "", error, memory, measurement=measurement)


def test_finalists_are_the_fastest_accurate_and_the_front_of_the_rest() -> None:
    trials = [
        trial(0, 50, 1e-3),
        trial(1, 40, 1e-3),
        trial(2, 10, 2e-2),
        trial(3, 20, 1e-2),
        trial(4, 30, 3e-2),
        trial(5, 1, 1e-3, verdict=Verdict.NOISY),
        *(trial(number, 37 + number, 1e-3) for number in range(6, 10)),
    ]
    chosen = select_finalists(trials, accurate=1.01e-3, baseline=120.0, excluded=[{"n": 0}])
    assert [1, 6, 7, 8, 2, 3] == [one.number for one in chosen]


def test_no_finalist_is_clearly_slower_than_what_it_must_beat_or_unchecked() -> None:
    trials = [
        trial(0, 100, 1e-3),
        trial(1, 114, 1e-3),
        trial(2, 116, 1e-3),
        trial(3, 220, 1e-2, memory=-(8 << 20)),
        trial(4, 240, 1e-2, memory=-(16 << 20)),
        replace(trial(5, 90, 1e-3), error=None),
    ]
    chosen = select_finalists(trials, accurate=1.01e-3, baseline=200.0)
    assert [0, 1, 3] == [one.number for one in chosen]
    assert [] == select_finalists(trials[:3], accurate=1.01e-3, baseline=80.0)


def test_the_final_takes_no_more_finalists_than_it_can_prove_anything_of() -> None:
    finalists = [Contender.of(trial(number, 10**9, 1e-3)) for number in range(3)]
    assert [1, 1, 2, 3] == [len(affordable(finalists, 10**9, seconds)) for seconds in (1, 33, 50, 66)]
    assert not affordable([], 10**9, 1)


def choice(latency: float, error: float, memory: int) -> Choice:
    interval = Interval(30 / latency, 0.0, 100.0)
    return Choice(0, {}, latency, error, memory << 20, Proof(10, 0.99, 0.01, latency, 30.0, interval))


def test_the_front_drops_what_is_covered_and_numbers_the_rest() -> None:
    front = pareto_front(
        [choice(10, 1e-3, 100), choice(12, 1e-3, 100), choice(5, 1e-2, 100), choice(20, 1e-3, 50)]
    )
    assert [(0, 10), (1, 5), (2, 20)] == [(one.rank, one.latency_ns) for one in front]


@pytest.mark.slow
def test_a_default_study_keeps_the_lossy_choices_that_another_one_proved(worker, history) -> None:
    declared = {"right": Implementation(), "returns_half": Implementation(lossy=True)}
    declaration = SpaceDeclaration("misbehaving", DIMENSIONS, declared, {"implementation": "right"})
    problem = declaration.problem({"m": 8, "n": 64})
    loose = SearchSpace.build(declaration, problem, DEVICE, max_error=0.1)
    strict = SearchSpace.build(declaration, problem, DEVICE)
    assert (2, 1) == (len(loose), len(strict))
    study = study_of(strict, worker, history)
    study.run()
    lossy = choice(1.0, 0.05, 0)
    current = history.decisions(state="current")[0].winner
    history.promote(study.id, replace(current, choices=(*current.choices, replace(lossy, rank=1))))
    again = study_of(strict, worker, history).run()
    assert lossy.error in [one.error for one in again.choices]
