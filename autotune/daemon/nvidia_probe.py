"""Looking at a GPU through its vendor's library: foreign processes, memory, MPS, throttling, heat, power.

Every call that fails makes the device busy, except for those that a device does not know at all: some tell
neither temperature nor clocks. The library may hang inside a driver that does; `Patient` sees to that.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from autotune.daemon.gate import Condition
from autotune.daemon.process_tree import use_of_tree
from autotune.errors import StateError
from autotune.fingerprint.files import read_head
from autotune.fingerprint.management import library_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from autotune.config import GateSettings
    from autotune.daemon.gate import Probe
    from autotune.fingerprint.management import ManagedDevice, ProcessUse

MPS_NAME = "nvidia-cuda-mps"
MPS_REFUSED = (
    "MPS runs, where one client's fault reaches all: nothing is tuned beside it; stop "
    "nvidia-cuda-mps-control, or leave this device out of [daemon] devices"
)


class NvidiaProbe:
    """Looks at one device, or one MIG instance; of any vendor whose management library there is.

    Args:
        index: its number among the host's, instances counted as devices, as the fingerprint does.
        settings: the limits.
        library: the vendor's module, or what answers as it does; the real one by default.
        root: root of the file system, or of files made for a test.
        kind: of device.
    """

    def __init__(
        self,
        index: int,
        settings: GateSettings,
        library: Any = None,
        root: str = "/",
        kind: str = "cuda",
    ) -> None:
        self._index = index
        self._settings = settings
        self._library = library_for(kind, library)
        self._root = root

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
        self._library.close()

    def _conditions(self, tuning: bool) -> Iterator[Condition]:
        self._library.open()
        device = self._device()
        ours = use_of_tree(os.getpid(), os.path.join(self._root, "proc")).pids
        processes = device.processes()
        yield self._no_mps(device)
        yield _no_foreign(processes, ours)
        yield self._memory(device, processes, ours)
        if not tuning:
            # While tuning, our own load throttles it: the measurement looks after that.
            yield from self._not_throttled(device)
        yield from self._temperature(device)
        yield from self._power(device, tuning)

    def _device(self) -> ManagedDevice:
        try:
            return self._library.device(self._index)
        except LookupError as error:
            raise StateError(str(error)) from None

    def _no_mps(self, device: ManagedDevice) -> Condition:
        pipes = os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps").lstrip("/")
        control = os.path.join(self._root, pipes, "control")
        if device.is_shared() or os.path.exists(control) or self._mps_process():
            return Condition("MPS", False, MPS_REFUSED)
        return Condition("MPS", True, "does not run")

    def _mps_process(self) -> bool:
        proc = os.path.join(self._root, "proc")
        return any(
            read_head(f"{proc}/{name}/comm").startswith(MPS_NAME)
            for name in os.listdir(proc)
            if name.isdecimal()
        )

    def _memory(
        self, device: ManagedDevice, processes: Sequence[ProcessUse], ours: frozenset[int]
    ) -> Condition:
        used = device.memory().used
        held = [process.memory for process in processes if process.pid in ours]
        limit = self._settings.idle_memory_bytes
        if any(size is None for size in held):
            # What we hold is not told, as in containers, so nothing can be said about the rest.
            return Condition("memory", True, "ours, as far as can be told")
        used -= sum(size for size in held if size is not None)
        told = f"{used >> 20} MiB in use by others or the driver, at most {limit >> 20} MiB"
        return Condition("memory", used <= limit, told)

    def _not_throttled(self, device: ManagedDevice) -> Iterator[Condition]:
        reasons = device.throttling()
        if reasons is not None:
            yield Condition("clocks", not reasons, ", ".join(sorted(reasons)) or "not throttled")

    def _temperature(self, device: ManagedDevice) -> Iterator[Condition]:
        degrees = device.temperature()
        if degrees is not None:
            limit = self._settings.temperature_c
            yield Condition("temperature", degrees <= limit, f"{degrees:g} C, at most {limit:g} C")

    def _power(self, device: ManagedDevice, tuning: bool) -> Iterator[Condition]:
        """The budget of the node: what all boards draw, this one counted at what tuning may make it draw."""
        budget = self._settings.power_watts
        if budget is None:
            return
        own, drawn = device.power_limit(), [board.power() for board in self._library.boards()]
        if own is None or None in drawn:
            raise StateError("a board does not tell what it draws; leave [gate] power_watts out")
        watts = sum(board or 0.0 for board in drawn)
        if not tuning:
            watts += own - (device.power() or 0.0)
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


def _no_foreign(processes: Sequence[ProcessUse], ours: frozenset[int]) -> Condition:
    foreign = sorted(process.pid for process in processes if process.pid not in ours)
    told = f"compute processes {', '.join(map(str, foreign[:8]))}" if foreign else "no compute process"
    return Condition("other processes", not foreign, told)
