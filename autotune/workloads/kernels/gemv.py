"""y = x @ w.T in Triton for few rows of x: the weight is read once, in wide loads, and multiplied by lanes.

A program takes some columns of y and goes along their weights, keeping a sum for every lane, which are added
up at its end alone; no matrix unit is used, whose smallest tile has 16 rows. Several programs may share the
length of k (split-K), as in `autotune.workloads.kernels.gemm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.kernels.gemm import load_rows, sum_partials
from autotune.workloads.launch import launch
from autotune.workloads.native import accepted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel


@triton.jit
def gemv_kernel(
    x,
    w,
    y,
    m,
    n,
    k,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WHOLE_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, ROWS)
    split, steps = tl.program_id(1), tl.cdiv(k, BLOCK_K)
    each = tl.cdiv(steps, tl.num_programs(1))
    sums = tl.zeros((ROWS, BLOCK_N, BLOCK_K), tl.float32)
    for step in tl.range(split * each, min((split + 1) * each, steps), num_stages=STAGES):
        along_k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        a = load_rows(x, rows, along_k, m, k, WHOLE_K).to(tl.float32)
        b = load_rows(w, columns, along_k, n, k, WHOLE_K).to(tl.float32)
        sums += a[:, None, :] * b[None, :, :]
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    at = (split.to(tl.int64) * m + rows)[:, None] * n + columns[None, :]
    tl.store(y + at, tl.sum(sums, axis=2).to(y.dtype.element_ty), mask=inside)


def build_triton_gemv(problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor) -> Kernel:
    """The product over a weight of the problem's own type.

    Args:
        problem: of `linear`, with at most 16 rows.
        configuration: `block_n` and `block_k` in elements, `split_k`, `warps`, `stages`.
        weight: (n, k).
    """
    m, n, k, dtype = problem["m"], problem["n"], problem["k"], getattr(torch, problem["dtype"])
    weight, shape = weight.contiguous(), torch.Size((m, k))
    split_k, block_k = configuration["split_k"], configuration["block_k"]
    grid = (triton.cdiv(n, configuration["block_n"]), split_k)
    constants = {
        "ROWS": triton.next_power_of_2(m),
        "BLOCK_N": configuration["block_n"],
        "BLOCK_K": block_k,
        "WHOLE_K": k % block_k == 0,
        "STAGES": configuration["stages"],
        "num_warps": configuration["warps"],
    }

    def run(x: torch.Tensor) -> torch.Tensor:
        x = accepted(x, shape, dtype, "linear: x")
        y = torch.empty(m, n, dtype=dtype, device=x.device)
        if split_k == 1:
            launch(gemv_kernel, grid, x, weight, y, m, n, k, **constants)
            return y
        partials = torch.empty(split_k, m, n, dtype=torch.float32, device=x.device)
        launch(gemv_kernel, grid, x, weight, partials, m, n, k, **constants)
        return sum_partials(partials, y)

    return run
