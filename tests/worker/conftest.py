from __future__ import annotations

from pathlib import Path

import pytest

from autotune.space.problem import Problem
from autotune.worker.worker import Limits, Worker

MISBEHAVING = str(Path(__file__).with_name("misbehaving.py"))


@pytest.fixture(scope="session", autouse=True)
def proof_of_children(tmp_path_factory):
    """The file by which a configuration's children say that they run; the worker inherits the variable."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROOF", str(tmp_path_factory.mktemp("proof") / "children"))
        patch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def problem():
    return Problem("misbehaving", {"m": 8, "n": 64})


@pytest.fixture(scope="session")
def worker(problem):
    """One for all tests: whatever one of them does to it, it must work for the next."""
    limits = Limits(check=4.0, measure=4.0)
    with Worker(modules=[MISBEHAVING], memory_bytes=1 << 29, limits=limits) as worker:
        worker.prepare(problem, seed=0)
        yield worker
