"""How long problems take to make, learned while a plan is worked through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.errors import UnknownNameError
from autotune.space.work import held_bytes

if TYPE_CHECKING:
    from autotune.space.problem import Problem

BYTES_PER_S = {"linear": 60e6, "mla_decode": 10e6, "fused_moe": 10e6}
"""Of what a problem holds, on two cores: drawn, packed for the baseline, and its references computed. Other
machines differ from this by one factor, more or less, which the first problems tell."""

OTHERS_BYTES_PER_S = 60e6


class Preparations:
    """Expects of a problem what its size says, as much faster or slower as others before it were."""

    def __init__(self) -> None:
        self._expected = 0.0
        self._took = 0.0

    def learn(self, problem: Problem, seconds: float) -> None:
        """Note what making a problem and its baseline took."""
        expected = _typical_seconds(problem)
        if expected:
            self._expected += expected
            self._took += seconds

    def expected_seconds(self, problem: Problem) -> float:
        """What making it will take; 0 where nothing is known of its size."""
        return _typical_seconds(problem) * (self._took / self._expected if self._expected else 1.0)


def _typical_seconds(problem: Problem) -> float:
    try:
        return held_bytes(problem) / BYTES_PER_S.get(problem.workload, OTHERS_BYTES_PER_S)
    except UnknownNameError:
        return 0.0
