"""The figures of a load: what its requests show together, and how far that can be trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from autotune.measure.load.records import DEFINITIONS
from autotune.measure.load.saturation import Trend, trend
from autotune.measure.load.slo import Slo
from autotune.measure.load.tails import CONFIDENCE, Spread, Standing, spread, standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.measure.load.records import Record

WARM_UP_SHARE = 0.1
"""Of the requests, dropped by default: the first find no queue, and cold caches."""

MOST_LATE_SECONDS = 0.01
"""A sender this much behind its own schedule, at the 99th percentile, did not offer the load it says."""


class RatePoint(msgspec.Struct, frozen=True):
    """A rate that was tried, in short; times in seconds, None where too few requests were answered.

    Attributes:
        rate: requests per second.
        kept: whether the objectives were shown to be met.
        why: they were not; empty where they were.
    """

    rate: float
    kept: bool
    why: str
    requests: int
    good_share: float
    goodput: float
    output_tokens_per_s: float
    ttft_p50: float | None
    ttft_p90: float | None
    ttft_p99: float | None
    tpot_p50: float | None
    tpot_p99: float | None
    e2e_p50: float | None
    e2e_p99: float | None
    saturated: bool


class LoadFigures(msgspec.Struct, frozen=True):
    """What a load showed; times in seconds, rates per second.

    Attributes:
        offered_rate: at which requests were scheduled.
        requests: that count.
        answered: of them.
        failed: of them, in any way.
        warm_up: requests before them that do not count.
        seconds: from the first counted arrival to the last counted answer.
        requests_per_s: answered ones.
        output_tokens_per_s: of answered ones.
        goodput: good requests per second.
        good: how many met the objectives.
        slo: the objectives.
        slo_standing: whether the objectives are surely met (`kept`), surely not (`broken`), or neither.
        ttft: time to first token.
        tpot: time per output token after the first.
        itl: inter-token latency.
        e2e: time to the last token.
        queueing: until the engine took a request up; empty where that is not known.
        growth: how the time to first token moved; None of too few requests to tell.
        lateness: of sending.
        tokens_counted: who counted output tokens, see `Record.counted_by`.
        doubts: what speaks against the figures, a line each.
        failures: reasons of requests that failed, with how many there were.
        definitions: of the figures.
        peak_memory_bytes: most that the server's processes held; None where it was not looked at.
        device_memory_bytes: most that they held on accelerators.
        by_rate: the rates that were tried before these figures were had; empty where it was but one.
    """

    offered_rate: float
    requests: int
    answered: int
    failed: int
    warm_up: int
    seconds: float
    requests_per_s: float
    output_tokens_per_s: float
    goodput: float
    good: int
    slo: Slo
    slo_standing: Standing
    ttft: Spread
    tpot: Spread
    itl: Spread
    e2e: Spread
    queueing: Spread
    growth: Trend | None
    lateness: Spread
    tokens_counted: str
    doubts: tuple[str, ...] = ()
    failures: dict[str, int] = {}
    definitions: dict[str, str] = msgspec.field(default_factory=lambda: dict(DEFINITIONS))
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    by_rate: tuple[RatePoint, ...] = ()

    @property
    def saturated(self) -> bool:
        """Whether requests came faster than they were served."""
        return self.growth is not None and self.growth.saturated

    @property
    def good_share(self) -> float:
        """Share of the requests that met the objectives."""
        return self.good / self.requests if self.requests else 0.0


def warm_up_of(requests: int, warm_up: int | None = None) -> int:
    """How many of the first requests do not count: so many as asked for, else a tenth."""
    return math.floor(WARM_UP_SHARE * requests) if warm_up is None else min(warm_up, requests)


def figures_of(
    records: Sequence[Record],
    *,
    offered_rate: float,
    slo: Slo | None = None,
    warm_up: int | None = None,
    confidence: float = CONFIDENCE,
) -> LoadFigures:
    """The figures of a load.

    Args:
        records: of all its requests, in any order.
        offered_rate: requests per second that were scheduled.
        slo: what makes a request a good one; every answered one by default.
        warm_up: first requests that do not count; a tenth by default.
        confidence: one-sided, of bounds and of the objectives' standing.
    """
    slo = slo or Slo()
    ordered = sorted(records, key=lambda record: record.number)
    dropped = warm_up_of(len(ordered), warm_up)
    counted = [record for record in ordered if record.number >= dropped]
    answered = [record for record in counted if record.answered]
    good = sum(map(slo.met_by, answered))
    seconds = max((record.ended for record in counted), default=0.0) - (counted[0].arrival if counted else 0)
    per_second = 1 / seconds if seconds > 0 else 0.0
    growth = trend([one.arrival for one in answered], [one.ttft for one in answered])
    lateness = spread([one.sent - one.arrival for one in counted], confidence=confidence)
    failures: dict[str, int] = {}
    for record in counted:
        if not record.answered:
            reason = record.failure or "no token came"
            failures[reason] = failures.get(reason, 0) + 1
    figures = LoadFigures(
        offered_rate=offered_rate,
        requests=len(counted),
        answered=len(answered),
        failed=len(counted) - len(answered),
        warm_up=len(ordered) - len(counted),
        seconds=seconds,
        requests_per_s=len(answered) * per_second,
        output_tokens_per_s=sum(one.output_tokens for one in answered) * per_second,
        goodput=good * per_second,
        good=good,
        slo=slo,
        slo_standing=standing(len(counted), len(counted) - good, slo.percentile, confidence),
        ttft=spread([one.ttft for one in answered], confidence=confidence),
        tpot=spread([t for one in answered if (t := one.tpot) is not None], confidence=confidence),
        itl=spread(
            np.fromiter((gap for one in answered for gap in one.gaps), dtype=np.float64),
            confidence=confidence,
            requests=len(answered),
        ),
        e2e=spread([one.e2e for one in answered], confidence=confidence),
        queueing=spread([q for one in answered if (q := one.queueing) is not None], confidence=confidence),
        growth=growth,
        lateness=lateness,
        tokens_counted=" and ".join(sorted({one.counted_by for one in answered})),
        failures=failures,
    )
    return msgspec.structs.replace(figures, doubts=tuple(_doubts(figures, counted)))


def _doubts(figures: LoadFigures, counted: Sequence[Record]) -> list[str]:
    """What speaks against the figures."""
    doubts = []
    if figures.growth is not None and figures.growth.saturated:
        doubts.append(figures.growth.reason)
    elif figures.growth is None:
        doubts.append(
            f"{figures.answered} answered requests are too few to tell over-saturation by its trend"
        )
    late = sorted(one.sent - one.arrival for one in counted)
    if late and (behind := late[min(math.floor(0.99 * len(late)), len(late) - 1)]) > MOST_LATE_SECONDS:
        doubts.append(
            f"the sender was {1e3 * behind:.0f} ms behind its schedule (99th percentile): "
            "the client is the limit"
        )
    if figures.failed:
        reason, count = max(figures.failures.items(), key=lambda item: item[1])
        doubts.append(f"{figures.failed} of {figures.requests} requests failed, {count} of them: {reason}")
    told = [name.replace("_", ".") for name in figures.ttft.missing]
    if told and figures.answered:
        needed = ", ".join(
            f"{name} needs {count}" for name, count in zip(told, figures.ttft.missing.values(), strict=True)
        )
        doubts.append(f"not enough requests for {', '.join(told)}: {figures.answered} answered, {needed}")
    return doubts
