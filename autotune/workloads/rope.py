"""`rope`: rotary position embedding of queries and keys, in the halves of GPT-NeoX and Llama.

Of the first `rotary_dim` numbers of a head, number i of the first half and number i of the second are a pair
that is turned by the angle of its position (Su et al., "RoFormer", arXiv:2104.09864); the rest stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from autotune.errors import ProblemError, UnknownNameError
from autotune.workloads.base import Cost, Workload
from autotune.workloads.inductor import compile_with_inductor
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors

    Rotated = tuple[torch.Tensor, torch.Tensor]

BASE = 10_000.0
"""Of the angles, as in the paper; it changes neither speed nor error."""
OPERATIONS = 3
"""Two products and an addition for each number that is turned."""


class Rope(Workload):
    """Queries and keys, turned by the angles of their positions.

    The weight `cos_sin` (positions, rotary_dim) holds the cosines of every position before its sines, in the
    problem's type. Activations are `positions` int64 (tokens,), `query` (tokens, heads, head_dim) and `key`
    (tokens, kv_heads, head_dim); the outputs are query and key of the same shapes.
    """

    name = "rope"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Cosines and sines; the seed draws the model's scale of positions."""
        _check(problem)
        half = problem["rotary_dim"] // 2
        stretch = 1 + torch.rand((), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        frequencies = stretch * BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = torch.arange(problem["positions"], dtype=torch.float64)[:, None] * frequencies
        table = torch.cat([angles.cos(), angles.sin()], -1)
        return {"cos_sin": table.to(_dtype(problem)).to(device)}

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """`cos_sin`."""
        return ("cos_sin",)

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Standard normal queries and keys; tokens of unrelated sequences, as in a step of decode."""
        generator = torch.Generator().manual_seed(seed)
        tokens = problem["tokens"]

        def draw(heads: int) -> torch.Tensor:
            made = torch.randn((tokens, heads, problem["head_dim"]), generator=generator)
            return made.to(_dtype(problem)).to(device)

        positions = torch.randint(problem["positions"], (tokens,), generator=generator)
        # One is never 0: a case of zeros alone tells nothing.
        positions[0] = max(int(positions[0]), min(1, problem["positions"] - 1))
        return {
            "positions": positions.to(device),
            "query": draw(problem["heads"]),
            "key": draw(problem["kv_heads"]),
        }

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> Rotated:
        """In float64, of exactly the stored cosines and sines."""
        positions, query, key = activations.values()
        run = _halves(problem, weights["cos_sin"].double(), torch.float64)
        return run(positions, query.double(), key.double())

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """One of the implementations that `search_spaces/rope.toml` declares."""
        _check(problem)
        implementation, threads = configuration["implementation"], configuration.get("threads")
        if implementation == "triton":
            from autotune.workloads.kernels.rope import build_rope

            return build_rope(problem, configuration, weights["cos_sin"])
        if implementation not in ("eager", "halves", "inductor"):
            known = ("eager", "halves", "inductor", "triton")
            raise UnknownNameError("implementation of rope", implementation, known)
        if implementation == "inductor":
            function = _halves(problem, weights["cos_sin"], torch.float32)
            examples = list(self.activations(problem, seed=0).values())
            return compile_with_inductor(function, examples, configuration["threads"])
        if implementation == "halves":
            run = _halves(problem, weights["cos_sin"], getattr(torch, configuration["compute_dtype"]))
        else:
            run = _eager(problem, weights["cos_sin"])
        return with_threads(run, threads)

    def cost(self, problem: Problem) -> Cost:
        """Queries, keys and the cosines and sines of each token read once; queries and keys written once."""
        tokens, heads, size = (
            problem["tokens"],
            problem["heads"] + problem["kv_heads"],
            _dtype(problem).itemsize,
        )
        moved = 2 * tokens * heads * problem["head_dim"] * size
        moved += tokens * (problem["rotary_dim"] * size + torch.int64.itemsize)
        return Cost(OPERATIONS * tokens * heads * problem["rotary_dim"], moved, problem["dtype"])


def _check(problem: Problem) -> None:
    if problem["rotary_dim"] % 2 or problem["rotary_dim"] > problem["head_dim"]:
        raise ProblemError(f"{problem}: rotary_dim is not an even number up to head_dim")


def _dtype(problem: Problem) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, problem["dtype"])
    return dtype


def _eager(problem: Problem, cos_sin: torch.Tensor) -> Callable[..., Rotated]:
    """As Hugging Face models write it: cosines and sines doubled, and a copy with its halves swapped."""
    rotary = problem["rotary_dim"]

    def swapped(x: torch.Tensor) -> torch.Tensor:
        low, high = x.chunk(2, -1)
        return torch.cat([-high, low], -1)

    def run(positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> Rotated:
        both = cos_sin[positions].unsqueeze(1).chunk(2, -1)
        cos, sin = (torch.cat([part, part], -1) for part in both)

        def turned(x: torch.Tensor) -> torch.Tensor:
            if rotary == x.shape[-1]:
                return x * cos + swapped(x) * sin
            head, rest = x[..., :rotary], x[..., rotary:]
            return torch.cat([head * cos + swapped(head) * sin, rest], -1)

        return turned(query), turned(key)

    return run


def _halves(problem: Problem, cos_sin: torch.Tensor, compute: torch.dtype) -> Callable[..., Rotated]:
    """Each half written straight to its place, in `compute`."""
    half = problem["rotary_dim"] // 2

    def run(positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> Rotated:
        cos, sin = cos_sin[positions].to(compute).unsqueeze(1).chunk(2, -1)

        def turned(x: torch.Tensor) -> torch.Tensor:
            low, high = x[..., :half].to(compute), x[..., half : 2 * half].to(compute)
            parts = [(low * cos - high * sin).to(x.dtype), (high * cos + low * sin).to(x.dtype)]
            return torch.cat([*parts, x[..., 2 * half :]], -1)

        return turned(query), turned(key)

    return run
