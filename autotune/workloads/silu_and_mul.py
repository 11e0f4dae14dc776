"""`silu_and_mul`: silu(x[:, :d]) * x[:, d:], the activation of a gated MLP whose two halves are one product.

(Shazeer, "GLU Variants Improve Transformer", 2020: SwiGLU.) With `quantise` the result is in float8 with a
scale for every row (rows, 1), which is an output after it.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import silu

from autotune.errors import UnknownNameError
from autotune.workloads.base import Cost, Workload
from autotune.workloads.float8 import FLOAT8, exact_rows, quantise_rows
from autotune.workloads.inductor import compile_with_inductor
from autotune.workloads.native import STORAGE_TYPES, accepted, compile_kernel
from autotune.workloads.random_inputs import random_activations
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors

    Output = torch.Tensor | tuple[torch.Tensor, ...]

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
        return {"x": random_activations(shape, _dtype(problem), generator, device)}

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> Output:
        """In float64."""
        gate, up = activations["x"].double().chunk(2, dim=-1)
        product = silu(gate) * up
        return exact_rows(product) if _quantises(problem) else product

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """One of the implementations that `search_spaces/silu_and_mul.toml` declares."""
        implementation, threads = configuration["implementation"], configuration.get("threads")
        match implementation:
            case "eager":
                compute = getattr(torch, configuration["compute_dtype"])
                run = _eager(compute, in_place=configuration["in_place"], quantises=_quantises(problem))
                return with_threads(run, threads)
            case "inductor":
                function = _eager(torch.float32, in_place=False, quantises=_quantises(problem))
                examples = [self.activations(problem, seed=0)["x"]]
                return compile_with_inductor(function, examples, configuration["threads"])
            case "native":
                return _native(problem, configuration["threads"])
            case "triton":
                from autotune.workloads.kernels.silu_and_mul import build_silu_and_mul

                return build_silu_and_mul(problem, configuration)
        known = ("eager", "inductor", "native", "triton")
        raise UnknownNameError("implementation of silu_and_mul", implementation, known)

    def cost(self, problem: Problem) -> Cost:
        """Both halves read once, the result written once."""
        elements = problem["rows"] * problem["intermediate"]
        read, flops = 2 * elements * _dtype(problem).itemsize, OPERATIONS * elements
        if not _quantises(problem):
            return Cost(flops, read + elements * _dtype(problem).itemsize, problem["dtype"])
        # A magnitude, a maximum and a division more; a scale for every row.
        written = elements * FLOAT8.itemsize + problem["rows"] * torch.float32.itemsize
        return Cost(flops + 3 * elements, read + written, problem["dtype"])


def _dtype(problem: Problem) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, problem["dtype"])
    return dtype


def _quantises(problem: Problem) -> bool:
    return bool(problem["quantise"] != "none")


def _eager(compute: torch.dtype, *, in_place: bool, quantises: bool) -> Callable[[torch.Tensor], Output]:
    """One kernel for each step, in `compute`; in place means into the fresh result of the step before."""

    def run(x: torch.Tensor) -> Output:
        gate, up = x.chunk(2, dim=-1)
        # A copy even where the type is the same would be a step more; the input itself is never written to.
        activated = silu(gate.to(compute))
        product = activated.mul_(up) if in_place else activated * up.to(compute)
        y = product.to(x.dtype)
        return quantise_rows(y) if quantises else y

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
