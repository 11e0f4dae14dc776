"""The largest rate, and the largest batch with it, that still meets the objectives.

The rate is doubled until it fails and then bisected on a logarithmic scale. A rate fails when its requests do
not surely meet the objectives, or when the load is over-saturated, which shows long before its end: then it
is stopped there. A rate at which neither can be shown with the requests that there are counts as failed: what
is claimed is shown.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from autotune.measure.load.arrivals import Lengths, at_rate, open_loop
from autotune.measure.load.batching import BatchLimits, serve
from autotune.measure.load.figures import LoadFigures, RatePoint, figures_of, warm_up_of
from autotune.measure.load.tails import Standing
from autotune.measure.load.watch import LoadWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.measure.load.arrivals import Arrival
    from autotune.measure.load.batching import Engine
    from autotune.measure.load.slo import Slo

FIRST_STEP = 2.0
"""By what the rate is changed until there is one that is kept and one that is not."""

MOST_STEPS = 24
"""Doublings: from a request an hour to thousands a second."""


class Rung(msgspec.Struct, frozen=True):
    """A rate that was tried.

    Attributes:
        rate: requests per second.
        kept: whether the objectives were shown to be met.
        why: it was not; empty where it was.
        figures: of its load.
    """

    rate: float
    kept: bool
    why: str
    figures: LoadFigures

    @property
    def point(self) -> RatePoint:
        """It in short."""
        figures = self.figures
        return RatePoint(
            rate=self.rate,
            kept=self.kept,
            why=self.why,
            requests=figures.requests,
            good_share=figures.good_share,
            goodput=figures.goodput,
            output_tokens_per_s=figures.output_tokens_per_s,
            ttft_p50=figures.ttft.p50,
            ttft_p90=figures.ttft.p90,
            ttft_p99=figures.ttft.p99,
            tpot_p50=figures.tpot.p50,
            tpot_p99=figures.tpot.p99,
            e2e_p50=figures.e2e.p50,
            e2e_p99=figures.e2e.p99,
            saturated=figures.saturated,
        )


class Capacity(msgspec.Struct, frozen=True):
    """The largest rate that meets the objectives.

    Attributes:
        rate: the largest that was shown to; 0 where none was.
        refused: the least that was not; infinite where the search ended before one failed.
        rungs: all that was tried, by rate: latency against rate.
    """

    rate: float
    refused: float
    rungs: tuple[Rung, ...]

    @property
    def figures(self) -> LoadFigures | None:
        """Of the largest rate that met the objectives."""
        kept = [rung for rung in self.rungs if rung.kept and rung.rate == self.rate]
        return kept[-1].figures if kept else None


class OperatingPoint(msgspec.Struct, frozen=True):
    """The batch that allows the largest rate.

    Attributes:
        limits: of the batch.
        capacity: with it.
    """

    limits: BatchLimits
    capacity: Capacity


def largest_rate(
    load: Callable[[float], LoadFigures],
    start: float,
    *,
    resolution: float = 0.05,
    step: float = FIRST_STEP,
    least: float = 0.0,
    most: float = math.inf,
    spent: Callable[[], bool] = lambda: False,
) -> Capacity:
    """Find the largest rate whose load meets its objectives.

    Args:
        load: runs a load at a rate, and returns its figures.
        start: rate to begin with.
        resolution: how near, relatively, the largest kept and the least refused rate have to be.
        step: by what the rate is changed first, until one is kept and one is not.
        least: rate below which nothing is tried.
        most: rate above which nothing is tried.
        spent: asked before each load but the first; the search ends there.
    """
    rungs: list[Rung] = []

    def kept(rate: float) -> bool:
        rungs.append(rung_of(rate, load(rate)))
        return rungs[-1].kept

    low, high = 0.0, math.inf
    rate = start
    for _ in range(MOST_STEPS):
        if rungs and spent():
            break
        if kept(rate):
            low = rate
            if rate >= most:
                break
        else:
            high = rate
            if rate <= least:
                break
        if low and math.isfinite(high):
            break
        rate = min(rate * step, most) if low else max(rate / step, least)
    while low and math.isfinite(high) and high / low > 1 + resolution and not spent():
        middle = math.sqrt(low * high)
        if kept(middle):
            low = middle
        else:
            high = middle
    return Capacity(low, high, tuple(sorted(rungs, key=lambda rung: rung.rate)))


def rung_of(rate: float, figures: LoadFigures) -> Rung:
    """A rate with whether its load met the objectives, and why not."""
    if figures.growth is not None and figures.growth.saturated:
        return Rung(rate, False, figures.growth.reason, figures)
    missed = figures.requests - figures.good
    if figures.slo_standing is Standing.KEPT:
        return Rung(rate, True, "", figures)
    told = f"{missed} of {figures.requests} requests missed {figures.slo}"
    if not missed:
        told = f"{figures.requests} requests cannot show {figures.slo}, even if none misses it"
    return Rung(rate, False, told, figures)


def engine_load(
    engine: Engine,
    limits: BatchLimits,
    arrivals: Callable[[float], Sequence[Arrival]],
    slo: Slo,
    *,
    warm_up: int | None = None,
) -> Callable[[float], LoadFigures]:
    """Loads of an engine in the batching loop, on its virtual clock; each ends once it cannot be kept.

    Args:
        engine: what steps take.
        limits: of a batch.
        arrivals: the requests at a rate.
        slo: what makes a request a good one.
        warm_up: first requests that do not count; a tenth by default.
    """

    def load(rate: float) -> LoadFigures:
        planned = arrivals(rate)
        dropped = warm_up_of(len(planned), warm_up)
        watch = LoadWatch(slo, len(planned) - dropped, dropped)
        answered = serve(planned, engine, limits, stop=watch)
        return figures_of(answered, offered_rate=rate, slo=slo, warm_up=dropped)

    return load


def poisson(
    requests: int, lengths: Lengths, seed: int, burstiness: float = 1.0
) -> Callable[[float], list[Arrival]]:
    """Arrivals at a rate, always of the same pattern and lengths."""
    return lambda rate: open_loop(rate, requests, lengths, seed=seed, burstiness=burstiness)


def traced(trace: Sequence[Arrival]) -> Callable[[float], list[Arrival]]:
    """Arrivals of a trace, stretched to a rate."""
    return lambda rate: at_rate(trace, rate)


def operating_point(
    engine: Engine,
    batches: Sequence[BatchLimits],
    arrivals: Callable[[float], Sequence[Arrival]],
    slo: Slo,
    start: float,
    *,
    resolution: float = 0.05,
    warm_up: int | None = None,
) -> tuple[OperatingPoint, ...]:
    """The largest rate of each batch, best first: of batches whose rates are alike the smaller one.

    Args:
        engine: what steps take.
        batches: limits to try.
        arrivals: the requests at a rate.
        slo: that its requests must meet.
        start: rate to begin with.
        resolution: of the rates.
        warm_up: first requests that do not count; a tenth by default.
    """
    points: list[OperatingPoint] = []
    for limits in batches:
        load = engine_load(engine, limits, arrivals, slo, warm_up=warm_up)
        found = largest_rate(
            load, points[-1].capacity.rate or start if points else start, resolution=resolution
        )
        points.append(OperatingPoint(limits, found))
    best = max(point.capacity.rate for point in points)
    near = best / (1 + resolution)

    def order(point: OperatingPoint) -> tuple[bool, float]:
        alike = point.capacity.rate >= near
        return (not alike, point.limits.max_num_seqs if alike else -point.capacity.rate)

    return tuple(sorted(points, key=order))
