"""An NVML library that answers as GPUs would, by the names and errors of `pynvml`."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED, NOT_SUPPORTED, FUNCTION_NOT_FOUND = 12, 9, 3, 13
NO_PERMISSION, NOT_FOUND, LOST, VERSION_MISMATCH = 4, 6, 15, 18
WORDS = {
    LIBRARY_NOT_FOUND: "NVML Shared Library Not Found",
    DRIVER_NOT_LOADED: "Driver Not Loaded",
    NOT_SUPPORTED: "Not Supported",
    FUNCTION_NOT_FOUND: "Function Not Found",
    NO_PERMISSION: "Insufficient Permissions",
    NOT_FOUND: "Not Found",
    LOST: "GPU is lost",
    VERSION_MISMATCH: "RM has detected an NVML/RM version mismatch.",
}
MIB = 1 << 20


class NVMLError(Exception):
    """As `pynvml` raises it: the code in `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(WORDS[value])
        self.value = value


@dataclass
class Gpu:
    """What one handle answers, by the call's name after `nvmlDeviceGet`; a code is raised."""

    answers: dict[str, Any]
    instances: list[Gpu | None] = field(default_factory=list)


def h200(**changed: Any) -> Gpu:
    """An H200 as its driver tells it."""
    answers = {
        "Name": "NVIDIA H200",
        "CudaComputeCapability": (9, 0),
        "NumGpuCores": 16896,
        "MemoryInfo": SimpleNamespace(total=143771 * MIB, used=600 * MIB),
        "MemoryBusWidth": 6144,
        "MaxClockInfo": {1: 1980, 2: 3201},
        "EnforcedPowerLimit": 700_000,
        "EccMode": [1, 1],
        "MigMode": [0, 0],
        "ComputeRunningProcesses": [],
        "MPSComputeRunningProcesses": [],
        "CurrentClocksEventReasons": 0x1,
        "ClockInfo": {1: 1980, 2: 3201},
        "Temperature": {0: 40},
        "PowerUsage": 120_000,
        "TotalEnergyConsumption": 5_000,
        "UUID": "GPU-1",
        "Serial": "165",
    }
    return Gpu({**answers, **changed})


def slice_of(name: str, profile: str, sms: int, memory_mib: int) -> Gpu:
    """A MIG instance; it answers little else."""
    return Gpu(
        {
            "Name": f"{name} MIG {profile}".encode(),
            "MemoryInfo": SimpleNamespace(total=memory_mib * MIB),
            "Attributes": SimpleNamespace(multiprocessorCount=sms),
        }
    )


def orin() -> Gpu:
    """A Jetson's integrated GPU, of which NVML knows next to nothing."""
    return Gpu({"Name": "Orin (nvgpu)", "CudaComputeCapability": (8, 7)})


class FakeNvml:
    """The library; counts that every `nvmlInit` is followed by an `nvmlShutdown`."""

    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(
        self, *gpus: Gpu | NVMLError, init: Exception | None = None, driver: Any = "580.95.05"
    ) -> None:
        self.gpus, self.init, self.driver, self.open = gpus, init, driver, 0

    def nvmlInit(self) -> None:  # noqa: N802 - the library's name
        if self.init:
            raise self.init
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> Any:  # noqa: N802
        return _answer(self.driver)

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return _answer(self.gpus[index])

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Gpu) -> int:  # noqa: N802
        return len(gpu.instances)

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Gpu, slot: int) -> Gpu:  # noqa: N802
        instance = gpu.instances[slot]
        if instance is None:
            raise NVMLError(NOT_FOUND)
        return instance

    def __getattr__(self, name: str) -> Any:
        call = name.removeprefix("nvmlDeviceGet")

        def ask(gpu: Gpu, *which: int) -> Any:
            answer = _answer(gpu.answers.get(call, NVMLError(NOT_SUPPORTED)))
            return answer[which[0]] if which else answer

        return ask


def _answer(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value
