"""Looking at a GPU through its vendor's library: foreign processes, memory, MPS, throttling, heat, power.

Every call that fails makes the device busy, except for those that a device does not know at all: some tell
neither temperature nor clocks. The library may hang inside a driver that does; `Patient` sees to that.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from autotune.daemon.gate import Condition
from autotune.daemon.process_tree import is_alive, use_of_tree
from autotune.errors import StateError
from autotune.fingerprint.files import read_head
from autotune.fingerprint.management import library_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autotune.config import GateSettings
    from autotune.daemon.gate import Probe
    from autotune.fingerprint.management import ManagedDevice, ProcessUse

Answer = TypeVar("Answer")

MPS_NAME = "nvidia-cuda-mps"
MPS_REFUSED = (
    "MPS runs, where one client's fault reaches all: nothing is tuned beside it; stop "
    "nvidia-cuda-mps-control, or leave this device out of [daemon] devices"
)


SPARE_BYTES = 64 << 20
"""By which what the driver itself needs may have grown since the device was idle: it keeps what it loaded for
a first context. A context of CUDA takes several times as much."""


class _Found(NamedTuple):
    """What a look found on a device that we did not use: its processes, and the bytes that none of them
    holds, None where it is not told what they hold."""

    pids: frozenset[int]
    rest: int | None


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
        self._proc = os.path.join(root, "proc")
        self._found: _Found | None = None
        self._before: _Found | None = None

    def look(self, tuning: bool) -> list[Condition]:
        """The conditions now; see `Probe`."""
        try:
            return list(self._conditions(tuning))
        except Exception:
            # A driver that was loaded anew, or a device that came back, is only seen after a new start.
            self.close()
            raise

    def occupy(self) -> None:
        """We use the device from now on; see `Probe`."""
        self._before = self._found

    def leftover(self) -> str:
        """What is still there of us; see `Probe`.

        The driver takes a dead process's memory back when it gets to it, which may be after its parent knows.
        """
        if self._before is None:
            return ""
        try:
            self._library.open()
            told = self._told_leftover(self._device(), self._before)
        except Exception:
            self.close()
            raise
        if not told:
            self._before = None
        return told

    def adopt(self, settings: GateSettings) -> None:
        """Judge by other limits from the next look on."""
        self._settings = settings

    def close(self) -> None:
        """Let go of the library."""
        self._library.close()

    def _conditions(self, tuning: bool) -> Iterator[Condition]:
        self._library.open()
        device = self._device()
        ours = self._ours()
        processes = device.processes()
        if not tuning:
            found = frozenset(process.pid for process in processes)
            self._found = _Found(found, _rest(device.memory().used, processes))
        yield self._no_mps(device)
        yield _no_foreign(processes, ours)
        yield self._memory(device, processes, ours)
        if not tuning:
            # While tuning, our own load throttles it: the measurement looks after that.
            yield from self._not_throttled(device)
        yield from self._temperature(device)
        yield from self._power(device, tuning)

    def _ours(self) -> frozenset[int]:
        return use_of_tree(os.getpid(), self._proc).pids

    def _told_leftover(self, device: ManagedDevice, before: _Found) -> str:
        ours, processes = self._ours(), device.processes()
        # Others have come meanwhile, perhaps those whom we made room for.
        others = [
            process
            for process in processes
            if process.pid in before.pids or (process.pid not in ours and is_alive(process.pid, self._proc))
        ]
        listed = sorted(process.pid for process in processes if process not in others)
        if listed:
            return f"the driver still lists {', '.join(map(str, listed[:8]))} among its compute processes"
        rest = _rest(device.memory().used, others)
        if rest is None:  # what others hold is not told, as in containers
            return ""
        most = self._settings.idle_memory_bytes if before.rest is None else before.rest + SPARE_BYTES
        if rest <= most:
            return ""
        return f"{rest >> 20} MiB are in use by no living process, at most {most >> 20} MiB expected"

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
        return any(
            read_head(f"{self._proc}/{name}/comm").startswith(MPS_NAME)
            for name in os.listdir(self._proc)
            if name.isdecimal()
        )

    def _memory(
        self, device: ManagedDevice, processes: Sequence[ProcessUse], ours: frozenset[int]
    ) -> Condition:
        limit = self._settings.idle_memory_bytes
        used = _rest(device.memory().used, [process for process in processes if process.pid in ours])
        if used is None:
            # What we hold is not told, as in containers, so nothing can be said about the rest.
            return Condition("memory", True, "ours, as far as can be told")
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
        seconds: that an answer is waited for.
    """

    def __init__(self, probe: Probe, seconds: float = 0.2) -> None:
        self._probe = probe
        self._seconds = seconds
        self._asked = threading.Event()
        self._answered = threading.Event()
        self._answered.set()
        self._question: Callable[[], None] | None = None
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None

    def look(self, tuning: bool) -> Sequence[Condition]:
        """The conditions now; see `Probe`.

        Raises:
            StateError: there is no answer yet.
        """
        return self._ask(lambda: self._probe.look(tuning))

    def occupy(self) -> None:
        """We use the device from now on; see `Probe`. It asks the library nothing."""
        self._probe.occupy()

    def leftover(self) -> str:
        """What is still there of us; see `Probe`.

        Raises:
            StateError: there is no answer yet.
        """
        return self._ask(self._probe.leftover)

    def adopt(self, settings: GateSettings) -> None:
        """Judge by other limits from the next look on."""
        self._probe.adopt(settings)

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        if not self._answered.is_set():
            raise StateError("has not answered an earlier look yet; the driver may hang")
        # An answer that came late, after its question was given up, is thrown away here.
        self._answered.clear()
        answers: list[Answer] = []
        self._question = lambda: answers.append(question())
        if self._thread is None:
            # A daemon thread: the process must be able to end while it hangs.
            self._thread = threading.Thread(target=self._serve, name="probe", daemon=True)
            self._thread.start()
        self._asked.set()
        if not self._answered.wait(self._seconds):
            raise StateError(f"no answer within {self._seconds:g} s; the driver may hang")
        if self._failure is not None:
            raise self._failure
        return answers[0]

    def _serve(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            assert self._question is not None, "set before it was asked"
            self._failure = None
            try:
                self._question()
            except Exception as error:
                self._failure = error
            self._answered.set()


def _rest(used: int, processes: Sequence[ProcessUse]) -> int | None:
    """Bytes in use that some processes do not hold; None where it is not told what they hold."""
    held = [process.memory for process in processes]
    return None if None in held else used - sum(size or 0 for size in held)


def _no_foreign(processes: Sequence[ProcessUse], ours: frozenset[int]) -> Condition:
    foreign = sorted(process.pid for process in processes if process.pid not in ours)
    told = f"compute processes {', '.join(map(str, foreign[:8]))}" if foreign else "no compute process"
    return Condition("other processes", not foreign, told)
