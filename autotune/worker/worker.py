"""The worker as the study uses it: a process that runs trials, and is replaced when a trial ends it.

    with Worker(memory_bytes=8 << 30) as worker:
        worker.prepare(problem, seed=0)
        worker.build("baseline", configuration)
        error = worker.check("baseline", seed=0)
        measurement = worker.measure("baseline", budget_seconds=1.0)

What a slot holds is remembered by its configuration. After the process has died, the next call starts
another, prepares the problem again, and builds again what that call needs.
"""

from __future__ import annotations

import math
import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import psutil

from autotune.config import Limits
from autotune.errors import ConfigError, InternalError, TrialError, UsageError
from autotune.fingerprint.ceilings import Ceilings
from autotune.fingerprint.cpu import cpu_facts
from autotune.measure.comparison import Comparison, Rules
from autotune.store.records import Configuration, Feasibility, Measurement, Verdict
from autotune.worker import messages
from autotune.worker.messages import Built, Prepared
from autotune.worker.process import Process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from autotune.space.problem import Problem

MEMORY_SHARE = 0.8
"""Of the memory available when the worker is made: its default cap."""
CEILINGS_SECONDS = 30.0
"""What measuring the ceilings may take on a slow machine, before the grace of `Limits.measure`."""

R = TypeVar("R", bound=messages.Reply)


def _default_memory_bytes() -> int:
    # What is available now, and no more than the container may use.
    available = psutil.virtual_memory().available
    return int(MEMORY_SHARE * min(available, cpu_facts()["memory_bytes"] or available))


