"""Looking at the host CPU: what others use of it, whether memory is free, whether it is hot."""

from __future__ import annotations

import os
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from autotune.daemon.gate import Condition
from autotune.daemon.process_tree import TICKS_PER_SECOND, use_of_tree
from autotune.fingerprint.files import read_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.config import GateSettings

INTERVAL = 0.2
"""Seconds over which use is measured, once so long has been looked: /proc counts in hundredths of a second,
and over less a single one would be a tenth of a core."""
SHORTEST_INTERVAL = 0.05
"""Seconds over which it is measured at the beginning."""
_IDLE_FIELDS = (3, 4)
"""`idle` and `iowait` of a line of /proc/stat; the others, the hypervisor's share too, are use: proc(5)."""
_GUEST_FIELDS = 8
"""From here on the fields count what `user` and `nice` have counted already."""


class _Sample(NamedTuple):
    """Processor time at a moment: of all, and of ours."""

    at: float
    busy: float
    ours: float


class CpuProbe:
    """Looks at the cores that this process may run on.

    Args:
        settings: the limits.
        root: root of the file system, or of files made for a test.
        clock: seconds, monotonic.
    """

    def __init__(
        self, settings: GateSettings, root: str = "/", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._root = root
        self._clock = clock
        self._cores = sorted(os.sched_getaffinity(0))
        self._samples: deque[_Sample] = deque()

    def look(self, tuning: bool) -> list[Condition]:
        """The conditions now; see `Probe`."""
        proc = os.path.join(self._root, "proc")
        ours = use_of_tree(os.getpid(), proc)
        stat = _lines(os.path.join(proc, "stat"))
        conditions = [self._load(_Sample(self._clock(), self._busy_seconds(stat), ours.seconds))]
        if not tuning:
            conditions += [self._run_queue(stat, ours.running), self._memory(proc)]
        return [*conditions, *self._temperature()]

    def occupy(self) -> None:
        """We use the cores from now on."""

    def leftover(self) -> str:
        """Nothing: the kernel takes a process's memory back before it tells of its end."""
        return ""

    def adopt(self, settings: GateSettings) -> None:
        """Judge by other limits from the next look on."""
        self._settings = settings

    def _load(self, now: _Sample) -> Condition:
        limit, samples = self._settings.others_cpu, self._samples
        samples.append(now)
        # The latest that is old enough, or the oldest.
        while len(samples) > 2 and now.at - samples[1].at >= INTERVAL:
            samples.popleft()
        before = samples[0]
        seconds = now.at - before.at
        if seconds < SHORTEST_INTERVAL:
            return Condition("load of others", False, "is being measured: it takes two looks")
        # Rounding may make ours larger than all.
        others = now.busy - before.busy - (now.ours - before.ours)
        share = min(1.0, max(0.0, others / seconds / len(self._cores)))
        told = f"{100 * share:.1f} % of {len(self._cores)} cores, at most {100 * limit:g} %"
        return Condition("load of others", share <= limit, told)

    def _run_queue(self, stat: dict[str, list[str]], ours: int) -> Condition:
        # The threads in question are runnable, not necessarily on our cores; who counts too many waits too
        # long.
        waiting = max(0, int(stat["procs_running"][0]) - ours)
        limit = self._settings.others_running * len(self._cores)
        told = f"{waiting} threads of others, at most {limit:g}"
        return Condition("run queue", waiting <= limit, told)

    def _memory(self, proc: str) -> Condition:
        facts = _lines(os.path.join(proc, "meminfo"))
        share = int(facts["MemAvailable:"][0]) / int(facts["MemTotal:"][0])
        limit = self._settings.memory_available
        told = f"{100 * share:.0f} % available, at least {100 * limit:g} %"
        return Condition("memory", share >= limit, told)

    def _temperature(self) -> Iterator[Condition]:
        """The hottest zone that tells of the processor; a machine without one has no such condition."""
        folder = os.path.join(self._root, "sys/class/thermal")
        try:
            zones = [name for name in os.listdir(folder) if name.startswith("thermal_zone")]
        except OSError:
            return
        readings = [int(text) for zone in zones if (text := self._reading(folder, zone)).isdecimal()]
        if readings:
            limit, hottest = self._settings.temperature_c, max(readings) / 1000
            told = f"{hottest:.0f} C, at most {limit:g} C"
            yield Condition("temperature", hottest <= limit, told)

    @staticmethod
    def _reading(folder: str, zone: str) -> str:
        # Zones of batteries, radios and disks say nothing of the processor.
        kind = read_head(os.path.join(folder, zone, "type")).lower()
        if not any(word in kind for word in ("cpu", "x86_pkg", "soc", "core", "k10temp")):
            return ""
        return read_head(os.path.join(folder, zone, "temp"))

    def _busy_seconds(self, stat: dict[str, list[str]]) -> float:
        """Time that our cores were in use, by anybody."""
        ticks = 0
        for core in self._cores:
            fields = [int(field) for field in stat[f"cpu{core}"][:_GUEST_FIELDS]]
            ticks += sum(fields) - sum(fields[place] for place in _IDLE_FIELDS)
        return ticks / TICKS_PER_SECOND


def _lines(path: str) -> dict[str, list[str]]:
    """The lines of a file of the kernel, by their first word."""
    with open(path) as file:
        return {words[0]: words[1:] for line in file if (words := line.split())}
