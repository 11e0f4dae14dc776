"""The records that travel from the worker through the study into the history: all immutable.

Times are in nanoseconds (`_ns`) or seconds (`_seconds`), sizes in bytes, moments in seconds since the epoch.

NumPy is not imported here: the daemon's main process, which keeps the records, would hold a quarter more
memory.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import msgspec

Configuration = dict[str, Any]
"""One point of a search space: `implementation` first, then its qualifiers and kernel parameters."""


class Verdict(StrEnum):
    """How a trial ended."""

    OK = "ok"
    INFEASIBLE = "infeasible"
    COMPILE_ERROR = "compile_error"
    WRONG = "wrong"
    CRASHED = "crashed"
    HUNG = "hung"
    OUT_OF_MEMORY = "out_of_memory"
    NOISY = "noisy"
    PREEMPTED = "preempted"


QUARANTINING = frozenset({Verdict.WRONG, Verdict.CRASHED, Verdict.HUNG, Verdict.OUT_OF_MEMORY})
"""Verdicts after which a configuration is never tried again under the same device and stack."""


class Measurement(msgspec.Struct, frozen=True):
    """A latency distribution.

    Attributes:
        samples_ns: one entry per timed call, in the order taken.
        stopped: why sampling ended: `converged`, `time_cap`, `sample_cap`, `clearly_slower`, or `throttled`:
            clocks were held down from the first sample to the last.
        timer: what took the time, e.g. `monotonic`, `cuda_events`, `cuda_graph`.
        cache: `cold` (evicted before each call) or `hot`.
        discarded: samples thrown away because the device was throttled.
        clocks: clock readings around the batch in MHz, by name.
        joules: energy of one call, from windows of calls back to back; None where it was not asked for.
        load: what a load of a server showed, as `LoadFigures` becomes JSON; unset where calls were timed. Of
            a server there is one sample for each of its starts.
    """

    samples_ns: tuple[int, ...]
    stopped: str
    timer: str
    cache: str = "cold"
    discarded: int = 0
    clocks: dict[str, float] = {}
    joules: float | None = None
    load: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET

    @property
    def p50_ns(self) -> float:
        """Median latency."""
        return self.percentile_ns(50)

    @property
    def p90_ns(self) -> float:
        """90th percentile."""
        return self.percentile_ns(90)

    @property
    def p99_ns(self) -> float:
        """99th percentile, interpolated; with fewer than 100 samples it is little more than the maximum."""
        return self.percentile_ns(99)

    @property
    def mean_ns(self) -> float:
        """Mean latency."""
        return sum(self.samples_ns) / len(self.samples_ns)

    @property
    def variation(self) -> float:
        """Coefficient of variation: standard deviation over mean."""
        mean = self.mean_ns
        return (
            math.sqrt(math.fsum((one - mean) ** 2 for one in self.samples_ns) / len(self.samples_ns)) / mean
        )

    def percentile_ns(self, q: float) -> float:
        """The `q`-th percentile, 0 to 100, between samples by linear interpolation as NumPy does it."""
        ordered = sorted(self.samples_ns)
        position = (len(ordered) - 1) * q / 100
        below = math.floor(position)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


class Interval(msgspec.Struct, frozen=True):
    """A ratio of latencies, `other / this` (above 1: this is faster), with its confidence interval."""

    ratio: float
    low: float
    high: float


class Proof(msgspec.Struct, frozen=True):
    """What the interleaved comparison said of one configuration, all in the same rounds.

    Attributes:
        rounds: rounds in which every contender ran once, in random order.
        confidence: of the intervals, e.g. 0.99.
        margin: by how much an interval had to exclude 1, e.g. 0.01.
        latency_ns: median of the rounds of this configuration; for `tail` their 99th percentile, for
            `throughput` their mean.
        baseline_ns: the same of the baseline's rounds.
        against_baseline: paired speed-up over the baseline; for `energy` by how much less a call takes.
        against_incumbent: paired speed-up over the incumbent; None when there was none.
        stopped: why rounds ended: `decided`, `time_cap` or `round_cap`.
        joules: energy of one call, median of the rounds; None where latency was compared.
        baseline_joules: the same of the baseline.
    """

    rounds: int
    confidence: float
    margin: float
    latency_ns: float
    baseline_ns: float
    against_baseline: Interval
    against_incumbent: Interval | None = None
    stopped: str = ""
    joules: float | None = None
    baseline_joules: float | None = None


class CompiledKernel(msgspec.Struct, frozen=True):
    """What a GPU kernel of a configuration needs, as the compiler told it.

    Attributes:
        name: of the kernel.
        threads: of a block.
        shared_bytes: shared memory of a block.
        registers: of a thread.
        local_bytes: memory of a thread for what did not fit its registers (spills).
        tensor_memory_bytes: of a block, on Blackwell.
    """

    name: str
    threads: int
    shared_bytes: int
    registers: int
    local_bytes: int
    tensor_memory_bytes: int = 0


class Feasibility(msgspec.Struct, frozen=True):
    """What compiling a configuration showed before it was built.

    Attributes:
        infeasible: why it cannot run on the device; empty where nothing speaks against it.
        unknown: why that cannot be told without the device; empty where it can.
        kernels: those that were compiled.
        seconds: what it took.
    """

    infeasible: str = ""
    unknown: str = ""
    kernels: tuple[CompiledKernel, ...] = ()
    seconds: float = 0.0


class Trial(msgspec.Struct, frozen=True):
    """One configuration tried.

    Attributes:
        number: position in its study, from 0.
        stage: the stage it reached: `feasibility`, `compile`, `correctness`, `screening` or `final`.
        reason: one line on a verdict other than `ok`.
        error: relative error `||out - ref|| / ||ref||`, None when it never ran.
        memory_bytes: memory that the built configuration holds (packed weights, workspace), None if unknown.
        started_at: seconds since the epoch.
        kernels: what its GPU kernels need, where they were compiled ahead.
    """

    number: int
    configuration: Configuration
    verdict: Verdict
    stage: str
    reason: str = ""
    error: float | None = None
    memory_bytes: int | None = None
    compile_seconds: float = 0.0
    measure_seconds: float = 0.0
    measurement: Measurement | None = None
    started_at: float = 0.0
    kernels: tuple[CompiledKernel, ...] = ()


class StudyKey(msgspec.Struct, frozen=True):
    """What makes two studies the same one, so that the second resumes the first."""

    workload: str
    problem: str
    device: str
    stack: str
    objective: str
    space: str
    max_error: float | None = None


class Choice(msgspec.Struct, frozen=True):
    """A proven configuration, as published: the winner (rank 0) or another point of the Pareto front.

    Attributes:
        measurement: the fresh re-measurement after the decision; None for the other points of the front.
        latency_ns: p50 of `measurement`, or the proof's for other points of the front.
        trial: number of the trial in its study; None for the baseline, which is no trial.
        is_baseline: whether this is the baseline itself, kept because nothing beat it.
        limit_share: share of the measured ceiling (roofline), 0 to 1; None when no ceiling is known.
    """

    rank: int
    configuration: Configuration
    latency_ns: float
    error: float
    memory_bytes: int
    proof: Proof
    trial: int | None = None
    is_baseline: bool = False
    measurement: Measurement | None = None
    limit_share: float | None = None


class Winner(msgspec.Struct, frozen=True):
    """What one study decided for (device, stack, problem, objective).

    Attributes:
        dimensions: the problem's dimensions, in declared order.
        neighbourhood: the problem's key without its `nearest` dimensions.
        baseline_error: relative error of the baseline, the bound that rank 0 keeps.
        choices: rank 0 first; ranks above are the rest of the Pareto front over (latency, error, memory).
    """

    workload: str
    problem: str
    dimensions: dict[str, int | str]
    neighbourhood: str
    device: str
    stack: str
    objective: str
    space: str
    baseline_error: float
    choices: tuple[Choice, ...]
    decided_at: float
