"""Ends a load as soon as its outcome is sure: over-saturated, or too many requests missed the objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.measure.load.saturation import BATCHES, LEAST_PER_BATCH, trend
from autotune.measure.load.tails import overlatency_allowed

if TYPE_CHECKING:
    from autotune.measure.load.records import Record
    from autotune.measure.load.slo import Slo


class LoadWatch:
    """Told of every request that has ended, it says when to stop.

    The trend is looked at whenever half as many requests again were answered, so that looks are few.

    Args:
        slo: what makes a request a good one; None to watch for over-saturation alone.
        requests: that will count.
        warm_up: first requests, which do not.
    """

    def __init__(self, slo: Slo | None = None, requests: int = 0, warm_up: int = 0) -> None:
        self._slo = slo
        self._warm_up = warm_up
        self._left = max(overlatency_allowed(requests, slo.percentile), 0) if slo else 0
        self._arrivals: list[float] = []
        self._latencies: list[float] = []
        self._look = 5 * BATCHES * LEAST_PER_BATCH

    def __call__(self, record: Record) -> bool:
        """Note a request that has ended; true once the load need not go on."""
        if record.number < self._warm_up:
            return False
        if self._slo is not None and not self._slo.met_by(record):
            self._left -= 1
            if self._left < 0:
                return True
        if not record.answered:
            return False
        self._arrivals.append(record.arrival)
        self._latencies.append(record.ttft)
        if len(self._arrivals) < self._look:
            return False
        self._look += self._look // 2
        found = trend(self._arrivals, self._latencies)
        return found is not None and found.saturated
