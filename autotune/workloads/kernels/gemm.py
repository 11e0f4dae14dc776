"""y = x @ w.T in Triton, tile by tile: for weights of x's own type, and for weights in 8 bits.

Programs take output tiles in groups of rows, so that tiles of w that are still in the L2 cache are used again
(Tillet et al., "Triton", MAPL 2019). Where there are fewer tiles than multiprocessors, several programs share
one, each a part of k (split-K): they write float32 partial sums, which a second kernel adds in a fixed order,
so that a result is the same every time. A persistent kernel starts a program for every multiprocessor, each
of which goes through many tiles, the loads of one overlapping the stores of the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from autotune.workloads.launch import launch
from autotune.workloads.native import accepted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel

SUM_BLOCK = 1024
"""Results that one program of `sum_partials` adds: four warps of eight each."""

UNKNOWN_MULTIPROCESSORS = 4
"""Where there is no device: the programs of a persistent kernel are the grid, not the code."""


@triton.jit
def tile_at(position, tiles_m, tiles_n, group_m):
    """Row and column of the tile at a position: `group_m` rows of tiles are gone through column by column."""
    in_group = group_m * tiles_n
    first = position // in_group * group_m
    rows = min(tiles_m - first, group_m)
    return first + position % in_group % rows, position % in_group // rows


@triton.jit
def load_rows(tensor, rows, columns, row_count, column_count, WHOLE_COLUMNS: tl.constexpr):
    """The tile of a row-major matrix; 0 beyond its ends."""
    inside = (rows < row_count)[:, None]
    if not WHOLE_COLUMNS:
        inside = inside & (columns < column_count)[None, :]
    at = rows.to(tl.int64)[:, None] * column_count + columns[None, :]
    return tl.load(tensor + at, mask=inside, other=0.0)


@triton.jit
def _tile_product(
    x,
    w,
    first_row,
    first_column,
    first_step,
    last_step,
    m,
    n,
    k,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WHOLE_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SWAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The float32 sums of one tile over the steps of k from the first to the last, (BLOCK_M, BLOCK_N)."""
    rows = first_row + tl.arange(0, BLOCK_M)
    columns = first_column + tl.arange(0, BLOCK_N)
    sums = tl.zeros((BLOCK_N if SWAP else BLOCK_M, BLOCK_M if SWAP else BLOCK_N), tl.float32)
    for step in range(first_step, last_step):
        along_k = step * BLOCK_K + tl.arange(0, BLOCK_K)
        if DESCRIPTORS:
            a = x.load([first_row, step * BLOCK_K])
            b = w.load([first_column, step * BLOCK_K]).T
        elif TRANSPOSED:
            a = load_rows(x, rows, along_k, m, k, WHOLE_K)
            b = load_rows(w, along_k, columns, k, n, False)
        else:
            a = load_rows(x, rows, along_k, m, k, WHOLE_K)
            b = load_rows(w, columns, along_k, n, k, WHOLE_K).T
        b = b.to(a.dtype)
        if SWAP:
            sums = tl.dot(b.T, a.T, sums, input_precision=PRECISION)
        else:
            sums = tl.dot(a, b, sums, input_precision=PRECISION)
    if SWAP:
        sums = sums.T
    return sums


