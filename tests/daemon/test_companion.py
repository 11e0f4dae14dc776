"""What runs beside the daemon: the site, served, started anew and gone with it."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.error
import urllib.request

import pytest

from autotune.daemon.companion import Companion
from autotune.daemon.loop import Loop
from tests.daemon.running import SETTINGS, RunningDaemon, alive


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def page(port: int) -> str | None:
    """The first page; None while nobody listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return None


def with_site(port: int) -> str:
    return f'{SETTINGS}[web]\naddress = "127.0.0.1:{port}"\n'


def test_the_daemon_serves_its_site_where_it_is_told_to_and_takes_it_along(tmp_path_factory) -> None:
    first, second = free_port(), free_port()
    with RunningDaemon(tmp_path_factory.mktemp("d"), with_site(first)) as daemon:
        assert "autotune" in daemon.wait_until(lambda: page(first))
        (site,) = daemon.below()
        os.kill(site, signal.SIGKILL)
        daemon.wait_until(lambda: not alive({site}))
        assert daemon.wait_until(lambda: page(first))
        assert "the site ended with status -9; it is started again in 1 s" in daemon.log.read_text()
        daemon.settings.write_text(with_site(second))
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.wait_until(lambda: page(second))
        assert page(first) is None
        (site,) = daemon.below()
        daemon.process.kill()
        daemon.process.wait()
        while alive({site}):
            time.sleep(0.02)
        assert page(second) is None


@pytest.fixture
def loop():
    raised = []
    made = Loop(raised.append)
    yield made
    made.close()
    assert [] == raised


def test_one_that_ends_at_once_is_started_less_and_less_often(loop, monkeypatch) -> None:
    waits, later = [], loop.later
    monkeypatch.setattr(loop, "later", lambda seconds, callback: waits.append(seconds) or later(0, callback))
    told = []

    def failed(message: str) -> None:
        told.append(message)
        if len(told) == 4:
            loop.stop()

    companion = Companion("it", loop, failed)
    companion.want("autotune.no_such_module")
    loop.run()
    assert [1.0, 2.0, 4.0] == waits[:3]
    assert "it ended with status 1; it is started again in 8 s" == told[-1]
    companion.close()
    assert companion.pid is None
