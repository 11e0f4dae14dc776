"""AMD devices through AMD SMI (`amdsmi`, which ROCm brings along).

Built after its documentation (ROCm 6.4 to 7.2) and tested against a library that answers as that says: none
of this has run on an AMD device. Fields that a device lacks are the text "N/A" there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.fingerprint.cpu import GIB
from autotune.fingerprint.management import (
    HARDWARE,
    POWER_CAP,
    THERMAL_HARDWARE,
    THERMAL_SOFTWARE,
    DeviceMemory,
    ManagedDevice,
    ManagementLibrary,
    ProcessUse,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIB = 1 << 20

NOT_SUPPORTED = frozenset({2, 3})
"""AMDSMI_STATUS_NOT_SUPPORTED and AMDSMI_STATUS_NOT_YET_IMPLEMENTED (amdsmi.h)."""

THROTTLED = {
    "active_ppt_pwr": POWER_CAP,
    "active_prochot_thrm": THERMAL_HARDWARE,
    "active_socket_thrm": THERMAL_SOFTWARE,
    "active_hbm_thrm": THERMAL_SOFTWARE,
    "active_vr_thrm": HARDWARE,
}
"""Fields of the violation status that are true while clocks are held down; MI300 and later have them."""

DIGEST_FACTS = (
    "name",
    "gfx_version",
    "sm_count",
    "memory_gib",
    "bus_width_bits",
    "sm_clock_max_mhz",
    "memory_clock_max_mhz",
    "power_limit_w",
)
"""What changes speed; a unit's UUID, serial number and place on the bus do not."""


class AmdSmiLibrary(ManagementLibrary):
    """AMD SMI; see `ManagementLibrary`."""

    kind = "rocm"
    package = "amdsmi"
    starts, ends = "amdsmi_init", "amdsmi_shut_down"

    def each(self) -> Iterator[ManagedDevice]:
        """All processors; partitions are processors of their own."""
        for handle in self.module.amdsmi_get_processor_handles():
            yield AmdDevice(self.module, handle)

    def boards(self) -> list[ManagedDevice]:
        """The same: power is told of each."""
        return self.devices()


class AmdDevice(ManagedDevice):
    """A processor.

    Args:
        library: `amdsmi`.
        handle: of the processor.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._smi, self._handle = library, handle

    def ask(self, call: str, *arguments: Any) -> Any:
        """The answer of `amdsmi_get_<call>`; None where the device or the driver has no such call."""
        try:
            return getattr(self._smi, f"amdsmi_get_{call}")(self._handle, *arguments)
        except AttributeError:
            return None
        except Exception as error:
            if getattr(error, "err_code", None) in NOT_SUPPORTED:
                return None
            raise

    def number(self, call: str, field: str, *arguments: Any) -> float | None:
        """A field of an answer; None where it is no number."""
        told = (self.ask(call, *arguments) or {}).get(field)
        return float(told) if isinstance(told, int | float) and not isinstance(told, bool) else None

    def uuid(self) -> str | None:
        """As ROCm names it."""
        told = self.ask("gpu_device_uuid")
        return None if told is None else str(told)

    def memory(self) -> DeviceMemory:
        """From the usage of VRAM, which is told in MiB."""
        told = self._smi.amdsmi_get_gpu_vram_usage(self._handle)
        return DeviceMemory(int(told["vram_total"]) * MIB, int(told["vram_used"]) * MIB)

    def processes(self) -> Sequence[ProcessUse]:
        """Those of the kernel driver's list."""
        found = []
        for process in self._smi.amdsmi_get_gpu_process_list(self._handle):
            held = (process.get("memory_usage") or {}).get("vram_mem")
            found.append(
                ProcessUse(int(process["pid"]), int(held) if isinstance(held, int) and held else None)
            )
        return found

    def is_shared(self) -> bool:
        """ROCm has no sharing server."""
        return False

    def throttling(self) -> frozenset[str] | None:
        """By the violation status."""
        told = self.ask("violation_status")
        flags = {name: told.get(name) for name in THROTTLED} if told else {}
        if not any(isinstance(flag, bool | int) for flag in flags.values()):
            return None
        return frozenset(THROTTLED[name] for name, flag in flags.items() if flag is True or flag == 1)

    def clocks(self) -> dict[str, float]:
        """Of the compute units and the memory."""
        kinds = {"sm": self._smi.AmdSmiClkType.GFX, "memory": self._smi.AmdSmiClkType.MEM}
        read = {name: self.number("clock_info", "clk", kind) for name, kind in kinds.items()}
        return {name: mhz for name, mhz in read.items() if mhz is not None}

    def temperature(self) -> float | None:
        """Of the hottest spot."""
        sensors, metrics = self._smi.AmdSmiTemperatureType, self._smi.AmdSmiTemperatureMetric
        told = self.ask("temp_metric", sensors.HOTSPOT, metrics.CURRENT)
        return float(told) if isinstance(told, int | float) else None

    def power(self) -> float | None:
        """Of the socket, now where that is told, else on average."""
        now = self.number("power_info", "current_socket_power")
        return self.number("power_info", "average_socket_power") if now is None else now

    def power_limit(self) -> float | None:
        """The cap, which is told in microwatts."""
        microwatts = self.number("power_cap_info", "power_cap")
        return None if microwatts is None else microwatts / 1e6

    def energy(self) -> float | None:
        """The accumulator times its resolution, in microjoules."""
        counted = self.number("energy_count", "energy_accumulator")
        if counted is None:  # before ROCm 6.2 it was called so
            counted = self.number("energy_count", "power")
        resolution = self.number("energy_count", "counter_resolution")
        return None if counted is None or resolution is None else counted * resolution / 1e6


