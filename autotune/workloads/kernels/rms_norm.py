"""Root-mean-square norm in Triton: residual, norm, weight and quantisation in one pass over memory.

A program takes some rows. Where a block holds a whole row, the row stays in registers between its sum of
squares and its scaling; otherwise it is read a second time, which the cache serves. All arithmetic is in
float32.
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
def _sum_of_inputs(x, residual, at, inside, ADD: tl.constexpr):
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def _store_row(y, value, scale, at, inside, QUANTISE: tl.constexpr, LARGEST: tl.constexpr):
    if QUANTISE:
        value = tl.clamp(value / scale[:, None], -LARGEST, LARGEST)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def rms_norm_kernel(
    x,
    residual,
    weight,
    y,
    total,
    scale,
    rows,
    epsilon,
    HIDDEN: tl.constexpr,
    ADD: tl.constexpr,
    QUANTISE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    start = row.to(tl.int64)[:, None] * HIDDEN
    column = tl.arange(0, BLOCK)[None, :]
    within = (row < rows)[:, None]
    row_scale = tl.full((ROWS,), 1.0, tl.float32)
    if BLOCK >= HIDDEN:
        inside = within & (column < HIDDEN)
        at = start + column
        value = _sum_of_inputs(x, residual, at, inside, ADD)
        if ADD:
            tl.store(total + at, value.to(total.dtype.element_ty), mask=inside)
        factor = tl.rsqrt(tl.sum(value * value, 1) / HIDDEN + epsilon)
        weighted = value * tl.load(weight + column, mask=column < HIDDEN, other=0.0).to(tl.float32)
        if QUANTISE:
            row_scale = tl.maximum(factor * tl.max(tl.abs(weighted), 1) / LARGEST, SMALLEST_SCALE)
            tl.store(scale + row, row_scale, mask=row < rows)
        _store_row(y, weighted * factor[:, None], row_scale, at, inside, QUANTISE, LARGEST)
    else:
        squares = tl.zeros((ROWS,), tl.float32)
        largest = tl.zeros((ROWS,), tl.float32)
        for first in tl.range(0, HIDDEN, BLOCK, num_stages=STAGES):
            inside = within & (first + column < HIDDEN)
            at = start + first + column
            value = _sum_of_inputs(x, residual, at, inside, ADD)
            if ADD:
                tl.store(total + at, value.to(total.dtype.element_ty), mask=inside)
            squares += tl.sum(value * value, 1)
            if QUANTISE:
                # The norm's factor is positive and the same for all: the largest stays the largest.
                scales = tl.load(weight + first + column, mask=first + column < HIDDEN, other=0.0)
                largest = tl.maximum(largest, tl.max(tl.abs(value * scales.to(tl.float32)), 1))
        factor = tl.rsqrt(squares / HIDDEN + epsilon)
        if QUANTISE:
            row_scale = tl.maximum(factor * largest / LARGEST, SMALLEST_SCALE)
            tl.store(scale + row, row_scale, mask=row < rows)
        for first in tl.range(0, HIDDEN, BLOCK, num_stages=STAGES):
            inside = within & (first + column < HIDDEN)
            at = start + first + column
            # The inputs again: their stored sum is rounded, and other threads may have stored it.
            value = _sum_of_inputs(x, residual, at, inside, ADD)
            scales = tl.load(weight + first + column, mask=first + column < HIDDEN, other=0.0)
            weighted = value * scales.to(tl.float32)
            _store_row(y, weighted * factor[:, None], row_scale, at, inside, QUANTISE, LARGEST)


def build_rms_norm(
    problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor, epsilon: float
) -> Callable[..., tuple[torch.Tensor, ...] | torch.Tensor]:
    """The kernel of a configuration.

    Args:
        problem: of `rms_norm`.
        configuration: `rows_per_program`, `block`, `num_warps`, `num_stages`.
        weight: (hidden,).
        epsilon: added to the mean of squares.
    """
    hidden, adds = problem["hidden"], problem["residual"] == "add"
    quantises, weight = problem["quantise"] != "none", weight.contiguous()
    together = configuration["rows_per_program"]

    def norm(
        x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...] | torch.Tensor:
        x = x.contiguous()
        residual = x if residual is None else residual.contiguous()
        rows = x.shape[0]
        y = torch.empty_like(x, dtype=FLOAT8 if quantises else x.dtype)
        scale = torch.empty((rows, 1), dtype=torch.float32, device=x.device) if quantises else x
        total = torch.empty_like(x) if adds else x
        launch(
            rms_norm_kernel,
            (triton.cdiv(rows, together),),
            *(x, residual, weight, y, total, scale, rows, epsilon),
            HIDDEN=hidden,
            ADD=adds,
            QUANTISE=quantises,
            ROWS=together,
            BLOCK=configuration["block"],
            STAGES=configuration["num_stages"],
            LARGEST=LARGEST,
            SMALLEST_SCALE=SMALLEST_SCALE,
            num_warps=configuration["num_warps"],
        )
        outputs = (y, *([scale] if quantises else []), *([total] if adds else []))
        return outputs if len(outputs) > 1 else y

    return norm
