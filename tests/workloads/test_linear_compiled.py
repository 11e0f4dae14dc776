"""`linear`'s Triton kernels compiled for GPUs that are not here: what the space calls valid can run there."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from autotune.fingerprint import device_named
from autotune.space import SearchSpace
from autotune.worker.feasibility import CompilePool
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from autotune.space.problem import Problem

TARGETS = {80: "nvidia-a100-80gb", 90: "nvidia-h200", 100: "nvidia-b200"}
SMALL, LARGE = {"m": 4, "n": 2112, "k": 7168}, {"m": 1024, "n": 2112, "k": 7168}


def space_of(target: int, **dimensions: Any) -> tuple[Problem, SearchSpace, dict[str, Any]]:
    declared, facts = declaration("linear"), device_named(TARGETS[target]).facts
    assert target == facts["compute_capability"]
    problem = declared.problem(dimensions)
    return problem, SearchSpace.build(declared, problem, facts, max_error=1.0), facts


def by_implementation(space: SearchSpace) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in range(len(space)):
        configuration = space.pool.configuration(row)
        if configuration["implementation"].startswith("triton"):
            found.setdefault(configuration["implementation"], []).append(configuration)
    return found


def footprint(configuration: dict[str, Any]) -> tuple[int, int]:
    """Shared memory, more or less; of equals, the one that compiles soonest is the greatest."""
    rows, columns = configuration.get("block_m", 1), configuration["block_n"]
    return (rows + columns) * configuration["block_k"] * configuration["stages"], -rows * columns


def is_narrow(configuration: dict[str, Any]) -> bool:
    return configuration.get("block_m", 1) * configuration["block_n"] <= 1024


@pytest.mark.parametrize(
    "target", [pytest.param(80, marks=pytest.mark.slow), 90, pytest.param(100, marks=pytest.mark.slow)]
)
def test_the_corners_of_the_space_can_run(target: int) -> None:
    """Of every implementation the configuration that comes closest to the limit of shared memory."""
    problem, space, facts = space_of(target, **SMALL)
    known = by_implementation(space)
    names = {"triton", "triton_gemv", "triton_int4", "triton_int8"}
    float8 = {"triton_fp8_block", "triton_fp8_weight_only"}
    assert names | (float8 if target >= 89 else set()) == set(known)
    # Large tiles take long to compile; deep ones come as close to the limit.
    corners = [max(filter(is_narrow, configurations), key=footprint) for configurations in known.values()]
    with CompilePool(problem, facts) as pool:
        found = pool.feasibilities(corners)
    assert [] == [
        (each, corner) for each, corner in zip(found, corners, strict=True) if each.infeasible or each.unknown
    ]
    assert all(each.kernels for each in found)
    limit = facts["shared_memory_per_block_bytes"]
    assert max(kernel.shared_bytes for each in found for kernel in each.kernels) > limit / 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("dimensions", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_compiler_rejects_nothing_that_the_space_calls_valid(
    target: int, dimensions: dict[str, int]
) -> None:
    """Over a sample of every implementation, and its corners."""
    problem, space, facts = space_of(target, **dimensions)
    chosen = []
    for configurations in by_implementation(space).values():
        corners = sorted(configurations, key=footprint)[-4:]
        chosen += [*corners, *random.Random(target).sample(configurations, min(20, len(configurations)))]
    with CompilePool(problem, facts) as pool:
        found = pool.feasibilities(chosen)
    rejected = [(each, of) for each, of in zip(found, chosen, strict=True) if each.infeasible or each.unknown]
    assert [] == rejected
