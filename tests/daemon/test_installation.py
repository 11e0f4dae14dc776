"""Putting the units in place: nothing of the operator's is lost, and systemd accepts what is there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.cli import main
from autotune.daemon import installation
from autotune.daemon.installation import HIDDEN, install, uninstall
from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

UNIT = "etc/systemd/system/autotuned.service"
PROGRAM = "/opt/autotune/bin/autotune"
SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze, of the package systemd"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def actions(changes: Iterable[installation.Change], root: Path) -> dict[str, str]:
    return {os.path.relpath(change.path, root): change.action for change in changes}


def files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def test_install_puts_every_file_in_place_and_says_so(root: Path) -> None:
    changes = actions(install(str(root), PROGRAM, nvidia=True), root)
    assert changes == dict.fromkeys(files(root), "written")
    assert set(changes) == {
        UNIT,
        "etc/sysusers.d/autotune.conf",
        "etc/tmpfiles.d/autotune.conf",
        "etc/modules-load.d/autotune.conf",
    }


def test_everything_that_is_shipped_is_installed_or_an_example() -> None:
    shipped = {str(path.relative_to(SYSTEMD)) for path in SYSTEMD.rglob("*") if path.is_file()}
    examples = {name for name in shipped if name.startswith("examples/")}
    assert examples
    assert shipped - examples == {*installation.FILES, *installation.NVIDIA_FILES}


def test_the_unit_starts_the_program_that_was_named(root: Path) -> None:
    install(str(root), PROGRAM, nvidia=False)
    text = (root / UNIT).read_text()
    assert f"\nExecStart={PROGRAM} daemon\n" in text
    assert installation.SHIPPED_PROGRAM not in text


def test_the_uvm_module_is_loaded_only_where_there_is_a_gpu(root: Path) -> None:
    """systemd-modules-load.service fails at boot for a module that is missing."""
    install(str(root), PROGRAM, nvidia=False)
    assert not (root / "etc/modules-load.d").exists()


@pytest.mark.parametrize(("vendor", "found"), [("0x10de\n", True), ("0x8086\n", False), ("", False)])
def test_a_gpu_is_found_on_the_bus_before_it_has_a_driver(vendor: str, found: bool, root: Path) -> None:
    device = root / "sys/bus/pci/devices/0000:17:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(vendor)
    assert installation.has_nvidia(str(root)) is found


def test_installing_again_changes_nothing(root: Path) -> None:
    install(str(root), PROGRAM, nvidia=True)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert set(actions(install(str(root), PROGRAM, nvidia=True), root).values()) == {"unchanged"}
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_dry_run_says_the_same_and_touches_nothing(root: Path) -> None:
    planned = install(str(root), PROGRAM, nvidia=True, dry_run=True)
    assert files(root) == {}
    assert planned == install(str(root), PROGRAM, nvidia=True)
    before = files(root)
    planned = uninstall(str(root), dry_run=True)
    assert files(root) == before
    assert planned == uninstall(str(root))


def test_what_an_earlier_version_wrote_is_replaced(root: Path) -> None:
    install(str(root), PROGRAM, nvidia=False)
    (root / UNIT).write_text(installation._sealed("[Service]\nExecStart=/old\n"))
    assert actions(install(str(root), PROGRAM, nvidia=False), root)[UNIT] == "replaced"
    assert f"ExecStart={PROGRAM} daemon" in (root / UNIT).read_text()


@pytest.mark.parametrize("edit", ["Nice=5\n", "", "nothing of ours"])
def test_an_edited_file_is_kept_unless_forced(edit: str, root: Path) -> None:
    install(str(root), PROGRAM, nvidia=False)
    unit = root / UNIT
    edited = edit if edit == "nothing of ours" else unit.read_text().replace("Nice=10\n", edit)
    unit.write_text(edited)
    before = files(root)
    for act in (lambda: install(str(root), PROGRAM, nvidia=False), lambda: uninstall(str(root))):
        with pytest.raises(UsageError, match=r"autotuned\.service: was edited; .* --force"):
            act()
        assert files(root) == before
    assert actions(install(str(root), PROGRAM, nvidia=False, force=True), root)[UNIT] == "replaced"
    assert f"ExecStart={PROGRAM}" in unit.read_text()


def test_uninstall_leaves_settings_state_and_the_operators_own_additions(root: Path) -> None:
    install(str(root), PROGRAM, nvidia=True)
    kept = ["etc/autotune/config.toml", "var/lib/autotune/best.db", f"{UNIT}.d/override.conf"]
    for name in kept:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("the operator's")
    assert set(actions(uninstall(str(root)), root).values()) == {"removed"}
    assert set(files(root)) == set(kept)
    assert set(actions(uninstall(str(root)), root).values()) == {"absent"}


def test_uninstall_takes_the_link_of_an_enabled_service(root: Path) -> None:
    install(str(root), PROGRAM, nvidia=False)
    link = root / installation.ENABLED
    link.parent.mkdir()
    link.symlink_to("/etc/systemd/system/autotuned.service")
    assert actions(uninstall(str(root)), root)[installation.ENABLED] == "removed"
    assert not link.is_symlink()


def test_a_service_of_the_distribution_is_not_doubled(root: Path) -> None:
    packaged = root / installation.PACKAGED
    packaged.parent.mkdir(parents=True)
    packaged.write_text("")
    with pytest.raises(UsageError, match="a package has installed the service already"):
        install(str(root), PROGRAM, nvidia=False)


@pytest.mark.parametrize("program", ["autotune", "/opt/with space/autotune", "/opt/100%/autotune"])
def test_a_program_that_a_unit_cannot_name_is_refused(program: str, root: Path) -> None:
    with pytest.raises(UsageError, match="no full path that a unit can name"):
        install(str(root), program, nvidia=False)


@pytest.mark.parametrize("program", [f"{folder}venv/bin/autotune" for folder in HIDDEN])
def test_a_program_that_the_service_would_not_see_is_refused(program: str, root: Path) -> None:
    with pytest.raises(UsageError, match="the service does not see this folder"):
        install(str(root), program, nvidia=False)


def test_a_failure_in_the_middle_leaves_whole_files(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc/tmpfiles.d").write_text("a file where a folder should be")
    with pytest.raises(UsageError, match=r"tmpfiles\.d.*; run as root, or give --root"):
        install(str(root), PROGRAM, nvidia=False)
    left = [path.name for path in root.rglob("*") if path.is_file()]
    assert all(not name.startswith(".autotune-") for name in left)


def test_the_command_prints_what_it_does(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--root", str(root), "--program", PROGRAM, "--no-nvidia"]
    assert main(["service", "install", *words, "--dry-run"]) == 0
    assert f"{root / UNIT}: would be written" in capsys.readouterr().out.splitlines()
    assert main(["service", "install", *words]) == 0
    assert f"{root / UNIT}: written" in capsys.readouterr().out.splitlines()
    assert main(["service", "uninstall", "--root", str(root), "--json"]) == 0
    assert {"path": str(root / UNIT), "action": "removed"} in json.loads(capsys.readouterr().out)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_without_rights_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "install", "--program", PROGRAM]) == 2
    assert "run as root, or give --root" in capsys.readouterr().err


def analyze(*words: str | Path) -> str:
    """What systemd-analyze says, with nothing but its complaints."""
    done = subprocess.run(
        ["systemd-analyze", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (done.stdout + done.stderr).strip()


def installed_unit(root: Path) -> Path:
    """The unit, with a program that exists here: verifying looks for it."""
    install(str(root), "/usr/bin/true", nvidia=False)
    return root / UNIT


@needs_systemd_analyze
def test_systemd_finds_nothing_wrong_with_the_unit(root: Path) -> None:
    assert analyze("verify", installed_unit(root)) == ""


@needs_systemd_analyze
def test_the_exposure_of_the_unit_is_at_most_2(root: Path) -> None:
    unit = installed_unit(root)
    analyze("security", "--offline=yes", "--threshold=20", unit)


@needs_systemd_analyze
def test_systemd_finds_nothing_wrong_with_the_example_for_an_inference_service(root: Path) -> None:
    folder = installed_unit(root).parent
    (folder / "vllm.service").write_text(f"[Service]\nExecStart={sys.executable}\n")
    shutil.copytree(SYSTEMD / "examples/vllm.service.d", folder / "vllm.service.d")
    example = folder / "vllm.service.d/autotune.conf"
    example.write_text(example.read_text().replace(installation.SHIPPED_PROGRAM, sys.executable))
    assert analyze("verify", folder / "vllm.service") == ""
    # Had systemd not read it, there would be nothing to find wrong either.
    example.write_text(example.read_text().replace("ExecStartPre=", "ExecStartBefore="))
    assert "ExecStartBefore" in analyze("verify", folder / "vllm.service")
