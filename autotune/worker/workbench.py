"""The workbench: one prepared problem and the configurations built for it, inside the worker."""

from __future__ import annotations

import gc
import mmap
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from msgspec.structs import replace

from autotune.errors import AutotuneError, InternalError, TrialError, UsageError
from autotune.fingerprint.cpu import cpu_facts
from autotune.measure.comparison import compare
from autotune.measure.correctness import check, checksum
from autotune.measure.energy import meter_for, of_energy
from autotune.measure.latency import measure_latency, warm_up
from autotune.measure.memory import MemoryHeld, says_out_of_memory
from autotune.measure.statistics import StoppingRule
from autotune.measure.timers import garbage_collection_paused, timer_for
from autotune.space.problem import Problem
from autotune.store.records import Feasibility, Verdict
from autotune.worker import messages
from autotune.worker.accelerator import Accelerator
from autotune.worker.feasibility import CompilePool
from autotune.worker.messages import MARKER
from autotune.workloads.base import Workload
from autotune.workloads.native import compile_ahead
from autotune.workloads.registry import workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from autotune.measure.timers import Timer
    from autotune.workloads.base import Cost, Kernel, Tensors
    from autotune.workloads.native import NativeKernel

ENERGY_WINDOWS = 3
"""Of which the middle one counts: what else the machine does comes and goes."""
CASES_KEPT = 4
"""Activations with their references: a study checks all its configurations on the same two."""
COMPILERS = ("torch._dynamo", "torch._inductor", "triton")
"""Modules whose exceptions are compile errors even where they surface in the first call."""
LONGEST_REASON = 300


class Case(NamedTuple):
    """Activations, their checksum, and what they should yield."""

    activations: Tensors
    checksum: int
    reference: Any


class Slot(NamedTuple):
    """A built configuration."""

    configuration: Mapping[str, Any]
    kernel: Kernel
    arguments: tuple[torch.Tensor, ...]

    @property
    def call(self) -> partial[Any]:
        """The kernel on the problem's activations."""
        return partial(self.kernel, *self.arguments)


