"""NVIDIA devices through NVML. Whatever fails is said and never stops the other probes."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from autotune.fingerprint.cpu import GIB
from autotune.fingerprint.files import read_head
from autotune.fingerprint.management import (
    HARDWARE,
    POWER_BRAKE,
    POWER_CAP,
    SYNC_BOOST,
    THERMAL_HARDWARE,
    THERMAL_SOFTWARE,
    DeviceMemory,
    ManagedDevice,
    ManagementLibrary,
    ProcessUse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DIGEST_FACTS = (
    "name",
    "compute_capability",
    "sm_count",
    "memory_gib",
    "bus_width_bits",
    "sm_clock_max_mhz",
    "memory_clock_max_mhz",
    "power_limit_w",
    "ecc",
    "mig_profile",
)
"""What changes speed; a unit's UUID, serial number and place on the bus do not. The driver is the stack's."""

CORES_PER_SM = {70: 64, 75: 64, 80: 64, 86: 128, 87: 128, 89: 128, 90: 128, 100: 128, 120: 128}
"""FP32 cores of a multiprocessor by compute capability; NVML counts cores only.

CUDA C++ Programming Guide, "Compute Capabilities", the section "Architecture" of each.
"""

UNANSWERABLE = (3, 13)
"""NVML_ERROR_NOT_SUPPORTED and NVML_ERROR_FUNCTION_NOT_FOUND (nvml.h): the answer is None, and no problem."""

THROTTLED = {
    0x4: POWER_CAP,
    0x8: HARDWARE,
    0x10: SYNC_BOOST,
    0x20: THERMAL_SOFTWARE,
    0x40: THERMAL_HARDWARE,
    0x80: POWER_BRAKE,
}
"""Bits of the clocks' event reasons under which a measurement is worthless: nvml.h. Being idle is not among
them."""

UNKNOWN_MEMORY = 2**64 - 1
"""What NVML says of a process's memory where it does not know it: NVML_VALUE_NOT_AVAILABLE."""

SENSOR_OF_THE_CHIP = 0


class Nvml(Protocol):
    """The part of `pynvml` that is used: `nvmlInit`, `nvmlShutdown`, and the calls that ask."""

    NVML_CLOCK_SM: int
    NVML_CLOCK_MEM: int

    def __getattr__(self, name: str) -> Any: ...


class NvmlLibrary(ManagementLibrary):
    """NVML, through `pynvml`; see `ManagementLibrary`."""

    kind = "cuda"
    package = "pynvml"
    starts, ends = "nvmlInit", "nvmlShutdown"

    def each(self) -> Iterator[ManagedDevice]:
        """Boards, or the MIG instances of those that are divided."""
        for board in self._handles():
            divided = known(partial(self._mig_mode, board), 0)
            for handle in self._instances(board) if divided else [board]:
                yield NvmlDevice(self.module, handle, board)

    def boards(self) -> list[ManagedDevice]:
        """All boards."""
        return [NvmlDevice(self.module, board, board) for board in self._handles()]

    def _mig_mode(self, board: Any) -> int:
        return int(self.module.nvmlDeviceGetMigMode(board)[0])

    def _handles(self) -> Iterator[Any]:
        for number in range(self.module.nvmlDeviceGetCount()):
            yield self.module.nvmlDeviceGetHandleByIndex(number)

    def _instances(self, board: Any) -> Iterator[Any]:
        for slot in range(self.module.nvmlDeviceGetMaxMigDeviceCount(board)):
            with suppress(Exception):  # most slots are empty
                yield self.module.nvmlDeviceGetMigDeviceHandleByIndex(board, slot)