def amd_facts(library: Any = None) -> tuple[list[dict[str, Any]], list[str]]:
    """Facts of every AMD device, and what could not be found out.

    Args:
        library: what answers as `amdsmi` does; the real one by default.
    """
    opened = AmdSmiLibrary(library)
    try:
        opened.open()
    except ImportError:
        return [], []  # ROCm brings it along: without it there is none to speak of
    except Exception as error:
        return [], [f"no AMD SMI: {error}"]
    try:
        handles = opened.module.amdsmi_get_processor_handles()
        problems: list[str] = []
        found = [
            _facts(AmdDevice(opened.module, handle), number, problems)
            for number, handle in enumerate(handles)
        ]
        return found, problems
    except Exception as error:
        return [], [f"AMD SMI does not list its devices: {error}"]
    finally:
        opened.close()


def _facts(device: AmdDevice, index: int, problems: list[str]) -> dict[str, Any]:
    def told(what: str, *ask: Any) -> Any:
        try:
            return device.ask(*ask) or {}
        except Exception as error:
            problems.append(f"AMD device {index}: {what}: {error}")
            return {}

    def whole(value: Any) -> int | None:
        return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None

    kinds = device._smi.AmdSmiClkType
    asic, memory = told("asic", "gpu_asic_info"), told("memory", "gpu_vram_info")
    size = whole(memory.get("vram_size"))
    cap = whole(told("power cap", "power_cap_info").get("power_cap"))
    return {
        "kind": "rocm",
        "index": index,
        "name": asic.get("market_name"),
        "gfx_version": asic.get("target_graphics_version"),
        "sm_count": whole(asic.get("num_compute_units")),
        "memory_bytes": None if size is None else size * MIB,
        "memory_gib": None if size is None else -(-size * MIB // GIB),
        "bus_width_bits": whole(memory.get("vram_bit_width")),
        "sm_clock_max_mhz": whole(told("clock", "clock_info", kinds.GFX).get("max_clk")),
        "memory_clock_max_mhz": whole(told("memory clock", "clock_info", kinds.MEM).get("max_clk")),
        "power_limit_w": None if cap is None else cap // 1_000_000,
        "mig_profile": None,
        "driver": told("driver", "gpu_driver_info").get("driver_version"),
    }
