"""The background service: settings, unit, group, sockets, and whether it answers."""

from __future__ import annotations

import grp
import os
from typing import TYPE_CHECKING, Any

import autotune
from autotune import paths
from autotune.config import load_settings, settings_files
from autotune.daemon.installation import HIDDEN
from autotune.diagnosis.finding import Finding
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.config import Settings

SLOW = 1.15
"""See `autotune.fleet.outliers`, which would load SQLAlchemy."""
UNIT_FOLDERS = ("etc/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system")


def service_findings(root: str = "/") -> Iterator[Finding]:
    """Everything about the service.

    Args:
        root: of the file system, or of files made for a test.
    """
    try:
        settings = load_settings()
    except AutotuneError as error:
        yield Finding(
            "settings", "fault", str(error), "correct the file; 'autotune config check' looks again"
        )
    else:
        files = settings_files()
        yield Finding("settings", "ok", ", ".join(files) or "all at their default")
        yield from _unit(settings, root)
    yield from _daemon()


def _unit(settings: Settings, root: str) -> Iterator[Finding]:
    units = [os.path.join(root, folder, "autotuned.service") for folder in UNIT_FOLDERS]
    unit = next((path for path in units if os.path.exists(path)), None)
    if unit is None:
        yield Finding("service", "note", "not installed", "'autotune service install' puts it in place")
        return
    yield Finding("service", "ok", unit)
    try:
        grp.getgrnam(settings.daemon.group)
    except KeyError:
        found = f"there is no group {settings.daemon.group!r}; only root may pause the daemon"
        yield Finding("group", "note", found, "systemd-sysusers, or set [daemon] group")
    if settings.worker.python.startswith(HIDDEN):
        found = f"worker.python is {settings.worker.python}, in a folder that the service does not see"
        yield Finding("settings", "fault", found, "put the environment elsewhere, such as /opt")


def _daemon() -> Iterator[Finding]:
    from autotune.daemon import control

    try:
        status = control.ask(control.Status())
    except control.NoDaemonError as error:
        yield Finding("daemon", "note", str(error), "systemctl start autotuned, where it is installed")
        return
    except AutotuneError as error:
        yield Finding("daemon", "fault", str(error), "join the group, or run as root")
        return
    yield Finding("daemon", "ok", f"version {status['version']}, process {status['pid']}")
    if status["version"] != autotune.__version__:
        found = f"the daemon is of version {status['version']}, this command of {autotune.__version__}"
        yield Finding("daemon", "note", found, "systemctl restart autotuned")
    if status["last_error"]:
        yield Finding("daemon", "note", f"its last error: {status['last_error']}", "see its log")
    yield from _fleet(status.get("fleet"))
    yield _request_socket()


def _fleet(report: dict[str, Any] | None) -> Iterator[Finding]:
    """Whether the fleet is reached, and whether this node is slower than its equals."""
    if report is None:
        return
    if report["failure"]:
        yield Finding("fleet", "fault", report["failure"], "see docs/fleet.md; nothing is lost meanwhile")
    elif not report["reached"]:
        yield Finding("fleet", "note", "not reached yet", "look again in a minute")
    else:
        found = f"{report['known']} winners known, {report['unverified']} to be verified here"
        yield Finding("fleet", "ok", f"{found}, {report['waiting']} entries to be sent")
    slowdown = report["slowdown"]
    if slowdown is not None and slowdown > SLOW:
        found = f"this node takes {slowdown:.2f}x the time of its equals for the same baselines"
        yield Finding("fleet", "note", found, "look at its clocks, power limit, cooling and memory")


def _request_socket() -> Finding:
    """Whether what look-ups send arrives."""
    from autotune.lookup.request import SOCKET_NAME, socket_path

    sent, taken = socket_path(), os.path.join(paths.runtime_dir(), SOCKET_NAME)
    if not _same_file(sent, taken):
        found = f"look-ups send them to {sent}, the daemon takes them at {taken}"
        return Finding("requests", "note", found, f"export AUTOTUNE_REQUEST_SOCKET={taken}")
    if not os.access(sent, os.W_OK):
        return Finding("requests", "fault", f"{sent} cannot be written by you", "restart the daemon")
    return Finding("requests", "ok", sent)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
