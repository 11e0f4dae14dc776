"""`autotune doctor`: what could keep autotune from working here, each with its remedy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING, NamedTuple

from autotune.cli import options

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_FREE_BYTES = 1 << 30
# The WAL-reset bug can corrupt a database that several connections write and checkpoint: sqlite.org/wal.html.
FIXED_SQLITE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


class Finding(NamedTuple):
    """One thing looked at.

    Attributes:
        level: `ok`, `note` (works, with a drawback) or `fault` (does not work).
        remedy: what to do; empty when all is well.
    """

    subject: str
    level: str
    found: str
    remedy: str = ""


def doctor(json: options.Json = False) -> int:
    """Look at versions, folders, databases and devices; exits 1 when something does not work."""
    from autotune.cli import output

    findings = [*_software(), *_folders(), *_databases(), *_devices()]
    if json:
        output.print_json([finding._asdict() for finding in findings])
    else:
        table = output.table("", "subject", "found", "remedy")
        for finding in findings:
            table.add_row(finding.level, finding.subject, finding.found, finding.remedy)
        output.console.print(table)
    return 1 if any(finding.level == "fault" for finding in findings) else 0


def _software() -> Iterator[Finding]:
    from autotune.fingerprint.stack import stack_facts

    facts = stack_facts()
    yield Finding("python", "ok", f"{facts['python']} ({sys.executable})")
    for package in ("torch", "triton"):
        if facts[package]:
            yield Finding(package, "ok", str(facts[package]))
        elif package == "torch":
            yield Finding(package, "fault", "not installed", "pip install 'autotune[daemon]'")
        else:
            yield Finding(package, "note", "not installed", "needed for GPU kernels alone")
    version = sqlite3.sqlite_version_info
    fixed = (
        any(version[:2] == fix[:2] and version >= fix for fix in FIXED_SQLITE) or version >= FIXED_SQLITE[-1]
    )
    if fixed:
        yield Finding("sqlite", "ok", sqlite3.sqlite_version)
    else:
        advice = "harmless here, as one process writes and checkpoints; 3.51.3 has the fix"
        yield Finding("sqlite", "note", f"{sqlite3.sqlite_version} has the WAL-reset bug", advice)


def _folders() -> Iterator[Finding]:
    from autotune import paths
    from autotune.errors import AutotuneError
    from autotune.store import statedir

    for subject, folder in (("state folder", paths.state_dir()), ("cache folder", paths.cache_dir())):
        existing = _existing(folder)
        free = shutil.disk_usage(existing).free
        if not os.access(existing, os.W_OK):
            yield Finding(
                subject, "fault", f"{folder} cannot be written", f"give yourself rights on {existing}"
            )
        elif free < LEAST_FREE_BYTES:
            yield Finding(subject, "note", f"{folder} has {free >> 20} MiB left", "make room")
        else:
            yield Finding(subject, "ok", folder)
    try:
        if os.path.isdir(paths.state_dir()):
            statedir.prepare(paths.state_dir())
    except AutotuneError as error:
        yield Finding("state folder", "fault", str(error), "set AUTOTUNE_STATE_DIR to a local folder")
    if os.statvfs(_existing(paths.cache_dir())).f_flag & os.ST_NOEXEC:
        found = f"{paths.cache_dir()} is mounted noexec; compiled kernels cannot load"
        remedy = "set AUTOTUNE_CACHE_DIR to a folder where programs may run"
        yield Finding("cache folder", "fault", found, remedy)


def _databases() -> Iterator[Finding]:
    from autotune import paths
    from autotune.errors import AutotuneError
    from autotune.store.backup import check

    for name in ("history.db", "best.db"):
        path = os.path.join(paths.state_dir(), name)
        if not os.path.exists(path):
            yield Finding(name, "note", "not there yet", "'autotune tune' makes it")
            continue
        try:
            faults = check(path).faults
        except AutotuneError as error:
            yield Finding(name, "fault", str(error), "autotune db restore")
            continue
        remedy = (
            "autotune db restore"
            if name == "history.db"
            else "autotune rollback, or tune: it is written anew"
        )
        yield Finding(name, "fault", "; ".join(faults), remedy) if faults else Finding(name, "ok", "whole")


def _devices() -> Iterator[Finding]:
    from autotune.fingerprint import probe

    found = probe()
    for device in found.devices:
        yield Finding(f"{device.kind}:{device.index}", "ok", f"{device.name} ({device.family})")
    for problem in found.problems:
        yield Finding("devices", "note", problem, "nothing to do on a machine without a GPU")
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield Finding("C++ compiler", "ok", compiler)
    else:
        yield Finding(
            "C++ compiler", "note", "none", "install g++: compiled implementations need one on a CPU"
        )


def _existing(folder: str) -> str:
    """The folder itself, or the nearest one above it that exists."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    return folder
