"""Each thing that can be wrong is found, with its remedy."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import venv
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import autotune
from autotune.cli import main
from autotune.daemon import control
from autotune.diagnosis.databases import database_findings
from autotune.diagnosis.devices import device_findings
from autotune.diagnosis.folders import folder_findings
from autotune.diagnosis.service import service_findings
from autotune.diagnosis.software import environment_findings, package_finding, sqlite_finding
from autotune.lookup.request import SOCKET_NAME
from autotune.worker.framing import read_frame, write_frame

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from autotune.diagnosis import Finding


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own."""
    for name in ("STATE", "CACHE", "RUNTIME"):
        monkeypatch.setenv(f"AUTOTUNE_{name}_DIR", str(tmp_path / name.lower()))
        (tmp_path / name.lower()).mkdir()
    (tmp_path / "config.toml").write_text("")
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.delenv("AUTOTUNE_REQUEST_SOCKET", raising=False)
    return tmp_path


@pytest.fixture
def gpu(tmp_path: Path) -> Path:
    """The files of a machine with an NVIDIA GPU on its bus, and with nothing else."""
    root = tmp_path / "root"
    (root / "sys/bus/pci/devices/0000:17:00.0").mkdir(parents=True)
    (root / "sys/bus/pci/devices/0000:17:00.0/vendor").write_text("0x10de\n")
    (root / "dev").mkdir()
    (root / "proc/7").mkdir(parents=True)
    return root


def wrong(findings: Iterable[Finding]) -> list[tuple[str, str, str]]:
    """What is not well, and that it has a remedy."""
    found = [finding for finding in findings if finding.level != "ok"]
    assert all(finding.remedy for finding in found)
    return [finding[:3] for finding in found]


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ((3, 6, 23), "ok"),
        ((3, 7, 0), "note"),
        ((3, 40, 1), "note"),
        ((3, 44, 5), "note"),
        ((3, 44, 6), "ok"),
        ((3, 50, 6), "note"),
        ((3, 50, 7), "ok"),
        ((3, 51, 2), "note"),
        ((3, 51, 3), "ok"),
        ((3, 52, 0), "ok"),
    ],
)
def test_sqlite_with_the_wal_reset_bug_is_known(version: tuple[int, int, int], level: str) -> None:
    assert sqlite_finding(version).level == level


@pytest.mark.parametrize(
    ("package", "version", "level"),
    [
        ("torch", "2.13.0+cpu", "ok"),
        ("torch", "2.11.0a0+git1", "ok"),
        ("torch", "2.9.1", "fault"),
        ("torch", None, "fault"),
        ("triton", None, "note"),
        ("triton", "unknown", "ok"),
    ],
)
def test_a_package_that_is_too_old_or_missing_is_told(package: str, version: str | None, level: str) -> None:
    assert package_finding(package, version, (2, 11)).level == level


def test_the_environment_that_serves_is_looked_at(tmp_path: Path) -> None:
    """Not the one of the command, which needs no torch of its own."""
    venv.create(tmp_path / "bare", with_pip=False)
    found = wrong(environment_findings(str(tmp_path / "bare/bin/python")))
    assert found == [
        ("torch", "fault", "not installed"),
        ("triton", "note", "not installed"),
        ("numpy", "fault", "not installed"),
        ("msgspec", "fault", "not installed"),
    ]
    assert wrong(environment_findings(sys.executable)) == []


@pytest.mark.parametrize("interpreter", ["/nonexistent/python", "/bin/false", "/bin/echo"])
def test_an_interpreter_that_does_not_run_is_told(interpreter: str) -> None:
    ((subject, level, text),) = wrong(environment_findings(interpreter))
    assert (subject, level) == ("python", "fault")
    assert f"{interpreter} does not run" in text


def test_a_healthy_machine_has_nothing_wrong_with_its_folders() -> None:
    assert wrong(folder_findings()) == []


def test_what_other_users_cannot_read_is_told(folder: Path) -> None:
    """Their look-ups would silently get the default."""
    snapshot = folder / "state/best.db"
    snapshot.write_text("")
    snapshot.chmod(0o600)
    (folder / "state").chmod(0o700)
    assert [(subject, level) for subject, level, _ in wrong(folder_findings())] == [("look-ups", "fault")] * 2
    snapshot.chmod(0o644)
    (folder / "state").chmod(0o755)
    assert wrong(folder_findings()) == []