class NvmlDevice(ManagedDevice):
    """A board or a MIG instance: clocks, heat and power are its board's.

    Args:
        library: `pynvml`.
        handle: of the device or instance.
        board: handle of its board.
    """

    def __init__(self, library: Any, handle: Any, board: Any) -> None:
        self._nvml, self._handle, self._board = library, handle, board

    def uuid(self) -> str | None:
        """`GPU-...` or `MIG-...`."""
        told = known(lambda: self._nvml.nvmlDeviceGetUUID(self._handle), None)
        return None if told is None else _text(told)

    def memory(self) -> DeviceMemory:
        """As the driver counts it, its own share included."""
        told = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return DeviceMemory(int(told.total), int(told.used))

    def processes(self) -> Sequence[ProcessUse]:
        """Those with a context; in containers their memory is often not told."""
        return [
            ProcessUse(int(process.pid), _process_memory(process.usedGpuMemory))
            for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        ]

    def is_shared(self) -> bool:
        """Whether MPS has clients on it."""
        return bool(known(lambda: self._nvml.nvmlDeviceGetMPSComputeRunningProcesses(self._handle), []))

    def throttling(self) -> frozenset[str] | None:
        """By the clocks' event reasons."""
        reasons = known(lambda: self._nvml.nvmlDeviceGetCurrentClocksEventReasons(self._board), None)
        if reasons is None:
            return None
        return frozenset(name for bit, name in THROTTLED.items() if reasons & bit)

    def clocks(self) -> dict[str, float]:
        """Of the multiprocessors and the memory."""
        numbers = {"sm": self._nvml.NVML_CLOCK_SM, "memory": self._nvml.NVML_CLOCK_MEM}
        ask = self._nvml.nvmlDeviceGetClockInfo
        read = {name: known(partial(ask, self._board, which), None) for name, which in numbers.items()}
        return {name: float(mhz) for name, mhz in read.items() if mhz is not None}

    def temperature(self) -> float | None:
        """Of the chip."""
        told = known(lambda: self._nvml.nvmlDeviceGetTemperature(self._board, SENSOR_OF_THE_CHIP), None)
        return None if told is None else float(told)

    def power(self) -> float | None:
        """Of the board."""
        return _thousandth(known(lambda: self._nvml.nvmlDeviceGetPowerUsage(self._board), None))

    def power_limit(self) -> float | None:
        """That holds now, of all that limit it."""
        return _thousandth(known(lambda: self._nvml.nvmlDeviceGetEnforcedPowerLimit(self._board), None))

    def energy(self) -> float | None:
        """Since the driver was loaded: Volta and later."""
        return _thousandth(known(lambda: self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._board), None))


def known(ask: Callable[[], Any], otherwise: Any) -> Any:
    """What a call answers, or `otherwise` where the device or the driver has no such call."""
    try:
        return ask()
    except Exception as error:
        if getattr(error, "value", None) in UNANSWERABLE:
            return otherwise
        raise


def _process_memory(told: Any) -> int | None:
    size = int(told or 0)
    return None if size in (0, UNKNOWN_MEMORY) else size


def _thousandth(milli: float | None) -> float | None:
    return None if milli is None else milli / 1000


def nvidia_facts(library: Nvml | None = None, root: str = "/") -> tuple[list[dict[str, Any]], list[str]]:
    """Facts of every NVIDIA device, in NVML's order, and what could not be found out.

    A device in MIG mode is not one device but as many as it has instances.

    Args:
        library: what answers as `pynvml` does; the real one by default.
        root: root of the file system, or of a machine's files recorded elsewhere.
    """
    opened = NvmlLibrary(library)
    # Any exception: a driver newer or older than the library may fail in ways that are not NVML's own.
    try:
        opened.open()
    except ImportError:
        return [], ["no NVML: the package nvidia-ml-py is not installed"]
    except Exception as error:
        return [], [f"no NVML: {error}"]
    try:
        return _probe(opened.module, root)
    except Exception as error:
        return [], [f"NVML does not list its devices: {error}"]
    finally:
        opened.close()


