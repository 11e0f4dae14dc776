"""A site as its user starts it, over a history in which something of everything happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.web import histories

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that history."""
    folder = tmp_path_factory.mktemp("web") / "state"
    histories.live(folder)
    return folder


@pytest.fixture(scope="session")
def site(state: Path) -> Iterator[str]:
    """The address of a running site."""
    environment = {
        **os.environ,
        "AUTOTUNE_STATE_DIR": str(state),
        "AUTOTUNE_RUNTIME_DIR": str(state / "run"),
        "AUTOTUNE_CONFIG": os.devnull,
    }
    command = [sys.executable, "-m", "autotune", "web", "--port", "0"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip().rstrip("/")
        finally:
            server.terminate()
