"""The fault campaign, continued: what happens to the daemon's clock, rights, software and driver."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import pytest

from autotune.daemon.control import Pause, Requests, Resume, Status
from autotune.errors import UsageError
from autotune.store.backup import check
from tests.daemon.campaign import EXACT, FIRST, SETTINGS, found, is_failed, settled, tuned, verdicts
from tests.daemon.running import ROOT, RunningDaemon

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]

DAEMON_USER, OTHER_USER = 65534, 65533


def test_an_upgraded_stack_is_noticed_and_the_old_winner_verified(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **FIRST)
        assert 0 == daemon.terminate()
        # One of the settings of the software that its digest covers.
        daemon.environment["TORCHINDUCTOR_FREEZING"] = "1"
        assert "drifted" == found(daemon, **FIRST)[0]
        told = len(daemon.log.read_text())
        daemon.start()
        daemon.wait_until(lambda: "study decided" in daemon.log.read_text()[told:])
        assert EXACT == found(daemon, **FIRST)
        assert "why=drifted" in daemon.log.read_text()


def test_a_stack_upgraded_under_it_is_noticed_without_a_restart(folder) -> None:
    site = folder / "site"
    site.mkdir()
    with RunningDaemon(folder, SETTINGS, {"PYTHONPATH": f"{ROOT}{os.pathsep}{site}"}) as daemon:
        tuned(daemon, **FIRST)
        pid, before, told = daemon.process.pid, daemon.device()["stack"], len(daemon.log.read_text())
        (site / "torch-99.0.dist-info").mkdir()
        (site / "torch-99.0.dist-info" / "METADATA").write_text("Name: torch\nVersion: 99.0\n")
        assert ("drifted", 30) == found(daemon, **FIRST)
        # The hourly round would; nobody waits an hour here.
        daemon.process.send_signal(signal.SIGHUP)
        daemon.wait_until(lambda: "study decided" in daemon.log.read_text()[told:])
        assert EXACT == found(daemon, **FIRST)
        assert "why=drifted" in daemon.log.read_text()[told:]
        assert (pid, True) == (daemon.process.pid, before != daemon.device()["stack"])


@pytest.fixture
def shared_folder():
    """A folder in which other users may own files: pytest's own are closed to them."""
    if os.geteuid() != 0:
        pytest.skip("only root can run a daemon as another user")
    program = [sys.executable, "-c", "import autotune, torch"]
    identity = {"user": DAEMON_USER, "group": DAEMON_USER}
    try:
        subprocess.run(program, cwd=ROOT, env={"HOME": "/"}, check=True, **identity)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("other users cannot run this interpreter or read this checkout")
    with tempfile.TemporaryDirectory(prefix="autotune-") as made:
        os.chmod(made, 0o755)
        yield Path(made)


def test_a_lost_permission_fails_no_look_up_and_is_made_good_once_it_is_back(shared_folder) -> None:
    environment = {"HOME": str(shared_folder)}
    with RunningDaemon(shared_folder, SETTINGS, environment, user=DAEMON_USER) as daemon:
        tuned(daemon, **FIRST)
        assert EXACT == found(daemon, user=OTHER_USER, **FIRST)
        lease = daemon.ask(Pause(device="cpu", seconds=3600, reason="kept"))["lease"]
        daemon.ask(Resume(lease=lease))
        folders = [daemon.state, daemon.state / "generations"]
        # No new file, so no snapshot, no lease and no list of requests; and then nothing at all.
        for rows, mode, look_up in ((8, 0o555, EXACT), (16, 0o000, ("default", 150))):
            for folder in folders:
                folder.chmod(mode)
            told = len(daemon.log.read_text())
            found(daemon, user=OTHER_USER, rows=rows, width=8)
            daemon.wait_until(lambda: is_failed(daemon, "ermission"))
            assert look_up == found(daemon, user=OTHER_USER, **FIRST)
            with pytest.raises(UsageError, match="ermission"):
                daemon.ask(Pause())
            assert [] == daemon.ask(Status())["leases"]
            assert "ermission" in daemon.ask(Status())["last_error"]
            lines = daemon.log.read_text()[told:].splitlines()
            assert all(" info: " in line or " error: " in line for line in lines), lines
            for folder in folders:
                folder.chmod(0o755)
            settled(daemon, rows=rows, width=8)
            assert EXACT == found(daemon, user=OTHER_USER, rows=rows, width=8)
            daemon.wait_until(lambda: daemon.device()["state"] == "idle")
        # A history that its owner may not open any more is none that is damaged.
        assert 0 == daemon.terminate()
        (daemon.state / "history.db").chmod(0o000)
        refused = daemon.command("daemon", check=False, **daemon.identity)
        assert (2, 1) == (refused.returncode, len(refused.stderr.splitlines())), refused.stderr
        assert EXACT == found(daemon, user=OTHER_USER, **FIRST)
        (daemon.state / "history.db").chmod(0o644)
        daemon.start()
        assert EXACT == found(daemon, user=OTHER_USER, **FIRST)
        assert () == check(str(daemon.state / "history.db")).faults


