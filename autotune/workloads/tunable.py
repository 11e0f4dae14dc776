"""A workload of one's own from plain functions: the short way; `Workload` is the long one.

@autotune.tunable(
    dimensions=[autotune.Dimension("rows", nearest=True), autotune.Dimension("width")],
    parameters={"block": [16, 64, 256]},
    baseline={"block": 64},
    inputs=lambda p, draw: {"x": draw(p["rows"], p["width"])},
    reference=lambda p, x: torch.softmax(x.double(), -1),
)
def blocked_softmax(x, *, block): ...
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch

from autotune.errors import UsageError
from autotune.space.declaration import Implementation, SpaceDeclaration
from autotune.workloads.base import Cost, Workload
from autotune.workloads.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from autotune.space.problem import Dimension, Problem
    from autotune.workloads.base import Kernel, Tensors

IMPLEMENTATION = "function"


class Tunable(Workload):
    """A function whose keyword arguments are tuned.

    Attributes:
        function: takes the inputs by position and the parameters by keyword.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Callable[..., Tensors],
        reference: Callable[..., Any],
        flops: Callable[[Problem], int],
    ) -> None:
        self.name = function.__name__  # type: ignore[misc]  # one class serves many workloads
        self.function = function
        self._inputs = inputs
        self._reference = reference
        self._flops = flops

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """None: all inputs are activations."""
        return {}

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """What `inputs` makes from normal random numbers."""
        generator = torch.Generator(device).manual_seed(seed)

        def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device=device).to(dtype)

        return self._inputs(problem, draw)

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> Any:
        """What `reference` computes."""
        return self._reference(problem, *activations.values())

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The function with its parameters bound."""
        settings = {name: value for name, value in configuration.items() if name != "implementation"}
        return functools.partial(self.function, **settings)

    def cost(self, problem: Problem) -> Cost:
        """Inputs read once and an output written once, by the reference's own shapes."""
        inputs = self.activations(problem, seed=0)
        outputs = self._reference(problem, *inputs.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        first = next(iter(inputs.values()))
        moved = sum(t.numel() * t.element_size() for t in inputs.values())
        moved += sum(t.numel() * first.element_size() for t in outputs)
        return Cost(self._flops(problem), moved, str(first.dtype).removeprefix("torch."))


def tunable(
    *,
    dimensions: Iterable[Dimension],
    parameters: Mapping[str, Any],
    baseline: Mapping[str, Any],
    inputs: Callable[..., Tensors],
    reference: Callable[..., Any],
    constraints: Mapping[str, str] | None = None,
    flops: Callable[[Problem], int] = lambda _: 0,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function a workload of its name, whose keyword-only arguments are tuned.

    Args:
        dimensions: of a problem, in the order in which problems are written.
        parameters: keyword argument to its values, or to an expression that yields them.
        baseline: the values in use today; always measured, always the fallback.
        inputs: `(problem, draw)` to inputs by name; `draw(*shape, dtype=...)` gives normal random numbers.
        reference: `(problem, *inputs)` to the result in higher precision.
        constraints: name to expression over dimensions, parameters and `device.*`.
        flops: operations that a problem cannot avoid, for the roofline.

    Raises:
        UsageError: a parameter is not a keyword-only argument of the function.
        SpaceError: the space is wrong.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function).parameters
        keywords = {name for name, p in signature.items() if p.kind is p.KEYWORD_ONLY}
        for name in parameters:
            if name not in keywords:
                raise UsageError(
                    f"{function.__name__}: {name!r} is no keyword-only argument; write (x, *, {name})"
                )
        implementation = Implementation(parameters=parameters, constraints=constraints or {})
        space = SpaceDeclaration(
            function.__name__,
            {dimension.name: dimension for dimension in dimensions},
            {IMPLEMENTATION: implementation},
            {"implementation": IMPLEMENTATION, **baseline},
            summary=(function.__doc__ or "").partition("\n")[0],
        )
        register(Tunable(function, inputs, reference, flops), space)
        return function

    return decorate