class Worker:
    """One child process at a time, in a session of its own, that dies with this one.

    Every call but `stack`, `release` and `kill` raises `TrialError` when the trial does not end well;
    whatever the configuration did, the next call works.

    Args:
        python: interpreter of the environment that serves; needs torch, numpy and msgspec.
        device: `cpu`.
        modules: modules or `.py` files to import first; they register workloads.
        memory_bytes: what trials may hold beyond the idle worker; by default most of what is available.
        limits: seconds per stage.

    Attributes:
        deadline: moment on the monotonic clock at which a call in progress ends as `preempted`, as do those
            that come later; None, the default, for never.
        start_seconds: what starting the process took, the last time.
    """

    def __init__(
        self,
        *,
        python: str = sys.executable,
        device: str = "cpu",
        modules: Sequence[str] = (),
        memory_bytes: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._python = python
        self._device = device
        self._modules = [os.path.abspath(name) if name.endswith(".py") else name for name in modules]
        self._memory_bytes = memory_bytes or _default_memory_bytes()
        self._limits = limits or Limits()
        self.deadline: float | None = None
        self.start_seconds = 0.0
        self._process: Process | None = None
        self._ready: messages.Ready | None = None
        self._problem: messages.Prepare | None = None
        self._prepared: Prepared | None = None
        self._configurations: dict[str, Configuration] = {}
        self._built: dict[str, Built] = {}

    @property
    def process_id(self) -> int | None:
        """The leader of the worker's session, below which all its processes are; None while none runs."""
        return self._process.warden_pid if self._process is not None and self._process.alive else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process; a later call would start another."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def kill(self) -> None:
        """Kill the process and all that it started, now; a call in progress ends as `preempted`.

        May be called from another thread or a signal handler.
        """
        process = self._process
        if process is not None:
            process.kill()

    def stack(self) -> dict[str, Any]:
        """Software facts of the worker's interpreter.

        Raises:
            ConfigError: the interpreter does not start.
            UsageError: one of the modules cannot be imported.
        """
        if self._ready is None:
            self._running()
        assert self._ready is not None, "a running worker has said that it is ready"
        return self._ready.stack

    def ceilings(self) -> Ceilings:
        """Memory bandwidth and matmul rates, measured now; takes a few seconds."""
        self._running()
        limit = CEILINGS_SECONDS + self._limits.measure
        reply = self._ask(messages.MeasureCeilings(), messages.CeilingsMeasured, limit)
        return Ceilings(reply.memory_bandwidth_bytes_per_s, reply.matmul_flops, reply.measured_at)

    def prepare(self, problem: Problem, seed: int) -> Prepared:
        """Make weights, activations and references; forgets all slots.

        Args:
            problem: what the following calls are about.
            seed: of the weights, and of the activations that are timed.

        Raises:
            UsageError: no such workload.
        """
        self._configurations.clear()
        self._prepared = None
        self._problem = messages.Prepare(problem.workload, problem.dimensions, problem.nearest, seed)
        self._need_prepared()
        assert self._prepared is not None, "just prepared"
        return self._prepared

    def compile(
        self, configurations: Sequence[Configuration], target: Mapping[str, Any] | None = None
    ) -> list[Feasibility]:
        """Compile what configurations will need, side by side, so that their builds take less time.

        Args:
            configurations: of the problem.
            target: facts of the GPU that Triton kernels are compiled for, which need not be here; None
                where only C++ kernels are to be compiled, of which one that does not compile says so when it
                is built.

        Returns:
            What compiling showed of each.
        """
        self._need_prepared()
        request = messages.Compile(tuple(configurations), None if target is None else dict(target))
        limit = self._limits.build * (1 if target is None else len(configurations))
        return list(self._ask(request, messages.Compiled, limit).feasibilities)

    def build(
        self, slot: str, configuration: Configuration, *, slow_call_seconds: float | None = None
    ) -> Built:
        """Build a configuration into a slot; does nothing if that very configuration is there already.

        Args:
            slot: its name.
            configuration: what to build.
            slow_call_seconds: a first call longer than this is repeated, to tell a slow kernel from one that
                compiled in its first call.
        """
        if self._configurations.get(slot) != configuration:
            self._built.pop(slot, None)
        self._configurations[slot] = dict(configuration)
        self._need_built(slot, slow_call_seconds)
        return self._built[slot]

    def check(self, slot: str, seed: int) -> float:
        """Relative error on activations of `seed` and `seed + 1`, the larger, with allocations poisoned."""
        self._need_built(slot)
        return self._ask(messages.Check(slot, seed), messages.Checked, self._limits.check, slot).error

    def measure(
        self,
        slot: str,
        *,
        budget_seconds: float,
        clearly_slower_than_ns: float | None = None,
        min_samples: int = 10,
        cache: str = "cold",
        energy: bool = False,
    ) -> Measurement:
        """Sample a slot's latency until it is known well enough.

        Args:
            slot: a built one.
            budget_seconds: time cap of the sampling.
            clearly_slower_than_ns: stop as soon as the latency is surely above this.
            min_samples: fewest samples before it may count as converged.
            cache: `cold` or `hot`.
            energy: whether to measure the energy of a call too, which takes another second.
        """
        self._need_built(slot)
        request = messages.Measure(slot, budget_seconds, min_samples, clearly_slower_than_ns, cache, energy)
        limit = budget_seconds + self._limits.measure
        return self._ask(request, messages.Measured, limit, slot).measurement

    def compare(
        self,
        slots: Sequence[str],
        *,
        baseline: str,
        incumbent: str | None = None,
        rules: Rules | None = None,
        seed: int = 0,
    ) -> Comparison:
        """Run slots in interleaved rounds; see `autotune.measure.comparison.compare`.

        Args:
            slots: built ones, baseline and incumbent among them, in order of preference.
            baseline: slot of the framework's default.
            incumbent: slot of the present winner.
            rules: margin, confidence and caps.
            seed: of the rounds' order.

        Raises:
            TrialError: its `slot` says which contender failed.
        """
        rules = rules or Rules()
        for slot in slots:
            self._need_built(slot)
        request = messages.Compare(tuple(slots), baseline, incumbent, rules, seed)
        return self._ask(request, messages.Compared, rules.budget_seconds + self._limits.measure).comparison

    def release(self, slot: str) -> None:
        """Drop what a slot holds; one that does not exist is no error."""
        self._configurations.pop(slot, None)
        if self._built.pop(slot, None) is not None and self._process is not None and self._process.alive:
            with suppress(TrialError):  # should freeing it crash the process, the next call starts another
                self._ask(messages.Release(slot), messages.Released, self._limits.check, slot)

    def _need_prepared(self) -> None:
        self._running()
        if self._prepared is None:
            if self._problem is None:
                raise InternalError("the worker has no problem; expected a prepare before")
            self._prepared = self._ask(self._problem, Prepared, self._limits.prepare)
            self._built.clear()

    def _need_built(self, slot: str, slow_call_seconds: float | None = None) -> None:
        if slot not in self._configurations:
            raise InternalError(f"slot {slot!r} is empty; expected a build before")
        self._need_prepared()
        if slot not in self._built:
            request = messages.Build(slot, self._configurations[slot], slow_call_seconds)
            self._built[slot] = self._ask(request, Built, self._limits.build, slot)

    def _running(self) -> None:
        """Start a process if there is none, or if it died."""
        if self._process is not None and self._process.alive:
            return
        self.close()
        self._prepared = None
        self._built.clear()
        began = time.monotonic()
        self._process = Process(self._python, self._device, self._modules, self._memory_bytes)
        try:
            self._ready = self._reply(messages.Ready, self._process.receive("start", self._limits.start))
        except TrialError as failure:
            if failure.verdict == Verdict.PREEMPTED:
                raise
            message = f"worker: {self._python!r} does not start: {failure.reason}"
            raise ConfigError(f"{message}; expected an interpreter with torch, numpy and msgspec") from None
        except BaseException:
            self.close()
            raise
        if self._ready.protocol != messages.PROTOCOL:
            self.close()
            raise ConfigError(f"worker: {self._python!r} has another version of autotune; expected this one")
        self._process.started(self._ready.resident_bytes)
        self.start_seconds = time.monotonic() - began

    def _ask(self, request: messages.Request, reply: type[R], limit: float, slot: str = "") -> R:
        """Exchange messages with the process, which is running; if it is dead by now, that is the answer."""
        process = self._process
        assert process is not None, "callers make sure that it runs"
        stage = type(request).__name__.lower()
        left = math.inf if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0:
            raise TrialError(Verdict.PREEMPTED, f"{stage}: no time is left", slot)
        try:
            return self._reply(reply, process.exchange(messages.encode(request), stage, min(limit, left)))
        except TrialError as failure:
            if failure.verdict == Verdict.HUNG and left < limit:
                raise TrialError(Verdict.PREEMPTED, f"{stage}: no time was left", slot) from None
            if isinstance(request, messages.Compare):
                slot = failure.slot or request.slots[process.marked]
            failure.slot = slot
            raise
        except BaseException:
            # Interrupted while waiting: its reply would be taken for that of the next request.
            self.close()
            raise

    def _reply(self, expected: type[R], frame: bytes) -> R:
        """The reply in a frame.

        Raises:
            TrialError: it says that the trial failed.
            UsageError: it says that the request was wrong.
        """
        try:
            reply = messages.decode_reply(frame)
        except msgspec.DecodeError as error:
            self.close()
            raise TrialError(Verdict.CRASHED, f"wrote to the worker's own pipe: {error}") from None
        match reply:
            case messages.Failed():
                if reply.spoilt:
                    self.close()
                raise TrialError(reply.verdict, reply.reason, reply.slot)
            case messages.Refused():
                raise UsageError(reply.reason)
            case _ if isinstance(reply, expected):
                return reply
        raise InternalError(f"worker answered {type(reply).__name__}; expected {expected.__name__}")
