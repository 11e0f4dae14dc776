"""The daemon under random use and kills (`make soak`), for `SOAK_SECONDS`: half an hour by default.

`SOAK_SEED` draws another course. In the first part the daemon is killed as well; the rest is one process,
whose memory must not grow.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import psutil
import pytest

from autotune.daemon.control import Ask, Pause, Requests, Resume, Status, Wanted
from autotune.store.backup import check
from tests.daemon.campaign import verdicts
from tests.daemon.running import ROOT, SETTINGS, RunningDaemon, alive

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
KILLED_SHARE = 0.35
"""Part of the time in which the daemon itself is killed now and then."""
WARM_UP_SHARE = 0.3
"""Part of the last daemon's life after which its memory is watched."""
MOST_GROWTH_BYTES = 2 << 20
"""What its memory may grow by while it is watched, by a line through all that was read."""
RESTS_SECONDS = (0.0, 0.0, 0.1, 0.5, 20.0)
"""Between two things that are done to it: mostly none, and now and then long enough for a study."""
LONGEST_WORK_SECONDS = 900.0
"""What it may take until nothing is left to do; the machine may be busy."""
STATE_FILES = {
    *("history.db", "history.lock", "best.db"),
    *("generations", "backups"),
    *("leases.json", "requests.json"),
}


class Course:
    """Does random things to a daemon, and keeps book of what it acknowledged."""

    def __init__(self, daemon: RunningDaemon, draw: random.Random) -> None:
        self.daemon = daemon
        self.draw = draw
        self.leases: set[str] = set()
        self.trials = 0
        self.memory: list[tuple[float, int]] = []
        often = [self.wish, self.order, self.look, self.resume]
        seldom = [self.pause, self.pause_shortly, self.lease_of_a_process, self.garbage, self.reload]
        self.actions = [*often * 3, *seldom, self.kill_below]

    def step(self, *, kill: bool) -> None:
        """Do something."""
        if kill and self.draw.random() < 0.05:
            self.kill()
        else:
            self.draw.choice(self.actions)()
        time.sleep(self.draw.choice(RESTS_SECONDS))

    def problem(self) -> dict[str, int]:
        return {"rows": self.draw.choice((1, 8, 64)), "width": self.draw.choice((8, 16, 32, 64))}

    def pause(self) -> None:
        if len(self.leases) < 4:
            question = Pause(device=self.draw.choice(("all", "cpu")), reason="kept")
            self.leases.add(self.daemon.ask(question)["lease"])

    def pause_shortly(self) -> None:
        self.daemon.ask(Pause(seconds=self.draw.uniform(0.01, 1.0), wait=self.draw.random() < 0.5))

    def resume(self) -> None:
        for lease in sorted(self.leases):
            self.daemon.ask(Resume(lease=lease))
            self.leases.discard(lease)

    def lease_of_a_process(self) -> None:
        words = [sys.executable, "-m", "autotune", "lease", "--", "sleep", "600"]
        with subprocess.Popen(words, env=self.daemon.environment, cwd=ROOT) as holder:
            time.sleep(self.draw.uniform(0.0, 2.0))
            holder.kill()

    def wish(self) -> None:
        wish = {"v": 1, "workload": "quick", "problem": self.problem()}
        self.send(json.dumps({**wish, "objective": "latency", "match": "default"}).encode())

    def garbage(self) -> None:
        for _ in range(200):
            self.send(self.draw.randbytes(self.draw.randrange(300)))

    def send(self, datagram: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(BlockingIOError):
            sender.setblocking(False)
            sender.sendto(datagram, str(self.daemon.folder / "run" / "requests.sock"))

    def order(self) -> None:
        self.daemon.ask(Ask([Wanted("quick", self.problem())], again=self.draw.random() < 0.7))

    def look(self) -> None:
        self.daemon.ask(Status())
        self.daemon.ask(Requests())
        self.read_memory()

    def reload(self) -> None:
        self.daemon.process.send_signal(signal.SIGHUP)

    def kill_below(self) -> None:
        """Kill a worker, its warden or a study process."""
        below = sorted(self.daemon.below())
        if below:
            with suppress(ProcessLookupError):
                os.kill(self.draw.choice(below), signal.SIGKILL)

    def kill(self) -> None:
        """Kill the daemon: what it had acknowledged is there when it comes back."""
        left = {*self.daemon.below(), self.daemon.process.pid}
        self.daemon.process.kill()
        self.daemon.process.wait()
        self.daemon.process = None
        self.daemon.wait_until(lambda: not alive(left))
        assert () == check(str(self.daemon.state / "history.db")).faults
        self.count_trials()
        self.daemon.start()
        assert self.leases <= {lease["lease"] for lease in self.daemon.ask(Status())["leases"]}
        self.memory.clear()

    def count_trials(self) -> None:
        known = len(verdicts(self.daemon))
        assert self.trials <= known
        self.trials = known

    def read_memory(self) -> None:
        self.memory.append((time.monotonic(), psutil.Process(self.daemon.process.pid).memory_info().rss))

    def rest(self) -> None:
        """Wait until it is idle, with nothing left to do and nothing below it."""
        self.resume()
        self.daemon.wait_until(lambda: not self.daemon.ask(Status())["leases"])
        self.daemon.wait_until(self.is_idle, LONGEST_WORK_SECONDS)

    def is_idle(self) -> bool:
        return self.daemon.device()["state"] == "idle" and not self.daemon.below()

    def descriptors(self) -> list[str]:
        folder = f"/proc/{self.daemon.process.pid}/fd"
        found = []
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):
                found.append(os.readlink(f"{folder}/{name}").split(":[")[0])
        return sorted(found)


