"""Triton kernels compiled ahead of time for GPUs that are not here: no error, nor too much memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.space_corners import ANY_ERROR, FAMILIES, PROBLEMS, corners
from tests.workloads.gpu_targets import assert_compiles, configurations, space_on

if TYPE_CHECKING:
    from collections.abc import Iterator

# Triton 3.9 says that a default of 3.10 will be another.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

CASES = [
    (workload, dimensions)
    for workload, listed in PROBLEMS.items()
    for dimensions in listed
    if workload != "linear"  # see test_linear_compiled.py
]
CORNERS = 8
"""Compiled for each problem and target in the slow test, or a few more."""
QUICK = [
    # No float8 on sm_80.
    (
        FAMILIES[1 + i % 2] if "fp8" in str(dimensions) or "float8" in str(dimensions) else FAMILIES[i % 3],
        workload,
        dimensions,
    )
    for i, (workload, dimensions) in enumerate(CASES)
]


@pytest.fixture(scope="module", autouse=True)
def triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile into an empty folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        assert "TRITON_INTERPRET" not in os.environ
        yield


def triton_corners(family: str, workload: str, dimensions: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Corners of every Triton implementation that is offered, the most demanding first."""
    space = space_on(family, workload, dimensions, ANY_ERROR)
    for offer in space.offers:
        if offer.name.startswith("triton") and offer.valid:
            for configuration in corners(configurations(space, offer.name)):
                yield space.problem, configuration


@pytest.mark.parametrize(("family", "workload", "dimensions"), QUICK, ids=str)
def test_a_corner_compiles(family, workload, dimensions):
    """For one target each, of every Triton implementation."""
    seen = set()
    for problem, configuration in triton_corners(family, workload, dimensions):
        if configuration["implementation"] not in seen:
            seen.add(configuration["implementation"])
            assert_compiles(family, problem, configuration)
    assert seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("workload", "dimensions"), CASES, ids=str)
def test_corners_compile_for_every_target(family, workload, dimensions):
    every = list(triton_corners(family, workload, dimensions))
    for problem, configuration in every[:: max(1, len(every) // CORNERS)]:
        assert_compiles(family, problem, configuration)
