"""The suite that every workload passes: subclass `Conformance` and name the workload and its problems.

    class TestLinear(Conformance):
        workload = "linear"
        problems = ({"m": 1, "n": 48, "k": 64}, {"m": 5, "n": 35, "k": 33, "dtype": "float32"})
        lossy_errors = {"int4_weight_only": 0.2}

Configurations come from the workload's own search space on this machine: every value that a problem's space
offers is built at least once.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import pytest
import torch

from autotune.fingerprint.cpu import cpu_facts
from autotune.measure.correctness import check, checksum, relative_error
from autotune.space.declaration import load_declaration
from autotune.space.searchspace import SearchSpace
from autotune.workloads import registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors, Workload

ANY_ERROR = 1.0
"""As `max_error`: lossy implementations are offered too."""
ACCURACY_SLACK = 0.01
"""The order of summation alone moves errors by less; a study allows as much."""
ROUNDING = 2e-6
"""Below this, errors are what float32 arithmetic in another order of summation gives."""
SEED = 7


class Case(NamedTuple):
    """A configuration of a problem."""

    problem: Problem
    configuration: Mapping[str, Any]
    is_lossy: bool

    def __str__(self) -> str:
        settings = " ".join(str(value) for value in self.configuration.values())
        return f"{self.problem.key} {settings}"


class Made(NamedTuple):
    """What a problem's configurations share, made once for all tests."""

    weights: Tensors
    cases: list[tuple[Tensors, Any]]
    baseline_error: float


class Conformance:
    """What holds for every workload.

    Attributes:
        workload: its name.
        problems: dimensions of small problems, odd sizes and single rows among them.
        lossy_errors: the greatest error of each implementation that is lossy for one of the problems.
        slow: implementations that take seconds to build: built once for the first problem that offers them.
    """

    workload: ClassVar[str]
    problems: ClassVar[Sequence[Mapping[str, Any]]]
    lossy_errors: ClassVar[Mapping[str, float]] = {}
    slow: ClassVar[frozenset[str]] = frozenset({"inductor"})

    @classmethod
    def declared_problems(cls) -> list[Problem]:
        """The problems, defaults filled in."""
        declaration = load_declaration(cls.workload)
        return [declaration.problem(dimensions) for dimensions in cls.problems]

    @classmethod
    def cases(cls) -> list[Case]:
        """For each problem, as few configurations as hold every value that is offered."""
        built_slow: set[str] = set()
        cases = []
        for problem in cls.declared_problems():
            cases += [case for case in _covering(problem) if not _is_built(case, cls.slow, built_slow)]
        return cases

    def test_a_configuration_computes_the_reference(self, case: Case) -> None:
        """With poisoned allocations, on fresh inputs, no less exactly than the baseline unless it is lossy."""
        made = _make(case.problem)
        kernel = _workload(case.problem).build(case.problem, case.configuration, dict(made.weights))
        error = _error(case.problem, case.configuration, kernel)
        implementation = case.configuration["implementation"]
        if case.is_lossy:
            assert error <= self.lossy_errors[implementation]
        else:
            assert error <= max(made.baseline_error * (1 + ACCURACY_SLACK), ROUNDING)

    def test_a_configuration_leaves_its_inputs_alone(self, case: Case) -> None:
        """Neither building nor running changes weights or activations."""
        made = _make(case.problem)
        workload = _workload(case.problem)
        inputs = [*made.weights.values(), *made.cases[0][0].values()]
        before = checksum(inputs)
        kernel = workload.build(case.problem, case.configuration, dict(made.weights))
        packed = workload.pack_activations(case.problem, case.configuration, made.cases[0][0], made.weights)
        inputs += [tensor for tensor in packed.values() if all(tensor is not one for one in inputs)]
        packed_before = checksum(inputs)
        kernel(*packed.values())
        assert packed_before == checksum(inputs)
        assert before == checksum([*made.weights.values(), *made.cases[0][0].values()])

    def test_a_configuration_gives_the_baseline_s_types(self, case: Case) -> None:
        """Shapes, types and layout do not depend on the configuration."""
        made = _make(case.problem)
        workload = _workload(case.problem)
        expected = _described(_run(workload, case.problem, _baseline(case.problem), made))
        assert expected == _described(_run(workload, case.problem, case.configuration, made))

    def test_weights_follow_the_seed(self, problem: Problem) -> None:
        """Equal seeds give equal weights, other seeds others; all are finite and none is all zeros."""
        workload = _workload(problem)
        first, again, other = (workload.weights(problem, seed) for seed in (SEED, SEED, SEED + 1))
        assert tuple(first) == tuple(again) == workload.weight_names(problem)
        _assert_seeded(first, again, other)

    def test_activations_follow_the_seed(self, problem: Problem) -> None:
        """Equal seeds give equal activations, other seeds others; all are finite and none is all zeros."""
        workload = _workload(problem)
        first, again, other = (workload.activations(problem, seed) for seed in (SEED, SEED, SEED + 1))
        assert list(first) == list(again)
        _assert_seeded(first, again, other)

    def test_reference_is_of_higher_precision(self, problem: Problem) -> None:
        """References are float32 or float64, and the baseline is near them."""
        made = _make(problem)
        for _, reference in made.cases:
            assert all(r.dtype in (torch.float32, torch.float64) for r in _tuple(reference))
        assert 0 <= made.baseline_error < 0.05

    def test_cost_is_positive(self, problem: Problem) -> None:
        """Flops and bytes are positive whole numbers, and the type is one that torch has."""
        cost = _workload(problem).cost(problem)
        assert type(cost.flops) is int
        assert type(cost.bytes) is int
        assert cost.flops > 0
        assert cost.bytes > 0
        assert isinstance(getattr(torch, cost.dtype), torch.dtype)


