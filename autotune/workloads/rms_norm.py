"""`rms_norm`: y = x / sqrt(mean(x^2) + epsilon) * weight, of a sum where a residual is added first.

With `residual = "add"` the inputs are x and the residual, the outputs y and their sum, which is the next
residual (Zhang and Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019). With `quantise` y is in
float8 with a scale for every row (rows, 1), which is an output after it.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

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

EPSILON = 1e-6
"""As in Llama, Qwen and DeepSeek models, give or take a power of ten; it changes neither speed nor error."""


class RmsNorm(Workload):
    """Root-mean-square norm over rows, with or without adding a residual."""

    name = "rms_norm"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """A weight (hidden,) around 1."""
        generator = torch.Generator().manual_seed(seed)
        weight = 1 + 0.1 * torch.randn(problem["hidden"], generator=generator)
        return {"weight": weight.to(_dtype(problem)).to(device)}

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """`weight`."""
        return ("weight",)

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """x (rows, hidden), and with a residual the residual of the same shape."""
        generator = torch.Generator().manual_seed(seed)
        names = ("x", "residual") if problem["residual"] == "add" else ("x",)
        shape = (problem["rows"], problem["hidden"])
        return {name: random_activations(shape, _dtype(problem), generator, device) for name in names}

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> Output:
        """In float64."""
        inputs = [tensor.double() for tensor in activations.values()]
        total = sum(inputs[1:], start=inputs[0])
        y = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + EPSILON) * weights["weight"].double()
        normed = exact_rows(y) if _quantises(problem) else (y,)
        return _outputs(*normed, *([total] if len(inputs) > 1 else []))

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """One of the implementations that `search_spaces/rms_norm.toml` declares."""
        implementation, threads = configuration["implementation"], configuration.get("threads")
        if implementation not in _NORMS and implementation not in _FUSED:
            raise UnknownNameError("implementation of rms_norm", implementation, [*_NORMS, *_FUSED])
        weight = weights["weight"]
        if implementation == "triton":
            from autotune.workloads.kernels.rms_norm import build_rms_norm

            return build_rms_norm(problem, configuration, weight, EPSILON)
        if implementation == "native":
            return _native(problem, weight, configuration["threads"])
        norm = _adding(_NORMS.get(implementation, _unfused), weight, quantises=_quantises(problem))
        if implementation == "inductor":
            examples = list(self.activations(problem, seed=0).values())
            return compile_with_inductor(norm, examples, configuration["threads"])
        return with_threads(norm, threads)

    def cost(self, problem: Problem) -> Cost:
        """Square, sum, scale and weigh, and add the residual; inputs, outputs and the weight once."""
        elements, added = problem["rows"] * problem["hidden"], problem["residual"] == "add"
        size = _dtype(problem).itemsize
        inputs = (2 if added else 1) * elements + problem["hidden"]
        outputs, flops = (elements if added else 0) * size, (5 if added else 4) * elements
        if not _quantises(problem):
            return Cost(flops, inputs * size + outputs + elements * size, problem["dtype"])
        # A magnitude, a maximum and a division more; a scale for every row.
        outputs += elements * FLOAT8.itemsize + problem["rows"] * torch.float32.itemsize
        return Cost(flops + 3 * elements, inputs * size + outputs, problem["dtype"])


def _dtype(problem: Problem) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, problem["dtype"])
    return dtype


def _quantises(problem: Problem) -> bool:
    return bool(problem["quantise"] != "none")


def _outputs(*tensors: torch.Tensor) -> Output:
    return tensors if len(tensors) > 1 else tensors[0]


def _unfused(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """As Hugging Face models write it."""
    upcast = x.float()
    variance = upcast.pow(2).mean(-1, keepdim=True)
    return weight * (upcast * torch.rsqrt(variance + EPSILON)).to(x.dtype)


def _fused(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.rms_norm(x, (x.shape[-1],), weight, EPSILON)


_NORMS = {"eager": _unfused, "torch": _fused}
_FUSED = ("inductor", "native", "triton")


def _adding(
    norm: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], weight: torch.Tensor, *, quantises: bool
) -> Callable[..., Output]:
    """`norm` of one input, or of the sum of two, which is returned too."""

    def run(x: torch.Tensor, residual: torch.Tensor | None = None) -> Output:
        total = x if residual is None else residual + x
        y = norm(total, weight)
        normed = quantise_rows(y) if quantises else (y,)
        return _outputs(*normed) if residual is None else _outputs(*normed, total)

    return run


def _native(problem: Problem, weight: torch.Tensor, threads: int) -> Kernel:
    """Our own C++ kernel: everything in one pass."""
    library = compile_kernel("rms_norm.cpp", {"STORED": STORAGE_TYPES[problem["dtype"]]})
    function = library.rms_norm
    function.argtypes = (ctypes.c_void_p,) * 5 + (ctypes.c_int64,) * 2 + (ctypes.c_float, ctypes.c_int64)
    function.restype = None
    rows, hidden, dtype = problem["rows"], problem["hidden"], _dtype(problem)
    shape, count, weight = torch.Size((rows, hidden)), rows * hidden, weight.contiguous()

    def take(x: torch.Tensor) -> torch.Tensor:
        # What is needed for safety; comparing shapes takes 5 us with cold caches.
        if x.numel() != count or x.dtype is not dtype or not x.is_contiguous():
            return accepted(x, shape, dtype, "rms_norm: an input")
        return x

    def norm(x: torch.Tensor) -> torch.Tensor:
        x = take(x)
        y = torch.empty(rows, hidden, dtype=dtype)
        function(x.data_ptr(), 0, weight.data_ptr(), y.data_ptr(), 0, rows, hidden, EPSILON, threads)
        return y

    def add_and_norm(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, residual = take(x), take(residual)
        y = torch.empty(rows, hidden, dtype=dtype)
        total = torch.empty(rows, hidden, dtype=dtype)
        inputs = (x.data_ptr(), residual.data_ptr(), weight.data_ptr())
        function(*inputs, y.data_ptr(), total.data_ptr(), rows, hidden, EPSILON, threads)
        return y, total

    return add_and_norm if problem["residual"] == "add" else norm