@triton.jit
def store_tile(
    y,
    sums,
    scale,
    first_row,
    first_column,
    split,
    m,
    n,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Write a tile of sums, times its column's scale where there is one, to y (splits, m, n)."""
    rows = first_row + tl.arange(0, BLOCK_M)
    columns = first_column + tl.arange(0, BLOCK_N)
    if SCALED:
        sums = sums * tl.load(scale + columns, mask=columns < n, other=0.0)[None, :]
    inside = (rows < m)[:, None] & (columns < n)[None, :]
    at = (split.to(tl.int64) * m + rows)[:, None] * n + columns[None, :]
    tl.store(y + at, sums.to(y.dtype.element_ty), mask=inside)


# Not worth a kernel of its own for every value: it is used once a tile.
@triton.jit(do_not_specialize=["group_m"])
def gemm_kernel(
    x,
    w,
    scale,
    y,
    m,
    n,
    k,
    group_m,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PERSISTENT: tl.constexpr,
    WHOLE_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SWAP: tl.constexpr,
    SCALED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N)
    steps = tl.cdiv(k, BLOCK_K)
    if PERSISTENT:
        for position in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
            row, column = tile_at(position, tiles_m, tiles_n, group_m)
            row, column = row * BLOCK_M, column * BLOCK_N
            sums = _tile_product(
                x, w, row, column, 0, steps, m, n, k, BLOCK_M, BLOCK_N, BLOCK_K, WHOLE_K, DESCRIPTORS,
                TRANSPOSED, SWAP, PRECISION,
            )  # fmt: skip
            store_tile(y, sums, scale, row, column, tl.program_id(1), m, n, BLOCK_M, BLOCK_N, SCALED)
    else:
        row, column = tile_at(tl.program_id(0), tiles_m, tiles_n, group_m)
        row, column = row * BLOCK_M, column * BLOCK_N
        split = tl.program_id(1)
        each = tl.cdiv(steps, tl.num_programs(1))
        first, last = split * each, min((split + 1) * each, steps)
        sums = _tile_product(
            x, w, row, column, first, last, m, n, k, BLOCK_M, BLOCK_N, BLOCK_K, WHOLE_K, DESCRIPTORS,
            TRANSPOSED, SWAP, PRECISION,
        )  # fmt: skip
        store_tile(y, sums, scale, row, column, split, m, n, BLOCK_M, BLOCK_N, SCALED)


@triton.jit
def sum_partials_kernel(partials, y, count, SPLIT_K: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    sums = tl.zeros((BLOCK,), tl.float32)
    for split in tl.static_range(SPLIT_K):
        sums += tl.load(partials + split * count.to(tl.int64) + at, mask=inside, other=0.0)
    tl.store(y + at, sums.to(y.dtype.element_ty), mask=inside)


def sum_partials(partials: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`y`, filled with the sums over the first dimension of float32 `partials` (splits, *y.shape)."""
    splits, count = partials.shape[0], y.numel()
    grid = (triton.cdiv(count, SUM_BLOCK),)
    launch(sum_partials_kernel, grid, partials, y, count, SPLIT_K=splits, BLOCK=SUM_BLOCK, num_warps=4)
    return y


def build_triton(problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor) -> Kernel:
    """The product over a weight of the problem's own type.

    Args:
        problem: of `linear`.
        configuration: as `search_spaces/linear.toml` declares `triton`.
        weight: (n, k).
    """
    return build_gemm(problem, configuration, weight, None)


def build_gemm(
    problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor, scale: torch.Tensor | None
) -> Kernel:
    """The product, over a weight in any type that x's holds exactly.

    Args:
        problem: of `linear`.
        configuration: `block_m`, `block_n`, `block_k` in elements; `group_m` in tiles; `split_k`;
            `persistent`, `descriptors`, `swap` as true or false; `weight_layout` `nk` or `kn`; `warps` and
            `stages`. What is not there is off.
        weight: (n, k).
        scale: float32 (n,), by which columns of the result are multiplied; None for none.
    """
    m, n, k, dtype = problem["m"], problem["n"], problem["k"], getattr(torch, problem["dtype"])
    block_m, block_n, block_k = (configuration[f"block_{name}"] for name in "mnk")
    split_k, descriptors = configuration.get("split_k", 1), configuration.get("descriptors", False)
    persistent = configuration.get("persistent", False)
    transposed = configuration.get("weight_layout", "nk") == "kn"
    weight = weight.t().contiguous() if transposed else weight.contiguous()
    w = TensorDescriptor.from_tensor(weight, [block_n, block_k]) if descriptors else weight
    tiles = triton.cdiv(m, block_m) * triton.cdiv(n, block_n)
    grid = (min(tiles, multiprocessors(weight.device)) if persistent else tiles, split_k)
    constants = {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_K": block_k,
        "PERSISTENT": persistent,
        "WHOLE_K": k % block_k == 0,
        "DESCRIPTORS": descriptors,
        "TRANSPOSED": transposed,
        "SWAP": configuration.get("swap", False),
        "SCALED": scale is not None,
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": configuration["warps"],
        "num_stages": configuration["stages"],
    }
    shape, group_m = torch.Size((m, k)), configuration.get("group_m", 1)

    def run(x: torch.Tensor) -> torch.Tensor:
        x = accepted(x, shape, dtype, "linear: x")
        a = TensorDescriptor.from_tensor(x, [block_m, block_k]) if descriptors else x
        y = torch.empty(m, n, dtype=dtype, device=x.device)
        if split_k == 1:
            launch(gemm_kernel, grid, a, w, scale, y, m, n, k, group_m, **constants)
            return y
        partials = torch.empty(split_k, m, n, dtype=torch.float32, device=x.device)
        launch(gemm_kernel, grid, a, w, scale, partials, m, n, k, group_m, **constants)
        return sum_partials(partials, y)

    return run


def multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a device; a few where it is none that has any."""
    if device.type != "cuda":
        return UNKNOWN_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
