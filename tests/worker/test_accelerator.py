"""A workbench with an accelerator, which a fake one stands for: its queue, memory, limits and loss."""

from __future__ import annotations

import os

import pytest
import torch

from autotune.errors import TrialError, UsageError
from autotune.fingerprint import nvml
from autotune.measure import cuda_timer, memory
from autotune.measure.comparison import Rules
from autotune.measure.cuda_timer import CudaTimer
from autotune.measure.physical_limits import PhysicalLimits
from autotune.store.records import Verdict
from autotune.worker import environment, messages, serve, workbench
from autotune.worker.accelerator import Accelerator
from autotune.workloads import registry
from autotune.workloads.base import Cost, Workload
from tests.fingerprint.fake_nvml import FakeNvml, h200
from tests.measure.fake_cuda import FakeCuda, FakeTelemetry


class Doubling(Workload):
    """Doubles; a configuration says how many microseconds the simulated device takes, or how it fails."""

    name = "doubling_on_a_fake_device"
    cuda: FakeCuda

    def weights(self, problem, seed, device="cpu"):
        return {"w": torch.full((8,), 2.0)}

    def activations(self, problem, seed, device="cpu"):
        return {"x": torch.randn(8, generator=torch.Generator().manual_seed(seed))}

    def reference(self, problem, weights, activations):
        return activations["x"].double() * 2

    def build(self, problem, configuration, weights):
        work = self.cuda.work(configuration["microseconds"])

        def run(x):
            work()
            if configuration.get("fails"):
                raise RuntimeError(configuration["fails"])
            return x * 2

        return run

    def cost(self, problem):
        return Cost(0, 48 << 20, "float32")


class FakeAccelerator:
    """In place of `Accelerator`."""

    l2_bytes = 1 << 20
    limits = PhysicalLimits(4.8e12, {"float32": 67e12}, 1 << 20)
    lost = False

    def __init__(self, device: str) -> None:
        self.held = 0

    def synchronize(self) -> None:
        Doubling.cuda.synchronize()

    def allocated(self) -> int:
        self.held += 1000
        return self.held

    def is_lost(self) -> bool:
        return self.lost


@pytest.fixture
def bench(monkeypatch):
    Doubling.cuda = FakeCuda()
    monkeypatch.setattr(cuda_timer, "WARM_UP_SECONDS", 0.001)
    monkeypatch.setitem(registry._workloads, Doubling.name, Doubling())
    monkeypatch.setattr(workbench, "Accelerator", FakeAccelerator)
    monkeypatch.setattr(
        workbench,
        "timer_for",
        lambda _, cache, l3_bytes: CudaTimer(Doubling.cuda, FakeTelemetry(), l3_bytes, cache),
    )
    marker = os.memfd_create("marker")
    os.truncate(marker, messages.MARKER.size)
    made = workbench.Workbench("cuda:0", marker)
    made.prepare(messages.Prepare(Doubling.name, {"m": 8}, (), 0))
    yield made
    os.close(marker)
    torch.set_grad_enabled(True)


def build(bench, slot: str, **configuration) -> messages.Built:
    return bench.build(messages.Build(slot, {"implementation": "fake", **configuration}))


def measured(bench, slot: str) -> object:
    return bench.measure(messages.Measure(slot, 0.5, 10, None, "cold")).measurement


def test_a_trial_runs_by_the_devices_clock(bench) -> None:
    build(bench, "a", microseconds=30.0)
    assert 0.0 == pytest.approx(bench.check(messages.Check("a", 0)).error)
    found = measured(bench, "a")
    assert ({30_000}, "cuda_graph") == (set(found.samples_ns), found.timer)


def test_a_build_waits_for_the_device_and_counts_its_memory(bench) -> None:
    Doubling.cuda.log.clear()
    built = build(bench, "a", microseconds=30.0)
    assert ["call", "wait"] == Doubling.cuda.log
    assert 1000 <= built.memory_bytes


def test_the_final_decides_by_the_devices_clock(bench) -> None:
    for slot, microseconds in (("baseline", 40.0), ("fast", 30.0)):
        build(bench, slot, microseconds=microseconds)
    request = messages.Compare(("baseline", "fast"), "baseline", None, Rules(budget_seconds=5.0), 0)
    result = bench.compare(request).comparison
    assert "fast" == result.winner
    assert 4 / 3 == pytest.approx(result.proofs["fast"].against_baseline.ratio, rel=1e-3)


def test_a_result_faster_than_the_device_is_refused(bench) -> None:
    """48 MiB take 10.2 us by the peaks, of which a cache of 1 MiB saves 0.2."""
    build(bench, "a", microseconds=5.0)
    with pytest.raises(TrialError, match="faster than this device can be") as failure:
        measured(bench, "a")
    assert Verdict.NOISY == failure.value.verdict
    build(bench, "baseline", microseconds=40.0)
    request = messages.Compare(("baseline", "a"), "baseline", None, Rules(budget_seconds=5.0), 0)
    with pytest.raises(TrialError, match="faster than") as failure:
        bench.compare(request)
    assert "a" == failure.value.slot


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 GiB", Verdict.OUT_OF_MEMORY),
        ("CUDA error: an illegal memory access was encountered", Verdict.CRASHED),
    ],
)
def test_what_a_device_fails_with_is_the_trials_verdict(bench, message: str, verdict: Verdict) -> None:
    with pytest.raises(TrialError) as failure:
        build(bench, "a", microseconds=30.0, fails=message)
    assert verdict == failure.value.verdict


@pytest.mark.parametrize("lost", [False, True])
def test_a_process_whose_device_is_lost_is_replaced(bench, monkeypatch, lost: bool) -> None:
    monkeypatch.setattr(FakeAccelerator, "lost", lost)
    request = messages.Build("a", {"implementation": "fake", "microseconds": 1.0, "fails": "CUDA error"})
    assert lost == serve._answer(bench, request).spoilt


def test_a_worker_sees_one_device_by_what_identifies_it(monkeypatch) -> None:
    monkeypatch.setattr(
        environment, "library_for", lambda _: nvml.NvmlLibrary(FakeNvml(h200(), h200(UUID="GPU-2")))
    )
    made = environment.environment("cuda:1")
    assert ("GPU-2", "PCI_BUS_ID") == (made["CUDA_VISIBLE_DEVICES"], made["CUDA_DEVICE_ORDER"])
    assert "cuda:0" == environment.inside("cuda:1")
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == environment.environment("cpu").get(
        "CUDA_VISIBLE_DEVICES"
    )


def test_without_nvml_a_device_goes_by_its_number(monkeypatch) -> None:
    monkeypatch.setattr(environment, "library_for", lambda _: nvml.NvmlLibrary(FakeNvml()))
    assert "3" == environment.environment("cuda:3")["CUDA_VISIBLE_DEVICES"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_interpreter_without_cuda_is_told_to_the_user() -> None:
    with pytest.raises(UsageError, match=r"finds no CUDA device; set \[worker\] python"):
        Accelerator("cuda:0")


def test_memory_is_counted_where_the_tensors_are() -> None:
    allocated = iter([100, 160])
    assert 60 == memory.MemoryHeld([], lambda: next(allocated)).bytes_since()
