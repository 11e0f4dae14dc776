"""What a service manager receives, on a real datagram socket that stands for systemd's."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from autotune.daemon.notify import Notifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Manager:
    """The receiving end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(address.replace("@", "\0", 1))

    def received(self) -> list[list[str]]:
        """Every message so far, each as its lines."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(65_536).decode().split("\n"))
            except BlockingIOError:
                return messages


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    path = str(tmp_path / "notify")
    made = Manager(path if request.param == "path" else f"@autotune-test-{os.getpid()}")
    yield made
    made.socket.close()


@pytest.fixture
def notifier(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    made = Notifier()
    yield made
    made.close()


def test_ready_and_stopping_carry_the_status(manager: Manager, notifier: Notifier) -> None:
    notifier.ready("watching 2 devices")
    notifier.stopping("terminated")
    notifier.stopping()
    assert manager.received() == [
        ["READY=1", "STATUS=watching 2 devices"],
        ["STOPPING=1", "STATUS=terminated"],
        ["STOPPING=1"],
    ]


def test_a_status_is_sent_only_when_it_changed(manager: Manager, notifier: Notifier) -> None:
    notifier.ready("idle")
    for text in ("idle", "tuning", "tuning", "idle"):
        notifier.status(text)
    assert manager.received() == [["READY=1", "STATUS=idle"], ["STATUS=tuning"], ["STATUS=idle"]]


def test_a_status_cannot_smuggle_in_another_assignment(manager: Manager, notifier: Notifier) -> None:
    notifier.status("tuning\nSTOPPING=1\x0bagain")
    assert manager.received() == [["STATUS=tuning STOPPING=1 again"]]


def test_reloading_says_when_on_the_monotonic_clock(manager: Manager, notifier: Notifier) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    ((kind, moment),) = manager.received()
    assert kind == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= after


def test_the_watchdog_is_fed_at_half_its_time(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    notifier = Notifier(manager.address)
    assert notifier.watchdog_seconds == 15.0
    notifier.watchdog()
    notifier.close()
    assert manager.received() == [["WATCHDOG=1"]]


@pytest.mark.parametrize(("microseconds", "pid"), [("", ""), ("30s", ""), ("0", ""), ("30000000", "1")])
def test_a_watchdog_that_is_not_ours_is_left_alone(
    microseconds: str, pid: str, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    notifier = Notifier(manager.address)
    assert notifier.watchdog_seconds is None
    notifier.close()


@pytest.mark.parametrize(
    "address", ["", "relative/path", "vsock:2:1234", "@", "/nonexistent/notify", "/" * 300]
)
def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = Notifier(address)
    notifier.ready("idle")
    notifier.watchdog()
    notifier.close()
    notifier.stopping()


def test_a_manager_that_reads_nothing_does_not_hold_the_daemon_up(
    manager: Manager, notifier: Notifier
) -> None:
    """The queue of a datagram socket fills after a few messages; what does not fit is dropped."""
    for number in range(2000):
        if not notifier._send(f"STATUS={number}"):
            break
    else:
        pytest.fail("the queue never filled")
    assert manager.received()
    notifier.status("after")
    assert manager.received() == [["STATUS=after"]]


def test_a_status_that_was_dropped_is_sent_again(manager: Manager, notifier: Notifier) -> None:
    while notifier._send("X=1", wait=False):
        pass
    notifier.status("tuning")
    manager.received()
    notifier.status("tuning")
    assert manager.received() == [["STATUS=tuning"]]


def test_a_status_waits_for_no_manager(
    manager: Manager, notifier: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    while notifier._send("X=1", wait=False):
        pass
    monkeypatch.setattr("autotune.daemon.notify.LONGEST_WAIT_SECONDS", 3600.0)
    notifier.status("tuning")
    assert ["STATUS=tuning"] not in manager.received()
