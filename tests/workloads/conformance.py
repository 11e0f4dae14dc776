"""The suite that every workload passes: subclass `Conformance` and name the workload and its problems.

    class TestLinear(Conformance):
        workload = "linear"
        problems = ({"m": 1, "n": 48, "k": 64}, {"m": 5, "n": 35, "k": 33, "dtype": "float32"})
        lossy_errors = {"int4_weight_only": 0.2}

Configurations come from the workload's own search space on this machine: each implementation is built for
each problem that it is offered for, and each value of its settings at least once.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

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
FLOAT32_ROUNDING = 5e-7
"""Errors below this are a few roundings of float32, which differ with the order of summation."""
ROUNDING = 2e-6
"""Below this, errors are what float32 arithmetic in another order of summation gives."""
SEED = 7


class Case(NamedTuple):
    """A configuration of a problem."""

    problem: Problem
    configuration: Mapping[str, Any]
    is_lossy: bool

    @property
    def implementation(self) -> str:
        """Name of the configuration's implementation."""
        return str(self.configuration["implementation"])

    def __str__(self) -> str:
        settings = " ".join(str(value) for value in self.configuration.values())
        return f"{self.problem.key} {settings}"


class Made(NamedTuple):
    """What a problem's configurations share, made once for all tests."""

    weights: Tensors
    weights_sum: int
    cases: list[tuple[Tensors, Any]]
    baseline_error: float


class Conformance:
    """What holds for every workload.

    Attributes:
        workload: its name.
        problems: dimensions of small problems, odd sizes and single rows among them.
        lossy_errors: the greatest error of each implementation that is lossy for one of the problems.
        slow: implementations that take seconds to build: only their values count, not the problems.
    """

    workload: ClassVar[str]
    problems: ClassVar[Sequence[Mapping[str, Any]]]
    lossy_errors: ClassVar[Mapping[str, float]] = {}
    slow: ClassVar[frozenset[str]] = frozenset({"inductor"})

    @classmethod
    def declared_problems(cls) -> list[Problem]:
        """The problems, defaults filled in."""
        declaration = _declaration(cls.workload)
        return [declaration.problem(dimensions) for dimensions in cls.problems]

    @classmethod
    def cases(cls) -> list[Case]:
        """Configurations that hold every value offered for any problem, and each implementation of each."""
        seen: set[tuple[Any, ...]] = set()
        return [case for problem in cls.declared_problems() for case in _covering(problem, seen, cls.slow)]

    def test_a_configuration_computes_the_reference(self, case: Case) -> None:
        """Poisoned allocations, fresh inputs: no less exact than the baseline, unless it is lossy."""
        error = _error(case)
        if case.is_lossy:
            assert error <= self.lossy_errors[case.implementation]
        else:
            baseline_error = _make(case.problem).baseline_error
            assert error <= max(baseline_error * (1 + ACCURACY_SLACK), FLOAT32_ROUNDING)

    def test_a_configuration_leaves_its_inputs_alone(self, case: Case) -> None:
        """Neither building nor running changes weights or activations."""
        made = _make(case.problem)
        activations = made.cases[0][0]
        before = checksum(activations.values())
        arguments = _packed(case.problem, case.configuration, activations)
        arguments_before = checksum(arguments)
        _built(case.problem, tuple(case.configuration.items()))(*arguments)
        assert arguments_before == checksum(arguments)
        assert before == checksum(activations.values())
        assert made.weights_sum == checksum(made.weights.values())

    def test_a_configuration_gives_the_baseline_s_types(self, case: Case) -> None:
        """Shapes, types and layout do not depend on the configuration."""
        expected = _described(_run(case.problem, space_of(case.problem).baseline))
        assert expected == _described(_run(case.problem, case.configuration))

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


_declaration = cache(load_declaration)


@cache
def space_of(problem: Problem, max_error: float | None = None) -> SearchSpace:
    """The search space of a problem on this machine."""
    return SearchSpace.build(_declaration(problem.workload), problem, cpu_facts(), max_error)


def _covering(problem: Problem, seen: set[tuple[Any, ...]], slow: frozenset[str]) -> Iterator[Case]:
    """Greedily, configurations that are the first of an implementation or hold a value not yet `seen`."""
    space = space_of(problem, ANY_ERROR)
    lossless = {offer.name for offer in space_of(problem).offers if not offer.withheld}
    for row in range(len(space)):
        configuration = space.pool.configuration(row)
        implementation = configuration["implementation"]
        values = {(implementation, name, type(value), value) for name, value in configuration.items()}
        if implementation not in slow:
            values.add((implementation, problem))
        if not values <= seen:
            seen |= values
            yield Case(problem, configuration, implementation not in lossless)


def _workload(problem: Problem) -> Workload:
    return registry.workload(problem.workload)


@cache
def _make(problem: Problem) -> Made:
    workload = _workload(problem)
    weights = workload.weights(problem, SEED)
    weights_sum = checksum(weights.values())
    cases = []
    for seed in (SEED, SEED + 1):
        activations = workload.activations(problem, seed)
        cases.append((activations, workload.reference(problem, weights, activations)))
    baseline = space_of(problem).baseline
    kernel = workload.build(problem, baseline, dict(weights))
    errors = []
    for activations, reference in cases:
        packed = workload.pack_activations(problem, baseline, activations, weights)
        errors.append(relative_error(kernel(*packed.values()), reference))
    return Made(weights, weights_sum, cases, max(errors))


@cache
def _built(problem: Problem, settings: tuple[tuple[str, Any], ...]) -> Kernel:
    return _workload(problem).build(problem, dict(settings), dict(_make(problem).weights))


def _packed(
    problem: Problem, configuration: Mapping[str, Any], activations: Tensors
) -> tuple[torch.Tensor, ...]:
    """What the kernel of a configuration is called with."""
    weights = _make(problem).weights
    return tuple(_workload(problem).pack_activations(problem, configuration, activations, weights).values())


def _error(case: Case) -> float:
    pairs = [
        (_packed(case.problem, case.configuration, activations), reference)
        for activations, reference in _make(case.problem).cases
    ]
    kernel = _built(case.problem, tuple(case.configuration.items()))
    kernel(*pairs[0][0])  # what compiles lazily compiles here
    return check(kernel, pairs)


def _run(problem: Problem, configuration: Mapping[str, Any]) -> Any:
    kernel = _built(problem, tuple(configuration.items()))
    return kernel(*_packed(problem, configuration, _make(problem).cases[0][0]))


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
