"""A kernel under `@autotune.tuned` as a workload: how the worker makes its inputs, launches and checks it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.errors import UsageError
from autotune.lookup.tuned import IMPLEMENTATION
from autotune.space.declaration import Implementation, SpaceDeclaration
from autotune.workloads.base import Cost, Workload
from autotune.workloads.launch import launch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from autotune.lookup.tuned import TunedKernel
    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors


class TritonKernel(Workload):
    """A decorated kernel; its outputs are fresh tensors like those that `inputs` gives.

    Raises:
        UsageError: it lacks what tuning needs.
    """

    def __init__(self, kernel: TunedKernel) -> None:
        if kernel.recipe.missing:
            missing = ", ".join(f"{name}=" for name in kernel.recipe.missing)
            raise UsageError(
                f"workload {kernel.name!r} can only be looked up: to tune it, give @autotune.tuned {missing}"
            )
        self.name = kernel.name  # type: ignore[misc]  # one class serves many workloads
        self.kernel = kernel

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """None: all inputs are activations."""
        return {}

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """The tensors that `inputs` makes from normal random numbers, those to be written among them."""
        return _tensors(self._arguments(problem, seed, device))

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> Any:
        """What `reference` computes from the tensors that are read."""
        recipe = self.kernel.recipe
        assert recipe.reference is not None, "checked when made"
        written = set(recipe.outputs) - set(recipe.restore_value)
        read = [tensor for name, tensor in activations.items() if name not in written]
        return recipe.reference(problem, *read)

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The kernel, launched over its grid with fresh outputs."""
        kernel = self.kernel
        config = kernel.config_of(configuration)
        if config is None:
            raise UsageError(f"{kernel.name}: {dict(configuration)!r} is none of its configs")
        # Shapes decide the numbers among the arguments, so tensors without data tell them.
        given = self._arguments(problem, 0, "meta")
        names = list(_tensors(given))
        numbers = {name: value for name, value in given.items() if name not in names}
        constants = config.all_kwargs()

        def run(*tensors: torch.Tensor) -> Any:
            arguments = {**numbers, **dict(zip(names, tensors, strict=True))}
            outputs = {name: self._fresh(name, arguments[name]) for name in kernel.recipe.outputs}
            arguments |= outputs
            everything = {**arguments, **constants}
            if config.pre_hook is not None:
                config.pre_hook(everything)
            grid = kernel.recipe.grid(everything) if callable(kernel.recipe.grid) else kernel.recipe.grid
            positional, named = _split(kernel.arg_names, arguments)
            launch(kernel.fn, grid, *positional, **named, **constants)
            made = tuple(outputs.values())
            return made[0] if len(made) == 1 else made

        return run

    def cost(self, problem: Problem) -> Cost:
        """Tensors that are read once and outputs written once."""
        tensors = _tensors(self._arguments(problem, 0, "meta"))
        restored = self.kernel.recipe.restore_value
        moved = sum(
            tensor.numel() * tensor.element_size() * (2 if name in restored else 1)
            for name, tensor in tensors.items()
        )
        first = next(iter(tensors.values()))
        return Cost(self.kernel.recipe.flops(problem), moved, str(first.dtype).removeprefix("torch."))

    def _arguments(self, problem: Problem, seed: int, device: str) -> dict[str, Any]:
        recipe = self.kernel.recipe
        assert recipe.inputs is not None, "checked when made"
        made = dict(recipe.inputs(problem, Draw(seed, device)))
        for name in (*made, *recipe.outputs):
            if name not in self.kernel.arg_names or name not in made:
                what = "is no argument of the kernel" if name in made else "is an output that inputs= lacks"
                raise UsageError(f"{self.kernel.name}: {name!r} {what}")
        if not _tensors(made):
            raise UsageError(f"{self.kernel.name}: inputs= gives no tensor")
        return made

    def _fresh(self, name: str, like: torch.Tensor) -> torch.Tensor:
        import torch

        if name in self.kernel.recipe.restore_value:
            return like.clone()
        return torch.zeros_like(like) if name in self.kernel.recipe.reset_to_zero else torch.empty_like(like)


class Draw:
    """Makes tensors for `inputs`, the same for a seed on every device.

    Attributes:
        device: of the tensors; on `meta` they have no data.
    """

    def __init__(self, seed: int, device: str) -> None:
        import torch

        self.device = device
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, dtype: torch.dtype | str = "float32") -> torch.Tensor:
        """Normal random numbers of mean 0 and deviation 1."""
        import torch

        if self.device == "meta":
            return self.empty(*shape, dtype=dtype)
        return torch.randn(*shape, generator=self._generator).to(_dtype(dtype)).to(self.device)

    def empty(self, *shape: int, dtype: torch.dtype | str = "float32") -> torch.Tensor:
        """A tensor to be written; zeros, so that its checksum is the same every time."""
        import torch

        return torch.zeros(*shape, dtype=_dtype(dtype), device=self.device)


def space_of(kernel: TunedKernel) -> SpaceDeclaration:
    """The search space of a kernel: its configurations and no other, under its constraints."""
    settings = [kernel.settings(config) for config in kernel.configs.values()]
    names = list(dict.fromkeys(name for one in settings for name in one))
    for one in settings:
        for name in names:
            if name not in one:
                raise UsageError(
                    f"{kernel.name}: {name!r} stands in some of its configs and not in others; give it in all"
                )
    values = {name: list(dict.fromkeys(one[name] for one in settings)) for name in names}
    constraints = {**_only(settings, values), **kernel.recipe.constraints}
    return SpaceDeclaration(
        kernel.name,
        {dimension.name: dimension for dimension in kernel.dimensions},
        {IMPLEMENTATION: Implementation(parameters=values, constraints=constraints)},
        kernel.baseline,
        summary=(kernel.__doc__ or "").strip().partition("\n")[0],
    )


def _only(settings: Sequence[Mapping[str, Any]], values: Mapping[str, Sequence[Any]]) -> dict[str, str]:
    """Constraints under which the product of all values holds these configurations alone.

    One for each beginning of a configuration after which not every value may follow: a tree of short
    expressions, where one that names all configurations would have no bound.
    """
    names = list(values)
    constraints: dict[str, str] = {}
    for depth in range(1, len(names)):
        allowed: dict[tuple[Any, ...], list[Any]] = {}
        for one in settings:
            beginning = tuple(one[name] for name in names[:depth])
            following = allowed.setdefault(beginning, [])
            if one[names[depth]] not in following:
                following.append(one[names[depth]])
        for beginning, following in allowed.items():
            if len(following) == len(values[names[depth]]):
                continue
            others = " or ".join(f"{n} != {v!r}" for n, v in zip(names[:depth], beginning, strict=True))
            constraints[f"configs_{len(constraints)}"] = f"{others} or {names[depth]} in {following!r}"
    return constraints


def _tensors(arguments: Mapping[str, Any]) -> Tensors:
    import torch

    return {name: value for name, value in arguments.items() if isinstance(value, torch.Tensor)}


def _split(order: Sequence[str], arguments: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by position as far as none is missing, the others by name."""
    positional = []
    for name in order:
        if name not in arguments:
            break
        positional.append(arguments[name])
    named = {name: arguments[name] for name in order[len(positional) :] if name in arguments}
    return positional, named


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    import torch

    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
