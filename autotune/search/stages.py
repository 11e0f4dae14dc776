"""The stages of a trial: built, checked, screened; each can end it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import TrialError
from autotune.measure.statistics import median_interval
from autotune.search.final import CLEARLY_SLOWER
from autotune.store.records import Measurement, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.search.objective import Objective
    from autotune.store.records import Configuration
    from autotune.worker.runner import Runner

NOISY = 2.0
"""A median that is not known within this factor when the time is up says nothing about the configuration."""

HOPELESS = 5.0
HOPELESS_SHARE = 0.01
"""A configuration whose bare call, right after the build, takes this many times the best so far, and this
share of the budget, is neither checked nor screened: that would take eight calls, and two have told."""


@dataclass(frozen=True)
class Stages:
    """Takes configurations through the stages.

    Attributes:
        worker: where they run.
        objective: what screening estimates.
        seed: of the inputs that are checked.
        budget_seconds: of the study.
        screen_seconds: longest sampling of one configuration.
        allowed_error: the largest relative error that a configuration may have.
        best_ns: the least latency that counts so far, of configurations with at most the error given.
        enter: called with each stage and the configuration, before it begins.
    """

    worker: Runner
    objective: Objective
    seed: int
    budget_seconds: float
    screen_seconds: float
    allowed_error: float
    best_ns: Callable[[float], float]
    enter: Callable[[str, Configuration], str]

    def run(self, slot: str, configuration: Configuration, outcome: dict[str, Any]) -> tuple[Verdict, str]:
        """Take one through, noting in `outcome` what each stage showed; returns verdict and reason.

        Raises:
            TrialError: it failed; `outcome["stage"]` says where.
        """
        best_ns = self.best_ns(float("inf"))
        hopeless = max(HOPELESS * best_ns / 1e9, HOPELESS_SHARE * self.budget_seconds)
        built = self.worker.build(slot, configuration, slow_call_seconds=hopeless)
        outcome.update(memory_bytes=built.memory_bytes, compile_seconds=built.compile_seconds)
        call_ns = round(built.call_seconds * 1e9)
        if built.call_seconds > hopeless:
            outcome["measurement"] = Measurement((call_ns,), "clearly_slower", "monotonic", "hot")
            slow = f"a call took {built.call_seconds:.3g} s, {call_ns / best_ns:.0f} times the best so far"
            return Verdict.OK, f"{slow}: not checked"
        outcome["stage"] = self.enter("correctness", configuration)
        error = outcome["error"] = self.worker.check(slot, self.seed)
        if error > self.allowed_error:
            raise TrialError(Verdict.WRONG, f"relative error {error:.2e} exceeds {self.allowed_error:.2e}")
        outcome["stage"] = self.enter("screening", configuration)
        # One less accurate that is faster is no reason to stop: the two do not compete for the same rank.
        slower = None if self.objective.energy else self.best_ns(error) * CLEARLY_SLOWER
        measurement = outcome["measurement"] = self.worker.measure(
            slot,
            budget_seconds=self.screen_seconds,
            clearly_slower_than_ns=slower,
            min_samples=self.objective.least_samples,
            energy=self.objective.energy,
        )
        if measurement.load:
            # A server holds most while it is loaded, and not when it has just started.
            outcome["memory_bytes"] = measurement.load["peak_memory_bytes"]
        reason = _noise(measurement)
        return (Verdict.NOISY if reason else Verdict.OK), reason


def _noise(measurement: Measurement) -> str:
    """Why a screening is too noisy to go by; empty when it is not."""
    low, high = median_interval(measurement.samples_ns, confidence=0.95)
    if measurement.stopped != "time_cap" or high < NOISY * low:
        return ""
    taken, spread = len(measurement.samples_ns), f"{low / 1e6:.3g} to {high / 1e6:.3g} ms"
    return f"the median of {taken} samples lies anywhere from {spread}"
