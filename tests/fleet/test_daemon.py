"""Two daemons that share a database, each with its own state: what one proves, the other starts from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from autotune.daemon.control import Status
from tests.daemon.running import SETTINGS, RunningDaemon
from tests.daemon.test_metrics import samples

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fleet.postgres import Database

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def daemon(folder: Path, database: Database, name: str) -> RunningDaemon:
    settings = database.settings()
    section = f"""
[fleet]
url = "{settings.url}"
password_file = "{settings.password_file}"
name = "{name}"
poll_seconds = 0.5
"""
    (folder / name).mkdir()
    exposed = f'address = ""\ntextfile = "{folder / name}/metrics.prom"\ntextfile_seconds = 1'
    return RunningDaemon(folder / name, SETTINGS.replace('address = ""', exposed) + section)


def metrics_of(running: RunningDaemon) -> dict[str, float]:
    """What it exposes of the fleet."""
    found = samples((running.folder / "metrics.prom").read_bytes())
    return {name.removeprefix("autotune_fleet_"): value for name, value in found.items() if "_fleet_" in name}


def fleet_of(running: RunningDaemon) -> dict[str, object]:
    found = running.ask(Status())["fleet"]
    assert isinstance(found, dict)
    return found


def test_a_daemon_starts_warm_verifies_on_its_own_device_and_serves_through_an_outage(
    tmp_path_factory: pytest.TempPathFactory, database: Database
) -> None:
    folder = tmp_path_factory.mktemp("f")
    with daemon(folder, database, "one") as one:
        one.order("steady", rows=8, width=8)
        one.wait_until(lambda: one.look_up("steady", rows=8, width=8)[0] == "exact")
        one.wait_until(lambda: database.sql("SELECT count(*) FROM fleet.entry") == "1")
        # Secrets are in no file that it writes, nor where other users see it.
        assert "battery" not in one.log.read_text()
        assert one.process is not None
        for place in os.listdir("/proc"):
            if place.isdigit() and place != str(os.getpid()):
                assert b"battery staple" not in _read(f"/proc/{place}/cmdline")
    with daemon(folder, database, "two") as two:
        pause = two.command("pause", "--reason", "busy")
        assert pause.returncode == 0
        two.wait_until(lambda: two.look_up("steady", rows=8, width=8)[0] == "fleet")
        assert 1 == fleet_of(two)["unverified"]
        database.server.stop()
        try:
            two.wait_until(lambda: fleet_of(two)["failure"])
            two.wait_until(lambda: metrics_of(two)["connected"] == 0)
            assert "fleet" == two.look_up("steady", rows=8, width=8)[0]
            two.command("resume")
            two.wait_until(lambda: two.look_up("steady", rows=8, width=8)[0] == "exact")
        finally:
            database.server.start()
        two.wait_until(lambda: database.sql("SELECT outcome FROM fleet.verification") == "holds")
        assert "1" == database.sql("SELECT count(*) FROM fleet.entry")
        assert "2" == database.sql("SELECT count(*) FROM fleet.node")
        two.wait_until(lambda: metrics_of(two)["entries_total{direction=sent,kind=verification}"] == 1)
        told = metrics_of(two)
        assert (1, 1) == (told["connected"], told["entries_total{direction=received,kind=winner}"])
        assert (0, 0) == (told["outbox_entries"], told["unverified_winners"])


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""
