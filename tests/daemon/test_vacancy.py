"""Waiting until a device is free: our processes have ended, and its driver has their memory back."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from autotune.daemon.control import Status
from autotune.daemon.loop import Loop
from autotune.daemon.vacancy import Vacancy
from tests.daemon.running import ROOT, SETTINGS, RunningDaemon
from tests.daemon.test_faults_around import compiled


class Device:
    """A device that gets free when told, and of which as many answers as given find something left."""

    def __init__(self, name: str, *answers: str, free: bool = True) -> None:
        self.name, self.free = name, free
        self.answers = list(answers)
        self.callbacks: list = []

    def when_free(self, callback) -> None:
        if self.free:
            callback()
        else:
            self.callbacks.append(callback)

    def end(self) -> None:
        self.free = True
        for callback in self.callbacks:
            callback()

    def leftover(self) -> str:
        if not self.free:
            return "its study process has not ended"
        return self.answers.pop(0) if self.answers else ""


@pytest.fixture
def loop():
    made = Loop(lambda error: pytest.fail(str(error)))
    yield made
    made.close()


def waited(loop: Loop, *devices: Device, most_seconds: float = 60.0) -> list[dict[str, str]]:
    """What was told, in the loop's time."""
    found: list[dict[str, str]] = []

    def told(left: dict[str, str]) -> None:
        found.append(left)
        loop.later(0.1, loop.stop)  # nothing is told twice

    Vacancy(loop, devices, told, most_seconds)
    loop.run()
    return found


def test_free_devices_are_not_waited_for(loop) -> None:
    assert [{}] == waited(loop, Device("cpu"), Device("cuda:0"))
    assert [{}] == waited(loop)


def test_it_is_told_once_processes_have_ended_and_their_memory_is_free(loop) -> None:
    first, second = Device("cpu", free=False), Device("cuda:0", "5000 MiB", "200 MiB", free=False)
    loop.later(0.02, second.end)
    loop.later(0.04, first.end)
    assert [{}] == waited(loop, first, second)
    assert [] == second.answers


def test_after_the_time_it_is_told_what_is_left_and_where(loop) -> None:
    devices = Device("cpu"), Device("cuda:0", *["5000 MiB"] * 1000), Device("cuda:1", free=False)
    loop.later(0.1, devices[2].end)  # after the end, which changes nothing
    left = {"cuda:0": "5000 MiB", "cuda:1": "its study process has not ended"}
    assert [left] == waited(loop, *devices, most_seconds=0.06)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_pause_waits_for_the_driver_and_says_what_it_still_holds(folder) -> None:
    compiled(folder / "libnvidia-ml.so.1", "fake_nvml.c")
    mood = folder / "mood"
    mood.write_text("idle")
    settings = SETTINGS.replace('["cpu"]', '["cuda:0"]').replace("looks = 2", "looks = 1\nfree_seconds = 300")
    with RunningDaemon(folder, settings, {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(mood)}) as daemon:
        wish = {"v": 1, "workload": "steady", "problem": {"rows": 8, "width": 8}, "objective": "latency"}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            address = str(folder / "run" / "requests.sock")
            sender.sendto(json.dumps({**wish, "match": "default", "device": "cuda:0"}).encode(), address)
        daemon.wait_until(lambda: daemon.device()["state"] == "tuning")
        # Our worker is as good as dead, and the driver has not noticed.
        mood.write_text("held 4000000 5000")
        command = [sys.executable, "-m", "autotune", "pause", "--wait", "--reason", "serving"]
        with subprocess.Popen(
            command, cwd=ROOT, env=daemon.environment, stdout=subprocess.DEVNULL
        ) as pausing:
            daemon.wait_until(lambda: daemon.device()["state"] == "paused")
            assert set() == daemon.below()
            assert pausing.poll() is None
            mood.write_text("held 0 300")
            daemon.device()
            assert pausing.poll() is None
            # With less time, it says what is left, and the lease is held all the same.
            daemon.settings.write_text(settings.replace("= 300", "= 0.1"))
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait_until(lambda: "settings read again" in daemon.log.read_text())
            late = daemon.command("pause", "--wait", check=False)
            assert (1, 1) == (late.returncode, len(late.stderr.splitlines()))
            assert "cuda:0: 900 MiB are in use by no living process, at most 664 MiB expected" in late.stderr
            served = daemon.command("lease", "--", "echo", "served")
            assert ("served\n", 1) == (served.stdout, len(served.stderr.splitlines()))
            assert "a leased device is not free" in daemon.log.read_text()
            assert 2 == len(daemon.ask(Status())["leases"])
            assert pausing.poll() is None
            mood.write_text("idle")
            assert 0 == pausing.wait()
        assert 0 == daemon.command("pause", "--wait").returncode
