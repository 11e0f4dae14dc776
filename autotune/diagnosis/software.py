"""Versions: too old, or known to be bad."""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
from typing import TYPE_CHECKING

from autotune.diagnosis.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = {"torch": (2, 11), "triton": (3, 6)}
"""The oldest versions that work: `pyproject.toml` says the same."""

# The WAL-reset bug can corrupt a database that several connections write and checkpoint: sqlite.org/wal.html.
FIRST_BAD_SQLITE = (3, 7, 0)
FIXED_SQLITE = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def software_findings() -> Iterator[Finding]:
    """Python, torch, triton, SQLite and the C++ compiler."""
    from autotune.fingerprint.stack import stack_facts

    facts = stack_facts()
    yield Finding("python", "ok", f"{facts['python']} ({sys.executable})")
    for package, needed in NEEDED.items():
        yield package_finding(package, facts[package] and str(facts[package]), needed)
    yield sqlite_finding(sqlite3.sqlite_version_info)
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler:
        yield Finding("C++ compiler", "ok", compiler)
    else:
        remedy = "install g++: compiled implementations need one on a CPU"
        yield Finding("C++ compiler", "note", "none", remedy)


def package_finding(package: str, version: str | None, needed: tuple[int, int]) -> Finding:
    """Whether a package is there and new enough."""
    if not version:
        if package == "torch":
            return Finding(package, "fault", "not installed", "pip install 'autotune[daemon]'")
        return Finding(package, "note", "not installed", "needed for GPU kernels alone")
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
