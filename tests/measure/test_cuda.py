"""Timing, energy, ceilings and limits of a CUDA device, all but the device: a simulated one stands for it."""

from __future__ import annotations

import time

import pytest
import torch

from autotune.errors import TrialError, UsageError
from autotune.fingerprint import load_profiles
from autotune.measure import cuda_timer, latency, telemetry
from autotune.measure.comparison import Rules, compare
from autotune.measure.cuda_ceilings import copy_bandwidth, measure_cuda_ceilings
from autotune.measure.cuda_timer import CudaTimer
from autotune.measure.energy import DeviceMeter
from autotune.measure.latency import measure_latency
from autotune.measure.physical_limits import PhysicalLimits
from autotune.measure.statistics import StoppingRule
from autotune.store.records import Verdict
from tests.measure.fake_cuda import FakeCuda, FakeTelemetry

L2 = 60 << 20
POWER_CAP = frozenset({"power cap"})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cuda_timer, "WARM_UP_SECONDS", 0.001)


def timer(cuda: FakeCuda, told: FakeTelemetry | None = None, cache: str = "cold") -> CudaTimer:
    return CudaTimer(cuda, told, L2, cache)


def test_a_cold_sample_is_the_call_between_its_events_after_a_flush() -> None:
    """The flush overwrites, then reads something else, and is not in the time."""
    cuda = FakeCuda()
    made = timer(cuda)
    prepared = made.prepared(cuda.work(12.5))
    cuda.log.clear()
    assert 12_500 == made.sample(prepared)
    assert ["overwrite", "read", "event", "replay", "event", "wait"] == cuda.log
    assert [2 * L2, 2 * L2] == cuda.buffers


def test_a_hot_sample_flushes_nothing_but_gives_the_host_a_head_start() -> None:
    cuda = FakeCuda()
    made = timer(cuda, cache="hot")
    prepared = made.prepared(cuda.work(3.0))
    cuda.log.clear()
    assert 3_000 == made.sample(prepared)
    assert ["idle", "event", "replay", "event", "wait"] == cuda.log
    assert [] == cuda.buffers


def test_small_caches_are_flushed_by_a_buffer_that_is_large_all_the_same() -> None:
    cuda = FakeCuda()
    CudaTimer(cuda, None, 4 << 20)
    assert {cuda_timer.LEAST_FLUSH_BYTES} == set(cuda.buffers)


@pytest.mark.parametrize(("capturable", "name"), [(True, "cuda_graph"), (False, "cuda_events")])
def test_what_took_the_time_is_recorded(capturable: bool, name: str) -> None:
    cuda = FakeCuda(capturable)
    measured = measure_latency(timer(cuda, FakeTelemetry()), cuda.work(7.0), StoppingRule(1.0))
    assert (name, "cold", "converged") == (measured.timer, measured.cache, measured.stopped)
    assert {7_000} == set(measured.samples_ns)
    assert {"sm": 1980.0, "memory": 3201.0} == measured.clocks


def test_samples_of_a_batch_that_was_held_down_are_discarded_and_counted() -> None:
    """A batch counts as held down if clocks were before it or after it."""
    cuda, free = FakeCuda(), frozenset()
    # When made, after settling, then after each batch.
    told = FakeTelemetry([free, free, POWER_CAP, free, free])
    measured = measure_latency(timer(cuda, told), cuda.work(7.0), StoppingRule(1.0))
    assert (32, 16, "converged") == (measured.discarded, len(measured.samples_ns), measured.stopped)


def test_a_call_that_always_holds_clocks_down_is_kept_and_labelled(monkeypatch) -> None:
    cuda = FakeCuda()
    rule = StoppingRule(60.0, max_samples=64)
    measured = measure_latency(timer(cuda, FakeTelemetry([POWER_CAP])), cuda.work(7.0), rule)
    assert (latency.THROTTLED, 0, 64) == (measured.stopped, measured.discarded, len(measured.samples_ns))


def test_telemetry_that_fails_stops_no_measurement() -> None:
    cuda = FakeCuda()
    told = FakeTelemetry([RuntimeError("GPU is lost")])
    assert 0 == measure_latency(timer(cuda, told), cuda.work(7.0), StoppingRule(1.0)).discarded
    assert {} == timer(cuda).clocks()


def test_rounds_that_were_disturbed_are_left_out_for_half_of_the_time() -> None:
    clock = iter(range(10_000))
    asked = []

    def disturbed() -> bool:
        asked.append(1)
        return len(asked) % 2 == 1

    result = compare(
        lambda i: (1000.0, 500.0)[i],
        ["baseline", "other"],
        baseline="baseline",
        rules=Rules(budget_seconds=100.0, round_cap=10),
        clock=lambda: float(next(clock)),
        disturbed=disturbed,
    )
    assert 20 == len(asked)
    assert 10 == len(result.samples_ns["baseline"])
    clock = iter(range(10_000))
    always = compare(
        lambda _: 1000.0,
        ["baseline"],
        baseline="baseline",
        rules=Rules(budget_seconds=100.0, round_cap=1000),
        clock=lambda: float(next(clock)),
        disturbed=lambda: True,
    )
    assert 50 < next(clock)
    assert always.samples_ns["baseline"]


