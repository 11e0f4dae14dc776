"""Service-level objectives: what a request must keep to be a good one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from autotune.measure.load.records import Record


class Slo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Limits that a share of all requests must keep, all of them at once.

    A request is good if it was answered and keeps every limit. The objectives are met where at least
    `percentile` per cent of requests are good. With one limit that is a limit on that percentile; with
    several it is stricter than one on each.

    Attributes:
        ttft_ms: longest time to first token.
        tpot_ms: longest time per output token after the first.
        e2e_ms: longest time to the last token.
        percentile: share of requests that must be good, in per cent.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    percentile: float = 99.0

    def __post_init__(self) -> None:
        for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
            limit = getattr(self, name)
            if limit is not None and not (0 < limit < math.inf):
                raise ValueError(f"{name}: expected milliseconds above 0, found {limit:g}")
        if not 50 <= self.percentile < 100:
            raise ValueError(f"percentile: expected 50 to below 100, found {self.percentile:g}")

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, in milliseconds by name."""
        named = {"ttft": self.ttft_ms, "tpot": self.tpot_ms, "e2e": self.e2e_ms}
        return {name: limit for name, limit in named.items() if limit is not None}

    def met_by(self, record: Record) -> bool:
        """Whether a request is a good one; without limits every answered one is."""
        if not record.answered:
            return False
        for name, limit in self.limits.items():
            seconds = getattr(record, name)
            if seconds is not None and seconds * 1e3 > limit:
                return False
        return True

    def __str__(self) -> str:
        limits = ", ".join(f"{name.upper()} {limit:g} ms" for name, limit in self.limits.items())
        return f"{limits or 'answered'} for {self.percentile:g} %"
