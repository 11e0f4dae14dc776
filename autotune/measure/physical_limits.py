"""What no kernel can beat: a result faster than the device's physical limit is a broken measurement.

Events in the wrong place, a graph that captured nothing or work that was skipped look like a triumph. The
limit is the vendor's peak, not what was measured to be reachable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autotune.errors import TrialError
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.fingerprint.profile import Profile

WIDTH_BITS = {
    "float64": 64,
    "float32": 32,
    "tf32": 32,
    "bfloat16": 16,
    "float16": 16,
    "float8": 8,
    "int8": 8,
    "float4": 4,
    "int4": 4,
}
TOLERANCE = 0.95
"""Of the limit: vendors round, and clocks go a little beyond their rating."""
EVENT_RESOLUTION_NS = 500.0
"""cudaEventElapsedTime: "a resolution of around 0.5 microseconds"."""


class PhysicalLimits(NamedTuple):
    """Peaks of a device.

    Attributes:
        bandwidth: bytes per second of its memory.
        flops: per second by data type.
        l2_bytes: of its cache.
    """

    bandwidth: float
    flops: Mapping[str, float]
    l2_bytes: int

    @classmethod
    def of(cls, profile: Profile | None, l2_bytes: int) -> PhysicalLimits | None:
        """Those of a profile; None where it does not tell, or nobody knows the device."""
        if profile is None or profile.peaks.memory_bandwidth is None:
            return None
        flops = {str(name): rate for name, rate in profile.peaks.flops.items()}
        return cls(profile.peaks.memory_bandwidth, flops, l2_bytes)

    def least_ns(self, flops: int, moved_bytes: int, dtype: str, cache: str) -> float:
        """The least latency that is physically possible.

        With a cold cache, what is read comes from memory, and what is written may stay in the cache: as much
        as fits, and half of all bytes at most. With a hot one, as much as fits need not move at all. A kernel
        may compute in a narrower type than the problem's, so the fastest of those counts.

        Args:
            flops: that cannot be avoided.
            moved_bytes: that must move.
            dtype: of the problem.
            cache: `cold` or `hot`.
        """
        stays = min(self.l2_bytes, moved_bytes // 2 if cache == "cold" else moved_bytes)
        width = WIDTH_BITS.get(dtype, 64)
        rates = [rate for name, rate in self.flops.items() if WIDTH_BITS[name] <= width]
        seconds = max((moved_bytes - stays) / self.bandwidth, flops / max(rates) if rates else 0.0)
        return 1e9 * seconds

    def refuse_impossible(
        self, latency_ns: float, flops: int, moved_bytes: int, dtype: str, cache: str
    ) -> None:
        """Refuse a latency below the limit.

        Raises:
            TrialError: `noisy`: it is a broken measurement.
        """
        least = self.least_ns(flops, moved_bytes, dtype, cache)
        if latency_ns < TOLERANCE * least - EVENT_RESOLUTION_NS:
            raise TrialError(
                Verdict.NOISY,
                f"{latency_ns / 1e3:.2f} us is faster than this device can be ({least / 1e3:.2f} us by its "
                "peaks): the measurement is broken",
            )
