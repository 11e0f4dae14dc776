"""Samples hold the call's time alone, from the same state each time."""

from __future__ import annotations

import gc
import time

import pytest

from autotune.errors import UsageError
from autotune.measure.latency import measure_latency
from autotune.measure.statistics import StoppingRule
from autotune.measure.timers import (
    CpuTimer,
    cache_eviction,
    cpu_clocks,
    garbage_collection_paused,
    timer_for,
)


def test_the_eviction_precedes_every_call_and_is_not_timed():
    happened = []

    def evict():
        happened.append("evict")
        time.sleep(0.05)

    timer = CpuTimer(evict)
    samples = [timer.sample(lambda: happened.append("call")) for _ in range(3)]
    assert happened == ["evict", "call"] * 3
    # The eviction alone takes 50 ms; the least of three calls of nothing is nowhere near.
    assert min(samples) < 50e6


def test_a_hot_timer_evicts_nothing():
    assert timer_for("cpu", cache="hot").cache == "hot"
    assert timer_for("cpu", cache="cold", l3_bytes=1 << 20).cache == "cold"


def test_an_unknown_device_or_cache_mode_is_refused():
    with pytest.raises(UsageError, match="no timer for device 'tpu'"):
        timer_for("tpu")
    with pytest.raises(UsageError, match="no cache mode 'warm'"):
        timer_for("cpu", cache="warm")


def test_an_eviction_reads_all_of_a_buffer_that_was_really_written():
    # As many ones as floats fit: every page was touched, none is the kernel's shared page of zeros.
    assert float(cache_eviction(32 << 20)()) == 2 * (32 << 20) / 4


def test_clocks_are_megahertz_or_absent():
    assert all(10 < mhz < 10_000 for mhz in cpu_clocks().values())


def test_no_garbage_is_collected_while_paused():
    with garbage_collection_paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_measurement_says_how_it_was_taken():
    calls = []
    rule = StoppingRule(budget_seconds=60.0, max_samples=12, target=0.0)
    measurement = measure_latency(CpuTimer(None), lambda: calls.append(1), rule)
    assert (measurement.timer, measurement.cache, measurement.stopped) == ("monotonic", "hot", "sample_cap")
    assert len(measurement.samples_ns) == 12
    assert len(calls) == 14
    assert set(measurement.clocks) <= {"cpu"}


def test_a_call_longer_than_the_budget_is_measured_once():
    measurement = measure_latency(
        CpuTimer(None), lambda: time.sleep(0.02), StoppingRule(budget_seconds=0.001)
    )
    assert measurement.stopped == "time_cap"
    assert len(measurement.samples_ns) == 1