def test_a_disk_without_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs("/")
    full = os.statvfs_result((real.f_bsize, 4096, 100, 1, 1, 5000, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    found = wrong(folder_findings())
    assert {text.partition(" has ")[2] for _, _, text in found} == {"0 MiB left", "room for 10 more files"}
    assert all(level == "note" for _, level, _ in found)


def test_a_cache_that_is_mounted_noexec_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs("/")
    mounted = os.statvfs_result((*real[:8], os.ST_NOEXEC, real.f_namemax))
    monkeypatch.setattr(os, "statvfs", lambda _: mounted)
    ((subject, level, text),) = wrong(folder_findings())
    assert (subject, level) == ("cache folder", "fault")
    assert text.endswith("is mounted noexec; compiled kernels cannot load")


def test_a_damaged_database_is_told(folder: Path) -> None:
    (folder / "state/history.db").write_bytes(b"no database at all" * 100)
    found = wrong(database_findings())
    assert ("history.db", "fault", "file is not a database") in found
    assert ("best.db", "note", "not there yet") in found


def test_a_gpu_without_its_driver_is_told(gpu: Path) -> None:
    found = {subject: level for subject, level, _ in wrong(device_findings(str(gpu)))}
    assert found == {"NVIDIA driver": "fault", "nvidia-uvm": "fault"}
    (gpu / "dev/nvidia-uvm").touch()
    found = {subject: level for subject, level, _ in wrong(device_findings(str(gpu)))}
    assert found == {"NVIDIA driver": "fault"}


def test_device_nodes_without_rights_are_told(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm"):
        (gpu / "dev" / name).touch()
    (gpu / "dev/nvidia-caps").mkdir()
    refused = str(gpu / "dev/nvidia0")
    monkeypatch.setattr(os, "access", lambda path, _: path != refused)
    found = [text for subject, _, text in wrong(device_findings(str(gpu))) if subject == "GPU rights"]
    assert found == [f"{refused} may not be used by you"]


def test_mps_is_told(gpu: Path) -> None:
    (gpu / "proc/7/comm").write_text("nvidia-cuda-mps\n")
    assert "MPS" in {subject for subject, _, _ in wrong(device_findings(str(gpu)))}


def test_wrong_settings_are_told_with_their_place(folder: Path) -> None:
    (folder / "config.toml").write_text("[gate]\nlook = 1")
    ((subject, level, text), _) = wrong(service_findings())
    assert (subject, level) == ("settings", "fault")
    assert "config.toml: unknown key of [gate] 'look'" in text


def test_an_environment_that_the_service_cannot_see_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit = folder / "root/etc/systemd/system/autotuned.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    monkeypatch.setattr("autotune.config.checks._is_program", lambda _: True)
    (folder / "config.toml").write_text('[worker]\npython = "/home/me/venv/bin/python"')
    found = {subject: level for subject, level, _ in wrong(service_findings(str(folder / "root")))}
    assert found["settings"] == "fault"


class AnsweringDaemon:
    """A daemon as far as its sockets show."""

    def __init__(self, folder: Path) -> None:
        self.status: dict[str, Any] = {"version": autotune.__version__, "pid": 7, "last_error": None}
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(folder / control.SOCKET_NAME))
        self.control.listen()
        self.requests = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.requests.bind(str(folder / SOCKET_NAME))
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self.control.accept()
            except OSError:
                return
            with connection:
                read_frame(connection.fileno())
                answer = msgspec.json.encode(control.Answer(self.status))
                write_frame(connection.fileno(), answer)

    def close(self) -> None:
        self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()
        self.requests.close()


@pytest.fixture
def daemon(folder: Path) -> Iterator[AnsweringDaemon]:
    made = AnsweringDaemon(folder / "runtime")
    yield made
    made.close()


def test_a_machine_without_the_service_is_told_how_to_get_it(folder: Path) -> None:
    found = {subject: level for subject, level, _ in wrong(service_findings(str(folder)))}
    assert found == {"service": "note", "daemon": "note"}


def test_a_daemon_that_answers_is_well(daemon: AnsweringDaemon, folder: Path) -> None:
    found = [
        finding for finding in service_findings(str(folder)) if finding.subject in ("daemon", "requests")
    ]
    assert [finding.level for finding in found] == ["ok", "ok"]
    assert found[0].found == f"version {autotune.__version__}, process 7"


def test_a_daemon_of_another_version_and_its_last_error_are_told(
    daemon: AnsweringDaemon, folder: Path
) -> None:
    daemon.status.update(version="0.0.1", last_error="the disk is full")
    found = [text for subject, _, text in wrong(service_findings(str(folder))) if subject == "daemon"]
    assert found[0].startswith("the daemon is of version 0.0.1, this command of ")
    assert found[1] == "its last error: the disk is full"


def test_look_ups_that_send_elsewhere_are_told(
    daemon: AnsweringDaemon, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_REQUEST_SOCKET", str(folder / "elsewhere.sock"))
    (finding,) = [one for one in service_findings(str(folder)) if one.subject == "requests"]
    assert finding.level == "note"
    assert finding.remedy == f"export AUTOTUNE_REQUEST_SOCKET={folder / 'runtime' / SOCKET_NAME}"


def test_the_command_exits_1_when_something_is_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--json"]) == 0
    assert {finding["level"] for finding in json.loads(capsys.readouterr().out)} <= {"ok", "note"}
    (folder / "config.toml").write_text("nothing = 1")
    assert main(["doctor", "--json"]) == 1
    assert "fault" in {finding["level"] for finding in json.loads(capsys.readouterr().out)}
