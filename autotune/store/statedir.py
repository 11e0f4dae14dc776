"""The state folder: what lies where in it, and whether this process can keep a history there."""

from __future__ import annotations

import os
import pwd
import re
from dataclasses import dataclass

from autotune.errors import StateDirError

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *(
            "9p",
            "afpfs",
            "afs",
            "beegfs",
            "ceph",
            "cifs",
            "coda",
            "gfs",
            "gfs2",
            "glusterfs",
            "gpfs",
            "lustre",
        ),
        *("ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs"),
        *("fuse.cephfs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs", "fuse.rclone", "fuse.s3fs"),
        "fuse.sshfs",
    }
)
"""File systems that other machines share: SQLite's write-ahead log needs memory that all processes share."""

READABLE_FOLDER, READABLE_FILE = 0o755, 0o644
"""Any user's process may look configurations up and read the history, whatever the umask of the writer."""


@dataclass(frozen=True)
class StateDir:
    """The paths in a state folder."""

    path: str

    @property
    def history(self) -> str:
        """The record of everything, `history.db`."""
        return os.path.join(self.path, "history.db")

    @property
    def lock(self) -> str:
        """The file that the writer of the history holds locked."""
        return os.path.join(self.path, "history.lock")

    @property
    def snapshot(self) -> str:
        """What look-ups read, `best.db`."""
        return os.path.join(self.path, "best.db")

    @property
    def generations(self) -> str:
        """The folder of earlier snapshots."""
        return os.path.join(self.path, "generations")

    @property
    def backups(self) -> str:
        """The folder of the history's backups."""
        return os.path.join(self.path, "backups")

    def generation(self, number: int) -> str:
        """The snapshot of one generation."""
        return os.path.join(self.generations, f"best-{number:08d}.db")


@dataclass(frozen=True)
class Mount:
    """A mounted file system."""

    point: str
    file_system: str


def prepare(path: str) -> StateDir:
    """Create a state folder if need be, readable by everybody, and check that a history can be kept there.

    Raises:
        StateDirError: it is no folder, cannot be created or written, or lies on a network file system.
    """
    mount = mount_of(path)
    if mount is not None and mount.file_system in NETWORK_FILE_SYSTEMS:
        raise StateDirError(
            f"{path}: lies on {mount.point}, a network file system ({mount.file_system}), where SQLite loses "
            "data; set AUTOTUNE_STATE_DIR to a folder on a local disk"
        )
    state = StateDir(path)
    for folder in (state.path, state.generations, state.backups):
        _create(folder)
    return state


def mount_of(path: str, mountinfo: str = "/proc/self/mountinfo") -> Mount | None:
    """The mount that `path` lies on, or would if it existed; None if that cannot be told."""
    real = os.path.realpath(path)
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            mounts = [_mount(line) for line in lines if " - " in line]
    except OSError:
        return None
    holding = [mount for mount in mounts if _contains(mount.point, real)]
    # Of two on the same point, the later one hides the earlier.
    return max(reversed(holding), key=lambda mount: len(mount.point), default=None)


def sync_file(path: str) -> None:
    """Make a file's content durable, and readable by everybody."""
    with open(path, "rb+") as file:
        os.fchmod(file.fileno(), READABLE_FILE)
        os.fsync(file.fileno())


def sync_folder(path: str) -> None:
    """Make the names in a folder durable: a rename is lost with the power until its folder is synced."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _create(folder: str) -> None:
    remedy = "set AUTOTUNE_STATE_DIR to a folder that you may write"
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise StateDirError(f"{folder}: is not a folder; move it away, or {remedy}")
    try:
        if not os.path.isdir(folder):
            os.makedirs(folder, exist_ok=True)
            os.chmod(folder, READABLE_FOLDER)
    except OSError as error:
        raise StateDirError(f"{folder}: cannot be created: {error.strerror}; {remedy}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise StateDirError(f"{folder}: cannot be written by {_user()}; run as its owner, or {remedy}")


def _user() -> str:
    try:
        return f"user {pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:
        return f"user {os.geteuid()}"


def _mount(line: str) -> Mount:
    """A line of mountinfo, as proc(5) describes it: the mount point stands fifth, the type after the dash."""
    before, _, after = line.partition(" - ")
    return Mount(_unescaped(before.split(" ")[4]), after.split(" ")[0])


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)


def _contains(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
