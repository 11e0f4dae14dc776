"""`linear`: y = x @ w.T, the dense layer.

A checkpoint stores the weight in one of three ways:

- `native`: {"weight": (n, k)} in the problem's type;
- `int4_g32`: {"weight_packed": int32 (n, k / 8), "weight_scale": (n, k / 32) in the problem's type}, of
  symmetric 4-bit values in groups of 32, as compressed-tensors' `pack-quantized` has them (see `int4.py`);
- `fp8_block128x128`: {"weight": float8 e4m3 (n, k), "weight_scale": float32 (ceil(n / 128), ceil(k / 128))},
  as DeepSeek V3 has it (see `float8.py`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear

from autotune.errors import InternalError, ProblemError, UnknownNameError
from autotune.workloads.base import Cost, Workload
from autotune.workloads.float8 import BLOCK as FP8_BLOCK
from autotune.workloads.float8 import BLOCK_FORMAT as FP8
from autotune.workloads.float8 import FLOAT8, blocks_of, dequantise_blocks, quantise_blocks, random_blocks
from autotune.workloads.huge_pages import empty_in_huge_pages
from autotune.workloads.inductor import compile_with_inductor
from autotune.workloads.int4 import GROUP, PER_INT32, int4_steps, pack_int4_g32, unpack_int4_g32
from autotune.workloads.linear_native import (
    build_native,
    build_native_int4,
    build_native_rounded,
    native_kernel,
)
from autotune.workloads.linear_quantized import (
    build_int4_weight_only,
    build_int8_dynamic,
    build_int8_weight_only,
    round_to_int4,
)
from autotune.workloads.random_inputs import random_activations, random_weight, repeated_rows
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors
    from autotune.workloads.native import NativeKernel

INT4 = "int4_g32"
REFERENCE_BLOCK = 1 << 22
"""Weights converted to float64 at a time: 32 MiB."""


class Linear(Workload):
    """y[m, n] = x[m, k] @ w[n, k].T."""

    name = "linear"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """A weight that keeps the variance of its input, as a trained layer about does."""
        _check(problem)
        if device == "meta":
            return _shapes(problem)
        generator = torch.Generator().manual_seed(seed)
        made = _RANDOM[problem["weight_format"]]((problem["n"], problem["k"]), _dtype(problem), generator)
        named = zip(self.weight_names(problem), made, strict=True)
        return {name: weight.to(device) for name, weight in named}

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """`weight`, and `weight_scale` if it is quantised; `weight_packed` of 4 bits."""
        return tuple(_shapes(problem))

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """x (m, k)."""
        generator = torch.Generator().manual_seed(seed)
        return {"x": random_activations((problem["m"], problem["k"]), _dtype(problem), generator, device)}

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
        """The product in float64 of exactly the stored weights."""
        x, rows = activations["x"].double(), _rows_per_block(problem["k"])
        parts = (
            torch.split(part, rows if len(part) == problem["n"] else rows // FP8_BLOCK)
            for part in weights.values()
        )
        return torch.cat([x @ _exact(*block).T for block in zip(*parts, strict=True)], dim=1)

    def native_kernels(self, problem: Problem, configuration: Mapping[str, Any]) -> tuple[NativeKernel, ...]:
        """The kernel of `native`, `native_int4` or `native_rounded`."""
        bits = {"native": 0, "native_int4": 4, "native_rounded": configuration.get("bits")}
        weight_bits = bits.get(configuration["implementation"])
        return () if weight_bits is None else (native_kernel(problem, configuration, weight_bits),)

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """One of the implementations that `search_spaces/linear.toml` declares."""
        _check(problem)
        implementation = configuration["implementation"]
        if implementation not in _BUILDERS:
            raise UnknownNameError("implementation of linear", implementation, _BUILDERS)
        return _BUILDERS[implementation](problem, configuration, weights)

    def cost(self, problem: Problem) -> Cost:
        """A multiply-add for each weight and row; the weight as it is stored, x and y once."""
        m, n, k, size = problem["m"], problem["n"], problem["k"], _dtype(problem).itemsize
        stored = sum(part.nbytes for part in _shapes(problem).values())
        return Cost(2 * m * n * k, stored + m * (n + k) * size, problem["dtype"])


def _check(problem: Problem) -> None:
    if problem["weight_format"] == INT4 and problem["k"] % GROUP:
        raise ProblemError(f"{problem}: k is not a multiple of {GROUP}, the group size of {INT4}")


def _dtype(problem: Problem) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, problem["dtype"])
    return dtype


def _rows_per_block(k: int) -> int:
    """A multiple of the rows that share a scale."""
    return FP8_BLOCK * max(1, REFERENCE_BLOCK // (FP8_BLOCK * k))


def _shapes(problem: Problem) -> Tensors:
    """The stored weight without data."""
    n, k, dtype = problem["n"], problem["k"], _dtype(problem)
    empty = partial(torch.empty, device="meta")
    if problem["weight_format"] == INT4:
        packed = empty(n, k // PER_INT32, dtype=torch.int32)
        return {"weight_packed": packed, "weight_scale": empty(n, k // GROUP, dtype=dtype)}
    if problem["weight_format"] == FP8:
        scale = empty(blocks_of(n, k), dtype=torch.float32)
        return {"weight": empty(n, k, dtype=FLOAT8), "weight_scale": scale}
    return {"weight": empty(n, k, dtype=dtype)}


def _random_native(
    shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    return (random_weight(shape, shape[1] ** -0.5, dtype, generator),)


def _random_int4(
    shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, ...]:
    n, k = shape
    # Packing is slow: a block of rows is packed and repeated under other scales.
    block = pack_int4_g32(random_weight((min(n, _rows_per_block(k)), k), k**-0.5, dtype, generator))
    packed, scale = (repeated_rows(part, n) for part in block)
    return packed, (scale * (1 + 0.2 * torch.rand(n, 1, generator=generator))).to(dtype)


def _random_fp8(
    shape: tuple[int, int],
    dtype: torch.dtype,  # noqa: ARG001 - as its siblings
    generator: torch.Generator,
) -> tuple[torch.Tensor, ...]:
    return random_blocks(shape, shape[1] ** -0.5, generator)


_RANDOM = {"native": _random_native, INT4: _random_int4, FP8: _random_fp8}
"""What makes a random weight of each format: its parts in the order of `_shapes`."""


def _exact(*stored: torch.Tensor) -> torch.Tensor:
    """The weight in float64, which holds a stored value times its scale exactly."""
    return _unpacked(stored, torch.float64)


def _dense(weights: Tensors, dtype: torch.dtype) -> torch.Tensor:
    """The weight (n, k) in `dtype`, dequantised if it is stored in fewer bits."""
    return _unpacked(tuple(weights.values()), dtype)


def _unpacked(stored: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    match stored:
        case (weight,):
            return weight.to(dtype)
        case (weight, scale) if weight.dtype == FLOAT8:
            return dequantise_blocks(weight, scale, dtype)
        case (packed, scale):
            return unpack_int4_g32(packed, scale, dtype)
    raise InternalError(f"a weight is stored in {len(stored)} parts; expected one or two")


def _torch(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    """F.linear over the weight as stored (`nk`), or x @ w over its transpose (`kn`)."""
    dtype = _dtype(problem)
    compute = getattr(torch, configuration.get("compute_dtype", problem["dtype"]))
    weight = _dense(weights, compute)
    multiply: Callable[[torch.Tensor], torch.Tensor]
    if configuration["weight_layout"] == "kn":
        transposed = weight.t().contiguous()
        multiply = partial(torch.matmul, other=transposed)
    else:
        multiply = partial(linear, weight=weight)
    threads = configuration.get("threads")
    if compute == dtype:
        return with_threads(multiply, threads)
    return with_threads(lambda x: multiply(x.to(compute)).to(dtype), threads)


def _onednn_packed(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    """oneDNN's product over a weight in the blocked layout that oneDNN chooses for m rows."""
    weight = _dense(weights, _dtype(problem))
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, problem["m"])
    multiply = torch.ops.mkldnn._linear_pointwise
    return with_threads(lambda x: multiply(x, packed, None, "none", [], ""), configuration["threads"])


