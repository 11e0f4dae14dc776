"""How long problems take to make, learned while a plan is worked through."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from autotune.errors import UnknownNameError
from autotune.space.work import held_bytes

if TYPE_CHECKING:
    from autotune.space.problem import Problem

TYPICAL_BYTES_PER_S = 50e6
"""Assumed until one was made: two cores draw the weights of a `linear` at 65 MB/s, references included, of a
`fused_moe` at 30 MB/s. Faster machines are known for what they are after the first problem."""


class Preparations:
    """Expects of a problem what others of its workload took, by the bytes that they hold."""

    def __init__(self) -> None:
        self._made: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def learn(self, problem: Problem, seconds: float) -> None:
        """Note what making a problem took."""
        self._made[problem.workload].append((_bytes(problem), seconds))

    def expected_seconds(self, problem: Problem) -> float:
        """What making it will take; 0 where nothing is known of its size."""
        known = self._made[problem.workload] or [made for each in self._made.values() for made in each]
        held = sum(size for size, _ in known)
        seconds = sum(seconds for _, seconds in known)
        return _bytes(problem) * (seconds / held if held else 1 / TYPICAL_BYTES_PER_S)


def _bytes(problem: Problem) -> float:
    try:
        return held_bytes(problem)
    except UnknownNameError:
        return 0.0
