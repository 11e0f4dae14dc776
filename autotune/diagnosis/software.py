"""Versions: too old, or known to be bad."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import autotune
from autotune.config import load_settings
from autotune.diagnosis.finding import Finding
from autotune.errors import AutotuneError

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = {"torch": (2, 11), "triton": (3, 6), "numpy": (1, 26), "msgspec": (0, 19)}
"""What the environment that serves needs, and the oldest versions that work; as in `pyproject.toml`."""

_VERSIONS = """import importlib.metadata as m, json, platform
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in %r}}))"""
LONGEST_START_SECONDS = 60.0

# The WAL-reset bug can corrupt a database that several connections write and checkpoint: sqlite.org/wal.html.
FIRST_BAD_SQLITE = (3, 7, 0)
FIXED_SQLITE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def software_findings() -> Iterator[Finding]:
    """SQLite, the C++ compiler, and the environment that serves, where trials run."""
    yield Finding("autotune", "ok", f"{autotune.__version__} ({sys.executable})")
    yield sqlite_finding(sqlite3.sqlite_version_info)
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield Finding("C++ compiler", "ok", compiler)
    else:
        remedy = "install g++: compiled implementations need one on a CPU"
        yield Finding("C++ compiler", "note", "none", remedy)
    try:
        interpreter = load_settings().worker.interpreter
    except AutotuneError:  # told among the findings about the service
        interpreter = sys.executable
    yield from environment_findings(interpreter)


def environment_findings(interpreter: str) -> Iterator[Finding]:
    """What an environment lacks for trials.

    Args:
        interpreter: its python.
    """
    command = [interpreter, "-P", "-c", _VERSIONS % list(NEEDED)]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=LONGEST_START_SECONDS)
        versions = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        remedy = "set [worker] python to that of the environment that serves; 3.11 or newer"
        yield Finding("python", "fault", f"{interpreter} does not run: {type(error).__name__}", remedy)
        return
    yield Finding("python", "ok", f"{versions['python']} ({interpreter})")
    for package, needed in NEEDED.items():
        yield package_finding(package, versions[package], needed)


def package_finding(package: str, version: str | None, needed: tuple[int, int]) -> Finding:
    """Whether a package is there and new enough."""
    if not version:
        if package == "triton":
            return Finding(package, "note", "not installed", "needed for GPU kernels alone")
        remedy = "set [worker] python to that of the environment that serves, or pip install it"
        return Finding(package, "fault", "not installed", remedy)
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < needed:
        oldest = ".".join(map(str, needed))
        return Finding(package, "fault", f"{version} is too old", f"pip install '{package}>={oldest}'")
    return Finding(package, "ok", version)


def sqlite_finding(version: tuple[int, int, int]) -> Finding:
    """Whether SQLite has the bug."""
    told = ".".join(map(str, version))
    fixed = any(version[:2] == fix[:2] and version >= fix for fix in FIXED_SQLITE)
    if fixed or version >= FIXED_SQLITE[-1] or version < FIRST_BAD_SQLITE:
        return Finding("sqlite", "ok", told)
    advice = "harmless here, as one process writes and checkpoints; 3.51.3 has the fix"
    return Finding("sqlite", "note", f"{told} has the WAL-reset bug", advice)
