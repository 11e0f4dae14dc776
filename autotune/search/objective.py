"""What a search minimises, and what measuring it takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from autotune.measure.comparison import MEDIAN
from autotune.measure.energy import WINDOW_SECONDS
from autotune.space.declared import limit_ns

if TYPE_CHECKING:
    from autotune.measure.comparison import Rules
    from autotune.store.records import Measurement

OF_TAILS = 750
"""Rounds of a final that has to bound a 99th percentile: up to 706 are needed at 99 % confidence."""


@dataclass(frozen=True)
class Objective:
    """How configurations are compared.

    Attributes:
        percentile: of the latency of one call; None for the mean, whose inverse is the throughput.
        least_samples: of a screening, before its estimate may count as converged.
        least_rounds: with fewer nothing is proven in the final, however large the difference.
        most_finalists: accurate ones, and as many less accurate ones. Screening ranks within a few per cent;
            more finalists take rounds from each other.
        limit_ns: what the 99th percentile must not exceed; None for no limit.
        energy: whether energy is compared in place of latency.
    """

    percentile: float | None
    least_samples: int
    least_rounds: int
    most_finalists: int
    limit_ns: float | None = None
    energy: bool = False

    @property
    def statistic(self) -> str:
        """What is compared, in words."""
        if self.energy:
            return "energy"
        if self.percentile is None:
            return "mean"
        return "median" if self.percentile == MEDIAN else f"p{self.percentile:g}"

    def value(self, measurement: Measurement) -> float:
        """What is minimised: nanoseconds, or nanojoules; infinite where that was not measured."""
        if self.energy:
            return math.inf if measurement.joules is None else 1e9 * measurement.joules
        if self.percentile is None:
            return measurement.mean_ns
        return measurement.percentile_ns(self.percentile)

    def latency_ns(self, measurement: Measurement) -> float:
        """The latency to go by: what is minimised, or the median where that is energy."""
        return measurement.p50_ns if self.energy else self.value(measurement)

    def excess(self, measurement: Measurement) -> float:
        """By what share of the limit the 99th percentile exceeds it; not above 0 where it is kept."""
        return -1.0 if self.limit_ns is None else measurement.p99_ns / self.limit_ns - 1

    def sample_seconds(self, value: float) -> float:
        """What one sample takes of a configuration with this value."""
        return WINDOW_SECONDS if self.energy else value / 1e9

    def rules(self, rules: Rules, budget_seconds: float) -> Rules:
        """The rules of a final in so much time."""
        return replace(
            rules,
            budget_seconds=budget_seconds,
            percentile=self.percentile,
            limit_ns=self.limit_ns,
            energy=self.energy,
        )


LATENCY = Objective(MEDIAN, least_samples=10, least_rounds=14, most_finalists=4)
TAIL = Objective(99.0, least_samples=300, least_rounds=OF_TAILS, most_finalists=2)
THROUGHPUT = Objective(None, least_samples=50, least_rounds=50, most_finalists=4)
SERVED = Objective(MEDIAN, least_samples=1, least_rounds=14, most_finalists=2)
"""Of a server, whatever is compared: a sample is one start of it, and each is a figure of a whole load."""

ENERGY = Objective(MEDIAN, least_samples=10, least_rounds=14, most_finalists=2, energy=True)

BY_NAME = {"latency": LATENCY, "tail": TAIL, "throughput": THROUGHPUT, "energy": ENERGY}


def objective_named(name: str, workload: str = "") -> Objective:
    """The objective of a name, which may carry a limit: `throughput:5ms`.

    Args:
        name: of the objective.
        workload: that it is of; those of a server are compared by starts of it.
    """
    if workload == "server":
        return SERVED
    limit = limit_ns(name)
    if limit is None:
        return BY_NAME[name]
    return Objective(
        None,
        least_samples=TAIL.least_samples,
        least_rounds=OF_TAILS,
        most_finalists=TAIL.most_finalists,
        limit_ns=limit,
    )
