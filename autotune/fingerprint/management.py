"""What a vendor's management library tells of its devices: one small interface for probe, gate and telemetry.

`NvmlLibrary` (nvml.py) and `AmdSmiLibrary` (amd.py) implement it. They pass one conformance suite, over the
real library and over those that tests build: `tests/fingerprint/management_conformance.py`.

The contract: a method returns None, or nothing, for what the device or the driver does not know at all, and
raises for everything else that keeps it from answering. Units are MHz, watts, joules, bytes, degrees Celsius.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Self

POWER_CAP, HARDWARE, SYNC_BOOST = "power cap", "hardware slowdown", "sync boost"
THERMAL_SOFTWARE, THERMAL_HARDWARE, POWER_BRAKE = "thermal, software", "thermal, hardware", "power brake"


class DeviceMemory(NamedTuple):
    """Bytes of a device's memory."""

    total: int
    used: int


class ProcessUse(NamedTuple):
    """A process that computes on a device, and the bytes that it holds there, None where that is not told."""

    pid: int
    memory: int | None


class ManagedDevice(ABC):
    """One device, or one instance of a device that is divided."""

    @abstractmethod
    def uuid(self) -> str | None:
        """What identifies the unit, as `CUDA_VISIBLE_DEVICES` takes it; never part of a digest."""

    @abstractmethod
    def memory(self) -> DeviceMemory:
        """Total and used, by whomever."""

    @abstractmethod
    def processes(self) -> Sequence[ProcessUse]:
        """Processes that compute on it."""

    @abstractmethod
    def is_shared(self) -> bool:
        """Whether clients of a sharing server (MPS) compute on it."""

    @abstractmethod
    def throttling(self) -> frozenset[str] | None:
        """Why its clocks are held down, being idle apart: reasons under which a measurement is worthless."""

    @abstractmethod
    def clocks(self) -> dict[str, float]:
        """Present clocks by name: `sm`, `memory`."""

    @abstractmethod
    def temperature(self) -> float | None:
        """Of the chip."""

    @abstractmethod
    def power(self) -> float | None:
        """Drawn by its board now."""

    @abstractmethod
    def power_limit(self) -> float | None:
        """That is enforced for its board."""

    @abstractmethod
    def energy(self) -> float | None:
        """Used by its board since some moment; only differences mean something."""


class ManagementLibrary(ABC):
    """A vendor's library, open while used as a context.

    Args:
        library: what answers as the vendor's module does; the real one by default, imported when first used.

    Attributes:
        kind: of the devices.
        package: the vendor's module.
        starts: the name of its function that starts it.
        ends: the name of the one that ends it.
    """

    kind: str
    package: str
    starts: str
    ends: str

    def __init__(self, library: Any = None) -> None:
        self._library = library
        self._open = False

    @property
    def module(self) -> Any:
        """The vendor's module, or what answers as it does."""
        if self._library is None:
            self._library = importlib.import_module(self.package)
        return self._library

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the library, once; raises where it, its driver or its package is missing."""
        if not self._open:
            getattr(self.module, self.starts)()
            self._open = True

    def close(self) -> None:
        """Let go of it; never raises."""
        if self._open:
            self._open = False
            with suppress(Exception):
                getattr(self.module, self.ends)()

    @abstractmethod
    def each(self) -> Iterator[ManagedDevice]:
        """The devices of this host in the vendor's order, instances in the place of one that is divided.

        One after another: a board that cannot be opened must not hide those before it.
        """

    def devices(self) -> list[ManagedDevice]:
        """All devices of this host."""
        return list(self.each())

    @abstractmethod
    def boards(self) -> list[ManagedDevice]:
        """All boards, divided or not: what draws power."""

    def device(self, which: int | str) -> ManagedDevice:
        """A device by its number, or by its UUID.

        Raises:
            LookupError: there is none.
        """
        for number, device in enumerate(self.each()):
            if which == (number if isinstance(which, int) else device.uuid()):
                return device
        raise LookupError(f"the {self.kind} library lists no device {which} any more")


def library_for(kind: str, library: Any = None) -> ManagementLibrary:
    """The management library of a kind of device.

    Args:
        kind: `cuda` or `rocm`.
        library: the vendor's Python module, or what answers as it does; the real one by default.

    Raises:
        LookupError: no such kind has one.
    """
    if kind == "cuda":
        from autotune.fingerprint.nvml import NvmlLibrary

        return NvmlLibrary(library)
    if kind == "rocm":
        from autotune.fingerprint.amd import AmdSmiLibrary

        return AmdSmiLibrary(library)
    raise LookupError(f"devices of kind {kind!r} have no management library")
