"""Energy per call, where the machine counts it: Intel's and AMD's RAPL counters, as Linux shows them.

A counter moves about once a millisecond and belongs to a whole package, so a sample is a window of calls
back to back. Whatever else runs on the package counts too, and so does what it draws when idle: that is what
a call costs while it has the machine.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.fingerprint.management import ManagedDevice
    from autotune.measure.comparison import Comparison

POWERCAP = Path("/sys/class/powercap")
DEVICE_WINDOW_SECONDS = 1.0
"""NVML's counter moves every 20 to 100 ms: read to some per cent."""
WINDOW_SECONDS = 0.2
"""Two hundred steps of a counter: read to half a per cent."""


class Used(NamedTuple):
    """What one call took, on average over a window."""

    joules: float
    seconds: float


class RaplMeter:
    """The energy counters of all packages.

    Args:
        root: where Linux shows them; None for `POWERCAP`.

    Raises:
        UsageError: there are none, or they cannot be read.
    """

    def __init__(self, root: Path | None = None) -> None:
        root = root or POWERCAP
        # intel-rapl:0 is a package, AMD's too; intel-rapl:0:1 a part of it, which it includes.
        zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        elsewhere = "choose --objective latency, tail or throughput"
        if not zones:
            raise UsageError(f"energy cannot be measured here: {root} has no intel-rapl:*; {elsewhere}")
        self._counters = [zone / "energy_uj" for zone in zones]
        try:
            self._ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in zones]
            self._read()
        except (OSError, ValueError) as error:
            raise UsageError(
                f"energy cannot be measured here: {error}; let this user read energy_uj, or {elsewhere}"
            ) from None

    def use(self, call: Callable[[], object], seconds: float = WINDOW_SECONDS) -> Used:
        """What a call takes, over as many as fit a window; one at least.

        The window must be shorter than a counter's turn, which takes a minute at least.
        """
        before, start = self._read(), time.perf_counter()
        calls, elapsed = 0, 0.0
        while elapsed < seconds or not calls:
            call()
            calls += 1
            elapsed = time.perf_counter() - start
        steps = zip(before, self._read(), self._ranges, strict=True)
        # A counter that has turned over goes on from 0.
        microjoules = sum((after - first) % (most + 1) for first, after, most in steps)
        return Used(microjoules / 1e6 / calls, elapsed / calls)

    def _read(self) -> list[int]:
        return [int(counter.read_text()) for counter in self._counters]


class DeviceMeter:
    """The energy counter of a GPU's board, as its vendor's library reads it.

    It moves a few times in a tenth of a second, so a window is longer than a processor's.

    Args:
        device: the vendor's view of it.
        synchronize: waits for its queue.
        most_queued: calls queued before waiting for them.

    Raises:
        UsageError: it counts no energy.
    """

    def __init__(
        self, device: ManagedDevice, synchronize: Callable[[], object], most_queued: int = 64
    ) -> None:
        if device.energy() is None:
            raise UsageError(
                "energy cannot be measured here: the device counts none (NVIDIA's do from Volta on); choose "
                "--objective latency, tail or throughput"
            )
        self._device, self._synchronize, self._most_queued = device, synchronize, most_queued

    def use(self, call: Callable[[], object], seconds: float = DEVICE_WINDOW_SECONDS) -> Used:
        """What a call takes, over as many as fit a window; one at least."""
        call()
        self._synchronize()
        before, start = self._device.energy(), time.perf_counter()
        calls, elapsed, queued = 0, 0.0, 1
        while elapsed < seconds or not calls:
            for _ in range(queued):
                call()
            self._synchronize()
            calls += queued
            elapsed = time.perf_counter() - start
            # Waiting for each call would be measured with it; the queue must not outlast the window either.
            queued = max(1, min(self._most_queued, int(0.1 * seconds * calls / max(elapsed, 1e-9))))
        after = self._device.energy()
        if before is None or after is None:
            raise UsageError("the device has ceased to count its energy")
        return Used(max(after - before, 0.0) / calls, elapsed / calls)


def of_energy(comparison: Comparison, took: Mapping[str, Sequence[float]]) -> Comparison:
    """A comparison of nanojoules, its proofs with the latencies of the same windows.

    Args:
        comparison: what the rounds showed, nanojoules in the place of nanoseconds.
        took: per contender the seconds of a call in each of its windows.
    """
    baseline_ns = 1e9 * median(took[comparison.baseline])
    proofs = {
        name: replace(
            proof,
            joules=proof.latency_ns / 1e9,
            baseline_joules=proof.baseline_ns / 1e9,
            latency_ns=1e9 * median(took[name]),
            baseline_ns=baseline_ns,
        )
        for name, proof in comparison.proofs.items()
    }
    return replace(comparison, proofs=proofs)


def meter_for(device: str) -> RaplMeter | DeviceMeter:
    """The meter of a device.

    Args:
        device: `cpu`, or e.g. `cuda:0`.

    Raises:
        UsageError: its energy cannot be measured.
    """
    if device == "cpu":
        return RaplMeter()
    from autotune.measure.telemetry import synchronizer, telemetry_of

    told = telemetry_of(device)
    if told is None:
        raise UsageError(
            f"energy cannot be measured on device {device!r}: its vendor's library does not answer; choose "
            "--objective latency, tail or throughput"
        )
    return DeviceMeter(told, synchronizer(device))