def test_energy_of_a_call_is_the_difference_of_its_boards_counter() -> None:
    cuda, calls = FakeCuda(), []
    told = FakeTelemetry(joules=[100.0, 100.0, 160.0])
    used = DeviceMeter(told, cuda.synchronize).use(lambda: calls.append(1), seconds=0.02)
    # One call warms up before the window.
    assert 60.0 / (len(calls) - 1) == pytest.approx(used.joules)
    assert used.seconds > 0
    assert "wait" in cuda.log


def test_a_device_without_a_counter_has_no_meter() -> None:
    with pytest.raises(UsageError, match="counts none"):
        DeviceMeter(FakeTelemetry(), lambda: None)


def test_ceilings_are_the_best_of_many_calls(monkeypatch) -> None:
    """On the CPU's tensors, by a clock of the host's: what runs on a device is the same code."""

    class HostClock(FakeCuda):
        @property
        def now_ms(self) -> float:
            return time.perf_counter() * 1e3

        @now_ms.setter
        def now_ms(self, value: float) -> None: ...

    found = measure_cuda_ceilings(
        HostClock(), 0.02, device="cpu", copy_bytes=1 << 20, shapes=((64, 64, 64), (128, 128, 128))
    )
    assert found.memory_bandwidth_bytes_per_s > 0
    assert {"float32", "bfloat16"} <= set(found.matmul_flops)
    assert copy_bandwidth(HostClock(), 0.0, "cpu", 1 << 20) > 0


H200 = PhysicalLimits.of(load_profiles()["nvidia-h200"], L2)


def test_the_limit_of_bytes_leaves_what_may_stay_in_the_cache() -> None:
    """Cold: at most half, and what fits; hot: all that fits."""
    gigabyte = 10**9
    assert 1e9 * (gigabyte - L2) / 4.8e12 == pytest.approx(H200.least_ns(0, gigabyte, "bfloat16", "cold"))
    assert 1e9 * 5_000_000 / 4.8e12 == pytest.approx(H200.least_ns(0, 10_000_000, "bfloat16", "cold"))
    assert 0.0 == H200.least_ns(0, 10_000_000, "bfloat16", "hot")


def test_the_limit_of_operations_is_that_of_the_fastest_type_no_wider() -> None:
    flops = 10**12
    assert 1e9 * flops / 1979e12 == pytest.approx(H200.least_ns(flops, 0, "bfloat16", "cold"))
    assert 1e9 * flops / 67e12 < 1e9 * flops / 1979e12 * 67
    assert 0.0 == H200.least_ns(0, 0, "anything", "cold")


def test_what_is_faster_than_the_device_can_be_is_refused() -> None:
    """A product of 2112 by 7168 in bfloat16 reads 30 MB: 6.3 us at least, half of which may not."""
    moved = 2 * (2112 * 7168 + 7168 + 2112)
    H200.refuse_impossible(6_000.0, 2 * 2112 * 7168, moved, "bfloat16", "cold")
    with pytest.raises(TrialError, match="faster than this device can be") as failure:
        H200.refuse_impossible(1_000.0, 2 * 2112 * 7168, moved, "bfloat16", "cold")
    assert Verdict.NOISY == failure.value.verdict
    H200.refuse_impossible(1_000.0, 2 * 2112 * 7168, moved, "bfloat16", "hot")


def test_a_device_whose_peaks_nobody_knows_refuses_nothing() -> None:
    assert PhysicalLimits.of(None, L2) is None
    assert PhysicalLimits.of(load_profiles()["x86-avx2"], L2) is None


def test_a_device_is_found_by_what_identifies_it(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-7,MIG-8,3")
    assert ["GPU-7", "MIG-8"] == [telemetry.identity("cuda", index) for index in (0, 1)]
    if not torch.cuda.is_available():
        assert 3 == telemetry.identity("cuda", 2)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        assert 1 == telemetry.identity("cuda", 1)
        assert telemetry.telemetry_of("cuda:0") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
class TestOnADevice:
    """What only a device can show."""

    def timer(self, cache: str = "cold") -> CudaTimer:
        from autotune.measure.timers import timer_for

        return timer_for("cuda:0", cache=cache, l3_bytes=torch.cuda.get_device_properties(0).L2_cache_size)

    def test_a_copy_takes_the_time_that_the_bandwidth_gives_it(self) -> None:
        from autotune.measure.cuda_runtime import TorchCuda

        bandwidth = copy_bandwidth(TorchCuda(), 0.2)
        source = torch.ones(1 << 28, device="cuda")
        target = torch.empty_like(source)
        measured = measure_latency(self.timer(), lambda: target.copy_(source), StoppingRule(1.0))
        assert 2 * source.numel() * 4 / (measured.p50_ns / 1e9) == pytest.approx(bandwidth, rel=0.1)

    def test_a_product_is_captured_and_what_waits_for_the_device_is_not(self) -> None:
        x = torch.randn(256, 256, device="cuda")
        rule = StoppingRule(0.5)
        assert "cuda_graph" == measure_latency(self.timer(), lambda: x @ x, rule).timer
        assert "cuda_events" == measure_latency(self.timer(), lambda: x.sum().item(), rule).timer

    def test_cold_is_slower_than_hot(self) -> None:
        x = torch.randn(1 << 20, device="cuda")
        cold, hot = (
            measure_latency(self.timer(cache), lambda: x.sum(), StoppingRule(0.5))
            for cache in ("cold", "hot")
        )
        assert cold.p50_ns > hot.p50_ns
