"""The little of CUDA that timing needs, behind an interface: torch's, or one that tests build.

Work is queued on the current stream; nothing here waits but `synchronize` and reading a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

CAPTURE_WARM_UPS = 3
"""Calls on a side stream before a capture: libraries allocate their workspaces then (CUDA graphs in torch's
notes)."""


class NotCapturableError(Exception):
    """A call cannot be captured: it waits for the device, or decides by what is there."""


class Event(Protocol):
    """A moment in the queue."""

    def record(self) -> None:
        """Put it at the end of the queue."""

    def synchronize(self) -> None:
        """Wait until it has passed."""

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds from this one to a later one, both passed."""


class CudaRuntime(Protocol):
    """What timing needs of a device."""

    def event(self) -> Event:
        """A fresh event that takes times."""

    def synchronize(self) -> None:
        """Wait for all queued work; raises what it failed with."""

    def capture(self, call: Callable[[], object]) -> Callable[[], object]:
        """The call as a graph, to be replayed.

        Raises:
            NotCapturableError: it cannot be captured; the device is as it was.
        """

    def idle(self, microseconds: float) -> None:
        """Queue a wait on the device, for the host to get ahead."""

    def buffer(self, size: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """A buffer of so many bytes on the device: what overwrites it, and what reads it."""


class TorchCuda:
    """torch's CUDA, on the current device.

    Args:
        clock_mhz: of the multiprocessors, for waits; only their order of magnitude matters.
    """

    def __init__(self, clock_mhz: float = 1500.0) -> None:
        self._clock_mhz = clock_mhz

    def event(self) -> Any:
        """A timing event."""
        return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's has no types

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize()

    def capture(self, call: Callable[[], object]) -> Callable[[], object]:
        """Warmed up on a side stream, then captured."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's has no types
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(CAPTURE_WARM_UPS):
                call()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                call()
        except Exception as error:
            torch.cuda.synchronize()  # raises if the device itself is lost, which is another matter
            raise NotCapturableError(str(error)) from error
        return graph.replay

    def idle(self, microseconds: float) -> None:
        """A kernel that counts cycles."""
        torch.cuda._sleep(int(microseconds * self._clock_mhz))  # type: ignore[no-untyped-call]  # torch's has no types

    def buffer(self, size: int) -> tuple[Callable[[], object], Callable[[], object]]:
        """Of 32-bit numbers."""
        numbers = torch.ones(max(size // 4, 1), dtype=torch.float32, device="cuda")
        total = torch.empty((), dtype=torch.float32, device="cuda")
        return numbers.zero_, lambda: torch.sum(numbers, dim=0, out=total)
