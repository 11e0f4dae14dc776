"""Looking at the CPU: what others use counts, and what we use does not."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import pytest

from autotune.config import GateSettings
from autotune.daemon.cpu_probe import CpuProbe
from autotune.daemon.process_tree import children_of, start_ticks, use_of_tree

if TYPE_CHECKING:
    from pathlib import Path

CORES = sorted(os.sched_getaffinity(0))


class Machine:
    """The files of a machine, and its clock."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 100.0
        self.user = dict.fromkeys(CORES, 1000)
        self.ours = 50
        self.running = 1
        self.available = 900
        self.hot: dict[str, int] = {}
        (root / f"proc/{os.getpid()}/task/1").mkdir(parents=True)
        self.write()

    def pass_time(self, seconds: float, others: float = 0.0, ours: float = 0.0) -> None:
        """Let time pass in which others and we use so many cores."""
        self.now += seconds
        self.user[CORES[0]] += round(100 * seconds * (others + ours))
        self.ours += round(100 * seconds * ours)
        self.write()

    def write(self) -> None:
        lines = [f"cpu{core} {user} 0 0 9 8 0 0 0 7 7" for core, user in self.user.items()]
        stat = self.root / "proc/stat"
        stat.write_text("\n".join(["cpu 0", *lines, "intr 1 2 3", f"procs_running {self.running}"]))
        own = f"{os.getpid()} (a b) c) R 1" + " 0" * 9 + f" {self.ours} 0 0 0" + " 0" * 20
        (self.root / f"proc/{os.getpid()}/stat").write_text(own)
        (self.root / f"proc/{os.getpid()}/task/1/stat").write_text(own)
        (self.root / f"proc/{os.getpid()}/task/1/children").write_text("")
        meminfo = f"MemTotal: 1000 kB\nMemAvailable: {self.available} kB\n"
        (self.root / "proc/meminfo").write_text(meminfo)
        for number, (kind, reading) in enumerate(self.hot.items()):
            zone = self.root / f"sys/class/thermal/thermal_zone{number}"
            zone.mkdir(parents=True, exist_ok=True)
            (zone / "type").write_text(kind)
            (zone / "temp").write_text(str(reading))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def probe_of(machine: Machine, **limits: float) -> CpuProbe:
    settings = msgspec.structs.replace(GateSettings(), **limits)
    return CpuProbe(settings, str(machine.root), lambda: machine.now)


def held(probe: CpuProbe, tuning: bool = False) -> dict[str, bool]:
    return {one.name: one.holds for one in probe.look(tuning)}


def test_the_first_look_cannot_tell_and_reads_as_busy(machine) -> None:
    assert not held(probe_of(machine))["load of others"]


def test_load_of_others_counts_and_ours_does_not(machine) -> None:
    probe = probe_of(machine, others_cpu=0.1)
    probe.look(False)
    machine.pass_time(1.0, ours=len(CORES))
    assert held(probe, tuning=True)["load of others"]
    machine.pass_time(1.0, others=0.5 * len(CORES), ours=0.5)
    assert not held(probe, tuning=True)["load of others"]
    machine.pass_time(1.0, others=0.05 * len(CORES))
    assert held(probe, tuning=True)["load of others"]


def test_looks_in_quick_succession_are_judged_over_a_longer_time(machine) -> None:
    probe = probe_of(machine, others_cpu=0.1)
    probe.look(False)
    machine.pass_time(1.0)
    assert held(probe)["load of others"]
    # One tick, of which a hundredth of a second makes all too much.
    machine.pass_time(0.01, others=len(CORES))
    assert held(probe)["load of others"]


def test_the_run_queue_of_others_is_what_runs_without_us(machine) -> None:
    probe = probe_of(machine, others_running=1.0)
    machine.running = 1 + len(CORES)
    machine.write()
    assert held(probe)["run queue"]
    machine.running += 1
    machine.write()
    assert not held(probe)["run queue"]


def test_memory_must_be_available_before_a_study_and_is_ours_during_one(machine) -> None:
    probe = probe_of(machine, memory_available=0.5)
    assert held(probe)["memory"]
    machine.available = 499
    machine.write()
    assert not held(probe)["memory"]
    assert "memory" not in held(probe, tuning=True)


def test_the_hottest_zone_of_the_processor_counts_and_no_battery_does(machine) -> None:
    probe = probe_of(machine, temperature_c=80.0)
    assert "temperature" not in held(probe)
    machine.hot = {"x86_pkg_temp": 79_000, "BAT0": 99_000}
    machine.write()
    assert held(probe)["temperature"]
    machine.hot["x86_pkg_temp"] = 81_000
    machine.write()
    assert not held(probe)["temperature"]


def test_a_machine_that_tells_nothing_raises_and_the_gate_reads_that_as_busy(machine) -> None:
    (machine.root / "proc/stat").write_text("")
    with pytest.raises(KeyError):
        probe_of(machine).look(False)


def test_the_tree_has_grandchildren_of_any_thread_and_the_time_of_ended_ones() -> None:
    script = """
import os, subprocess, sys, threading
def start():
    subprocess.Popen(["sh", "-c", "echo $$; sleep 600 & wait"]).wait()
threading.Thread(target=start, daemon=True).start()
sys.stdin.read()
os._exit(0)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        shell = int(process.stdout.readline())
        try:
            while not (sleepers := children_of(shell)):
                pass
            use = use_of_tree(process.pid)
            assert {process.pid, shell, *sleepers} <= use.pids
            assert children_of(process.pid) == [shell]
            assert use.seconds > 0
            assert start_ticks(shell) >= start_ticks(process.pid)
        finally:
            for pid in [*sleepers, shell]:
                with suppress(ProcessLookupError):  # a shell that has nothing to wait for ends by itself
                    os.kill(pid, 9)
    assert start_ticks(process.pid) is None
    assert use_of_tree(os.getpid()).seconds >= use_of_tree(process.pid).seconds == 0.0