class Workbench:
    """Runs the stages of trials.

    Args:
        device: `cpu` or `cuda:0`.
        marker: descriptor of the memory file in which a comparison notes its contender.
        modules: that register workloads.
    """

    def __init__(self, device: str, marker: int, modules: Sequence[str] = ()) -> None:
        self.device = device
        self._modules = modules
        self._pool: CompilePool | None = None
        self.spoilt = False
        self._marker = mmap.mmap(marker, MARKER.size)
        facts = cpu_facts()
        # torch counts the cores of the machine; a container may use fewer.
        self._threads = int(facts["cores"])
        self._accelerator = None if device == "cpu" else Accelerator(device)
        self._cache_bytes = (
            int(facts["l3_bytes"]) if self._accelerator is None else self._accelerator.l2_bytes
        )
        self._timers: dict[str, Timer] = {}
        self._problem: Problem | None = None
        self._workload: Workload
        self._weights: Tensors
        self._weights_sum = 0
        self._cost: Cost
        self._cases: dict[int, Case] = {}
        self._slots: dict[str, Slot] = {}
        self.settle()
        self._timer("cold")
        # What is imported by now stays: collections need not look through torch's 100,000 objects again.
        gc.collect()
        gc.freeze()

    def settle(self) -> None:
        """Undo what a configuration may have changed for the whole process."""
        # Inference code runs without gradients; the same everywhere, so that nothing compiles for two modes.
        torch.set_grad_enabled(False)
        torch.set_num_threads(self._threads)

    def prepare(self, request: messages.Prepare) -> messages.Prepared:
        """Make a problem's weights, activations and references."""
        start = time.perf_counter()
        self._problem = None
        self._slots, self._cases = {}, {}
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        self._workload = workload(request.workload)
        problem = Problem(request.workload, request.dimensions, request.nearest)
        with _failing_as(Verdict.CRASHED):
            self._weights = self._workload.weights(problem, request.seed, self.device)
            self._weights_sum = checksum(self._weights.values())
            self._problem = problem
            self._seed = request.seed
            for seed in (request.seed, request.seed + 1):
                self._case(seed)
            cost = self._cost = self._workload.cost(problem)
        seconds = time.perf_counter() - start
        compiles = type(self._workload).native_kernels is not Workload.native_kernels
        compilers = self._threads if compiles or self.device != "cpu" else 1
        return messages.Prepared(cost.flops, cost.bytes, cost.dtype, seconds, compilers)

    def compile(self, request: messages.Compile) -> messages.Compiled:
        """Compile the kernels of configurations on all cores; each compiler is a process of its own.

        A C++ kernel that fails is compiled again, and fails again, when its configuration is built.
        """
        problem = self._prepared()
        if request.target is not None:
            if self._pool is None:
                self._pool = CompilePool(problem, request.target, self._modules)
            return messages.Compiled(tuple(self._pool.feasibilities(request.configurations)))
        wanted = [self._workload.native_kernels(problem, each) for each in request.configurations]
        kernels = list(dict.fromkeys(kernel for each in wanted for kernel in each))
        with ThreadPoolExecutor(self._threads) as pool:
            seconds = dict(zip(kernels, pool.map(_compile, kernels), strict=True))
        # A kernel that several share is the first one's expense.
        each_took = [sum(seconds.pop(kernel, 0.0) for kernel in each) for each in wanted]
        return messages.Compiled(tuple(Feasibility(seconds=took) for took in each_took))

    def build(self, request: messages.Build) -> messages.Built:
        """Build a configuration, first call included: what compiles lazily compiles here."""
        problem = self._prepared()
        self._slots.pop(request.slot, None)
        modules = len(sys.modules)
        case = self._case(self._seed)
        with self._leaving_inputs_alone(case):
            with _failing_as(Verdict.COMPILE_ERROR):
                arguments = self._arguments(request.configuration, case.activations)
                held = MemoryHeld(self._weights.values(), self._allocated)
                start = time.perf_counter()
                # Tensors of its own on the same storage: what the build keeps can be told from what we hold.
                weights = {name: weight.detach() for name, weight in self._weights.items()}
                try:
                    kernel = self._workload.build(problem, request.configuration, weights)
                except UsageError as error:  # what this machine lacks, only this one needs
                    raise TrialError(Verdict.COMPILE_ERROR, one_line(error)) from None
                del weights
            with _failing_as(Verdict.CRASHED):
                call_seconds = self._seconds(kernel, arguments)
                seconds = time.perf_counter() - start
                if request.slow_call_seconds is not None and call_seconds > request.slow_call_seconds:
                    call_seconds = min(call_seconds, self._seconds(kernel, arguments))
        if len(sys.modules) > modules + 100:
            gc.freeze()  # a compiler was imported, to stay
        self._slots[request.slot] = Slot(request.configuration, kernel, arguments)
        # One that shares what it packed with other slots says itself what it holds.
        own = getattr(kernel, "memory_bytes", None)
        return messages.Built(seconds, held.bytes_since() if own is None else int(own), call_seconds)

    def check(self, request: messages.Check) -> messages.Checked:
        """Relative error on activations of two seeds, the larger."""
        slot = self._slot(request.slot)
        cases = [self._case(seed) for seed in (request.seed, request.seed + 1)]
        calls = [(self._arguments(slot.configuration, case.activations), case.reference) for case in cases]
        packed = [tensor for arguments, _ in calls for tensor in arguments]
        with _failing_as(Verdict.CRASHED), self._leaving_inputs_alone(*cases, packed=packed):
            return messages.Checked(check(slot.kernel, calls))

    def measure(self, request: messages.Measure) -> messages.Measured:
        """Latency of a slot."""
        rule = StoppingRule(
            request.budget_seconds,
            min_samples=request.min_samples,
            clearly_slower_than_ns=request.clearly_slower_than_ns,
        )
        slot, timer = self._slot(request.slot), self._timer(request.cache)
        meter = meter_for(self.device) if request.energy else None
        with _failing_as(Verdict.CRASHED):
            measurement = measure_latency(timer, slot.call, rule)
            if meter is not None:
                joules = median(meter.use(slot.call).joules for _ in range(ENERGY_WINDOWS))
                measurement = replace(measurement, joules=joules)
        self._refuse_impossible(measurement.p50_ns, request.cache)
        return messages.Measured(measurement)

    def compare(self, request: messages.Compare) -> messages.Compared:
        """Interleaved rounds over slots, cold-cache."""
        calls = [self._slot(name).call for name in request.slots]
        timer = self._timer("cold")
        prepared: list[Any] = []
        meter = meter_for(self.device) if request.rules.energy else None
        took: dict[str, list[float]] = {name: [] for name in request.slots}

        def sample(i: int) -> float:
            MARKER.pack_into(self._marker, 0, i)
            if meter is None:
                return timer.sample(prepared[i])
            used = meter.use(calls[i])
            took[request.slots[i]].append(used.seconds)
            return 1e9 * used.joules

        MARKER.pack_into(self._marker, 0, 0)
        try:
            with _failing_as(Verdict.CRASHED), garbage_collection_paused():
                for i, call in enumerate(calls):
                    MARKER.pack_into(self._marker, 0, i)
                    warm_up(call, request.rules.budget_seconds / len(calls))
                    prepared.append(timer.prepared(call))
                timer.settle(prepared[0])
                comparison = compare(
                    sample,
                    request.slots,
                    baseline=request.baseline,
                    incumbent=request.incumbent,
                    rules=request.rules,
                    seed=request.seed,
                    disturbed=lambda: meter is None and timer.throttled(prepared[0]),
                )
            if meter is None:
                for i, name in enumerate(request.slots):
                    MARKER.pack_into(self._marker, 0, i)
                    self._refuse_impossible(comparison.proofs[name].latency_ns, "cold")
        except TrialError as failure:
            failure.slot = request.slots[MARKER.unpack_from(self._marker)[0]]
            raise
        return messages.Compared(comparison if meter is None else of_energy(comparison, took))

    def release(self, request: messages.Release) -> messages.Released:
        """Drop a slot."""
        self._slots.pop(request.slot, None)
        return messages.Released()

    def ceilings(self) -> messages.CeilingsMeasured:
        """Limits of the machine."""
        from autotune.measure.ceilings import measure_ceilings

        with _failing_as(Verdict.CRASHED):
            if self._accelerator is None:
                limits = measure_ceilings(self._cache_bytes)
            else:
                limits = self._accelerator.ceilings()
        return messages.CeilingsMeasured(
            limits.memory_bandwidth_bytes_per_s, dict(limits.matmul_flops), limits.measured_at
        )

    def _prepared(self) -> Problem:
        if self._problem is None:
            raise InternalError("the worker has no problem; expected a prepare before")
        return self._problem

    def _slot(self, name: str) -> Slot:
        if name not in self._slots:
            raise InternalError(f"slot {name!r} is empty; expected a build before")
        return self._slots[name]

    def _timer(self, cache: str) -> Timer:
        if cache not in self._timers:
            self._timers[cache] = timer_for(self.device, cache=cache, l3_bytes=self._cache_bytes)
        return self._timers[cache]

    @property
    def broken(self) -> bool:
        """Whether the process must run nothing else: inputs were spoilt, or the device's context is lost."""
        return self.spoilt or (self._accelerator is not None and self._accelerator.is_lost())

    @property
    def _allocated(self) -> Callable[[], int] | None:
        return None if self._accelerator is None else self._accelerator.allocated

    def _seconds(self, kernel: Kernel, arguments: tuple[torch.Tensor, ...]) -> float:
        """What one call takes, until its work is done."""
        start = time.perf_counter()
        kernel(*arguments)
        if self._accelerator is not None:
            self._accelerator.synchronize()
        return time.perf_counter() - start

    def _refuse_impossible(self, latency_ns: float, cache: str) -> None:
        limits = None if self._accelerator is None else self._accelerator.limits
        if limits is not None:
            limits.refuse_impossible(latency_ns, self._cost.flops, self._cost.bytes, self._cost.dtype, cache)

    def _case(self, seed: int) -> Case:
        if seed not in self._cases:
            problem = self._prepared()
            activations = self._workload.activations(problem, seed, self.device)
            before = checksum(activations.values())
            reference = self._workload.reference(problem, self._weights, activations)
            while len(self._cases) >= CASES_KEPT:
                del self._cases[next(iter(self._cases))]
            self._cases[seed] = Case(activations, before, reference)
        return self._cases[seed]

    @contextmanager
    def _leaving_inputs_alone(self, *cases: Case, packed: Sequence[torch.Tensor] = ()) -> Iterator[None]:
        """Whoever changes weights or activations is wrong, and must not have spoilt them for the next."""
        before = checksum(packed)
        try:
            yield
        finally:
            sums = [checksum(case.activations.values()) for case in cases]
            sums += [checksum(packed), checksum(self._weights.values())]
            if sums != [*(case.checksum for case in cases), before, self._weights_sum]:
                self.spoilt = True
                raise TrialError(Verdict.WRONG, "changed its inputs; expected them to be left alone")

    def _arguments(self, configuration: Mapping[str, Any], activations: Tensors) -> tuple[torch.Tensor, ...]:
        """What the kernel is called with: activations, in the layout in which production would hold them."""
        packed = self._workload.pack_activations(self._prepared(), configuration, activations, self._weights)
        return tuple(packed.values())


def _compile(kernel: NativeKernel) -> float:
    """Seconds that compiling a kernel took, whether or not it succeeded."""
    start = time.perf_counter()
    with suppress(AutotuneError):
        compile_ahead(kernel)
    return time.perf_counter() - start


def one_line(error: BaseException) -> str:
    """An exception as a reason: its type and the first line of its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, AutotuneError):
        return lines[0] if lines else type(error).__name__
    return ": ".join([type(error).__name__, *lines[:1]])[:LONGEST_REASON]


@contextmanager
def _failing_as(verdict: Verdict) -> Iterator[None]:
    """Turn what a configuration raises into the verdict on it, `SystemExit` included."""
    try:
        yield
    except AutotuneError:
        raise
    except BaseException as error:
        if isinstance(error, MemoryError) or says_out_of_memory(str(error)):
            verdict = Verdict.OUT_OF_MEMORY
        elif type(error).__module__.startswith(COMPILERS):
            verdict = Verdict.COMPILE_ERROR
        raise TrialError(verdict, one_line(error)) from None
