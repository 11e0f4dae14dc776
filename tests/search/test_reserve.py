"""The time that a study keeps for its end, and what it has tried until then."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.search.budget import Budget, Progress
from autotune.search.objective import LATENCY, objective_named
from autotune.search.reserve import GRACE_SECONDS, MAKING_TIMES, Reserve
from autotune.search.tried import Tried
from autotune.store.records import Measurement, Trial, Verdict


def reserve_of(least: float = 1.0, **budget: Any) -> tuple[Reserve, Any, Budget]:
    """A reserve, the worker whose deadline it sets, and the budget."""
    worker = SimpleNamespace(deadline=None, start_seconds=3.0)
    spent = Budget(**{"seconds": 100.0, "final_share": 0.2, **budget})
    return Reserve(spent, worker, lambda: least), worker, spent


def measured(milliseconds: float) -> Measurement:
    return Measurement((round(1e6 * milliseconds),) * 20, "converged", "monotonic")


def tried_of(trials: list[Trial], baseline: float, objective=LATENCY) -> Tried:
    history = SimpleNamespace(trials=lambda _: trials, add_trial=lambda _, trial: trial.number + 100)
    return Tried(history, 1, objective, measured(baseline))


def trial_of(number: int, milliseconds: float | None, error: float | None = 0.0, verdict=Verdict.OK) -> Trial:
    measurement = None if milliseconds is None else measured(milliseconds)
    return Trial(number, {"block": number}, verdict, "screen", error=error, measurement=measurement)


def test_without_a_deadline_the_worker_has_none() -> None:
    reserve, worker, _ = reserve_of()
    with reserve.making(time.monotonic()):
        assert worker.deadline is None
    reserve.made(4.0)
    with reserve.trial():
        assert worker.deadline is None
    with reserve.final():
        assert worker.deadline is None
    assert not reserve.must_decide_if_rebuilt


def test_a_trial_ends_in_time_for_the_final_and_for_building_anew() -> None:
    end = time.monotonic() + 100.0
    reserve, worker, _ = reserve_of(deadline=end)
    reserve.made(4.0)
    with reserve.trial():
        assert worker.deadline == pytest.approx(end - 20.0 - 3.0 - 4.0)
    assert worker.deadline == end
    with pytest.raises(RuntimeError), reserve.trial():
        raise RuntimeError
    assert worker.deadline == end


def test_where_building_anew_would_take_the_final_the_trial_may_have_that_time() -> None:
    end = time.monotonic() + 40.0
    reserve, worker, _ = reserve_of(deadline=end)
    reserve.made(18.0)
    assert reserve.must_decide_if_rebuilt
    with reserve.trial():
        assert worker.deadline == pytest.approx(end - reserve.final_seconds)


@pytest.mark.parametrize(("least", "final"), [(1.0, 20.0), (30.0, 30.0), (80.0, 50.0)])
def test_a_final_takes_its_share_or_what_proves_anything_but_half_at_most(least, final) -> None:
    reserve, _, _ = reserve_of(least, deadline=time.monotonic() + 100.0)
    reserve.made(0.0)
    assert reserve.final_seconds == pytest.approx(final, abs=0.1)


def test_making_and_the_final_have_deadlines_of_their_own() -> None:
    end = time.monotonic() + 1000.0
    reserve, worker, budget = reserve_of(deadline=end)
    started = time.monotonic()
    with reserve.making(started):
        assert worker.deadline == started + MAKING_TIMES * budget.seconds
    assert worker.deadline == end
    with reserve.final():
        assert worker.deadline == end + GRACE_SECONDS
    assert worker.deadline is None


def test_the_best_is_of_what_is_accurate_enough_and_went_well() -> None:
    trials = [
        trial_of(0, 3.0, 0.01),
        trial_of(1, 1.0, 0.5),
        trial_of(2, 0.5, verdict=Verdict.NOISY),
        trial_of(3, None, None, Verdict.CRASHED),
    ]
    tried = tried_of(trials, baseline=4.0)
    assert tried.best(0.1, LATENCY.latency_ns) == 3e6
    assert tried.best(1.0, LATENCY.latency_ns) == 1e6
    assert tried.best(0.0, LATENCY.latency_ns) == 4e6
    assert tried.limit_note() == ""


def test_what_is_recorded_has_the_number_that_the_history_gives_it() -> None:
    tried = tried_of([trial_of(0, 3.0)], baseline=4.0)
    assert tried.record(trial_of(1, 2.0)).number == 101
    assert [0, 101] == [trial.number for trial in tried]
    assert len(tried) == 2


def test_a_limit_that_nothing_met_is_told_with_how_close_it_came() -> None:
    objective = objective_named("throughput:2ms", "linear")
    tried = tried_of([trial_of(0, 3.0)], baseline=4.0, objective=objective)
    assert "nothing met the limit of 2 ms: the least 99th percentile was 3 ms" == tried.limit_note()
    tried.record(trial_of(1, 1.0))
    assert tried.limit_note() == ""
    assert tried.best(math.inf, objective.latency_ns) == objective.latency_ns(measured(1.0))


def test_progress_counts_what_an_earlier_run_tried_and_keeps_the_best() -> None:
    progress = Progress("linear(m=1)", 60.0, 10)
    progress.begin(4e6, [trial_of(0, 3.0), trial_of(1, None, None, Verdict.HUNG)])
    assert (2, 1) == (progress.tried, progress.verdicts[Verdict.HUNG])
    for milliseconds in (2.0, 3.0):
        progress.ended(trial_of(2, milliseconds), LATENCY)
    assert progress.tried == 4
    assert progress.speedup == 2.0
