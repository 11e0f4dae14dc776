"""Folders: rights, room, and mounts on which things do not work."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from autotune import paths
from autotune.diagnosis.finding import Finding
from autotune.errors import AutotuneError
from autotune.store import statedir

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_FILES = 1000


def folder_findings() -> Iterator[Finding]:
    """The state folder and the cache folder."""
    state, cache = paths.state_dir(), paths.cache_dir()
    yield _rights("state folder", state)
    yield from _room("state folder", state)
    yield from _public(state)
    try:
        if os.path.isdir(state) and os.access(state, os.W_OK):
            statedir.prepare(state)
    except AutotuneError as error:
        yield Finding("state folder", "fault", str(error), "set AUTOTUNE_STATE_DIR to a local folder")
    yield _rights("cache folder", cache)
    yield from _room("cache folder", cache)
    if os.statvfs(_existing(cache)).f_flag & os.ST_NOEXEC:
        found = f"{cache} is mounted noexec; compiled kernels cannot load"
        yield Finding(
            "cache folder", "fault", found, "set AUTOTUNE_CACHE_DIR to a folder where programs may run"
        )


def _rights(subject: str, folder: str) -> Finding:
    existing = _existing(folder)
    if os.access(existing, os.W_OK | os.X_OK):
        return Finding(subject, "ok", folder)
    if subject == "state folder" and _daemon_listens():
        return Finding(subject, "ok", f"{folder}, written by the daemon")
    return Finding(subject, "fault", f"{folder} cannot be written", f"give yourself rights on {existing}")


def _daemon_listens() -> bool:
    from autotune.daemon import control

    return os.path.exists(control.socket_path())


def _room(subject: str, folder: str) -> Iterator[Finding]:
    disk = os.statvfs(_existing(folder))
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_FREE_BYTES:
        yield Finding(subject, "note", f"{folder} has {free >> 20} MiB left", "make room")
    # File systems such as btrfs have no fixed number of files, and say 0.
    if disk.f_files and disk.f_favail < LEAST_FREE_FILES:
        yield Finding(
            subject, "note", f"{folder} has room for {disk.f_favail} more files", "delete files there"
        )


def _public(folder: str) -> Iterator[Finding]:
    """What other users' look-ups need to read: else they silently get the default."""
    for path, wanted in (
        (folder, stat.S_IROTH | stat.S_IXOTH),
        (os.path.join(folder, "best.db"), stat.S_IROTH),
    ):
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & wanted != wanted:
            mark = "o+rx" if stat.S_ISDIR(mode) else "o+r"
            yield Finding(
                "look-ups", "fault", f"{path} cannot be read by other users", f"chmod {mark} {path}"
            )


def _existing(folder: str) -> str:
    """The folder itself, or the nearest one above it that exists."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
