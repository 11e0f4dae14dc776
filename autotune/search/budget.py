"""What a study may spend, and where it stands."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from autotune.search.objective import Objective
    from autotune.store.records import Configuration, Trial, Verdict


@dataclass(frozen=True)
class Budget:
    """What a study may spend.

    Attributes:
        seconds: wall-clock of the device, preparation and final included. Exceeded where less would decide
            nothing: for the least trials, and for rounds of a slow baseline.
        trials: configurations to try; None for no limit.
        screen_seconds: longest sampling of one configuration while searching.
        final_share: share of `seconds` kept for the interleaved final and the re-measurement.
        deadline: moment on the monotonic clock by which the study ends in any case; None for none.
    """

    seconds: float
    trials: int | None = None
    screen_seconds: float = 0.5
    final_share: float = 0.35
    deadline: float | None = None

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return math.inf if self.deadline is None else self.deadline - time.monotonic()


@dataclass
class Progress:
    """Where a study stands, for whoever watches.

    Attributes:
        phase: `preparing`, `searching`, `deciding` or `done`.
        possible: configurations in the space.
        best_ns: screened latency of the best so far, None before the first.
        best_value: what the objective minimises, of the best so far.
        baseline_value: the same of the baseline, None before it is known.
        end_reason: why the search ended: `budget`, `trials`, `exhausted`, or `improbable` where its model
            expects nothing of what is left; empty before.
        trying: the configuration of the trial that runs, whose number is `tried`; None between trials.
        stage: what that trial has come to.
    """

    problem: str
    budget_seconds: float
    possible: int
    phase: str = "preparing"
    tried: int = 0
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    best_ns: float | None = None
    best_value: float | None = None
    baseline_value: float | None = None
    end_reason: str = ""
    trying: Configuration | None = None
    stage: str = ""
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since the study started."""
        return time.monotonic() - self.started

    @property
    def speedup(self) -> float | None:
        """How much better the best is than the baseline, as screened: an estimate until the final."""
        return self.baseline_value / self.best_value if self.best_value and self.baseline_value else None

    def begin(self, baseline_value: float, tried: Iterable[Trial]) -> None:
        """The baseline is measured; count what an earlier run of the study tried."""
        self.baseline_value = baseline_value
        self.verdicts.update(trial.verdict for trial in tried)
        self.tried = self.verdicts.total()

    def ended(self, trial: Trial, objective: Objective) -> None:
        """A trial has ended."""
        self.trying, self.stage = None, ""
        self.tried += 1
        self.verdicts[trial.verdict] += 1
        if trial.measurement:
            value = objective.value(trial.measurement)
            if self.best_value is None or value < self.best_value:
                self.best_value, self.best_ns = value, objective.latency_ns(trial.measurement)
