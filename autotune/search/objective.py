"""What a search minimises: a percentile of the latency, and what its measurement takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.measure.comparison import MEDIAN

if TYPE_CHECKING:
    from autotune.store.records import Measurement


@dataclass(frozen=True)
class Objective:
    """How configurations are compared.

    Attributes:
        percentile: of the latency of one call.
        least_samples: of a screening, before its estimate may count as converged.
        least_rounds: with fewer nothing is proven in the final, however large the difference.
        most_finalists: accurate ones, and as many less accurate ones. Screening ranks within a few per cent;
            more finalists take rounds from each other.
    """

    percentile: float
    least_samples: int
    least_rounds: int
    most_finalists: int

    def value_ns(self, measurement: Measurement) -> float:
        """What is minimised."""
        return measurement.percentile_ns(self.percentile)


LATENCY = Objective(MEDIAN, least_samples=10, least_rounds=14, most_finalists=4)

TAIL = Objective(99.0, least_samples=300, least_rounds=750, most_finalists=2)
"""Up to 706 rounds are needed at 99 % before the upper bound of a 99th percentile is finite."""

BY_NAME = {"latency": LATENCY, "tail": TAIL}