def space_of(problem: Problem, max_error: float | None = None) -> SearchSpace:
    """The search space of a problem on this machine."""
    return SearchSpace.build(load_declaration(problem.workload), problem, cpu_facts(), max_error)


def _is_built(case: Case, slow: frozenset[str], built: set[str]) -> bool:
    """Whether a case's implementation is slow and already among the cases; notes that it now is."""
    implementation = case.configuration["implementation"]
    if implementation not in slow:
        return False
    found = implementation in built
    built.add(implementation)
    return found


def _covering(problem: Problem) -> Iterator[Case]:
    """Greedily, configurations that hold a value which no earlier one of the implementation holds."""
    space = space_of(problem, ANY_ERROR)
    lossless = {offer.name for offer in space_of(problem).offers if not offer.withheld}
    seen: set[tuple[Any, ...]] = set()
    for row in range(len(space)):
        configuration = space.pool.configuration(row)
        implementation = configuration["implementation"]
        values = {(implementation, name, type(value), value) for name, value in configuration.items()}
        if not values <= seen:
            seen |= values
            yield Case(problem, configuration, implementation not in lossless)


def _workload(problem: Problem) -> Workload:
    return registry.workload(problem.workload)


@cache
def _baseline(problem: Problem) -> Mapping[str, Any]:
    return space_of(problem).baseline


@cache
def _make(problem: Problem) -> Made:
    workload = _workload(problem)
    weights = workload.weights(problem, SEED)
    cases = []
    for seed in (SEED, SEED + 1):
        activations = workload.activations(problem, seed)
        cases.append((activations, workload.reference(problem, weights, activations)))
    kernel = workload.build(problem, _baseline(problem), dict(weights))
    errors = []
    for activations, reference in cases:
        packed = workload.pack_activations(problem, _baseline(problem), activations, weights)
        errors.append(relative_error(kernel(*packed.values()), reference))
    return Made(weights, cases, max(errors))


def _error(problem: Problem, configuration: Mapping[str, Any], kernel: Kernel) -> float:
    made, workload = _make(problem), _workload(problem)
    packed = [
        workload.pack_activations(problem, configuration, activations, made.weights)
        for activations, _ in made.cases
    ]
    kernel(*packed[0].values())  # what compiles lazily compiles here
    pairs = zip(packed, made.cases, strict=True)
    return check(kernel, [(tuple(tensors.values()), reference) for tensors, (_, reference) in pairs])


def _run(workload: Workload, problem: Problem, configuration: Mapping[str, Any], made: Made) -> Any:
    kernel = workload.build(problem, configuration, dict(made.weights))
    packed = workload.pack_activations(problem, configuration, made.cases[0][0], made.weights)
    return kernel(*packed.values())


def _described(outputs: Any) -> list[tuple[torch.Size, torch.dtype, bool]]:
    return [(output.shape, output.dtype, output.is_contiguous()) for output in _tuple(outputs)]


def _tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def _assert_seeded(first: Tensors, again: Tensors, other: Tensors) -> None:
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]), name
        assert torch.isfinite(tensor.double()).all(), name
        assert tensor.bool().any(), name
    assert not first or any(not torch.equal(tensor, other[name]) for name, tensor in first.items())