def _inductor(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    """Inductor's own reduction over the weight, upcast as it is read; its matrix templates lose to oneDNN."""
    dense = _dense(weights, _dtype(problem))
    weight = empty_in_huge_pages(tuple(dense.shape), dense.dtype)
    weight.copy_(dense)

    def multiply_and_sum(x: torch.Tensor) -> torch.Tensor:
        return (x.float()[:, None, :] * weight.float()).sum(-1).to(x.dtype)

    example = torch.zeros(problem["m"], problem["k"], dtype=dense.dtype)
    return compile_with_inductor(multiply_and_sum, [example], configuration["threads"])


def _triton(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemm import build_triton

    return build_triton(problem, configuration, _dense(weights, _dtype(problem)))


def _triton_gemv(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemv import build_triton_gemv

    return build_triton_gemv(problem, configuration, _dense(weights, _dtype(problem)))


def _triton_int4(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemm_int4 import build_triton_int4

    return build_triton_int4(problem, configuration, *_int4(problem, weights))


def _triton_int8(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemm_int8 import build_triton_int8

    return build_triton_int8(problem, configuration, weights["weight"])


def _triton_fp8_block(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemm_fp8 import build_triton_fp8_block

    return build_triton_fp8_block(problem, configuration, *_blocks(weights))


def _triton_fp8_weight_only(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemm_fp8 import build_triton_fp8_weight_only

    return build_triton_fp8_weight_only(problem, configuration, *_blocks(weights))


def _torch_scaled_mm(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    from autotune.workloads.kernels.gemm_fp8 import build_torch_scaled_mm

    return build_torch_scaled_mm(problem, configuration, weights["weight"])


def _blocks(weights: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight in float8 blocks, as stored or rounded: values and scales."""
    if "weight_scale" in weights:
        return weights["weight"], weights["weight_scale"]
    return quantise_blocks(weights["weight"])


def _int4(problem: Problem, weights: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight in 4 bits, as stored or rounded: `packed` and `scale`."""
    if problem["weight_format"] == INT4:
        return weights["weight_packed"], weights["weight_scale"]
    return pack_int4_g32(weights["weight"])


def _native(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    return build_native(problem, configuration, _dense(weights, _dtype(problem)))


def _native_int4(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    return build_native_int4(problem, configuration, *_int4(problem, weights))


def _native_rounded(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    return build_native_rounded(problem, configuration, weights["weight"])


def _int4_weight_only(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    if problem["weight_format"] == INT4:
        values, scale = int4_steps(weights["weight_packed"]), weights["weight_scale"]
    else:
        values, scale = round_to_int4(weights["weight"], configuration["group_size"])
    return build_int4_weight_only(configuration, values, scale)


def _int8_dynamic(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    return build_int8_dynamic(problem, configuration, weights["weight"])


def _int8_weight_only(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    return build_int8_weight_only(problem, configuration, weights["weight"])


_BUILDERS: dict[str, Callable[[Problem, Mapping[str, Any], Tensors], Kernel]] = {
    "torch": _torch,
    "onednn_packed": _onednn_packed,
    "inductor": _inductor,
    "triton": _triton,
    "triton_gemv": _triton_gemv,
    "triton_int4": _triton_int4,
    "triton_int8": _triton_int8,
    "triton_fp8_block": _triton_fp8_block,
    "triton_fp8_weight_only": _triton_fp8_weight_only,
    "torch_scaled_mm": _torch_scaled_mm,
    "native": _native,
    "native_int4": _native_int4,
    "native_rounded": _native_rounded,
    "int8_dynamic": _int8_dynamic,
    "int8_weight_only": _int8_weight_only,
    "int4_weight_only": _int4_weight_only,
}
