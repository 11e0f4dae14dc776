"""The state folder: made readable by everybody, and refused where a history would not be safe."""

from __future__ import annotations

import itertools
import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from autotune.errors import StateDirError
from autotune.store import open_history, statedir
from autotune.store.backup import check
from autotune.store.snapshot import publish
from autotune.store.statedir import Mount, mount_of
from tests.store.factories import measurement, promote, run_python, trial
from tests.store.test_snapshot import published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autotune.store import History

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /proc rw - proc proc rw
40 22 0:50 / /shared rw,relatime shared:9 - nfs4 filer:/vol rw,vers=4.2
41 40 8:2 / /shared/local\\040disk rw - xfs /dev/sdb1 rw
42 22 0:51 / /over rw - ext4 /dev/sdc1 rw
43 22 0:52 / /over rw - fuse.sshfs host:/ rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/var/lib/autotune", Mount("/", "ext4")),
        ("/shared", Mount("/shared", "nfs4")),
        ("/shared/team/state", Mount("/shared", "nfs4")),
        ("/sharedness", Mount("/", "ext4")),
        ("/shared/local disk/state", Mount("/shared/local disk", "xfs")),
        ("/over/state", Mount("/over", "fuse.sshfs")),
    ],
)
def test_a_path_lies_on_the_innermost_and_latest_mount(tmp_path: Path, path: str, expected: Mount) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(MOUNTS)
    assert expected == mount_of(path, str(mountinfo))


def test_without_mountinfo_no_mount_is_known(tmp_path: Path) -> None:
    assert None is mount_of("/", str(tmp_path / "missing"))


@pytest.mark.parametrize(
    "file_system", ["nfs", "nfs4", "cifs", "smb3", "ceph", "lustre", "gpfs", "9p", "fuse.sshfs"]
)
def test_a_network_file_system_is_refused_before_anything_is_made(
    state: Path, monkeypatch: pytest.MonkeyPatch, file_system: str
) -> None:
    monkeypatch.setattr(statedir, "mount_of", lambda _: Mount("/shared", file_system))
    with pytest.raises(StateDirError) as raised:
        open_history(str(state))
    told = str(raised.value)
    assert told.startswith(f"{state}: lies on /shared, a network file system ({file_system})")
    assert told.endswith("set AUTOTUNE_STATE_DIR to a folder on a local disk")
    assert not state.exists()


def test_the_folder_that_look_ups_resolve_is_the_default(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(state))
    with open_history() as history:
        assert str(state) == history.state.path


def test_a_file_in_the_place_of_the_folder_is_told(state: Path) -> None:
    state.write_text("not a folder")
    with pytest.raises(StateDirError, match=f"{state}: is not a folder; move it away"):
        open_history(str(state))
    with pytest.raises(
        StateDirError, match=f"{state}/below: cannot be created: Not a directory; set AUTOTUNE"
    ):
        open_history(str(state / "below"))


def test_a_folder_that_may_not_be_written_is_told_with_the_user(state: Path) -> None:
    state.mkdir(mode=0o755)
    script = (
        "import os, sys; from autotune.store import open_history, opening\n"
        "if os.geteuid() == 0: os.chmod(os.path.dirname(sys.argv[1]), 0o755); os.setuid(65534)\n"
        "else: os.chmod(sys.argv[1], 0o500)\n"
        "open_history(sys.argv[1])"
    )
    done = run_python(script, state)
    assert f"StateDirError: {state}" in done.stderr
    assert "cannot be " in done.stderr
    assert "set AUTOTUNE_STATE_DIR to a folder that you may write" in done.stderr


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs root and the right to mount, for a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    """What still fits."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def record_until_full(history: History, study: int, first: int) -> int:
    """Record large trials until the disk is full; returns the number of the one that did not fit."""
    numbers = itertools.count(first)
    full = r"history\.db: the disk is full; nothing that was recorded is lost"
    with pytest.raises(StateDirError, match=full):
        record(history, study, numbers)
    return next(numbers) - 1


def record(history: History, study: int, numbers: Iterator[int]) -> None:
    large = measurement(samples=1000)
    for number in numbers:
        history.add_trial(study, trial(number, measurement=large))


def test_a_full_disk_is_told_and_nothing_recorded_is_lost(state: Path) -> None:
    with small_disk(state, "2m") as folder:
        ballast = folder / "ballast"
        with open_history(str(folder)) as history:
            study = promote(history)
            publish(history, "before")
            ballast.write_bytes(b"x" * (free_bytes(folder) // 2))
            recorded = record_until_full(history, study, 3)
            before = published(folder / "best.db")
            with pytest.raises(StateDirError, match=r"the disk is full"):
                promote(history, m=1)
            with pytest.raises(StateDirError, match=r"the disk is full"):
                publish(history, "on a full disk")
            assert before == published(folder / "best.db")
            ballast.unlink()
            history.add_trial(study, trial(recorded))
        assert not check(str(folder / "history.db")).faults
        with open_history(str(folder)) as history:
            assert recorded + 1 == history.study(study).trials


def test_a_snapshot_that_does_not_fit_leaves_the_published_one(state: Path) -> None:
    with small_disk(state, "2m") as folder, open_history(str(folder)) as history:
        promote(history)
        publish(history, "before")
        before = published(folder / "best.db")
        promote(history, m=1)
        (folder / "ballast").write_bytes(b"x" * (free_bytes(folder) - 16384))
        with pytest.raises(StateDirError, match=r"the disk is full"):
            publish(history, "on a full disk")
        assert before == published(folder / "best.db")
        (folder / "ballast").unlink()
        assert 2 == publish(history, "after")
        assert 4 == len(published(folder / "best.db"))
