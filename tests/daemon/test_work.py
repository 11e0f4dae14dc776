"""What is tuned next, by value."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

import msgspec

from autotune.config import load_settings
from autotune.daemon.request_book import DAY, Entry
from autotune.daemon.work import IMPORTED_TRIALS, VERIFY_SECONDS, VERIFY_TRIALS, Outlook
from autotune.space.problem import Problem
from autotune.store.bundles import Unproven
from autotune.store.entries import Standing

NOW = 1e9
STACK, OLD = "5" * 16, "6" * 16
LINEAR = MappingProxyType({"dtype": "bfloat16", "weight_format": "native"})


def linear(m: int, n: int = 64) -> Problem:
    return Problem("linear", {"m": m, "n": n, "k": 64, **LINEAR}, ("m",))


def request(problem: Problem, weight: float = 1.0, **fields) -> Entry:
    known = {"weight": weight, "last_at": NOW, **fields}
    return Entry("cpu", problem.workload, problem.dimensions, problem.key, "latency", None, **known)


def standing(problem: Problem, stack: str = STACK, age_days: float = 0.0, **fields) -> Standing:
    known = {"is_baseline": False, "speedup": 2.0, **fields}
    return Standing(
        problem.workload,
        problem.key,
        problem.dimensions,
        "latency",
        stack,
        NOW - age_days * DAY,
        known["is_baseline"],
        known["speedup"],
        known.get("origin"),
    )


def chosen(requests=(), planned=(), winners=(), stack: str | None = STACK, workloads=None, imported=()):
    settings = load_settings()
    settings = dataclasses.replace(
        settings, daemon=msgspec.structs.replace(settings.daemon, recheck_days=7.0)
    )
    outlook = Outlook(frozenset({"cpu"}), stack, winners, settings, NOW, imported)
    items = outlook.items(requests, planned, workloads)
    return [(item.work.kind, item.work.dimensions.get("m")) for item in items], items


def test_operators_come_first_then_requests_models_drifted_and_old_ones() -> None:
    kinds, _ = chosen(
        requests=[request(linear(2)), request(linear(1), operator=True)],
        planned=[linear(3)],
        winners=[standing(linear(4), OLD), standing(linear(5), age_days=8), standing(linear(6), age_days=6)],
    )
    assert [("asked", 1), ("request", 2), ("model", 3), ("drifted", 4), ("recheck", 5)] == kinds


def test_what_the_fleet_proved_is_verified_before_models_are_searched() -> None:
    proven = standing(linear(3), origin="f" * 64)
    kinds, items = chosen(
        requests=[request(linear(2))],
        planned=[linear(1), linear(3)],
        winners=[proven, standing(linear(4), OLD)],
    )
    assert [("request", 2), ("fleet", 3), ("model", 1), ("drifted", 4)] == kinds
    work = items[1].work
    assert (VERIFY_SECONDS, VERIFY_TRIALS, True) == (work.seconds, work.trials, work.again)


def test_a_request_for_what_the_fleet_proved_is_soon_verified() -> None:
    kinds, items = chosen([request(linear(1))], winners=[standing(linear(1), origin="f" * 64)])
    assert [("request", 1)] == kinds
    assert VERIFY_TRIALS == items[0].work.trials


def test_requests_go_by_how_often_times_how_slow() -> None:
    often, slow = request(linear(1, n=64), weight=9.0), request(linear(2, n=6400), weight=1.0)
    assert [("request", 2), ("request", 1)] == chosen(requests=[often, slow])[0]
    often.weight = 900.0
    assert [("request", 1), ("request", 2)] == chosen(requests=[often, slow])[0]


def test_a_workload_that_gains_much_goes_before_one_that_gains_nothing() -> None:
    norm = Problem("rms_norm", {"rows": 64, "hidden": 64, "dtype": "bfloat16", "residual": "none"})
    asked = [
        request(linear(1)),
        Entry("cpu", "rms_norm", norm.dimensions, norm.key, "latency", None, weight=2.0, last_at=NOW),
    ]
    vain = [standing(linear(9), is_baseline=True, speedup=1.0)]
    assert "rms_norm" == chosen(asked, winners=vain)[1][0].work.workload


def test_what_is_decided_under_this_stack_is_not_planned_again() -> None:
    assert [] == chosen(planned=[linear(1)], winners=[standing(linear(1))])[0]
    assert [("model", 1)] == chosen(planned=[linear(1)], winners=[standing(linear(1))], stack=None)[0]


def test_an_old_winner_is_verified_and_not_searched_for() -> None:
    _, items = chosen(requests=[request(linear(1)), request(linear(2))], winners=[standing(linear(1), OLD)])
    short = {item.work.dimensions["m"]: (item.work.seconds, item.work.trials) for item in items}
    assert (VERIFY_SECONDS, VERIFY_TRIALS) == short[1]
    assert None is short[2][1]


def test_each_problem_is_there_once() -> None:
    kinds, _ = chosen([request(linear(1))], [linear(1)], [standing(linear(1), OLD)])
    assert [("request", 1)] == kinds


def test_what_waits_after_a_failure_or_is_of_an_unknown_workload_is_left_out() -> None:
    waiting = request(linear(1), retry_at=NOW + 1)
    assert [] == chosen([waiting])[0]
    assert [] == chosen([request(linear(1))], workloads=frozenset({"rms_norm"}))[0]


def test_a_decision_that_is_verified_again_is_decided_anew() -> None:
    _, items = chosen(winners=[standing(linear(1), age_days=8)])
    assert [True] == [item.work.again for item in items]
    assert [] == chosen(winners=[standing(linear(1), age_days=8, is_baseline=True)])[0]


def test_the_daemon_tunes_no_servers() -> None:
    """Neither what was looked up, nor what was decided under another version of the server, or long ago."""
    server = Problem("server", {"spec": "vllm", "digest": "abc"})
    winners = [standing(server, OLD), standing(server, age_days=30)]
    assert [] == chosen(requests=[request(server)], winners=winners)[0]


def test_what_was_imported_is_verified_until_it_was_decided_here() -> None:
    claims = [
        Unproven("linear", linear(m).key, linear(m).dimensions, "latency", gain, NOW)
        for m, gain in ((1, 1.5), (2, 3.0), (3, 2.0), (4, 2.0))
    ]
    kinds, items = chosen(
        requests=[request(linear(3))],
        planned=[linear(9)],
        winners=[standing(linear(1), age_days=1), standing(linear(4), age_days=-1)],
        imported=claims,
    )
    assert [("request", 3), ("imported", 2), ("imported", 1), ("model", 9)] == kinds
    work = items[1].work
    assert (VERIFY_SECONDS, IMPORTED_TRIALS, True) == (work.seconds, work.trials, work.again)
    assert [] == chosen(imported=claims, workloads=frozenset({"rms_norm"}))[0]
