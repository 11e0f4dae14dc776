"""The time that a study keeps for its end, so that what it measured comes to a decision."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.search.budget import Budget
    from autotune.worker.runner import Runner

MAKING_TIMES = 2.0
"""Times the budget that making the problem and its baseline may take where others wait for their turn: it was
expected to take less than the budget, and what is so slow to make is as slow to search."""

GRACE_SECONDS = 5.0
"""What the final may take beyond the study's end: all that was measured would be lost with it."""


class Reserve:
    """What is kept for the final, and for building everything anew should a trial end the process.

    Args:
        budget: what the study may spend.
        worker: whose deadline is set.
        least_final_seconds: the least that a final takes which proves anything, as far as is known by then.

    Attributes:
        making_seconds: what making the problem and its baseline took.
    """

    def __init__(self, budget: Budget, worker: Runner, least_final_seconds: Callable[[], float]) -> None:
        self._budget = budget
        self._worker = worker
        self._least_final_seconds = least_final_seconds
        self._longest_final_seconds = math.inf
        self.making_seconds = 0.0

    @contextmanager
    def making(self, started: float) -> Iterator[None]:
        """Stop the worker where the problem and its baseline take too long to make.

        Args:
            started: moment on the monotonic clock at which the study did.
        """
        if self._budget.deadline is not None:
            longest = started + MAKING_TIMES * self._budget.seconds
            self._worker.deadline = min(self._budget.deadline, longest)
        yield
        self._worker.deadline = self._budget.deadline

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Stop the worker in time for the final: what has to be killed takes all that was built with it."""
        if self._budget.deadline is not None:
            rebuild = 0.0 if self.must_decide_if_rebuilt else self._rebuild_seconds
            self._worker.deadline = self._budget.deadline - self.final_seconds - rebuild
        try:
            yield
        finally:
            self._worker.deadline = self._budget.deadline

    @contextmanager
    def final(self) -> Iterator[None]:
        """Let the worker end the final, though the study's end be past."""
        if self._budget.deadline is not None:
            self._worker.deadline = self._budget.deadline + GRACE_SECONDS
        yield
        self._worker.deadline = None

    def made(self, seconds: float) -> None:
        """Tell what making the problem and its baseline took; half of what is left may go to the final."""
        self.making_seconds = seconds
        self._longest_final_seconds = self._budget.seconds_left / 2

    @property
    def final_seconds(self) -> float:
        """What the final takes: its share, or more where that would prove nothing of so slow a baseline."""
        share = self._budget.seconds * self._budget.final_share
        return min(max(share, self._least_final_seconds()), self._longest_final_seconds)

    @property
    def must_decide_if_rebuilt(self) -> bool:
        """Whether no more time is left than building everything anew and the final take."""
        return self._budget.seconds_left <= self.final_seconds + self._rebuild_seconds

    @property
    def _rebuild_seconds(self) -> float:
        return self._worker.start_seconds + self.making_seconds
