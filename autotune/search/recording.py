"""Recording a search space: every configuration measured, in random order, by the worker that tunes.

    prepare -> baseline built and checked -> for each round and configuration: build, check, measure -> file

Times are comparable only as far as the machine stays as it is. The order is random, so that drift does not
look like an effect of a parameter, and the baseline is measured again now and then, so that drift is known.
Whatever disturbs the machine for seconds spoils all samples of one configuration alike: so there are several
rounds over all of them, each in another order.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import TrialError
from autotune.search.final import ACCURACY_SLACK, BASELINE
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.search.landscape_file import LandscapeFile
    from autotune.space.searchspace import SearchSpace
    from autotune.store.records import Configuration, Measurement
    from autotune.worker.worker import Worker

BASELINE_EVERY = 20
"""Configurations between two measurements of the baseline: it costs them 5 % more time."""

SLOT = "recorded"


def drawn_rows(space: SearchSpace, part: int, seed: int) -> list[int]:
    """Rows of the space to record, in the order in which to: the baseline, then others at random.

    A larger part of the same seed begins with the smaller one, so that a recording can be extended.
    """
    order = np.random.default_rng(seed).permutation(len(space)).tolist()
    order.remove(space.baseline_row)
    return [space.baseline_row, *order][:part]


class Recorder:
    """Measures what a file lacks.

    Args:
        space: what is recorded.
        worker: where it runs; owned by the caller.
        file: where it is recorded.
        part: how many configurations are wanted.
        rounds: how often each is measured.
        max_error: relative error that is acceptable; None for the baseline's.
        sample_seconds: longest sampling of one configuration.
        seed: of inputs and order.
    """

    def __init__(
        self,
        space: SearchSpace,
        worker: Worker,
        file: LandscapeFile,
        *,
        part: int,
        rounds: int,
        max_error: float | None,
        sample_seconds: float,
        seed: int,
    ) -> None:
        self._space = space
        self._worker = worker
        self._file = file
        self._sample_seconds = sample_seconds
        self._seed = seed
        self._max_error = max_error or 0.0
        drawn = drawn_rows(space, part, seed)
        self.visits = part * rounds
        self.missing = [
            configuration
            for number in range(rounds)
            for configuration in map(space.pool.configuration, _shuffled(drawn, seed, number))
            if file.rounds(configuration) <= number
        ]

    def run(self, seconds: float | None = None, observe: Callable[[], object] = lambda: None) -> None:
        """Record until nothing is missing or the time is spent.

        Args:
            seconds: after which no further configuration is begun; None for no limit.
            observe: called whenever a configuration was recorded.

        Raises:
            TrialError: the baseline cannot be built or run.
            KeyboardInterrupt: asked to stop; what was recorded is in the file.
        """
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        if not self.missing:
            return
        self._worker.prepare(self._space.problem, self._seed)
        self._worker.build(BASELINE, self._space.baseline)
        error = self._worker.check(BASELINE, self._seed)
        allowed = max(error * (1 + ACCURACY_SLACK), self._max_error)
        for count in range(len(self.missing)):
            if time.monotonic() > deadline:
                break
            if count % BASELINE_EVERY == 0:
                self._measure_baseline()
            configuration = self.missing.pop(0)
            if not math.isinf(self._file.rounds(configuration)):
                self._visit(configuration, allowed)
            observe()
        self._measure_baseline()

    def _measure_baseline(self) -> None:
        measured = self._worker.measure(BASELINE, budget_seconds=self._sample_seconds)
        self._file.add_baseline({**_latency(measured), "timestamp": _now()})

    def _visit(self, configuration: Configuration, allowed: float) -> None:
        """Run one configuration through the stages of a trial, and record how it ended."""
        facts: dict[str, Any] = {}
        seconds = {"compile_time": 0.0, "verification_time": 0.0, "benchmark_time": 0.0}
        verdict, latency = Verdict.OK, None
        try:
            with _timed(seconds, "compile_time"):
                built = self._worker.build(SLOT, configuration)
            facts["memory_bytes"] = built.memory_bytes
            if not self._file.rounds(configuration):
                with _timed(seconds, "verification_time"):
                    error = facts["error"] = self._worker.check(SLOT, self._seed)
                if error > allowed:
                    raise TrialError(Verdict.WRONG, f"relative error {error:.2e} exceeds {allowed:.2e}")
            with _timed(seconds, "benchmark_time"):
                measured = self._worker.measure(SLOT, budget_seconds=self._sample_seconds)
            latency = {**_latency(measured), "timestamp": _now()}
        except TrialError as failure:
            verdict = Verdict(failure.verdict)
            if verdict is Verdict.PREEMPTED:
                raise
            facts["reason"] = failure.reason
        self._worker.release(SLOT)
        facts |= {stage: 1e3 * spent for stage, spent in seconds.items()}
        self._file.add(configuration, verdict, facts, latency)


def _shuffled(rows: list[int], seed: int, number: int) -> list[int]:
    """The order of a round; the first one's is that of the drawing."""
    return rows if number == 0 else np.random.default_rng([seed, number]).permutation(rows).tolist()


def _latency(measured: Measurement) -> dict[str, Any]:
    """In milliseconds, as Kernel Tuner has them."""
    samples = np.asarray(measured.samples_ns) / 1e6
    return {"time": measured.p50_ns / 1e6, "std": float(np.std(samples)), "samples": len(samples)}


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.monotonic()
    try:
        yield
    finally:
        seconds[stage] = time.monotonic() - started


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
