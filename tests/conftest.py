"""What holds for every test."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

# Before anything imports the standard library's distutils: Inductor's compiler loads setuptools, which
# refuses to take the place of a distutils that is in use.
import setuptools  # noqa: F401

if TYPE_CHECKING:
    import pytest

LONG = (
    "test_interpreted.py",
    "cli/test_record.py",
    "cli/test_tune.py",
    "search/test_study.py",
    "daemon/test_service.py",
    "daemon/test_equal_devices.py",
    "worker/test_feasibility.py",
    "workloads/test_linear_compiled.py",
    "cli/test_spaces_compiled.py",
    "daemon/test_intake.py",
    "search/test_search_efficiency.py",
)
"""Files that take half a minute or more, begun first: else the last of them runs alone at the end."""

# A shell lets what it starts in the background ignore Ctrl-C, and what is tested would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, as far as the order is ours (`--no-loadscope-reorder`)."""
    items.sort(key=lambda item: not str(item.path).endswith(LONG))
