"""GPUs that are not there: their facts, configurations of their spaces, and kernels compiled for them.

The kernels of a configuration are noted over tensors on torch's `meta` device and compiled ahead of time, or
run by Triton's interpreter on CPU tensors.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from autotune.fingerprint.cpu import cpu_facts
from autotune.fingerprint.profile import load_profiles
from autotune.measure.correctness import check, relative_error
from autotune.space.declaration import load_declaration
from autotune.space.searchspace import SearchSpace
from autotune.workloads import registry
from benchmarks.space_corners import ANY_ERROR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from autotune.space.problem import Problem

ACCURACY_SLACK = 0.1
"""Other roundings than the baseline's: over the few outputs of a small problem they do not average out."""
FLOAT32_ROUNDING = 2e-6
SEED = 7


def gpu_facts(family: str) -> dict[str, Any]:
    """The facts of the device that stands for a family."""
    profile = load_profiles()[family]
    return {"kind": "cuda", "name": profile.summary, **profile.typical.known(), **profile.limits.known()}


def space_on(
    family: str, workload: str, dimensions: Mapping[str, Any], max_error: float | None = None, **facts: Any
) -> SearchSpace:
    """The space of a problem on a GPU, some of whose facts may be others."""
    declaration = load_declaration(workload)
    device = {**gpu_facts(family), **facts}
    return SearchSpace.build(declaration, declaration.problem(dimensions), device, max_error)


def configurations(space: SearchSpace, implementation: str) -> list[dict[str, Any]]:
    """Every configuration of one implementation."""
    every = (space.pool.configuration(row) for row in range(len(space)))
    return [one for one in every if one["implementation"] == implementation]


def covering(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As few of them as hold each value at least once: always the one that has most to add."""
    missing = {item for one in found for item in _computing(one)}
    chosen = []
    while missing:
        best = max(found, key=lambda one: len(missing & _computing(one)))
        missing -= _computing(best)
        chosen.append(best)
    return chosen


def _computing(configuration: dict[str, Any]) -> set[tuple[str, Any]]:
    """The settings that change what is computed: the interpreter knows neither warps nor stages."""
    return {item for item in configuration.items() if item[0] not in ("num_warps", "num_stages")}


def assert_compiles(family: str, problem: Problem, configuration: Mapping[str, Any]) -> None:
    """Every kernel of a configuration compiles, and fits the shared and the tensor memory of the device."""
    from autotune.workloads import ahead

    facts = gpu_facts(family)
    with torch.no_grad():
        launched = ahead.launches(registry.workload(problem.workload), problem, configuration)
    assert launched
    for launch in launched:
        made = ahead.compile_launch(launch, facts["compute_capability"])
        assert not made.error, (made.error, configuration)
        assert made.kernel.shared_bytes <= facts["shared_memory_per_block_bytes"], (made, configuration)
        # The columns of tensor memory are handed out in powers of two; all of it is one.
        assert made.kernel.tensor_memory_bytes <= facts.get("tensor_memory_per_sm_bytes", 0), (
            made,
            configuration,
        )


def interpreted_error(problem: Problem, configuration: Mapping[str, Any]) -> tuple[float, float]:
    """Errors of a configuration in the interpreter, and of the baseline of this CPU."""
    workload = registry.workload(problem.workload)
    weights, cases = _cases(problem)
    kernel = workload.build(problem, configuration, dict(weights))
    pairs = [
        (tuple(workload.pack_activations(problem, configuration, one, weights).values()), reference)
        for one, reference in cases
    ]
    return check(kernel, pairs), _baseline_error(problem)


def assert_right_in_the_interpreter(problem: Problem, configuration: Mapping[str, Any]) -> None:
    """As exact as the baseline, give or take the order of summation."""
    error, baseline_error = interpreted_error(problem, configuration)
    assert error <= max(baseline_error * (1 + ACCURACY_SLACK), FLOAT32_ROUNDING), configuration


def spread(
    workload: str, dimensions: Mapping[str, Any], implementation: str, family: str = "nvidia-h200"
) -> Iterator[tuple[Problem, dict[str, Any]]]:
    """A problem with each of some configurations that hold every value of its space.

    The device has one multiprocessor, so that a small problem has the space of a large one.
    """
    space = space_on(family, workload, dimensions, ANY_ERROR, sm_count=1)
    found = configurations(space, implementation)
    assert found, f"{implementation} is not offered for {space.problem}"
    for configuration in covering(found):
        yield space.problem, configuration


@cache
def _cases(problem: Problem) -> tuple[dict[str, torch.Tensor], list[tuple[dict[str, torch.Tensor], Any]]]:
    workload = registry.workload(problem.workload)
    weights = workload.weights(problem, SEED)
    cases = []
    for seed in (SEED, SEED + 1):
        activations = workload.activations(problem, seed)
        cases.append((activations, workload.reference(problem, weights, activations)))
    return weights, cases


@cache
def _baseline_error(problem: Problem) -> float:
    workload = registry.workload(problem.workload)
    weights, cases = _cases(problem)
    baseline = SearchSpace.build(load_declaration(problem.workload), problem, cpu_facts()).baseline
    kernel = workload.build(problem, baseline, dict(weights))
    return max(
        relative_error(
            kernel(*workload.pack_activations(problem, baseline, one, weights).values()), reference
        )
        for one, reference in cases
    )
