"""The Debian package in a chroot: installed, upgraded, removed and purged. `make test-deb` runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "bookworm"
PRISTINE = ROOT / "build" / f"chroot-{RELEASE}"
"""Made once: it takes minutes."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.deb,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to change the root folder"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("debootstrap", "dpkg-deb"))), reason="needs debootstrap and dpkg-deb"
    ),
]


def run(*command: str | Path, **changes: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env={**os.environ, **changes},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


class Machine:
    """A Debian system in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, command: str) -> str:
        """What a shell command in it prints; it must succeed."""
        clean = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
        words = [f"{name}={value}" for name, value in clean.items()]
        return run("env", "-i", *words, "chroot", self.root, "/bin/sh", "-ec", command)

    def dpkg(self, *words: str) -> str:
        """What dpkg prints; conffiles that were edited stay."""
        return self.run(
            f"DEBIAN_FRONTEND=noninteractive dpkg --force-confold --force-unsafe-io {' '.join(words)}"
        )

    def install(self, package: Path) -> str:
        """Install or upgrade."""
        shutil.copy(package, self.root / "package.deb")
        return self.dpkg("--install", "/package.deb")

    def files(self, *folders: str) -> set[str]:
        """Everything below some folders."""
        tops = (self.root / folder for folder in folders)
        return {
            str(path.relative_to(self.root))
            for top in tops
            for path in [top, *top.rglob("*")]
            if path.exists()
        }


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two revisions: the one that is built, and the same with a higher number."""
    told = run(ROOT / "debian/build", PYTHON=sys.executable)
    (name,) = [line.split("'")[-2] for line in told.splitlines() if line.startswith("dpkg-deb: building")]
    folder = tmp_path_factory.mktemp("packages")
    run("dpkg-deb", "--raw-extract", ROOT / name, folder / "next")
    control = folder / "next/DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*-)1$", r"\g<1>2", control.read_text()))
    run("dpkg-deb", "-Znone", "--build", folder / "next", folder / "next.deb")
    return [ROOT / name, folder / "next.deb"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A fresh machine, with /proc."""
    if not PRISTINE.exists():
        fresh = PRISTINE.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        mirrors = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
        fresh.parent.mkdir(exist_ok=True)
        include = "--include=python3,systemd,libstdc++6,tzdata"
        run("debootstrap", "--variant=minbase", include, RELEASE, fresh, mirrors[0])
        fresh.rename(PRISTINE)
    root = tmp_path / "root"
    run("cp", "-a", PRISTINE, root)
    run("mount", "-t", "proc", "proc", root / "proc")
    try:
        yield Machine(root)
    finally:
        run("umount", "-l", root / "proc")


def test_it_installs_upgrades_and_leaves_as_an_operator_expects(
    machine: Machine, packages: list[Path]
) -> None:
    before = machine.files("etc", "usr", "var/lib", "var/cache", "opt")

    told = machine.install(packages[0])
    assert "systemctl --no-reload enable autotuned" in told
    assert machine.run("stat -c '%U:%G %a' /var/lib/autotune") == "autotune:autotune 755\n"
    assert "autotune" in machine.run("getent group autotune")
    assert machine.run("autotune config check") == "/etc/autotune/config.toml: right\n"
    assert "worker.python" in machine.run("autotune config show worker")
    machine.run("cd / && systemd-analyze verify /usr/lib/systemd/system/autotuned.service")
    machine.run("cd / && autotune spaces linear --device cpu")
    # Nothing of the environment of whoever calls it gets in.
    machine.run(
        "mkdir /tmp/x && echo 'raise SystemExit(9)' > /tmp/x/msgspec.py && cd /tmp/x && "
        "PYTHONPATH=/tmp/x autotune config check"
    )

    serve(machine)

    (machine.root / "etc/autotune/config.d").mkdir()
    (machine.root / "etc/autotune/config.d/own.toml").write_text("[gate]\nlooks = 7\n")
    with (machine.root / "etc/autotune/config.toml").open("a") as settings:
        settings.write("\n[daemon]\ndevices = ['cpu']\n")
    state = kept(machine)
    assert "var/lib/autotune/history.db" in state

    told = machine.install(packages[1])
    assert "nothing was started" not in told
    assert kept(machine) == state
    assert "looks" in machine.run("autotune config show gate.looks")
    assert "7" in machine.run("autotune config show gate.looks")
    serve(machine)

    machine.dpkg("--remove", "autotune")
    assert kept(machine) == state
    assert machine.files("usr/lib/autotune", "usr/share/doc/autotune") == set()
    assert not (machine.root / "usr/lib/systemd/system/autotuned.service").exists()

    machine.install(packages[1])
    assert kept(machine) == state

    machine.dpkg("--purge", "autotune")
    after = machine.files("etc", "usr", "var/lib", "var/cache", "opt")
    left = {path for path in after - before if "autotune" in path}
    assert left == set()
    assert "autotune" in machine.run("getent passwd autotune"), "files elsewhere may belong to it"


def kept(machine: Machine) -> set[str]:
    """What belongs to the operator: state and settings."""
    return machine.files("var/lib/autotune", "etc/autotune")


def serve(machine: Machine) -> None:
    """Run the daemon as its user until it answers, then end it; it writes what it would write on a node."""
    machine.run(
        "install -d -o autotune -g autotune /run/autotune /var/cache/autotune;"
        "export AUTOTUNE_CONFIG=/etc/autotune AUTOTUNE_STATE_DIR=/var/lib/autotune"
        "  AUTOTUNE_CACHE_DIR=/var/cache/autotune AUTOTUNE_RUNTIME_DIR=/run/autotune;"
        "setpriv --reuid autotune --regid autotune --init-groups autotune daemon 2>/tmp/log & daemon=$!;"
        "for i in $(seq 200); do autotune status --json >/tmp/status && break; sleep 0.1; done;"
        "kill $daemon; wait $daemon; cat /tmp/log; grep -q /var/lib/autotune /tmp/status"
    )
