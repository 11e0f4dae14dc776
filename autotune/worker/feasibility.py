"""The compile pool: whether configurations can run on a GPU, told by compiling them in processes beside.

Each process imports torch and triton once. None of them, nor the process that asks, touches a device, so a
device can be asked about that is not there.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, cast

import msgspec
import psutil

from autotune.errors import InternalError, UsageError
from autotune.store.records import Configuration, Feasibility
from autotune.worker.environment import environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from autotune.space.problem import Problem
    from autotune.store.records import CompiledKernel

TASKS_PER_PROCESS = 250
"""Compilers keep some of what they made: a process is replaced before that amounts to much."""

WARP = 32
REGISTER_UNIT = 8
"""Registers of a thread are handed out in eights (NVIDIA's occupancy calculator, from 8.0 on: 256 a warp)."""

WATCH_SECONDS = 1.0
LONGEST_SECONDS = 120.0
"""Processor time for one configuration: those that spill most take longest, and are not worth it."""

CRASHED = "the compiler crashed"
TOO_LONG = f"compiling takes more than {LONGEST_SECONDS:.0f} s of processor time"

LIMITS = (
    "shared_memory_per_block_bytes",
    "threads_per_block",
    "registers_per_thread",
    "registers_per_sm",
    "tensor_memory_per_sm_bytes",
)
"""Facts of a device that a kernel may exceed."""

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
        self._facts = {fact: facts[fact] for fact in ("compute_capability", *LIMITS) if fact in facts}
        self._modules = tuple(modules)
        self._most = processes or len(os.sched_getaffinity(0))
        self._idle: list[_Compiler] = []
        self._busy: dict[Connection, tuple[int, _Compiler]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the processes, whatever they are about."""
        for compiler in [*self._idle, *(compiler for _, compiler in self._busy.values())]:
            compiler.end()
        self._idle, self._busy = [], {}

    def feasibilities(self, configurations: Sequence[Configuration]) -> list[Feasibility]:
        """What compiling each configuration shows, in their order.

        Raises:
            UsageError: a module cannot be imported.
            InternalError: what Triton's own tools say is not understood.
        """
        found = dict(self.as_told(configurations))
        return [found[i] for i in range(len(configurations))]

    def as_told(self, configurations: Sequence[Configuration]) -> Iterator[tuple[int, Feasibility]]:
        """The same, each with its place among the configurations, as soon as it is known."""
        waiting = deque(range(len(configurations)))
        try:
            while waiting or self._busy:
                while waiting and len(self._busy) < self._most:
                    compiler = self._idle.pop() if self._idle else _Compiler(self._modules)
                    i = waiting.popleft()
                    compiler.ask(self._problem, configurations[i], self._facts)
                    self._busy[compiler.connection] = i, compiler
                for connection in wait(list(self._busy), WATCH_SECONDS):
                    i, compiler = self._busy.pop(cast("Connection", connection))
                    yield i, self._answer(compiler)
                for connection, (i, compiler) in list(self._busy.items()):
                    if compiler.processor_seconds > LONGEST_SECONDS:
                        del self._busy[connection]
                        compiler.end()
                        yield i, Feasibility(infeasible=TOO_LONG, seconds=LONGEST_SECONDS)
        finally:
            # Whoever stops listening, or is told of an error, leaves nothing running.
            for _, compiler in self._busy.values():
                compiler.end()
            self._busy = {}

    def _answer(self, compiler: _Compiler) -> Feasibility:
        try:
            found = compiler.answer()
        except EOFError:
            compiler.end()
            return Feasibility(infeasible=CRASHED, seconds=compiler.busy_seconds)
        except BaseException:
            compiler.end()
            raise
        if compiler.asked < TASKS_PER_PROCESS:
            self._idle.append(compiler)
        else:
            compiler.end()
        return found


class _Question(msgspec.Struct, frozen=True):
    workload: str
    dimensions: dict[str, int | str]
    nearest: tuple[str, ...]
    configuration: Configuration
    facts: dict[str, Any]


class _Answer(msgspec.Struct, frozen=True):
    """Either what was found, or why the question itself was wrong, or why nothing can be told of any."""

    feasibility: Feasibility | None = None
    refused: str = ""
    failed: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode_question = msgspec.msgpack.Decoder(_Question).decode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class _Compiler:
    """One process of the pool, as the one that asks sees it."""

    def __init__(self, modules: Sequence[str]) -> None:
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        # Daemonic: it ends with the process that asks, and has no children but the compiler's tools.
        self._process = context.Process(target=_serve, args=(theirs, tuple(modules)), daemon=True)
        self._process.start()
        theirs.close()
        self.asked = 0

    @property
    def busy_seconds(self) -> float:
        """Since the last question."""
        return time.monotonic() - self._since

    @property
    def processor_seconds(self) -> float:
        """That it and the tools it calls took since the last question, however busy the machine is."""
        return self._used() - self._used_before if self.busy_seconds > LONGEST_SECONDS else 0.0

    def _used(self) -> float:
        used = 0.0
        with suppress(psutil.Error):
            process = psutil.Process(self._process.pid)
            for each in [process, *process.children(recursive=True)]:
                with suppress(psutil.Error):
                    used += sum(each.cpu_times()[:4])
        return used

    def ask(self, problem: Problem, configuration: Configuration, facts: dict[str, Any]) -> None:
        question = _Question(
            problem.workload, dict(problem.dimensions), problem.nearest, configuration, facts
        )
        self.asked += 1
        self._since, self._used_before = time.monotonic(), self._used()
        with suppress(BrokenPipeError):  # waiting for the answer finds out
            self.connection.send_bytes(_encode(question))

    def answer(self) -> Feasibility:
        """The answer to the last question.

        Raises:
            EOFError: the process has died.
            UsageError: the question was wrong.
            InternalError: nothing can be told of any configuration.
        """
        try:
            answer = _decode_answer(self.connection.recv_bytes())
        except OSError:
            raise EOFError from None
        if answer.refused:
            raise UsageError(answer.refused)
        if answer.failed or answer.feasibility is None:
            raise InternalError(answer.failed)
        return answer.feasibility

    def end(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()


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
    registers = -(-kernel.registers // REGISTER_UNIT) * REGISTER_UNIT
    needs = (
        (kernel.shared_bytes, "bytes of shared memory"),
        (kernel.threads, "threads"),
        (kernel.registers, "registers a thread"),
        (registers * -(-kernel.threads // WARP) * WARP, "registers"),
        (kernel.tensor_memory_bytes, "bytes of tensor memory"),
    )
    for fact, (need, what) in zip(LIMITS, needs, strict=True):
        limit = facts.get(fact)
        if limit is not None and need > limit:
            return f"{kernel.name} needs {need:,} {what}; the device has {limit:,}"
    return ""


def _serve(connection: Connection, modules: Sequence[str]) -> None:
    """Answer questions, in a process of the pool, until the one that asks hangs up."""
    # Ctrl-C is for the one that asks, which ends its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    refused = ""
    try:
        _begin(modules)
    except UsageError as error:
        refused = str(error)
    while True:
        try:
            question = _decode_question(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer = _Answer(refused=refused) if refused else _Answer(_feasibility(question))
        except UsageError as error:
            answer = _Answer(refused=str(error))
        except InternalError as error:
            answer = _Answer(failed=str(error))
        try:
            connection.send_bytes(_encode(answer))
        except OSError:  # nobody asks any more
            return


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


def _feasibility(question: _Question) -> Feasibility:
    """Compile one configuration.

    Raises:
        UsageError: there is no such workload.
        InternalError: what Triton's own tools say is not understood.
    """
    from autotune.space.problem import Problem
    from autotune.workloads.ahead import compile_launch, launches
    from autotune.workloads.registry import workload

    start = time.perf_counter()
    problem = Problem(question.workload, question.dimensions, question.nearest)
    known = workload(problem.workload)
    try:
        noted = launches(known, problem, question.configuration)
    except InternalError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = ": ".join([type(error).__name__, *lines[:1]])[:LONGEST_REASON]
        return Feasibility(unknown=reason, seconds=time.perf_counter() - start)
    kernels = []
    infeasible = ""
    for launch in noted:
        done = compile_launch(launch, question.facts["compute_capability"])
        if done.kernel is None:
            infeasible = infeasible or f"does not compile: {done.error}"
        else:
            kernels.append(done.kernel)
            infeasible = infeasible or unmet(done.kernel, question.facts)
    return Feasibility(infeasible, kernels=tuple(kernels), seconds=time.perf_counter() - start)
