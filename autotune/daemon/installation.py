"""Putting the units and their companions in place, and taking them away again.

Each file that is written ends in a line with the digest of what is above it. A file whose digest still holds
is ours, of this version or another, and may be replaced; any other was edited or made by the operator.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import sys
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from autotune import paths
from autotune.errors import InternalError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIPPED_PROGRAM = "/usr/bin/autotune"
"""The program that the shipped unit starts."""

FILES = {
    "autotuned.service": "etc/systemd/system/autotuned.service",
    "sysusers.d/autotune.conf": "etc/sysusers.d/autotune.conf",
    "tmpfiles.d/autotune.conf": "etc/tmpfiles.d/autotune.conf",
}
"""Where each file of `systemd/` goes, below the root."""

NVIDIA_FILES = {"modules-load.d/autotune.conf": "etc/modules-load.d/autotune.conf"}
"""Only where there is such a GPU: systemd-modules-load.service fails for a module that is missing."""

ENABLED = "etc/systemd/system/multi-user.target.wants/autotuned.service"
"""The link that `systemctl enable` makes and that would be left dangling."""

PACKAGED = "usr/lib/systemd/system/autotuned.service"
"""Where a package of the distribution has its unit."""

NVIDIA_VENDOR = "0x10de"

HIDDEN = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")
"""What ProtectHome= and PrivateTmp= hide from the service, on any machine: systemd.exec(5)."""

_SEAL = re.compile(r"\n# Written by autotune; sha256 of the lines above: ([0-9a-f]{64})\n\Z")


class Change(NamedTuple):
    """What was done, or would be, to one file.

    Attributes:
        action: `written`, `replaced`, `removed`, `unchanged` or `absent`.
    """

    path: str
    action: str


def install(
    root: str = "/",
    program: str | None = None,
    *,
    nvidia: bool | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> list[Change]:
    """Put units, user and folders in place; nothing is started, reloaded or enabled.

    Args:
        root: of the system to install into.
        program: full path, on that system, of the command `autotune`; None for the one that runs now.
        nvidia: whether that system has an NVIDIA GPU; None to look at this one.
        force: replace what an operator edited too.
        dry_run: change nothing.

    Raises:
        UsageError: a file was edited, or cannot be written, or the service could not run the program.
    """
    packaged = os.path.join(root, PACKAGED)
    if os.path.lexists(packaged):
        raise UsageError(f"{packaged}: a package has installed the service already; nothing to do")
    starting = _program() if program is None else _checked_program(program)
    files = {**FILES, **(NVIDIA_FILES if (has_nvidia() if nvidia is None else nvidia) else {})}
    wanted = {os.path.join(root, place): _sealed(_shipped(name, starting)) for name, place in files.items()}
    changes = [_installing(path, text, force) for path, text in wanted.items()]
    if not dry_run:
        for path, action in changes:
            if action != "unchanged":
                _write(path, wanted[path])
    return changes


def uninstall(root: str = "/", *, force: bool = False, dry_run: bool = False) -> list[Change]:
    """Take away what `install` put in place; settings, history and winners stay.

    Args:
        root: of the system.
        force: take away what an operator edited too.
        dry_run: change nothing.

    Raises:
        UsageError: a file was edited or cannot be removed.
    """
    places = [os.path.join(root, place) for place in {**FILES, **NVIDIA_FILES}.values()]
    changes = [Change(path, _removing(path, force)) for path in places]
    enabled = os.path.join(root, ENABLED)
    if os.path.islink(enabled):
        changes.append(Change(enabled, "removed"))
    if not dry_run:
        for path, action in changes:
            if action == "removed":
                with _told(path), suppress(FileNotFoundError):
                    os.unlink(path)
    return changes


def has_nvidia(root: str = "/") -> bool:
    """Whether this machine has an NVIDIA GPU, with a driver or without."""
    for path in glob.glob(os.path.join(root, "sys/bus/pci/devices/*/vendor")):
        with suppress(OSError), open(path, encoding="ascii") as file:
            if file.read().strip() == NVIDIA_VENDOR:
                return True
    return os.path.isdir(os.path.join(root, "proc/driver/nvidia"))


def _program() -> str:
    """The command beside the interpreter that runs now."""
    return _checked_program(os.path.join(os.path.dirname(sys.executable), "autotune"))


def _checked_program(program: str) -> str:
    if not os.path.isabs(program) or re.search(r"[\s%$\"'\\]", program):
        raise UsageError(f"{program}: is no full path that a unit can name; give --program another")
    if program.startswith(HIDDEN):
        raise UsageError(
            f"{program}: the service does not see this folder, which may hold secrets; install autotune into "
            "an environment such as /opt/autotune, or name it with --program"
        )
    return program


def _shipped(name: str, program: str) -> str:
    path = os.path.join(paths.data_dir("systemd"), name)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().replace(SHIPPED_PROGRAM, program)
    except OSError as error:
        raise InternalError(f"{path}: {error.strerror}; install autotune again") from error


def _sealed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text}\n# Written by autotune; sha256 of the lines above: {digest}\n"


def _is_ours(text: str) -> bool:
    seal = _SEAL.search(text)
    return seal is not None and hashlib.sha256(text[: seal.start()].encode()).hexdigest() == seal[1]


def _present(path: str) -> str | None:
    with _told(path):
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except FileNotFoundError:
            return None


def _installing(path: str, text: str, force: bool) -> Change:
    present = _present(path)
    if present is None:
        return Change(path, "written")
    if present == text:
        return Change(path, "unchanged")
    _require_ours(path, present, force)
    return Change(path, "replaced")


def _removing(path: str, force: bool) -> str:
    present = _present(path)
    if present is None:
        return "absent"
    _require_ours(path, present, force)
    return "removed"


def _require_ours(path: str, text: str, force: bool) -> None:
    if not force and not _is_ours(text):
        raise UsageError(
            f"{path}: was edited; keep the changes in {path}.d/*.conf and give --force"
            if path.endswith(".service")
            else f"{path}: was edited; move it away, or give --force"
        )


def _write(path: str, text: str) -> None:
    """Write a file whole or not at all."""
    with _told(path):
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        handle, fresh = tempfile.mkstemp(prefix=".autotune-", dir=folder)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                file.write(text)
                os.fchmod(file.fileno(), 0o644)
            os.replace(fresh, path)
        except BaseException:
            os.unlink(fresh)
            raise


@contextmanager
def _told(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"{error.filename or path}: {error.strerror}; run as root, or give --root"
        ) from error