def grown(memory: list[tuple[float, int]]) -> float:
    """By how many bytes it grew after the warm-up, by the line of least squares."""
    seconds, size = np.array(memory, dtype=float).T
    warm = seconds >= seconds[0] + WARM_UP_SHARE * (seconds[-1] - seconds[0])
    slope = np.polyfit(seconds[warm] - seconds[0], size[warm], 1)[0]
    return float(slope * np.ptp(seconds[warm]))


def those_of(state: str) -> list[int]:
    """Processes that were started for a state folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("AUTOTUNE_STATE_DIR") == state:
                found.append(process.pid)
    return found


def test_nothing_leaks_and_nothing_is_lost(folder) -> None:
    settings = SETTINGS.replace("[worker]", "retry_seconds = 1\n[worker]")
    scratch = folder / "tmp"
    scratch.mkdir()
    draw = random.Random(int(os.environ.get("SOAK_SEED", "0")))
    began = time.monotonic()
    with RunningDaemon(folder, settings, {"TMPDIR": str(scratch)}) as daemon:
        course = Course(daemon, draw)
        while time.monotonic() - began < KILLED_SHARE * SECONDS:
            course.step(kill=True)
        course.kill()
        course.rest()
        at_first = course.descriptors()
        while time.monotonic() - began < SECONDS:
            course.step(kill=False)
            course.read_memory()
        course.rest()
        daemon.wait_until(lambda: len(course.descriptors()) <= len(at_first))
        threads = psutil.Process(daemon.process.pid).num_threads()
        growth, read = grown(course.memory), len(course.memory)
        course.count_trials()
        print(f"{course.trials} trials, {threads} threads, {growth / 1024:.0f} KiB more in {read} readings")
        assert growth < MOST_GROWTH_BYTES, course.memory
        # It is as able as ever.
        daemon.order("quick", rows=2, width=2)
        course.rest()
        assert "exact" == daemon.look_up("quick", rows=2, width=2)[0]
        assert 0 == daemon.terminate()
        assert not those_of(str(daemon.state))
    assert () == check(str(daemon.state / "history.db")).faults
    assert () == check(str(daemon.state / "best.db")).faults
    assert {entry.name for entry in daemon.state.iterdir()} <= STATE_FILES
    assert [] == list((folder / "run").iterdir())
    assert [] == list(scratch.iterdir())
