"""y = x @ w.T in 8-bit floating point, weights scaled by blocks of 128 by 128 or by rows.

Activations are multiplied as they are (W8A16), or rounded in each call by a kernel of their own (W8A8): every
128 values of a row under a scale (DeepSeek-V3, arXiv:2412.19437, section 3.3), or every row under one. Block
by block along k the product is summed in the matrix unit, multiplied by the scales, and added in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.float8 import BLOCK, FLOAT8, LARGEST, SMALLEST_SCALE, quantise_rows
from autotune.workloads.kernels.gemm import load_rows, store_tile, sum_partials, tile_at
from autotune.workloads.launch import launch
from autotune.workloads.native import accepted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel

QUANTISE_WARPS = 4
WIDEST_BLOCK = 4096
"""Values that a program rounds at once: 32 for each of 128 threads."""


@triton.jit
def quantise_groups_kernel(
    x, stored, scale, k, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, GROUP: tl.constexpr
):
    """Round group by group: a program takes GROUP values of a row."""
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = group * GROUP + tl.arange(0, GROUP)
    value = tl.load(x + row * k + at, mask=at < k, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(value), axis=0)
    one_scale = tl.maximum(largest / LARGEST, SMALLEST)
    rounded = tl.clamp(value / one_scale, -LARGEST, LARGEST).to(stored.dtype.element_ty)
    tl.store(stored + row * k + at, rounded, mask=at < k)
    tl.store(scale + row * tl.num_programs(1) + group, one_scale)


@triton.jit
def quantise_rows_kernel(
    x, stored, scale, k, LARGEST: tl.constexpr, SMALLEST: tl.constexpr, STEP: tl.constexpr
):
    """Round row by row: a program goes along its row twice, the second time mostly from the cache."""
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((STEP,), tl.float32)
    for start in range(0, k, STEP):
        at = start + tl.arange(0, STEP)
        value = tl.load(x + row * k + at, mask=at < k, other=0.0).to(tl.float32)
        largest = tl.maximum(largest, tl.abs(value))
    one_scale = tl.maximum(tl.max(largest, axis=0) / LARGEST, SMALLEST)
    for start in range(0, k, STEP):
        at = start + tl.arange(0, STEP)
        value = tl.load(x + row * k + at, mask=at < k, other=0.0).to(tl.float32)
        rounded = tl.clamp(value / one_scale, -LARGEST, LARGEST).to(stored.dtype.element_ty)
        tl.store(stored + row * k + at, rounded, mask=at < k)
    tl.store(scale + row, one_scale)


@triton.jit(do_not_specialize=["group_m"])
def gemm_fp8_block_kernel(
    x,
    x_scale,
    w,
    w_scale,
    y,
    m,
    n,
    k,
    group_m,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SCALE_BLOCK: tl.constexpr,
    WHOLE_K: tl.constexpr,
    SWAP: tl.constexpr,
    ROUNDED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`w_scale` is (blocks of n, blocks of k) and `x_scale` (m, blocks of k), or nothing unless x is ROUNDED.

    BLOCK_K divides SCALE_BLOCK.
    """
    row, column = tile_at(tl.program_id(0), tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N), group_m)
    row, column = row * BLOCK_M, column * BLOCK_N
    split, steps, scales = tl.program_id(1), tl.cdiv(k, BLOCK_K), tl.cdiv(k, SCALE_BLOCK)
    each = tl.cdiv(steps, tl.num_programs(1))
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    row_scale = x_scale + rows.to(tl.int64) * scales
    column_scale = w_scale + (columns // SCALE_BLOCK).to(tl.int64) * scales
    sums = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(split * each, min((split + 1) * each, steps)):
        along_k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        block = step * BLOCK_K // SCALE_BLOCK
        a = load_rows(x, rows, along_k, m, k, WHOLE_K)
        b = load_rows(w, columns, along_k, n, k, WHOLE_K)
        b_scale = tl.load(column_scale + block, mask=columns < n, other=0.0)
        if not ROUNDED:
            b = b.to(a.dtype)
        if SWAP:
            product = tl.dot(b, a.T, input_precision=PRECISION).T
        else:
            product = tl.dot(a, b.T, input_precision=PRECISION)
        if ROUNDED:
            product *= tl.load(row_scale + block, mask=rows < m, other=0.0)[:, None]
        sums += product * b_scale[None, :]
    store_tile(y, sums, w_scale, row, column, split, m, n, BLOCK_M, BLOCK_N, False)


def quantise_groups(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (m, k) in float8, and float32 scales (m, ceil(k / 128)) of every 128 values of a row."""
    m, k = x.shape
    groups = triton.cdiv(k, BLOCK)
    stored = torch.empty(m, k, dtype=FLOAT8, device=x.device)
    scale = torch.empty(m, groups, dtype=torch.float32, device=x.device)
    constants = {"LARGEST": LARGEST, "SMALLEST": SMALLEST_SCALE, "GROUP": BLOCK, "num_warps": 1}
    launch(quantise_groups_kernel, (m, groups), x, stored, scale, k, **constants)
    return stored, scale


def quantise_whole_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (m, k) in float8, and float32 scales (m, 1) of its rows."""
    m, k = x.shape
    stored = torch.empty(m, k, dtype=FLOAT8, device=x.device)
    scale = torch.empty(m, 1, dtype=torch.float32, device=x.device)
    step = min(triton.next_power_of_2(k), WIDEST_BLOCK)
    constants = {"LARGEST": LARGEST, "SMALLEST": SMALLEST_SCALE, "STEP": step, "num_warps": QUANTISE_WARPS}
    launch(quantise_rows_kernel, (m,), x, stored, scale, k, **constants)
    return stored, scale


def build_triton_fp8_block(
    problem: Problem, configuration: Mapping[str, Any], w: torch.Tensor, w_scale: torch.Tensor
) -> Kernel:
    """The product over 8-bit weights in blocks of 128 by 128, x rounded to 8 bits in every call (W8A8).

    Args:
        problem: of `linear`.
        configuration: `block_m`, `block_n`, `block_k` in elements, of which the last divides 128; `group_m`
            in tiles, `split_k`, `swap`, `warps`, `stages`.
        w: float8 (n, k).
        w_scale: float32 (ceil(n / 128), ceil(k / 128)).
    """
    return _build_blocks(problem, configuration, w, w_scale, rounded=True)


def build_triton_fp8_weight_only(
    problem: Problem, configuration: Mapping[str, Any], w: torch.Tensor, w_scale: torch.Tensor
) -> Kernel:
    """The product over 8-bit weights in blocks of 128 by 128, which x's type holds exactly (W8A16).

    Args:
        problem: of `linear`.
        configuration: as `build_triton_fp8_block` takes it.
        w: float8 (n, k).
        w_scale: float32 (ceil(n / 128), ceil(k / 128)).
    """
    return _build_blocks(problem, configuration, w, w_scale, rounded=False)


def _build_blocks(
    problem: Problem,
    configuration: Mapping[str, Any],
    w: torch.Tensor,
    w_scale: torch.Tensor,
    *,
    rounded: bool,
) -> Kernel:
    m, n, k, dtype = problem["m"], problem["n"], problem["k"], getattr(torch, problem["dtype"])
    block_m, block_n, block_k = (configuration[f"block_{name}"] for name in "mnk")
    split_k, group_m, shape = configuration["split_k"], configuration["group_m"], torch.Size((m, k))
    grid = (triton.cdiv(m, block_m) * triton.cdiv(n, block_n), split_k)
    constants = {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "SCALE_BLOCK": BLOCK,
        "WHOLE_K": k % block_k == 0,
        "SWAP": configuration["swap"],
        "ROUNDED": rounded,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": configuration["warps"],
        "num_stages": configuration["stages"],
    }

    def run(x: torch.Tensor) -> torch.Tensor:
        x = accepted(x, shape, dtype, "linear: x")
        a, a_scale = quantise_groups(x) if rounded else (x, w_scale)
        y = torch.empty(m, n, dtype=dtype, device=x.device)
        sums = y if split_k == 1 else torch.empty(split_k, m, n, dtype=torch.float32, device=x.device)
        launch(gemm_fp8_block_kernel, grid, a, a_scale, w, w_scale, sums, m, n, k, group_m, **constants)
        return y if split_k == 1 else sum_partials(sums, y)

    return run


def build_torch_scaled_mm(problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor) -> Kernel:
    """torch's own 8-bit product, a scale for every row of x and every output.

    Args:
        problem: of `linear`; k and n are multiples of 16, as cuBLAS and CUTLASS demand.
        configuration: `fast_accumulation`, whether sums may stay in the matrix unit's lower precision.
        weight: (n, k).
    """
    dtype, shape = getattr(torch, problem["dtype"]), torch.Size((problem["m"], problem["k"]))
    stored, scale = quantise_rows(weight)
    w, w_scale, fast = stored.t(), scale.t().contiguous(), configuration["fast_accumulation"]

    def run(x: torch.Tensor) -> torch.Tensor:
        a, a_scale = quantise_whole_rows(accepted(x, shape, dtype, "linear: x"))
        y: torch.Tensor = torch._scaled_mm(
            a, w, scale_a=a_scale, scale_b=w_scale, out_dtype=dtype, use_fast_accum=fast
        )
        return y

    return run
