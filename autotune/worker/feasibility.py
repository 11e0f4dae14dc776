"""The compile pool: whether configurations can run on a GPU, told by compiling them in processes beside.

Each process imports torch and triton once. None of them, nor the process that asks, touches a device, so a
device can be asked about that is not there.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

from autotune.errors import InternalError, UsageError
from autotune.store.records import Feasibility
from autotune.worker.environment import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from autotune.space.problem import Problem
    from autotune.store.records import CompiledKernel, Configuration

TASKS_PER_PROCESS = 250
"""Compilers keep some of what they made: a process is replaced before that amounts to much."""

WARP = 32
REGISTER_UNIT = 8
"""Registers of a thread are handed out in eights (NVIDIA's occupancy calculator, from 8.0 on: 256 a warp)."""

CRASHED = "the compiler crashed"
LONGEST_REASON = 200


class CompilePool:
    """Compiles configurations of one problem for one device, several at a time.

    Args:
        problem: what the configurations are of.
        facts: of the device, as `Device.facts` has them: `kind` is `cuda`.
        modules: modules or `.py` files that register workloads.
        processes: how many; one for every core that may be used by default.

    Raises:
        UsageError: the device is no NVIDIA GPU, or its compute capability is unknown.
    """

    def __init__(
        self,
        problem: Problem,
        facts: Mapping[str, Any],
        modules: Sequence[str] = (),
        processes: int | None = None,
    ) -> None:
        check_target(facts)
        self._problem = problem
        self._facts = dict(facts)
        self._modules = tuple(modules)
        self._processes = processes or len(os.sched_getaffinity(0))
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, without waiting for what they are about."""
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None

    def feasibilities(self, configurations: Sequence[Configuration]) -> list[Feasibility]:
        """What compiling each configuration shows, in their order."""
        found = dict(self.as_told(configurations))
        return [found[i] for i in range(len(configurations))]

    def as_told(self, configurations: Sequence[Configuration]) -> Iterator[tuple[int, Feasibility]]:
        """The same, each with its place among the configurations, in their order and as soon as it is known.

        A configuration whose compilation ends the process is tried once more, alone: that of another may
        have done it.
        """
        alone: list[int] = []
        futures = [self._submit(configuration) for configuration in configurations]
        for i, future in enumerate(futures):
            try:
                yield i, future.result()
            except BrokenProcessPool:
                alone.append(i)
        for i in alone:
            self.close()
            try:
                yield i, self._submit(configurations[i]).result()
            except BrokenProcessPool:
                self.close()
                yield i, Feasibility(infeasible=CRASHED)

    def _submit(self, configuration: Configuration) -> Future[Feasibility]:
        arguments = (self._problem, configuration, self._facts)
        if self._executor is None:
            self._executor = ProcessPoolExecutor(
                self._processes,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self._modules,),
                max_tasks_per_child=TASKS_PER_PROCESS,
            )
        try:
            return self._executor.submit(_feasibility, *arguments)
        except BrokenProcessPool as broken:  # by an earlier one, and already noticed
            future: Future[Feasibility] = Future()
            future.set_exception(broken)
            return future


def check_target(facts: Mapping[str, Any]) -> None:
    """Refuse a device for which kernels cannot be compiled ahead.

    Raises:
        UsageError: it is no NVIDIA GPU, or its compute capability is unknown.
    """
    if facts.get("kind") != "cuda":
        kind = facts.get("kind", "unknown")
        raise UsageError(f"kernels are compiled ahead for NVIDIA GPUs, not for a {kind} device")
    if not facts.get("compute_capability"):
        raise UsageError("the device's compute capability is unknown; name a profile such as nvidia-h200")


def unmet(kernel: CompiledKernel, facts: Mapping[str, Any]) -> str:
    """Which limit of a device a kernel exceeds; empty where it exceeds none that is known.

    Args:
        kernel: as it was compiled.
        facts: of the device.
    """
    needs = {
        "shared_memory_per_block_bytes": (kernel.shared_bytes, "bytes of shared memory"),
        "threads_per_block": (kernel.threads, "threads"),
        "registers_per_thread": (kernel.registers, "registers a thread"),
        "registers_per_sm": (
            -(-kernel.registers // REGISTER_UNIT) * REGISTER_UNIT * -(-kernel.threads // WARP) * WARP,
            "registers",
        ),
        "tensor_memory_per_sm_bytes": (kernel.tensor_memory_bytes, "bytes of tensor memory"),
    }
    for fact, (need, what) in needs.items():
        limit = facts.get(fact)
        if limit is not None and need > limit:
            return f"{kernel.name} needs {need:,} {what}; the device has {limit:,}"
    return ""


def _begin(modules: Sequence[str]) -> None:
    """What a process of the pool does first."""
    os.environ.update(environment())
    # Kernels are compiled here, whatever the process that asks does with them.
    os.environ.pop("TRITON_INTERPRET", None)
    import torch

    from autotune.workloads.registry import import_module

    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for module in modules:
        import_module(module)


def _feasibility(problem: Problem, configuration: Configuration, facts: Mapping[str, Any]) -> Feasibility:
    """Compile one configuration, in a process of the pool."""
    from autotune.workloads.ahead import compile_launch, launches
    from autotune.workloads.registry import workload

    start = time.perf_counter()
    try:
        noted = launches(workload(problem.workload), problem, configuration)
    except InternalError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = ": ".join([type(error).__name__, *lines[:1]])[:LONGEST_REASON]
        return Feasibility(unknown=reason, seconds=time.perf_counter() - start)
    kernels = []
    infeasible = ""
    for launch in noted:
        done = compile_launch(launch, facts["compute_capability"])
        if done.kernel is None:
            infeasible = infeasible or f"does not compile: {done.error}"
        else:
            kernels.append(done.kernel)
            infeasible = infeasible or unmet(done.kernel, facts)
    return Feasibility(infeasible, kernels=tuple(kernels), seconds=time.perf_counter() - start)
