"""The daemon, started for real: what it does for look-ups, for production, and when it is harmed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.daemon.control import Pause, Requests, Resume, Rollback, Status
from autotune.errors import UsageError
from autotune.store import open_history, read_history
from autotune.store.records import Verdict
from autotune.store.snapshot import generations, publish
from tests.daemon.running import KERNELS, ROOT, SETTINGS, RunningDaemon, alive
from tests.store.factories import EPOCH, promote
from tests.store.test_snapshot import published


@pytest.fixture
def daemon(tmp_path_factory):
    with RunningDaemon(tmp_path_factory.mktemp("d")) as running:
        yield running


def verdicts(daemon: RunningDaemon) -> list[Verdict]:
    with read_history(str(daemon.state)) as history:
        return [trial.verdict for study in history.studies() for trial in history.trials(study.id)]


def test_what_a_look_up_asked_for_is_tuned_and_the_next_one_is_exact(daemon) -> None:
    match, configuration = daemon.look_up("steady", rows=64, width=32)
    assert ("default", 150) == (match, configuration["pause_ms"])
    daemon.wait_until(lambda: (daemon.state / "best.db").exists())
    match, configuration = daemon.look_up("steady", rows=64, width=32)
    assert ("exact", 30) == (match, configuration["pause_ms"])
    daemon.wait_until(lambda: daemon.device()["state"] == "idle")
    assert [] == daemon.ask(Requests())["agenda"]
    # While it tuned, the service manager was told what.
    daemon.heard("")
    assert any("tuning steady(rows=64" in line for line in daemon.told)
    # The main process has loaded nothing heavy, and nothing of the study is left.
    maps = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert not [name for name in ("libtorch", "libtriton", "optuna") if name in maps]
    assert set() == daemon.below()
    assert 0 == daemon.terminate()


def test_the_main_process_imports_nothing_heavy() -> None:
    script = (
        "import sys, autotune.daemon.service, autotune.daemon.care, autotune.cli.daemon\n"
        "print([name for name in ('torch', 'triton', 'optuna', 'scipy', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "[]" == done.stdout.strip()


def test_a_lease_ends_the_trial_at_once_and_it_is_tried_again_later(daemon) -> None:
    processes = daemon.doze()
    lease = daemon.ask(Pause(wait=True, reason="serving"))
    assert set() == alive(processes)
    assert "paused" == daemon.device()["state"]
    assert "serving" in daemon.device()["reason"]
    assert Verdict.PREEMPTED in verdicts(daemon)
    assert {"ended": [lease["lease"]]} == daemon.ask(Resume())
    assert daemon.doze()
    assert 1 == verdicts(daemon).count(Verdict.PREEMPTED)


def test_leases_survive_a_restart_and_end_with_their_process_or_in_time(daemon) -> None:
    daemon.ask(Pause(reason="by hand"))
    holder = subprocess.Popen(
        [sys.executable, "-m", "autotune", "lease", "--", "sleep", "600"], env=daemon.environment, cwd=ROOT
    )
    try:
        daemon.wait_until(lambda: len(daemon.ask(Status())["leases"]) == 2)
        daemon.process.kill()
        daemon.process.wait()
        daemon.start()
        by_hand, held = daemon.ask(Status())["leases"]
        assert ("by hand", holder.pid) == (by_hand["reason"], held["process"])
        # What a process holds does not end with a `resume`.
        daemon.ask(Resume())
        assert [held["lease"]] == [lease["lease"] for lease in daemon.ask(Status())["leases"]]
    finally:
        holder.kill()
        holder.wait()
    daemon.wait_until(lambda: not daemon.ask(Status())["leases"])
    daemon.ask(Pause(reason="one"))
    daemon.ask(Pause(reason="other"))
    daemon.ask(Resume(reason="one"))
    assert ["other"] == [lease["reason"] for lease in daemon.ask(Status())["leases"]]
    daemon.ask(Resume())
    daemon.ask(Pause(seconds=0.05))
    daemon.wait_until(lambda: daemon.device()["state"] == "idle")


def test_who_may_not_write_the_history_has_the_daemon_tune(daemon) -> None:
    nowhere = daemon.folder / "nowhere"
    nowhere.write_text("no folder")
    words = ("tune", "quick", "--module", KERNELS, "-p", "rows=4,width=8")
    daemon.environment["AUTOTUNE_STATE_DIR"] = str(nowhere)
    assert "it was asked to tune 1 problem " in daemon.command(*words).stdout
    daemon.environment["AUTOTUNE_RUNTIME_DIR"] = str(daemon.folder)
    refused = daemon.command(*words, check=False)
    assert 2 == refused.returncode
    assert "nowhere" in refused.stderr
    assert 1 == len(refused.stderr.splitlines())


@pytest.mark.faults
def test_sigterm_ends_it_in_every_state(daemon) -> None:
    assert "idle" == daemon.device()["state"]
    assert 0 == daemon.terminate()
    daemon.start()
    daemon.ask(Pause())
    assert 0 == daemon.terminate()
    assert daemon.heard("STOPPING=1")
    daemon.start()
    daemon.ask(Resume())
    daemon.order("dozing", rows=4)
    daemon.wait_until(lambda: daemon.device()["state"] == "tuning")
    assert 0 == daemon.terminate()  # while the study process starts
    daemon.start()
    processes = daemon.doze()
    daemon.process.send_signal(signal.SIGSTOP)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.process.send_signal(signal.SIGCONT)
    assert 0 == daemon.terminate()  # while a trial runs, and twice
    assert set() == alive(processes)
    assert Verdict.PREEMPTED in verdicts(daemon)
    with read_history(str(daemon.state)) as history:
        assert {"ended"} == {study.state for study in history.studies()}


@pytest.mark.faults
def test_kill_9_leaves_no_process_behind_and_the_next_daemon_goes_on(daemon) -> None:
    processes = daemon.doze()
    daemon.process.kill()
    daemon.process.wait()
    daemon.process = None
    daemon.wait_until(lambda: not alive(processes))
    daemon.start()
    daemon.doze()


@pytest.mark.faults
def test_two_daemons_the_second_is_told_which_is_the_first(daemon) -> None:
    second = daemon.command("daemon", check=False)
    assert 2 == second.returncode
    assert f"pid {daemon.process.pid}" in second.stderr
    assert 1 == len(second.stderr.splitlines())
    assert "idle" == daemon.device()["state"]


def test_tune_asks_the_daemon_that_holds_the_history(daemon) -> None:
    done = daemon.command(
        "tune", "quick", "--module", str(ROOT / "tests/daemon/quick_kernels.py"), "-p", "rows=8,width=8"
    )
    assert "the daemon holds the history" in done.stdout
    daemon.wait_until(lambda: (daemon.state / "best.db").exists())
    assert "exact" == daemon.look_up("quick", rows=8, width=8)[0]


def test_a_rollback_is_done_by_the_daemon_that_holds_the_history(tmp_path_factory) -> None:
    daemon = RunningDaemon(tmp_path_factory.mktemp("d"))
    with open_history(str(daemon.state)) as history:
        promote(history, latency_ns=4e5)
        publish(history, "first")
        promote(history, latency_ns=3e5, decided_at=EPOCH + 1)
        publish(history, "second")
    with daemon:
        first = daemon.state / "generations" / "best-00000001.db"
        assert published(first) != published(daemon.state / "best.db")
        done = daemon.command("rollback", "--reason", "slower in production")
        assert "published generation 3" in done.stdout
        assert published(first) == published(daemon.state / "best.db")
        assert "rolled back" in daemon.log.read_text()
        daemon.command("pin", "1", "--reason", "all ranks of job 71")
        with read_history(str(daemon.state)) as history:
            assert ["all ranks of job 71"] == [
                one.pin_reason for one in generations(history) if one.pin_reason is not None
            ]
        daemon.command("unpin", "1")
        assert "unknown generation '17'" in daemon.command("pin", "17", "--reason", "x", check=False).stderr
        refused = daemon.command("rollback", "17", check=False)
        assert (2, 1) == (refused.returncode, len(refused.stderr.splitlines()))
        with pytest.raises(UsageError, match="keeps the history in"):
            daemon.ask(Rollback(str(daemon.folder)))
        assert "history-" in daemon.command("db", "backup").stdout
        assert 0 == daemon.terminate()
        with read_history(str(daemon.state)) as history:
            assert [3, 2, 1] == [one.number for one in generations(history)]


def test_a_bad_settings_file_keeps_the_old_settings_and_says_so(daemon) -> None:
    daemon.settings.write_text("[gate]\nloks = 3\n")
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: daemon.ask(Status())["last_error"])
    assert "loks" in daemon.ask(Status())["last_error"]
    assert 2 == daemon.device()["looks"]["needed"]
    daemon.settings.write_text(SETTINGS.replace("looks = 2", "looks = 7"))
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_until(lambda: daemon.device()["looks"]["needed"] == 7)
    assert daemon.heard("RELOADING=1")


@pytest.mark.faults
def test_a_hundred_thousand_garbage_datagrams_do_no_harm(daemon) -> None:
    garbage = [
        b"",
        b"\xff" * 200,
        b"{" * 9000,
        b"[" * 4000,
        b'{"v":1,"workload":"linear","problem":{"m":1e999}}',
        b'{"v":1,"workload":"../../etc","problem":{},"objective":"latency","match":"default"}',
        b'{"v":1,"workload":"linear","problem":{"m":-5},"objective":"latency","match":"default"}',
        b'{"v":1,"workload":"nosuch","problem":{"m":5},"objective":"latency","match":"default","device":"x"}',
    ]
    address = str(daemon.folder / "run" / "requests.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for number in range(100_000):
            try:
                sender.sendto(garbage[number % len(garbage)], address)
            except BlockingIOError:
                time.sleep(0)
    assert "idle" == daemon.device()["state"]
    assert 0 == daemon.ask(Status())["requests"]
    descriptors = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, open("/dev/null") as null:
        sender.connect(address)
        socket.send_fds(sender, [b"{}"], [null.fileno()] * 50)
    daemon.device()
    daemon.wait_until(lambda: descriptors >= len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir())))


def test_a_lease_on_a_device_that_is_not_there_is_refused(daemon) -> None:
    with pytest.raises(UsageError, match=r"cuda:7.*all or cpu|cuda:7.*cpu"):
        daemon.ask(Pause("cuda:7"))
    assert 2 == daemon.command("pause", "--for", "soon", check=False).returncode


def test_without_a_daemon_production_starts_all_the_same(tmp_path) -> None:
    daemon = RunningDaemon(tmp_path)
    done = daemon.command("lease", "--", "echo", "served")
    assert "served" in done.stdout
    assert "without a lease" in done.stderr
    assert 0 == daemon.command("pause", "--wait").returncode
    assert 2 == daemon.command("status", check=False).returncode
    daemon.manager.close()
