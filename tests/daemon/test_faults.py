"""The fault campaign (`make faults`): what happens to the daemon's processes and files.

Each case says what was kept. `FAULT_KILLS` says how often the daemon is killed at a random moment; 20 times
by default. `test_faults_around` goes on with what happens around the daemon; in `test_service` are the cases
that take seconds: garbage datagrams, two daemons at once, SIGTERM while it is idle, paused or at work. All
of them are marked `faults`.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from contextlib import suppress

import msgspec
import pytest

from autotune.daemon.control import Pause, Resume, Status
from autotune.errors import UsageError
from autotune.store.backup import check
from autotune.store.records import Verdict
from autotune.worker.framing import write_frame
from tests.daemon.campaign import EXACT, FIRST, SETTINGS, found, is_failed, settled, tuned, verdicts, waiting
from tests.daemon.running import KERNELS, RunningDaemon, alive

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.timeout(3600)]


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
        tuned(daemon, **FIRST)


def test_a_study_process_that_does_not_get_ready_is_given_up(folder) -> None:
    hanging = folder / "hanging_kernels.py"
    hanging.write_text("import ctypes\n\nctypes.PyDLL(None).sleep(600)\n")
    settings = SETTINGS.replace(KERNELS, str(hanging)).replace("[gate]", "[worker.limits]\nstart = 2\n[gate]")
    with RunningDaemon(folder, settings) as daemon:
        daemon.order("steady", **FIRST)
        daemon.wait_until(lambda: is_failed(daemon, "not ready within 4 s"))
        assert not daemon.below()
        assert [FIRST] == waiting(daemon)
        daemon.settings.write_text(SETTINGS)
        daemon.process.send_signal(signal.SIGHUP)
        settled(daemon, **FIRST)


def test_a_study_process_that_lingers_after_its_work_is_killed_and_nothing_has_failed(folder) -> None:
    lingering = folder / "lingering_kernels.py"
    lingering.write_text("import atexit\nimport time\n\natexit.register(time.sleep, 600)\n")
    with RunningDaemon(folder, SETTINGS.replace(f'"{KERNELS}"', f'"{KERNELS}", "{lingering}"')) as daemon:
        tuned(daemon, **FIRST)
        assert not daemon.below()
        assert "failed" not in daemon.log.read_text()


def test_kill_9_at_random_moments_loses_nothing_that_was_acknowledged(folder) -> None:
    draw = random.Random(0)
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **FIRST)
        lease = daemon.ask(Pause(device="all", reason="kept"))["lease"]
        known = len(verdicts(daemon))
        for number in range(int(os.environ.get("FAULT_KILLS", "20"))):
            # Half of the time it is at work, with ever new problems; else it starts, idles or is paused.
            if number % 2:
                daemon.ask(Resume(lease=lease))
                asked = {"rows": number, "width": 8}
                daemon.order("steady", **asked)
                time.sleep(draw.uniform(0.0, 10.0))
            else:
                time.sleep(draw.uniform(0.0, 0.5))
            left = {*daemon.below(), daemon.process.pid}
            daemon.process.kill()
            daemon.process.wait()
            daemon.process = None
            daemon.wait_until(lambda left=left: not alive(left))
            assert () == check(str(daemon.state / "history.db")).faults
            assert known <= len(verdicts(daemon))
            known = len(verdicts(daemon))
            assert EXACT == found(daemon, **FIRST)
            daemon.start()
            if number % 2:
                assert asked in waiting(daemon) or EXACT == found(daemon, **asked)
            leases = [held["reason"] for held in daemon.ask(Status())["leases"]]
            assert leases == ([] if number % 2 else ["kept"])
            lease = daemon.ask(Pause(device="all", reason="kept"))["lease"] if number % 2 else lease


def test_sigterm_ends_it_while_it_watches_is_busy_yields_or_has_failed(folder) -> None:
    def ended() -> None:
        left = daemon.below()
        assert 0 == daemon.terminate()
        assert not alive(left)
        assert EXACT == found(daemon, **FIRST)
        assert () == check(str(daemon.state / "history.db")).faults

    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **FIRST)
        for state, change in (
            ("watching", ("looks = 2\nlook_seconds = 0.05", "looks = 100\nlook_seconds = 5")),
            ("busy", ("memory_available = 0.01", "memory_available = 1.0")),
            ("failed", ("[gate]", 'python = "/bin/false"\n[gate]')),
        ):
            assert 0 == daemon.terminate()
            daemon.settings.write_text(SETTINGS.replace(*change))
            daemon.start()
            daemon.order("steady", rows=8, width=8)
            daemon.wait_until(lambda state=state: daemon.device()["state"] == state)
            ended()
            daemon.settings.write_text(SETTINGS)
            daemon.start()
        settled(daemon, rows=8, width=8)
        daemon.wait_until(lambda: daemon.device()["state"] == "idle")
        preempted = verdicts(daemon).count(Verdict.PREEMPTED)
        processes, acknowledged = daemon.doze(), False
        # It finds both at once, in either order: a lease to make room for, and its end.
        daemon.process.send_signal(signal.SIGSTOP)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.connect(str(folder / "run" / "control.sock"))
            write_frame(asking.fileno(), msgspec.json.encode(Pause(reason="kept")))
            daemon.process.send_signal(signal.SIGTERM)
            daemon.process.send_signal(signal.SIGCONT)
            with suppress(ConnectionError):
                acknowledged = bool(asking.recv(1, socket.MSG_WAITALL))
        ended()
        assert not alive(processes)
        assert preempted + 1 == verdicts(daemon).count(Verdict.PREEMPTED)
        daemon.start()
        held = [lease["reason"] for lease in daemon.ask(Status())["leases"]]
        assert "kept" in held or not acknowledged


def test_a_full_disk_serves_on_and_tuning_goes_on_once_there_is_room(folder) -> None:
    state = folder / "state"
    state.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(state)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount a tmpfs here")
    try:
        with RunningDaemon(folder, SETTINGS) as daemon:
            tuned(daemon, **FIRST)
            ballast = state / "ballast"
            fill(ballast)
            # A wish, which need not be kept; what an operator asks for is refused if it cannot be.
            found(daemon, rows=8, width=8)
            daemon.wait_until(lambda: is_failed(daemon, "full"))
            with pytest.raises(UsageError, match="full"):
                daemon.order("steady", rows=16, width=8)
            assert EXACT == found(daemon, **FIRST)
            assert "full" in daemon.ask(Status())["last_error"]
            with pytest.raises(UsageError, match="full"):
                daemon.ask(Pause())
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
        tuned(daemon, **FIRST)
        assert 0 == daemon.terminate()
        spoil(daemon.state / "history.db")
        daemon.start()
        assert EXACT == found(daemon, **FIRST)
        assert "was damaged" in daemon.log.read_text()
        tuned(daemon, rows=8, width=8)


def test_a_history_corrupted_while_running_is_restored_without_a_restart(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **FIRST)
        pid = daemon.process.pid
        spoil(daemon.state / "history.db")
        daemon.order("steady", rows=8, width=8)
        settled(daemon, rows=8, width=8)
        assert EXACT == found(daemon, **FIRST)
        assert pid == daemon.process.pid
        assert () == check(str(daemon.state / "history.db")).faults


def test_a_truncated_snapshot_fails_no_look_up_and_is_published_again(folder) -> None:
    with RunningDaemon(folder, SETTINGS) as daemon:
        tuned(daemon, **FIRST)
        os.truncate(daemon.state / "best.db", 5000)
        assert "default" == found(daemon, **FIRST)[0]
        tuned(daemon, rows=8, width=8)
        assert EXACT == found(daemon, **FIRST)
        os.truncate(daemon.state / "best.db", 5000)
        assert "default" == found(daemon, **FIRST)[0]
        assert 0 == daemon.terminate()
        daemon.start()
        assert EXACT == found(daemon, **FIRST)
