"""NVIDIA devices through NVML. Whatever fails is said and never stops the other probes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

DIGEST_FACTS = (
    "name",
    "compute_capability",
    "memory_bytes",
    "bus_width_bits",
    "cuda_cores",
    "sm_clock_max_mhz",
    "memory_clock_max_mhz",
    "power_limit_w",
    "ecc",
    "mig",
)
"""What changes speed; a unit's UUID, serial number and place on the bus do not."""


class Nvml(Protocol):
    """The part of `pynvml` that is used: `nvmlInit`, `nvmlShutdown` and the `nvmlDeviceGet*` calls."""

    NVMLError: type[Exception]

    def __getattr__(self, name: str) -> Any: ...


def nvidia_facts(library: Nvml | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Facts of every NVIDIA device, in NVML's order, and what could not be found out.

    Args:
        library: what answers as `pynvml` does; the real one by default.
    """
    if library is None:
        try:
            library = importlib.import_module("pynvml")
        except ImportError:
            return [], ["no NVML: the package nvidia-ml-py is not installed"]
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return [], [f"no NVML: {error}"]
    try:
        count = library.nvmlDeviceGetCount()
        probed = [_device_facts(library, index) for index in range(count)]
    except library.NVMLError as error:
        return [], [f"NVML does not list its devices: {error}"]
    finally:
        library.nvmlShutdown()
    devices = [facts for facts, _ in probed if facts]
    return devices, [problem for _, problems in probed for problem in problems]


def _device_facts(library: Nvml, index: int) -> tuple[dict[str, Any] | None, list[str]]:
    """Facts of one device; None if it cannot be opened. What it does not support is None, and no problem."""
    problems: list[str] = []
    try:
        handle = library.nvmlDeviceGetHandleByIndex(index)
    except library.NVMLError as error:
        return None, [f"cuda:{index} cannot be opened: {error}"]

    def ask(name: str, *arguments: Any, read: Callable[[Any], Any] = lambda answer: answer) -> Any:
        try:
            return read(getattr(library, f"nvmlDeviceGet{name}")(handle, *arguments))
        except library.NVMLError as error:
            if "not supported" not in str(error).lower():
                problems.append(f"cuda:{index} {name}: {error}")
            return None

    capability = ask("CudaComputeCapability")
    facts = {
        "kind": "cuda",
        "index": index,
        "name": ask("Name", read=_text),
        "compute_capability": 10 * capability[0] + capability[1] if capability else None,
        "memory_bytes": ask("MemoryInfo", read=lambda info: int(info.total)),
        "bus_width_bits": ask("MemoryBusWidth"),
        "cuda_cores": ask("NumGpuCores"),
        "sm_clock_max_mhz": ask("MaxClockInfo", library.NVML_CLOCK_SM),
        "memory_clock_max_mhz": ask("MaxClockInfo", library.NVML_CLOCK_MEM),
        "power_limit_w": ask("EnforcedPowerLimit", read=lambda milliwatts: milliwatts // 1000),
        "ecc": ask("EccMode", read=lambda modes: bool(modes[0])),
        "mig": ask("MigMode", read=lambda modes: bool(modes[0])),
    }
    return facts, problems


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
