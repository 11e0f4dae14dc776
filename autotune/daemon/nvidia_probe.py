"""Looking at an NVIDIA device through NVML: foreign processes, memory, MPS, throttling, heat, power.

Every call that fails makes the device busy, except for those that a device does not know at all: a MIG
instance tells neither temperature nor clocks. The library may hang inside a driver that does; `Patient` sees
to that.
"""

from __future__ import annotations

import importlib
import os
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from autotune.daemon.gate import Condition
from autotune.daemon.process_tree import use_of_tree
from autotune.errors import StateError
from autotune.fingerprint.files import read_head
from autotune.fingerprint.nvml import UNANSWERABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autotune.config import GateSettings
    from autotune.daemon.gate import Probe
    from autotune.fingerprint.nvml import Nvml

THROTTLED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}
"""Bits of the clocks' event reasons under which a measurement is worthless: nvml.h. Being idle is not among
them."""

MPS_NAME = "nvidia-cuda-mps"
MPS_REFUSED = (
    "MPS runs, where one client's fault reaches all: nothing is tuned beside it; stop "
    "nvidia-cuda-mps-control, or leave this device out of [daemon] devices"
)
UNKNOWN_MEMORY = 2**64 - 1
"""What NVML says of a process's memory where it does not know it: NVML_VALUE_NOT_AVAILABLE."""


class NvidiaProbe:
    """Looks at one device, or one MIG instance.

    Args:
        index: its number among the host's, instances counted as devices, as `nvidia_facts` does.
        settings: the limits.
        library: what answers as `pynvml` does; the real one by default.
        root: root of the file system, or of files made for a test.
    """

    def __init__(
        self, index: int, settings: GateSettings, library: Nvml | None = None, root: str = "/"
    ) -> None:
        self._index = index
        self._settings = settings
        self._library = library
        self._root = root
        self._open = False

    def look(self, tuning: bool) -> list[Condition]:
        """The conditions now; see `Probe`."""
        try:
            return list(self._conditions(tuning))
        except Exception:
            # A driver that was loaded anew, or a device that came back, is only seen after a new start.
            self.close()
            raise

    def adopt(self, settings: GateSettings) -> None:
        """Judge by other limits from the next look on."""
        self._settings = settings

    def close(self) -> None:
        """Let go of the library."""
        if self._open:
            self._open = False
            with suppress(Exception):
                self._nvml.nvmlShutdown()

    @property
    def _nvml(self) -> Any:
        if self._library is None:
            self._library = importlib.import_module("pynvml")
        return self._library

    def _conditions(self, tuning: bool) -> Iterator[Condition]:
        library = self._nvml
        if not self._open:
            library.nvmlInit()
            self._open = True
        board, handle = self._handles()
        ours = use_of_tree(os.getpid(), os.path.join(self._root, "proc")).pids
        processes = library.nvmlDeviceGetComputeRunningProcesses(handle)
        yield self._no_mps(handle)
        yield _no_foreign(processes, ours)
        yield self._memory(handle, processes, ours)
        if not tuning:
            # While tuning, our own load throttles it: the measurement looks after that.
            yield from self._not_throttled(board)
        yield from self._temperature(board)
        yield from self._power(board, tuning)

    def _handles(self) -> tuple[Any, Any]:
        """The device's board, and the device itself: the board, or one of its MIG instances."""
        library, left = self._nvml, self._index
        for number in range(library.nvmlDeviceGetCount()):
            board = library.nvmlDeviceGetHandleByIndex(number)
            found = [board]
            if _known(partial(self._mig_mode, board), 0):
                found = list(self._instances(board))
            if left < len(found):
                return board, found[left]
            left -= len(found)
        raise StateError(f"NVML lists no device {self._index} any more")

    def _mig_mode(self, board: Any) -> int:
        return int(self._nvml.nvmlDeviceGetMigMode(board)[0])

    def _instances(self, board: Any) -> Iterator[Any]:
        for slot in range(self._nvml.nvmlDeviceGetMaxMigDeviceCount(board)):
            with suppress(Exception):  # most slots are empty
                yield self._nvml.nvmlDeviceGetMigDeviceHandleByIndex(board, slot)

    def _no_mps(self, handle: Any) -> Condition:
        library = self._nvml
        clients = _known(lambda: library.nvmlDeviceGetMPSComputeRunningProcesses(handle), [])
        pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps").lstrip("/")
        if clients or os.path.exists(os.path.join(self._root, pipes, "control")) or self._mps_process():
            return Condition("MPS", False, MPS_REFUSED)
        return Condition("MPS", True, "does not run")

    def _mps_process(self) -> bool:
        proc = os.path.join(self._root, "proc")
        return any(
            read_head(f"{proc}/{name}/comm").startswith(MPS_NAME)
            for name in os.listdir(proc)
            if name.isdecimal()
        )

    def _memory(self, handle: Any, processes: Sequence[Any], ours: frozenset[int]) -> Condition:
        used = int(self._nvml.nvmlDeviceGetMemoryInfo(handle).used)
        held = [int(process.usedGpuMemory or 0) for process in processes if process.pid in ours]
        used -= sum(size for size in held if size != UNKNOWN_MEMORY)
        limit = self._settings.idle_memory_bytes
        if any(size in (0, UNKNOWN_MEMORY) for size in held):
            # What we hold is not told, as in containers, so nothing can be said about the rest.
            return Condition("memory", True, "ours, as far as can be told")
        told = f"{used >> 20} MiB in use by others or the driver, at most {limit >> 20} MiB"
        return Condition("memory", used <= limit, told)

    def _not_throttled(self, board: Any) -> Iterator[Condition]:
        reasons = _known(lambda: self._nvml.nvmlDeviceGetCurrentClocksEventReasons(board), None)
        if reasons is not None:
            found = [name for bit, name in THROTTLED.items() if reasons & bit]
            yield Condition("clocks", not found, ", ".join(found) or "not throttled")

    def _temperature(self, board: Any) -> Iterator[Condition]:
        sensor_of_the_chip = 0
        degrees = _known(lambda: self._nvml.nvmlDeviceGetTemperature(board, sensor_of_the_chip), None)
        if degrees is not None:
            limit = self._settings.temperature_c
            yield Condition("temperature", degrees <= limit, f"{degrees} C, at most {limit:g} C")

    def _power(self, board: Any, tuning: bool) -> Iterator[Condition]:
        """The budget of the node: what all boards draw, this one counted at what tuning may make it draw."""
        budget = self._settings.power_watts
        if budget is None:
            return
        library, watts = self._nvml, 0.0
        own = library.nvmlDeviceGetEnforcedPowerLimit(board) / 1000
        for number in range(library.nvmlDeviceGetCount()):
            watts += library.nvmlDeviceGetPowerUsage(library.nvmlDeviceGetHandleByIndex(number)) / 1000
        if not tuning:
            watts += own - library.nvmlDeviceGetPowerUsage(board) / 1000
        how = "drawn" if tuning else f"drawn, this device counted at its limit of {own:.0f} W"
        yield Condition("power", watts <= budget, f"{watts:.0f} W {how}; the budget is {budget:g} W")


