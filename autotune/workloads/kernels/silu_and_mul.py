"""silu(gate) * up in Triton, with or without quantising each row, in one pass over memory.

Without quantisation a program takes a tile of the output. With it a program takes whole rows, whose largest
magnitude decides their scale; where a block does not hold a whole row, the row is read a second time, which
the cache serves. All arithmetic is in float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.float8 import FLOAT8, LARGEST, SMALLEST_SCALE
from autotune.workloads.launch import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem


@triton.jit
def _activated(x, at, inside, WIDTH: tl.constexpr):
    gate = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(x + at + WIDTH, mask=inside, other=0.0).to(tl.float32)
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def silu_and_mul_kernel(x, y, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = (row < rows)[:, None] & (column < WIDTH)
    start = row.to(tl.int64)[:, None] * WIDTH
    value = _activated(x, 2 * start + column, inside, WIDTH)
    tl.store(y + start + column, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def silu_and_mul_quantise_kernel(
    x,
    y,
    scale,
    rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    within = (row < rows)[:, None]
    start = row.to(tl.int64)[:, None] * WIDTH
    if BLOCK >= WIDTH:
        inside = within & (column < WIDTH)
        value = _activated(x, 2 * start + column, inside, WIDTH)
        row_scale = tl.maximum(tl.max(tl.abs(value), 1) / LARGEST, SMALLEST_SCALE)
        value = tl.clamp(value / row_scale[:, None], -LARGEST, LARGEST)
        tl.store(y + start + column, value.to(y.dtype.element_ty), mask=inside)
    else:
        largest = tl.zeros((ROWS,), tl.float32)
        for first in tl.range(0, WIDTH, BLOCK, num_stages=STAGES):
            inside = within & (first + column < WIDTH)
            value = _activated(x, 2 * start + first + column, inside, WIDTH)
            largest = tl.maximum(largest, tl.max(tl.abs(value), 1))
        row_scale = tl.maximum(largest / LARGEST, SMALLEST_SCALE)
        for first in tl.range(0, WIDTH, BLOCK, num_stages=STAGES):
            inside = within & (first + column < WIDTH)
            value = _activated(x, 2 * start + first + column, inside, WIDTH)
            value = tl.clamp(value / row_scale[:, None], -LARGEST, LARGEST)
            tl.store(y + start + first + column, value.to(y.dtype.element_ty), mask=inside)
    tl.store(scale + row, row_scale, mask=row < rows)


def build_silu_and_mul(
    problem: Problem, configuration: Mapping[str, Any]
) -> Callable[[torch.Tensor], tuple[torch.Tensor, ...] | torch.Tensor]:
    """The kernel of a configuration.

    Args:
        problem: of `silu_and_mul`.
        configuration: `rows_per_program`, `block`, `num_warps`, `num_stages`.
    """
    width, together, block = (
        problem["intermediate"],
        configuration["rows_per_program"],
        configuration["block"],
    )
    warps = configuration["num_warps"]

    def activate(x: torch.Tensor) -> torch.Tensor:
        rows = x.shape[0]
        y = torch.empty((rows, width), dtype=x.dtype, device=x.device)
        grid = (triton.cdiv(rows, together), triton.cdiv(width, block))
        arguments = (x.contiguous(), y, rows)
        launch(
            silu_and_mul_kernel, grid, *arguments, WIDTH=width, ROWS=together, BLOCK=block, num_warps=warps
        )
        return y

    def activate_and_quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x.shape[0]
        y = torch.empty((rows, width), dtype=FLOAT8, device=x.device)
        scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device)
        launch(
            silu_and_mul_quantise_kernel,
            (triton.cdiv(rows, together),),
            *(x.contiguous(), y, scale, rows),
            WIDTH=width,
            ROWS=together,
            BLOCK=block,
            STAGES=configuration["num_stages"],
            LARGEST=LARGEST,
            SMALLEST_SCALE=SMALLEST_SCALE,
            num_warps=warps,
        )
        return y, scale

    return activate if problem["quantise"] == "none" else activate_and_quantise
