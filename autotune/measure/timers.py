"""Timers: how one sample of a latency is taken.

On a CPU every sample starts from the same state, whatever ran before it. The caches hold foreign, clean
lines (a buffer is *read*: written lines would be flushed to memory inside the timed region), and the threads
of the intra-op pool have just finished their share of that read, so that the private caches of every core are
evicted too, and no contender finds the pool asleep that another found spinning.
"""

from __future__ import annotations

import gc
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVICTION_OVER_L3 = 2
"""A buffer of twice the last-level cache displaces all of it under the usual replacement policies."""
LEAST_EVICTION_BYTES = 32 << 20
MOST_EVICTION_BYTES = 1 << 30
"""Beyond this an eviction takes longer (0.1 s at 10 GB/s) than what is left in the caches could be worth."""
CLOCKS_READ = 16
"""Cores whose clock is read: reading one costs microseconds, and servers have hundreds."""


class Timer(Protocol):
    """Takes one sample of a call's latency.

    Attributes:
        name: what took the time, as stored with a measurement.
        cache: `cold` or `hot`.
    """

    name: str
    cache: str

    def sample(self, call: Callable[[], object]) -> int:
        """Latency of one call in nanoseconds; what must happen before it stays outside the timed region."""

    def clocks(self) -> dict[str, float]:
        """Clock readings in MHz by name; empty where the device does not tell."""


class CpuTimer:
    """The monotonic clock around one call.

    Args:
        evict: displaces what the caches hold; None measures with hot caches.
    """

    name = "monotonic"

    def __init__(self, evict: Callable[[], object] | None) -> None:
        self._evict = evict
        self.cache = "hot" if evict is None else "cold"

    def sample(self, call: Callable[[], object]) -> int:
        """Latency of one call in nanoseconds."""
        clock = time.perf_counter_ns
        if self._evict is not None:
            self._evict()
        start = clock()
        result = call()
        stop = clock()
        # Freeing the outputs is the caller's affair in production and happens outside the timed region here.
        del result
        return stop - start

    def clocks(self) -> dict[str, float]:
        """Mean clock of the usable cores."""
        return cpu_clocks()


def timer_for(device: str, *, cache: str = "cold", l3_bytes: int = 0) -> Timer:
    """The timer of a device.

    Args:
        device: `cpu`.
        cache: `cold` or `hot`.
        l3_bytes: size of the last-level cache that the device's cores share, 0 if unknown.

    Raises:
        UsageError: the device or the cache mode has no timer.
    """
    if device != "cpu":
        raise UsageError(f"no timer for device {device!r}; expected 'cpu'")
    if cache not in ("cold", "hot"):
        raise UsageError(f"no cache mode {cache!r}; expected 'cold' or 'hot'")
    return CpuTimer(cache_eviction(l3_bytes) if cache == "cold" else None)


def cache_eviction(l3_bytes: int) -> Callable[[], object]:
    """A callable that displaces what the caches hold by reading a buffer with the intra-op threads.

    Args:
        l3_bytes: size of the last-level cache, 0 if unknown.
    """
    import torch

    size = min(max(EVICTION_OVER_L3 * l3_bytes, LEAST_EVICTION_BYTES), MOST_EVICTION_BYTES)
    # Ones, not zeros: untouched zero pages would all be one physical page, and would evict nothing.
    buffer = torch.ones(size // 4, dtype=torch.float32)
    return buffer.sum


def cpu_clocks() -> dict[str, float]:
    """`{"cpu": mean MHz}` over the first usable cores, or `{}` where the system does not tell."""
    cores = sorted(os.sched_getaffinity(0))[:CLOCKS_READ]
    readings = [reading for core in cores if (reading := _cpufreq_mhz(core)) is not None]
    if not readings:
        readings = _cpuinfo_mhz()
    return {"cpu": round(sum(readings) / len(readings), 1)} if readings else {}


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """No collection of cyclic garbage inside: it would fall into some contender's sample."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _cpufreq_mhz(core: int) -> float | None:
    try:
        with open(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq") as file:
            return int(file.read()) / 1e3
    except (OSError, ValueError):
        return None


def _cpuinfo_mhz() -> list[float]:
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("cpu MHz")]
        return [float(line.split(":")[1]) for line in lines[:CLOCKS_READ]]
    except (OSError, ValueError):
        return []
