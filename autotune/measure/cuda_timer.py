"""Timing on a CUDA device: events around a call, which is a graph's replay where it can be captured.

What a server replays is a graph, and a call that is launched kernel by kernel is timed with its launches in
it: so each measurement says which it was. Before every cold sample the L2 cache is overwritten, then another
buffer is read, so that nothing of the first is left to be written back inside the timed region. That also
lets the host queue event, call and event before the device gets there; a hot sample waits for the same end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune.measure.cuda_runtime import NotCapturableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.fingerprint.management import ManagedDevice
    from autotune.measure.cuda_runtime import CudaRuntime

GRAPH, EVENTS = "cuda_graph", "cuda_events"

FLUSH_OVER_L2 = 2
"""Each of the two buffers over the cache: replacement is not strictly by age."""
LEAST_FLUSH_BYTES = 64 << 20
HEAD_START_MICROSECONDS = 50.0
"""That the device waits before a hot sample; queueing a graph takes the host some 10 us."""
WARM_UP_SECONDS = 0.05
"""Of calls back to back: what clocks take to rise from idle."""
BATCH = 16
"""Samples between two looks at what holds the clocks down, which takes up to a millisecond."""


class Prepared(NamedTuple):
    """A call ready to be sampled.

    Attributes:
        run: queues it.
        how: `cuda_graph` or `cuda_events`.
    """

    run: Callable[[], object]
    how: str


class CudaTimer:
    """Events around a graph's replay or a call.

    Args:
        runtime: of the device.
        telemetry: what its vendor's library tells of it; None where there is none.
        l2_bytes: of its cache.
        cache: `cold` or `hot`.
    """

    batch = BATCH

    def __init__(
        self, runtime: CudaRuntime, telemetry: ManagedDevice | None, l2_bytes: int, cache: str = "cold"
    ) -> None:
        self._runtime, self._telemetry = runtime, telemetry
        self.cache = cache
        self._start, self._stop = runtime.event(), runtime.event()
        self._overwrite = self._read = None
        if cache == "cold":
            size = max(FLUSH_OVER_L2 * l2_bytes, LEAST_FLUSH_BYTES)
            self._overwrite, self._read = runtime.buffer(size)[0], runtime.buffer(size)[1]
        self._held_down = self._is_held_down()

    def prepared(self, call: Callable[[], object]) -> Prepared:
        """The call as a graph if it can be one."""
        try:
            return Prepared(self._runtime.capture(call), GRAPH)
        except NotCapturableError:
            return Prepared(call, EVENTS)

    def name_of(self, prepared: Prepared) -> str:
        """What takes the time, as recorded."""
        return prepared.how

    def settle(self, prepared: Prepared) -> None:
        """Run the call until the clocks have risen."""
        end = time.monotonic() + WARM_UP_SECONDS
        while time.monotonic() < end:
            for _ in range(BATCH):
                prepared.run()
            self._runtime.synchronize()
        self._held_down = self._is_held_down()

    def sample(self, prepared: Prepared) -> int:
        """Latency of one call in nanoseconds."""
        if self._overwrite is not None and self._read is not None:
            self._overwrite()
            self._read()
        else:
            self._runtime.idle(HEAD_START_MICROSECONDS)
        self._start.record()
        prepared.run()
        self._stop.record()
        self._stop.synchronize()
        return round(1e6 * self._start.elapsed_time(self._stop))

    def throttled(self, prepared: Prepared) -> bool:
        """Whether clocks were held down at the last look, or are now, while the call runs."""
        before = self._held_down
        prepared.run()
        self._held_down = self._is_held_down()
        self._runtime.synchronize()
        return before or self._held_down

    def clocks(self) -> dict[str, float]:
        """Present clocks and power, as far as they are told."""
        if self._telemetry is None:
            return {}
        return _told(self._telemetry.clocks) or {}

    def _is_held_down(self) -> bool:
        return bool(self._telemetry and _told(self._telemetry.throttling))


def _told(ask: Callable[[], Any]) -> Any:
    """What telemetry answers; None where it fails, for the device may be measured all the same."""
    try:
        return ask()
    except Exception:
        return None