class _Handle:
    """What NVML knows of one device or MIG instance; calls that fail are noted in `problems`."""

    def __init__(self, library: Nvml, handle: Any, label: str, problems: list[str]) -> None:
        self.library, self.handle, self.label, self.problems = library, handle, label, problems

    def ask(self, call: str, *arguments: Any, read: Callable[[Any], Any] = lambda answer: answer) -> Any:
        """The answer of `nvmlDeviceGet<call>`, as `read` takes it; None if there is none."""
        try:
            return read(getattr(self.library, f"nvmlDeviceGet{call}")(self.handle, *arguments))
        except Exception as error:
            if getattr(error, "value", None) not in UNANSWERABLE:
                self.problems.append(f"{self.label}: {call}: {error}")
            return None


def _probe(library: Nvml, root: str) -> tuple[list[dict[str, Any]], list[str]]:
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    driver = None
    with suppress(Exception):
        driver = _text(library.nvmlSystemGetDriverVersion())
    for index in range(library.nvmlDeviceGetCount()):
        label = f"NVIDIA device {index}"
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
        except Exception as error:
            problems.append(f"{label} cannot be opened: {error}")
            continue
        device = _Handle(library, handle, label, problems)
        facts = {**_device_facts(device, root), "driver": driver}
        found += _instances(device, facts) if device.ask("MigMode", read=lambda modes: modes[0]) else [facts]
    return [{**facts, "index": index} for index, facts in enumerate(found)], problems


def _device_facts(device: _Handle, root: str) -> dict[str, Any]:
    capability = device.ask("CudaComputeCapability", read=lambda version: 10 * version[0] + version[1])
    cores_per_sm = CORES_PER_SM.get(capability)
    cores = device.ask("NumGpuCores")
    return {
        "kind": "cuda",
        "name": device.ask("Name", read=lambda name: _board(_text(name), root)),
        "compute_capability": capability,
        "sm_count": cores // cores_per_sm if cores and cores_per_sm else None,
        **_memory(device),
        "bus_width_bits": device.ask("MemoryBusWidth"),
        "sm_clock_max_mhz": device.ask("MaxClockInfo", device.library.NVML_CLOCK_SM),
        "memory_clock_max_mhz": device.ask("MaxClockInfo", device.library.NVML_CLOCK_MEM),
        "power_limit_w": device.ask("EnforcedPowerLimit", read=lambda milliwatts: milliwatts // 1000),
        "ecc": device.ask("EccMode", read=lambda modes: bool(modes[0])),
        "mig_profile": None,
    }


def _instances(device: _Handle, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """The MIG instances of a device: clocks and power are its own, memory and multiprocessors theirs."""
    found = []
    for slot in range(device.ask("MaxMigDeviceCount") or 0):
        try:
            handle = device.library.nvmlDeviceGetMigDeviceHandleByIndex(device.handle, slot)
        except Exception:  # most slots are empty
            continue
        instance = _Handle(device.library, handle, f"{device.label}, MIG {slot}", device.problems)
        found.append(
            {
                **facts,
                **_memory(instance),
                "sm_count": instance.ask("Attributes", read=lambda of: of.multiprocessorCount),
                # The name ends in it: "NVIDIA H200 MIG 1g.18gb".
                "mig_profile": instance.ask("Name", read=lambda name: _text(name).partition(" MIG ")[2])
                or "unknown",
            }
        )
    if not found:
        device.problems.append(f"{device.label} is in MIG mode and has no instance to run on")
    return found


def _memory(device: _Handle) -> dict[str, int | None]:
    total = device.ask("MemoryInfo", read=lambda info: int(info.total))
    return {"memory_bytes": total, "memory_gib": -(-total // GIB) if total else None}


def _board(name: str, root: str) -> str:
    """The name, or that of the board: the GPU of every Jetson Orin is called "Orin (nvgpu)"."""
    if "nvgpu" not in name:
        return name
    return read_head(os.path.join(root, "proc/device-tree/model")).strip("\0") or name


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
