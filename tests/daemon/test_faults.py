"""The fault campaign (`make faults`): each case says what was kept. It takes many minutes.

`FAULT_KILLS` says how often the daemon is killed at a random moment; 20 times by default.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
from contextlib import suppress

import pytest

from autotune.daemon.control import Ask, Pause, Requests, Resume, Status, Wanted
from autotune.store import read_history
from autotune.store.backup import check
from autotune.store.records import Verdict
from tests.daemon.running import SETTINGS as QUICK_SETTINGS
from tests.daemon.running import RunningDaemon, alive

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]

SETTINGS = QUICK_SETTINGS.replace("screen_seconds = 0.1", "screen_seconds = 0.5").replace(
    "budget_seconds = 5", "budget_seconds = 20"
)
"""With time to measure beside others who use the cores."""
QUICK = {"rows": 64, "width": 32}
EXACT = ("exact", 0)


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("d")


def tuned(daemon: RunningDaemon, **problem: int) -> None:
    """Have a problem tuned."""
    daemon.order("quick", **problem)
    settled(daemon, **problem)
    daemon.wait_until(lambda: daemon.device("cpu")["state"] == "idle")


def settled(daemon: RunningDaemon, **problem: int) -> None:
    """Wait until a problem that was asked for is tuned, and found."""
    daemon.wait_until(lambda: problem not in waiting(daemon))
    if found(daemon, **problem) == ("exact", 30):
        # Where others had the cores, the faster one was not clearly faster.
        daemon.ask(Ask([Wanted("quick", problem)], again=True))
        daemon.wait_until(lambda: problem not in waiting(daemon))
    assert EXACT == found(daemon, **problem)


def waiting(daemon: RunningDaemon) -> list[dict[str, int]]:
    """The problems that are still to be tuned."""
    return [request["problem"] for request in daemon.ask(Requests())["requests"]]


def found(daemon: RunningDaemon, **problem: int) -> tuple[str, int]:
    match, configuration = daemon.look_up("quick", **problem)
    return match, configuration["pause_ms"]


def verdicts(daemon: RunningDaemon) -> list[Verdict]:
    with read_history(str(daemon.state)) as history:
        return [trial.verdict for study in history.studies() for trial in history.trials(study.id)]


def test_a_segfault_a_hang_and_a_memory_blow_up_cost_one_trial_each(folder) -> None:
    limits = "[worker.limits]\nbuild = 3\ncheck = 3\n"
    settings = SETTINGS.replace("[gate]", f"memory_bytes = {1 << 29}\n{limits}[gate]")
    with RunningDaemon(folder, settings) as daemon:
        daemon.order("harmful", rows=64)
        daemon.wait_until(lambda: len(verdicts(daemon)) == 3)
        daemon.wait_until(lambda: daemon.device()["state"] == "idle")
        harm = [Verdict.CRASHED, Verdict.HUNG, Verdict.OUT_OF_MEMORY]
        assert sorted(harm) == sorted(verdicts(daemon))
        assert "exact" == daemon.look_up("harmful", rows=64)[0]
        assert not daemon.below()
        tuned(daemon, **QUICK)


def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(folder) -> None:
    draw = random.Random(0)
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **QUICK)
        lease = daemon.ask(Pause(device="all", reason="kept"))["lease"]
        known = len(verdicts(daemon))
        for number in range(int(os.environ.get("FAULT_KILLS", "20"))):
            # Half of the time it is at work, with ever new problems; else it starts, idles or is paused.
            if number % 2:
                daemon.ask(Resume(lease=lease))
                daemon.order("quick", rows=number, width=8)
                time.sleep(draw.uniform(0.0, 10.0))
            else:
                time.sleep(draw.uniform(0.0, 0.5))
            left = {*daemon.below(), daemon.process.pid}
            daemon.process.kill()
            daemon.process.wait()
            daemon.process = None
            daemon.wait_until(lambda left=left: not alive(left))
            assert [] == check(str(daemon.state / "history.db")).faults
            assert known <= len(verdicts(daemon))
            known = len(verdicts(daemon))
            assert EXACT == found(daemon, **QUICK)
            daemon.start()
            leases = [held["reason"] for held in daemon.ask(Status())["leases"]]
            assert leases == ([] if number % 2 else ["kept"])
            lease = daemon.ask(Pause(device="all", reason="kept"))["lease"] if number % 2 else lease


def test_a_full_disk_serves_on_and_tuning_goes_on_once_there_is_room(folder) -> None:
    state = folder / "state"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(state)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        with RunningDaemon(folder, SETTINGS) as daemon:
            tuned(daemon, **QUICK)
            ballast = state / "ballast"
            fill(ballast)
            daemon.order("quick", rows=8, width=8)
            daemon.wait_until(lambda: "full" in (daemon.ask(Status())["last_error"] or ""))
            assert EXACT == found(daemon, **QUICK)
            assert daemon.process.poll() is None
            ballast.unlink()
            settled(daemon, rows=8, width=8)
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)


def fill(ballast) -> None:
    """Write until there is no room."""
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def spoil(path) -> None:
    """Overwrite all but the first page: the disk did it."""
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def test_a_history_corrupted_at_rest_is_restored_and_serves_what_it_served(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **QUICK)
        assert 0 == daemon.terminate()
        spoil(daemon.state / "history.db")
        daemon.start()
        assert EXACT == found(daemon, **QUICK)
        assert "was damaged" in daemon.log.read_text()
        tuned(daemon, rows=8, width=8)


def test_a_history_corrupted_while_running_is_restored_without_a_restart(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **QUICK)
        pid = daemon.process.pid
        spoil(daemon.state / "history.db")
        daemon.order("quick", rows=8, width=8)
        settled(daemon, rows=8, width=8)
        assert EXACT == found(daemon, **QUICK)
        assert pid == daemon.process.pid
        assert [] == check(str(daemon.state / "history.db")).faults


def test_a_truncated_snapshot_fails_no_look_up_and_is_published_again(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **QUICK)
        os.truncate(daemon.state / "best.db", 5000)
        assert "default" == found(daemon, **QUICK)[0]
        assert 0 == daemon.terminate()
        daemon.start()
        assert EXACT == found(daemon, **QUICK)


def test_an_upgraded_stack_is_noticed_and_the_old_winner_verified(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **QUICK)
        assert 0 == daemon.terminate()
        # One of the settings of the software that its digest covers.
        daemon.environment["TORCHINDUCTOR_FREEZING"] = "1"
        assert "drifted" == found(daemon, **QUICK)[0]
        told = len(daemon.log.read_text())
        daemon.start()
        daemon.wait_until(lambda: "study decided" in daemon.log.read_text()[told:])
        assert EXACT == found(daemon, **QUICK)
        assert "why=drifted" in daemon.log.read_text()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_an_nvml_that_fails_hangs_or_loses_its_device_reads_as_busy(folder) -> None:
    source = os.path.join(os.path.dirname(__file__), "fake_nvml.c")
    library, mood = folder / "libnvidia-ml.so.1", folder / "mood"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    mood.write_text("idle")
    environment = {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(mood)}
    with RunningDaemon(folder, SETTINGS.replace('["cpu"]', "[]"), environment) as daemon:

        def reason(part: str) -> bool:
            device = daemon.device()
            assert "cuda:0" == device["device"]
            return device["state"] == "busy" and part in device["reason"]

        mood.write_text("foreign")
        wish = {"v": 1, "workload": "quick", "problem": QUICK, "objective": "latency", "match": "default"}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            address = str(folder / "run" / "requests.sock")
            sender.sendto(json.dumps({**wish, "device": "cuda:0"}).encode(), address)
        daemon.wait_until(lambda: reason("other processes: compute processes 1"))
        for bad, told in (("lost", "GPU is lost"), ("hang", "hang"), ("uninitialized", "Not Loaded")):
            mood.write_text(bad)
            daemon.wait_until(lambda told=told: reason(told))
            # The other device is tuned all the while, and the daemon answers.
            tuned(daemon, rows=len(bad), width=8)
            mood.write_text("foreign")
            daemon.wait_until(lambda: reason("other processes"))
        mood.write_text("hang")
        daemon.wait_until(lambda: reason("hang"))
        assert 0 == daemon.terminate()
    mood.write_text("uninitialized")
    with RunningDaemon(folder, SETTINGS.replace('["cpu"]', "[]"), environment) as daemon:
        assert "cpu" == daemon.device()["device"]