class Clock:
    """The wall clock of a daemon, which can be set; see `fake_clock.c`."""

    def __init__(self, folder) -> None:
        library = compiled(folder / "fake_clock.so", "fake_clock.c")
        self._ahead = folder / "clock"
        self._ahead.write_text("0")
        os.mkfifo(f"{self._ahead}.set")
        # Open all the while: what is written while nobody reads is lost with the last descriptor.
        self._told = os.open(f"{self._ahead}.set", os.O_RDWR | os.O_NONBLOCK)
        self.environment = {"LD_PRELOAD": str(library), "FAKE_CLOCK": str(self._ahead)}

    def set(self, days: int, time_of_day: str) -> None:
        """Set it to a time of day, some days from today, in UTC; it goes on from there."""
        today = datetime.now(UTC).date()
        moment = datetime.combine(today + timedelta(days), clock_time.fromisoformat(time_of_day), UTC)
        fresh = self._ahead.with_suffix(".new")
        fresh.write_text(f"{round(moment.timestamp() - time.time())}")
        fresh.replace(self._ahead)
        os.write(self._told, bytes(8))

    def close(self) -> None:
        os.close(self._told)


@pytest.fixture
def clock(folder):
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler")
    made = Clock(folder)
    yield made
    made.close()


def compiled(library, source: str):
    """A library of a C source beside this file; returns its path."""
    path = os.path.join(os.path.dirname(__file__), source)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, path], check=True)
    return library


def test_a_clock_set_forward_and_back_ends_no_lease_early_or_never(folder, clock) -> None:
    environment = {**clock.environment, "WATCHDOG_USEC": "2000000"}
    with RunningDaemon(folder, SETTINGS, environment) as daemon:
        tuned(daemon, **FIRST)
        known = len(verdicts(daemon))

        def held() -> dict[str, float]:
            return {lease["reason"]: lease["seconds_left"] for lease in daemon.ask(Status())["leases"]}

        began = time.monotonic()
        daemon.ask(Pause(seconds=3600, reason="hour"))
        daemon.order("steady", rows=8, width=8)
        for number, days in enumerate((10, -400, 0)):
            nights = nightly(daemon)
            clock.set(days, "03:29:58")
            # By the calendar, the night has come; by that of leases, seconds have passed.
            daemon.wait_until(lambda nights=nights: nightly(daemon) > nights)
            assert 3600 - (time.monotonic() - began) - 1 <= held()["hour"] <= 3600
            short = time.monotonic()
            daemon.ask(Pause(seconds=5, reason="seconds"))
            clock.set(days - 5 + 10 * (number % 2), "12:00:00")
            daemon.wait_until(lambda: "seconds" not in held())
            assert time.monotonic() - short >= 5
            daemon.told.clear()
            daemon.wait_until(lambda: daemon.heard("WATCHDOG=1"))
            assert 0 <= daemon.ask(Status())["uptime_seconds"] <= time.monotonic() - began + 3600
            (request,) = daemon.ask(Requests())["requests"]
            assert 0 < request["weight"] <= request["asked"]
            assert EXACT == found(daemon, **FIRST)
            # A daemon that starts under the new time finds all as it was.
            assert 0 == daemon.terminate()
            assert () == check(str(daemon.state / "history.db")).faults
            daemon.start()
        assert ["hour"] == list(held())
        assert 3600 - (time.monotonic() - began) - 1 <= held()["hour"] <= 3600
        assert known == len(verdicts(daemon))
        # What is damaged, even where nothing else reads, is found at night.
        os.truncate(daemon.state / "best.db", 5000)
        clock.set(1, "03:29:58")
        daemon.wait_until(lambda: "best.db: is damaged" in daemon.log.read_text())
        daemon.wait_until(lambda: "best.db: was damaged and is published again" in daemon.log.read_text())
        assert EXACT == found(daemon, **FIRST)
        daemon.ask(Resume())
        settled(daemon, rows=8, width=8)


