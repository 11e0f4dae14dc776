"""The latency of one callable, sampled until it is known well enough."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from autotune.measure.timers import garbage_collection_paused
from autotune.store.records import Measurement

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.measure.statistics import StoppingRule
    from autotune.measure.timers import Timer

THROTTLED = "throttled"
"""Why sampling ended where clocks were held down all the time: all samples are kept, and all are such."""
WARM_UP_SHARE = 0.2
"""Part of the budget after which a second warm-up call is not worth its time."""


def warm_up(call: Callable[[], object], budget_seconds: float) -> None:
    """Call once or twice: the first calls allocate, compile and start threads."""
    start = time.monotonic()
    call()
    if time.monotonic() - start < WARM_UP_SHARE * budget_seconds:
        call()


def measure_latency(timer: Timer, call: Callable[[], object], rule: StoppingRule) -> Measurement:
    """Sample the latency of `call` until the rule says stop.

    Args:
        timer: takes the samples.
        call: what is timed, without arguments.
        rule: when samples are enough.
    """
    samples: list[int] = []
    worthless: list[int] = []
    stopped = None
    with garbage_collection_paused():
        warm_up(call, rule.budget_seconds)
        prepared = timer.prepared(call)
        timer.settle(prepared)
        before = timer.clocks()
        start = time.monotonic()
        while stopped is None:
            batch = [timer.sample(prepared) for _ in range(timer.batch)]
            (worthless if timer.throttled(prepared) else samples).extend(batch)
            elapsed = time.monotonic() - start
            if samples:
                stopped = rule.stop(samples, elapsed)
            elif elapsed > rule.budget_seconds or len(worthless) >= rule.max_samples:
                # It is always held down under this call: that is how it runs here, and it is said so.
                samples, worthless, stopped = worthless, [], THROTTLED
        after = timer.clocks()
    clocks = {name: (mhz + after.get(name, mhz)) / 2 for name, mhz in before.items()}
    return Measurement(
        tuple(samples),
        stopped,
        timer.name_of(prepared),
        timer.cache,
        discarded=len(worthless),
        clocks=clocks,
    )
