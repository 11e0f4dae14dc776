"""A state folder of its own for every test."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.store import open_history

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.store import History

MEMORY = "/dev/shm"


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that nobody has used; in memory, because every commit waits for its disk."""
    where = MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None
    with tempfile.TemporaryDirectory(prefix="autotune-test-", dir=where) as folder:
        yield Path(folder) / "state"


@pytest.fixture
def history(state: Path) -> Iterator[History]:
    """A fresh history."""
    with open_history(str(state)) as opened:
        yield opened