def nightly(daemon: RunningDaemon) -> int:
    """How often the history was looked after."""
    return daemon.log.read_text().count("the history is whole, and backed up as")


def test_a_clock_set_into_a_maintenance_window_opens_it(folder, clock) -> None:
    window = '[[gate.windows]]\nstart = "0 22 * * *"\nhours = 2\n'
    clock.set(0, "12:00:00")
    with RunningDaemon(
        folder, SETTINGS.replace("[measure]", f"{window}[measure]"), clock.environment
    ) as daemon:
        for rows, days, time_of_day in ((8, 3, "21:59:58"), (16, -300, "21:59:58"), (24, -1, "23:00:00")):
            clock.set(days, "12:00:00")
            daemon.order("steady", rows=rows, width=8)
            daemon.wait_until(lambda: "outside the maintenance windows" in daemon.device()["reason"])
            clock.set(days - 10 * (rows == 24), time_of_day)
            settled(daemon, rows=rows, width=8)
            daemon.wait_until(lambda: daemon.device()["state"] == "idle")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")
def test_an_nvml_that_fails_hangs_or_loses_its_device_reads_as_busy(folder) -> None:
    compiled(folder / "libnvidia-ml.so.1", "fake_nvml.c")
    mood = folder / "mood"
    mood.write_text("idle")
    environment = {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(mood)}
    with RunningDaemon(folder, SETTINGS.replace('["cpu"]', "[]"), environment) as daemon:

        def reason(part: str) -> bool:
            device = daemon.device()
            assert "cuda:0" == device["device"]
            return device["state"] == "busy" and part in device["reason"]

        mood.write_text("foreign")
        wish = {"v": 1, "workload": "steady", "problem": FIRST, "objective": "latency", "match": "default"}
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            address = str(folder / "run" / "requests.sock")
            sender.sendto(json.dumps({**wish, "device": "cuda:0"}).encode(), address)
        daemon.wait_until(lambda: reason("other processes: compute processes 1"))
        for bad, told in (("lost", "GPU is lost"), ("hang", "hang"), ("uninitialized", "Not Loaded")):
            mood.write_text(bad)
            daemon.wait_until(lambda told=told: reason(told))
            # The other device is tuned all the while, and the daemon answers.
            tuned(daemon, rows=8 + len(told), width=8)
            mood.write_text("foreign")
            daemon.wait_until(lambda: reason("other processes"))
        # Lost while it is tuned on: what runs there is ended, and nothing else.
        mood.write_text("idle")
        daemon.wait_until(lambda: daemon.device()["state"] == "tuning")
        mood.write_text("lost")
        daemon.wait_until(lambda: reason("GPU is lost"))
        daemon.wait_until(lambda: not daemon.below())
        tuned(daemon, rows=64, width=8)
        mood.write_text("hang")
        daemon.wait_until(lambda: reason("hang"))
        assert 0 == daemon.terminate()
    mood.write_text("uninitialized")
    with RunningDaemon(folder, SETTINGS.replace('["cpu"]', "[]"), environment) as daemon:
        assert "cpu" == daemon.device()["device"]
