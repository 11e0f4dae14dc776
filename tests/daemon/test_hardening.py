"""A whole study under the restrictions of systemd/autotuned.service, which a real systemd puts in force.

systemd runs as the first process of namespaces of its own over a throw-away copy of this machine's files, so
that nothing of the machine is touched. Where that cannot be, the tests are skipped by name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.daemon.installation import HIDDEN
from tests.daemon.running import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent / "hardened"
SYSTEMD = "/usr/lib/systemd/systemd"
CGROUPS = Path("/sys/fs/cgroup")
NAMESPACES = ("--mount", "--cgroup", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc")
PATIENCE_SECONDS = 900

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the trial in the machine told."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a machine of its own for systemd")
    if not os.path.exists(SYSTEMD) or shutil.which("unshare") is None:
        pytest.skip("needs systemd and unshare, of the packages systemd and util-linux")
    if any(str(ROOT).startswith(folder) for folder in HIDDEN):
        pytest.skip(f"the service would not see this checkout in {ROOT}")
    out = tmp_path_factory.mktemp("hardened")
    with own_cgroup() as cgroup:
        yield booted(out, cgroup)


class own_cgroup:  # noqa: N801 - used as a context alone
    """A cgroup of the second version, for the processes of the machine; gone with them."""

    def __enter__(self) -> Path:
        folders = (CGROUPS, CGROUPS / "unified")
        top = next((one for one in folders if (one / "cgroup.controllers").exists()), None)
        if top is None:
            pytest.skip("needs cgroups of the second version")
        self._folder = top / f"autotune-hardened-{os.getpid()}"
        self._folder.mkdir()
        return self._folder

    def __exit__(self, *_: object) -> None:
        for folder, _folders, _files in os.walk(self._folder, topdown=False):
            for _ in range(100):  # until the killed have left
                try:
                    os.rmdir(folder)
                    break
                except OSError:
                    time.sleep(0.05)


def booted(out: Path, cgroup: Path) -> dict[str, Any]:
    """Start the machine, wait for what it tells, and end it."""
    units = out / "units"
    units.mkdir()
    # All that other units order themselves by, and nothing that does something.
    for name in ("sysinit", "basic", "shutdown", "multi-user"):
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    command = f"{sys.executable} {HERE / 'trial.py'} {ROOT} /mnt/out 20"
    outputs = "StandardOutput=file:/mnt/out/trial.log\nStandardError=file:/mnt/out/trial.log\n"
    (units / "trial.service").write_text(
        f"[Service]\nType=oneshot\nTimeoutStartSec=infinity\nExecStart={command}\n{outputs}"
    )
    enter = f"echo $$ > {cgroup}/cgroup.procs; exec unshare {' '.join(NAMESPACES)}"
    boot = f"{enter} {HERE / 'boot.sh'} {units} {out} trial.service"
    with (out / "systemd.log").open("wb") as log:
        machine = subprocess.Popen(
            ["sh", "-c", boot], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        for _ in range(PATIENCE_SECONDS * 5):
            if (out / "told.json").exists() or machine.poll() is not None:
                break
            time.sleep(0.2)
    finally:
        machine.kill()
        machine.wait()
    logs = "\n".join(path.read_text(errors="replace") for path in sorted(out.glob("*.log")))
    if not (out / "told.json").exists():
        if "trial.service" not in logs:
            pytest.skip(f"systemd does not start in namespaces here: {logs[-500:]}")
        raise AssertionError(logs)
    found: dict[str, Any] = json.loads((out / "told.json").read_text())
    assert "failure" not in found, f"{found['failure']}\n{logs}"
    return found


def test_the_service_tunes_whole_problems(told) -> None:
    verdicts = [trial["verdict"] for study in told["studies"] for trial in study["trials"]]
    assert 2 == len(told["studies"])
    assert "ok" in verdicts
    assert {*verdicts} <= {"ok", "noisy"}, "noisy: the machine has other work"
    assert 200 == told["ready"]


def test_kernels_that_it_has_compiled_ran(told) -> None:
    (linear,) = [study for study in told["studies"] if study["study"]["key"]["workload"] == "linear"]
    ran = {trial["configuration"]["implementation"] for trial in linear["trials"] if trial["verdict"] == "ok"}
    assert "native" in ran


def test_compilers_shared_memory_and_sockets_work(told) -> None:
    assert dict.fromkeys(told["probe"]["works"], "") == told["probe"]["works"]


def test_what_the_unit_forbids_is_refused(told) -> None:
    assert [] == [name for name, why in told["probe"]["refused"].items() if not why]
    assert {"NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapBnd": "0" * 16} == told["probe"][
        "status"
    ]
    assert 0 != told["probe"]["user"]


def test_it_ends_when_it_is_told_to(told) -> None:
    assert {"Result=success", "ExecMainStatus=0"} == set(told["ended"])
