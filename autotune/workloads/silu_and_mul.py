"""`silu_and_mul`: silu(x[:, :d]) * x[:, d:], the activation of a gated MLP whose two halves are one product.

(Shazeer, "GLU Variants Improve Transformer", 2020: SwiGLU.)
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import silu

from autotune.errors import UnknownNameError
from autotune.workloads.base import Cost, Workload
from autotune.workloads.inductor import compile_with_inductor
from autotune.workloads.native import STORAGE_TYPES, accepted, compile_kernel
from autotune.workloads.random_inputs import random_activations
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors

OPERATIONS = 5
"""A negation, an exponential, an addition, a division and a product."""


class SiluAndMul(Workload):
    """silu of the first half of each row, times the second half."""

    name = "silu_and_mul"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """None."""
        return {}

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """x (rows, 2 * intermediate)."""
        generator = torch.Generator().manual_seed(seed)
        shape = (problem["rows"], 2 * problem["intermediate"])
        return {"x": random_activations(shape, _dtype(problem), generator).to(device)}

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
        """In float64."""
        gate, up = activations["x"].double().chunk(2, dim=-1)
        return silu(gate) * up

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """One of the implementations that `search_spaces/silu_and_mul.toml` declares."""
        implementation, threads = configuration["implementation"], configuration["threads"]
        match implementation:
            case "eager":
                compute = getattr(torch, configuration["compute_dtype"])
                return with_threads(_eager(compute, in_place=configuration["in_place"]), threads)
            case "inductor":
                function = _eager(torch.float32, in_place=False)
                return compile_with_inductor(function, [self.activations(problem, seed=0)["x"]], threads)
            case "native":
                return _native(problem, threads)
        raise UnknownNameError(
            "implementation of silu_and_mul", implementation, ("eager", "inductor", "native")
        )

    def cost(self, problem: Problem) -> Cost:
        """Both halves read once, the result written once."""
        elements = problem["rows"] * problem["intermediate"]
        return Cost(OPERATIONS * elements, 3 * elements * _dtype(problem).itemsize, problem["dtype"])


def _dtype(problem: Problem) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, problem["dtype"])
    return dtype


def _eager(compute: torch.dtype, *, in_place: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """One kernel for each step, in `compute`; in place means into the fresh result of the step before."""

    def run(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, dim=-1)
        # A copy even where the type is the same would be a step more; the input itself is never written to.
        activated = silu(gate.to(compute))
        product = activated.mul_(up) if in_place else activated * up.to(compute)
        return product.to(x.dtype)

    return run


def _native(problem: Problem, threads: int) -> Kernel:
    """Our own C++ kernel: everything in one pass, in float32."""
    library = compile_kernel("silu_and_mul.cpp", {"STORED": STORAGE_TYPES[problem["dtype"]]})
    function = library.silu_and_mul
    function.argtypes = (ctypes.c_void_p,) * 2 + (ctypes.c_int64,) * 3
    function.restype = None
    rows, width, dtype = problem["rows"], problem["intermediate"], _dtype(problem)
    shape, count = torch.Size((rows, 2 * width)), 2 * rows * width

    def run(x: torch.Tensor) -> torch.Tensor:
        # What is needed for safety; comparing shapes takes 5 us with cold caches.
        if x.numel() != count or x.dtype is not dtype or not x.is_contiguous():
            x = accepted(x, shape, dtype, "silu_and_mul: x")
        y = torch.empty(rows, width, dtype=dtype)
        function(x.data_ptr(), y.data_ptr(), rows, width, threads)
        return y

    return run
