"""The conformance suite's cases, and a cache folder of its own for what is compiled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

# The suite is a module beside the tests; pytest's import mode leaves their folder off the path.
sys.path.insert(0, str(Path(__file__).parent))

from conformance import Conformance

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each configuration or problem of a workload."""
    suite = metafunc.cls
    if suite is None or not issubclass(suite, Conformance) or suite is Conformance:
        return
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", suite.cases(), ids=str)
    if "problem" in metafunc.fixturenames:
        metafunc.parametrize("problem", suite.declared_problems(), ids=lambda problem: problem.key)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile into an empty folder; run without gradients, as the worker does."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("AUTOTUNE_CACHE_DIR", str(folder))
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        with torch.inference_mode(False), torch.no_grad():
            yield