class Patient:
    """A probe in a thread of its own, for one that may never come back.

    A look that is not back in time reads as busy, and so does each until it is.

    Args:
        probe: the one that may hang.
        seconds: that a look is waited for.
    """

    def __init__(self, probe: Probe, seconds: float = 0.2) -> None:
        self._probe = probe
        self._seconds = seconds
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._answered.set()
        self._tuning = False
        self._answer: Sequence[Condition] | Exception = ()
        self._thread: threading.Thread | None = None

    def look(self, tuning: bool) -> Sequence[Condition]:
        """The conditions now; see `Probe`.

        Raises:
            StateError: there is no answer yet.
        """
        if not self._answered.is_set():
            raise StateError("has not answered an earlier look yet; the driver may hang")
        # An answer that came late, after its look was over, is thrown away here.
        self._answered.clear()
        self._tuning = tuning
        if self._thread is None:
            # A daemon thread: the process must be able to end while it hangs.
            self._thread = threading.Thread(target=self._serve, name="probe", daemon=True)
            self._thread.start()
        self._asked.set()
        if not self._answered.wait(self._seconds):
            raise StateError(f"no answer within {self._seconds:g} s; the driver may hang")
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def adopt(self, settings: GateSettings) -> None:
        """Judge by other limits from the next look on."""
        self._probe.adopt(settings)

    def _serve(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            try:
                self._answer = self._probe.look(self._tuning)
            except Exception as error:
                self._answer = error
            self._answered.set()


def _no_foreign(processes: Sequence[Any], ours: frozenset[int]) -> Condition:
    foreign = sorted(process.pid for process in processes if process.pid not in ours)
    told = f"compute processes {', '.join(map(str, foreign[:8]))}" if foreign else "no compute process"
    return Condition("other processes", not foreign, told)


def _known(ask: Callable[[], Any], otherwise: Any) -> Any:
    """What a call answers, or `otherwise` where the device or the driver has no such call."""
    try:
        return ask()
    except Exception as error:
        if getattr(error, "value", None) in UNANSWERABLE:
            return otherwise
        raise
