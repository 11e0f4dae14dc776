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
from typing import TYPE_CHECKING, Any, Protocol

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
        cache: `cold` or `hot`.
        batch: samples between two looks at what holds the clocks down.
    """

    cache: str
    batch: int

    def prepared(self, call: Callable[[], object]) -> Any:
        """What `sample` takes in the call's place: its graph, say."""

    def name_of(self, prepared: Any) -> str:
        """What takes the time of a prepared call, as stored with a measurement."""

    def settle(self, prepared: Any) -> None:
        """Bring the device into the state in which samples are alike."""

    def sample(self, prepared: Any) -> int:
        """Latency of one call in nanoseconds; what must happen before it stays outside the timed region."""

    def throttled(self, prepared: Any) -> bool:
        """Whether the samples since the last time may be worthless, since clocks were held down."""

    def clocks(self) -> dict[str, float]:
        """Clock readings in MHz by name; empty where the device does not tell."""


class CpuTimer:
    """The monotonic clock around one call.

    Args:
        evict: displaces what the caches hold; None measures with hot caches.
    """

    batch = 1

    def __init__(self, evict: Callable[[], object] | None) -> None:
        self._evict = evict
        self.cache = "hot" if evict is None else "cold"

    def prepared(self, call: Callable[[], object]) -> Callable[[], object]:
        """The call itself."""
        return call

    def name_of(self, prepared: object) -> str:  # noqa: ARG002 - the contract
        """The clock of all."""
        return "monotonic"

    def settle(self, prepared: object) -> None:
        """Nothing: every sample starts from the same state."""

    def throttled(self, prepared: object) -> bool:  # noqa: ARG002 - the contract
        """A CPU does not tell."""
        return False

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
        device: `cpu`, or e.g. `cuda:0`.
        cache: `cold` or `hot`.
        l3_bytes: size of the last-level cache that the device's cores share, 0 if unknown.

    Raises:
        UsageError: the device or the cache mode has no timer.
    """
    if device != "cpu" and not device.startswith("cuda"):
        raise UsageError(f"no timer for device {device!r}; expected 'cpu' or 'cuda:<index>'")
    if cache not in ("cold", "hot"):
        raise UsageError(f"no cache mode {cache!r}; expected 'cold' or 'hot'")
    if device != "cpu":
        from autotune.measure.cuda_runtime import TorchCuda
        from autotune.measure.cuda_timer import CudaTimer
        from autotune.measure.telemetry import telemetry_of

        return CudaTimer(TorchCuda(), telemetry_of(device), l3_bytes, cache)
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
