"""Triton kernels compiled ahead of time for GPUs that are not here: no error, nor too much memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.workloads.gpu_targets import (
    ANY_ERROR,
    FAMILIES,
    assert_compiles,
    configurations,
    corners,
    space_on,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Triton 3.9 says that a default of 3.10 will be another.
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

FLOAT8 = {"quantise": "float8_e4m3fn"}
PROBLEMS: dict[str, list[dict[str, Any]]] = {
    "rms_norm": [
        {"rows": 4096, "hidden": 7168, "residual": "add"},
        {"rows": 4096, "hidden": 7168, "residual": "add", **FLOAT8},
        {"rows": 1, "hidden": 1536},
    ],
    "silu_and_mul": [
        {"rows": 4096, "intermediate": 2048},
        {"rows": 4096, "intermediate": 18432, **FLOAT8},
    ],
    "rope": [{"tokens": 4096, "heads": 32, "kv_heads": 8, "head_dim": 128, "rotary_dim": 64}],
    "attention": [
        {"batch": 1, "q_len": 1, "kv_len": 8192, "heads": 32, "kv_heads": 8, "head_dim": 128},
        {"batch": 1, "q_len": 4, "kv_len": 999, "heads": 8, "kv_heads": 1, "head_dim": 192, "causal": "yes"},
    ],
    "mla_decode": [{"batch": 1, "context": 4096, "heads": 8}, {"batch": 64, "context": 4096, "heads": 64}],
}
EXPERTS = {"experts": 384, "top_k": 8, "hidden": 7168, "intermediate": 256}
PROBLEMS["fused_moe"] = [
    {"tokens": 256, **EXPERTS},
    {"tokens": 16, **EXPERTS, "weight_format": "int4_g32"},
    {"tokens": 256, **EXPERTS, "weight_format": "fp8_block128x128"},
]
CASES = [(workload, dimensions) for workload, listed in PROBLEMS.items() for dimensions in listed]
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
