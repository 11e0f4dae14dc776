"""y = x @ w.T in Triton for 4-bit weights in groups of 32, multiplied as they are stored (W4A16).

The checkpoint's words of eight values are repacked once, so that the low halves of 32 bytes in a row are one
group and the high halves the next: either half of a tile of bytes is then a tile of weights in order, and no
value has to change place between threads. A value becomes a number of x's type by setting it as the low bits
of a mantissa, as Marlin does (Frantar et al., PPoPP 2025): exact, and without a conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.int4 import GROUP, OFFSET, int4_steps
from autotune.workloads.kernels.gemm import load_rows, store_tile, sum_partials, tile_at
from autotune.workloads.launch import launch
from autotune.workloads.native import accepted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel


@triton.jit
def _weights(nibbles, scale, DTYPE: tl.constexpr):
    """The weights of stored values 0 to 15 (columns, units, 32), times their scales (columns, units, 1)."""
    bits = nibbles.to(tl.uint16)
    # The last place counts ones from 128 in bfloat16, from 1024 in float16; stored values are offset by 8.
    if tl.bfloat16 == DTYPE:
        value = (bits | 0x4300).to(tl.bfloat16, bitcast=True) - 136.0
    elif tl.float16 == DTYPE:
        value = (bits | 0x6400).to(tl.float16, bitcast=True) - 1032.0
    else:
        value = bits.to(DTYPE) - 8.0
    return value.to(DTYPE) * scale


@triton.jit(do_not_specialize=["group_m"])
def gemm_int4_kernel(
    x,
    w,
    scale,
    y,
    m,
    n,
    k,
    units,
    group_m,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    UNITS: tl.constexpr,
    WHOLE_K: tl.constexpr,
    SWAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`w` is (n, units, 32) bytes and `scale` (n, units, 2): a unit is 64 values along k, two groups."""
    row, column = tile_at(tl.program_id(0), tl.cdiv(m, BLOCK_M), tl.cdiv(n, BLOCK_N), group_m)
    row, column = row * BLOCK_M, column * BLOCK_N
    split, steps = tl.program_id(1), tl.cdiv(units, UNITS)
    each = tl.cdiv(steps, tl.num_programs(1))
    rows, columns = row + tl.arange(0, BLOCK_M), column + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, UNITS * 32)
    sums = tl.zeros((BLOCK_N if SWAP else BLOCK_M, BLOCK_M if SWAP else BLOCK_N), tl.float32)
    for step in range(split * each, min((split + 1) * each, steps)):
        packed = load_rows(w, columns, step * UNITS * 32 + lane, n, units * 32, WHOLE_K)
        unit = step * UNITS + tl.arange(0, UNITS)
        inside = (columns < n)[:, None] & (unit < units)[None, :]
        scale_at = scale + columns.to(tl.int64)[:, None] * units * 2 + unit[None, :] * 2
        low_k = step * UNITS * 64 + lane // 32 * 64 + lane % 32
        for half in tl.static_range(2):
            a = load_rows(x, rows, low_k + half * 32, m, k, WHOLE_K)
            scales = tl.load(scale_at + half, mask=inside, other=0.0)[:, :, None]
            nibbles = (packed >> (4 * half)) & 15
            b = _weights(tl.reshape(nibbles, (BLOCK_N, UNITS, 32)), scales, a.dtype)
            b = tl.reshape(b, (BLOCK_N, UNITS * 32))
            if SWAP:
                sums = tl.dot(b, a.T, sums, input_precision=PRECISION)
            else:
                sums = tl.dot(a, b.T, sums, input_precision=PRECISION)
    if SWAP:
        sums = sums.T
    store_tile(y, sums, scale, row, column, split, m, n, BLOCK_M, BLOCK_N, False)


def repack(packed: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights in the kernel's order.

    Args:
        packed: int32 (n, k / 8), the first of eight values in the lowest bits.
        scale: (n, k / 32).

    Returns:
        Bytes (n, units * 32), whose low halves are the first group of a unit and whose high halves the
        second; and scales (n, units, 2). A last unit that is half empty is filled with zeros.
    """
    n, groups = scale.shape
    units = -(-groups // 2)
    steps = (int4_steps(packed) + OFFSET).view(torch.uint8).view(n, groups, GROUP)
    steps = torch.nn.functional.pad(steps, (0, 0, 0, 2 * units - groups), value=OFFSET)
    scales = torch.nn.functional.pad(scale, (0, 2 * units - groups))
    pairs = steps.view(n, units, 2, GROUP)
    octets = pairs[:, :, 0] | (pairs[:, :, 1] << 4)
    return octets.reshape(n, units * GROUP).contiguous(), scales.view(n, units, 2).contiguous()


def build_triton_int4(
    problem: Problem, configuration: Mapping[str, Any], packed: torch.Tensor, scale: torch.Tensor
) -> Kernel:
    """The product over 4-bit weights.

    Args:
        problem: of `linear`; k is a multiple of 32.
        configuration: `block_m`, `block_n`, `block_k` in elements, `group_m` in tiles, `split_k`, `swap`,
            `warps`, `stages`.
        packed: int32 (n, k / 8).
        scale: (n, k / 32).
    """
    m, n, k, dtype = problem["m"], problem["n"], problem["k"], getattr(torch, problem["dtype"])
    weight, scales = repack(packed, scale.to(dtype))
    units, block_units = scales.shape[1], configuration["block_k"] // (2 * GROUP)
    block_m, block_n, split_k = (configuration[name] for name in ("block_m", "block_n", "split_k"))
    grid = (triton.cdiv(m, block_m) * triton.cdiv(n, block_n), split_k)
    shape, group_m = torch.Size((m, k)), configuration["group_m"]
    constants = {
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "UNITS": block_units,
        "WHOLE_K": k % (2 * GROUP) == 0 and units % block_units == 0,
        "SWAP": configuration["swap"],
        "PRECISION": "ieee" if dtype == torch.float32 else "tf32",
        "num_warps": configuration["warps"],
        "num_stages": configuration["stages"],
    }

    def run(x: torch.Tensor) -> torch.Tensor:
        x = accepted(x, shape, dtype, "linear: x")
        y = torch.empty(m, n, dtype=dtype, device=x.device)
        sums = y if split_k == 1 else torch.empty(split_k, m, n, dtype=torch.float32, device=x.device)
        launch(gemm_int4_kernel, grid, x, weight, scales, sums, m, n, k, units, group_m, **constants)
        return y if split_k == 1 else sum_partials(sums, y)

    return run
