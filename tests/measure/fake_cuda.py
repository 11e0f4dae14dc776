"""A CUDA device that a simulated clock stands for: work is queued, and takes the time that it says."""

from __future__ import annotations

from typing import Any

from autotune.fingerprint.management import DeviceMemory, ManagedDevice
from autotune.measure.cuda_runtime import NotCapturableError


class FakeEvent:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.at = cuda, None

    def record(self) -> None:
        self.at = self.cuda.now_ms
        self.cuda.did("event")

    def synchronize(self) -> None:
        self.cuda.did("wait")

    def elapsed_time(self, later: FakeEvent) -> float:
        return later.at - self.at


class FakeCuda:
    """The runtime: `work` queues something of so many microseconds.

    Attributes:
        log: what was queued or waited for, in order.
        capturable: whether calls can be captured.
    """

    def __init__(self, capturable: bool = True) -> None:
        self.now_ms, self.log, self.capturable = 0.0, [], capturable
        self.buffers: list[int] = []

    def did(self, what: str) -> None:
        self.log.append(what)

    def work(self, microseconds: float, what: str = "call") -> Any:
        def queue() -> None:
            self.now_ms += microseconds / 1e3
            self.did(what)

        return queue

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def synchronize(self) -> None:
        self.did("wait")

    def capture(self, call: Any) -> Any:
        if not self.capturable:
            raise NotCapturableError("operation not permitted when stream is capturing")
        call()
        self.did("captured")

        def replay() -> None:
            call()
            self.log[-1] = "replay"

        return replay

    def idle(self, microseconds: float) -> None:
        self.work(microseconds, "idle")()

    def buffer(self, size: int) -> tuple[Any, Any]:
        self.buffers.append(size)
        return self.work(30, "overwrite"), self.work(30, "read")


class FakeTelemetry(ManagedDevice):
    """What a vendor's library tells: reasons and joules are taken from lists, the last one for ever."""

    def __init__(
        self, reasons: list[frozenset[str] | Exception] = (), joules: list[float | None] = ()
    ) -> None:
        self.reasons, self.joules = list(reasons) or [frozenset()], list(joules) or [None]

    def uuid(self) -> str:
        return "GPU-1"

    def memory(self) -> DeviceMemory:
        return DeviceMemory(1 << 37, 0)

    def processes(self) -> list:
        return []

    def is_shared(self) -> bool:
        return False

    def throttling(self) -> frozenset[str]:
        told = self.reasons.pop(0) if len(self.reasons) > 1 else self.reasons[0]
        if isinstance(told, Exception):
            raise told
        return told

    def clocks(self) -> dict[str, float]:
        return {"sm": 1980.0, "memory": 3201.0}

    def temperature(self) -> float:
        return 40.0

    def power(self) -> float:
        return 300.0

    def power_limit(self) -> float:
        return 700.0

    def energy(self) -> float | None:
        return self.joules.pop(0) if len(self.joules) > 1 else self.joules[0]
