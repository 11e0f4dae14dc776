"""The routed experts of a layer in Triton: choices put in order, two grouped products, an activation, a mix.

A tile of a grouped product holds choices of one expert. Parameters have the names and the meaning of vLLM's
tuned files, so that a winner can be written to one: one set serves both products. Weights are multiplied as
they are stored: as floating-point numbers; in float8 with a scale for every block of 128 by 128, by
activations as they are or in float8 with a scale for every 128 of a row (DeepSeek-V3, arXiv:2412.19437); in 4
bits with a scale for every 32.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.float8 import BLOCK, FLOAT8, LARGEST, SMALLEST_SCALE
from autotune.workloads.int4 import GROUP, OFFSET
from autotune.workloads.kernels.expert_order import put_in_order
from autotune.workloads.launch import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Tensors
    from autotune.workloads.kernels.expert_order import Order

COLUMNS = 1024
"""Columns of one program of the steps beside the products, which move little."""


@triton.jit
def _int4_tile(
    packed,
    scales,
    n,
    k,
    inside,
    K: tl.constexpr,
    GROUP: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Weights (BLOCK_N, BLOCK_K) in the scales' type; two lie in a byte, the lower four bits first."""
    byte = k // 2 + tl.arange(0, BLOCK_K // 2)
    group = k // GROUP + tl.arange(0, BLOCK_K // GROUP)
    row = n.to(tl.int64)[:, None]
    there = inside[:, None]
    pair = tl.load(packed + row * (K // 2) + byte[None, :], mask=there & (byte < K // 2)[None, :], other=0)
    steps = tl.interleave((pair & 15).to(tl.int8), (pair >> 4).to(tl.int8)) - OFFSET
    scale = tl.load(
        scales + row * (K // GROUP) + group[None, :], mask=there & (group < K // GROUP)[None, :], other=0.0
    )
    grouped = (
        tl.reshape(steps.to(tl.float32), (BLOCK_N, BLOCK_K // GROUP, GROUP))
        * scale.to(tl.float32)[:, :, None]
    )
    return tl.reshape(grouped, (BLOCK_N, BLOCK_K)).to(scales.dtype.element_ty)


@triton.jit
def experts_kernel(
    a,
    a_scales,
    b,
    b_scales,
    c,
    mix,
    choices,
    experts,
    tiles,
    numel,
    most,
    N: tl.constexpr,
    K: tl.constexpr,
    TOP_K: tl.constexpr,
    IS_SORTED: tl.constexpr,
    MIXES: tl.constexpr,
    WEIGHTS: tl.constexpr,
    SCALES_A: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_SIZE_M: tl.constexpr,
    BLOCK_SIZE_N: tl.constexpr,
    BLOCK_SIZE_K: tl.constexpr,
    GROUP_SIZE_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
):
    """c[choice] = a[choice // TOP_K] @ b[expert of the choice].T"""
    # Programs that run at the same time share tiles of a and b: GROUP_SIZE_M tiles before the next column.
    program, split = tl.program_id(0), tl.program_id(1)
    columns: tl.constexpr = (N + BLOCK_SIZE_N - 1) // BLOCK_SIZE_N
    group_programs: tl.constexpr = GROUP_SIZE_M * columns
    first_tile = program // group_programs * GROUP_SIZE_M
    group_rows = tl.minimum(most - first_tile, GROUP_SIZE_M)
    tile = first_tile + program % group_programs % group_rows
    column = program % group_programs // group_rows
    row = tl.arange(0, BLOCK_SIZE_M)
    if IS_SORTED:
        if tile >= tl.load(tiles):
            return
        choice = tl.load(choices + tile * BLOCK_SIZE_M + row)
    else:
        choice = tl.where(row == 0, tile, numel)
    expert = tl.load(experts + tile).to(tl.int64)
    real = choice < numel
    choice = choice.to(tl.int64)
    n = column * BLOCK_SIZE_N + tl.arange(0, BLOCK_SIZE_N)
    lane = tl.arange(0, BLOCK_SIZE_K)
    a_row = a + (choice // TOP_K)[:, None] * K
    scale_columns: tl.constexpr = (K + BLOCK - 1) // BLOCK
    scale_rows: tl.constexpr = (N + BLOCK - 1) // BLOCK
    if WEIGHTS == "int4":
        b += expert * (N * (K // 2))
        b_scales += expert * (N * (K // GROUP))
    else:
        b_row = b + expert * (N * K) + n.to(tl.int64)[None, :] * K
        b_scale_row = b_scales + (expert * scale_rows + n // BLOCK) * scale_columns
    blocks: tl.constexpr = (K + BLOCK_SIZE_K - 1) // BLOCK_SIZE_K
    each: tl.constexpr = (blocks + SPLIT_K - 1) // SPLIT_K
    sums = tl.zeros((BLOCK_SIZE_M, BLOCK_SIZE_N), tl.float32)
    for i in tl.range(split * each, tl.minimum((split + 1) * each, blocks)):
        k = i * BLOCK_SIZE_K
        within = k + lane < K
        x = tl.load(a_row + (k + lane)[None, :], mask=real[:, None] & within[None, :], other=0.0)
        if WEIGHTS == "int4":
            w = _int4_tile(b, b_scales, n, k, n < N, K, GROUP, OFFSET, BLOCK_SIZE_N, BLOCK_SIZE_K)
            sums += tl.dot(x, tl.trans(w), input_precision=PRECISION)
        else:
            w = tl.load(b_row + (k + lane)[:, None], mask=within[:, None] & (n < N)[None, :], other=0.0)
            if WEIGHTS == "float8":
                # BLOCK_SIZE_K divides BLOCK: one scale for every column of the tile.
                scale = tl.load(b_scale_row + k // BLOCK, mask=n < N, other=0.0)[None, :]
                if SCALES_A:
                    a_scale_at = a_scales + choice // TOP_K * scale_columns + k // BLOCK
                    a_scale = tl.load(a_scale_at, mask=real, other=0.0)
                    sums += tl.dot(x, w) * (a_scale[:, None] * scale)
                else:
                    sums += tl.dot(x, w.to(x.dtype), input_precision=PRECISION) * scale
            else:
                sums += tl.dot(x, w, input_precision=PRECISION)
    if MIXES:
        sums *= tl.load(mix + choice, mask=real, other=0.0)[:, None]
    at = (split.to(tl.int64) * numel + choice)[:, None] * N + n[None, :]
    tl.store(c + at, sums.to(c.dtype.element_ty), mask=real[:, None] & (n < N)[None, :])


@triton.jit
def activate_kernel(
    x,
    y,
    scales,
    rows,
    WIDTH: tl.constexpr,
    SPLITS: tl.constexpr,
    ACTIVATES: tl.constexpr,
    QUANTISES: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST_SCALE: tl.constexpr,
):
    """silu(gate) * up of the sum of all splits, or x itself; in float8 a scale for every BLOCK."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < WIDTH
    if ACTIVATES:
        gate = tl.zeros((COLUMNS,), tl.float32)
        up = tl.zeros((COLUMNS,), tl.float32)
        for split in tl.range(0, SPLITS):
            at = x + (split * rows + row) * (2 * WIDTH) + column
            gate += tl.load(at, mask=inside, other=0.0).to(tl.float32)
            up += tl.load(at + WIDTH, mask=inside, other=0.0).to(tl.float32)
        value = gate / (1.0 + tl.exp(-gate)) * up
    else:
        value = tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    if QUANTISES:
        grouped = tl.reshape(value, (COLUMNS // BLOCK, BLOCK))
        scale = tl.maximum(tl.max(tl.abs(grouped), 1) / LARGEST, SMALLEST_SCALE)
        value = tl.reshape(tl.clamp(grouped / scale[:, None], -LARGEST, LARGEST), (COLUMNS,))
        group = tl.program_id(1) * (COLUMNS // BLOCK) + tl.arange(0, COLUMNS // BLOCK)
        groups: tl.constexpr = (WIDTH + BLOCK - 1) // BLOCK
        tl.store(scales + row * groups + group, scale, mask=group < groups)
    tl.store(y + row * WIDTH + column, value.to(y.dtype.element_ty), mask=inside)


@triton.jit
def mix_kernel(
    x, y, tokens, WIDTH: tl.constexpr, TOP_K: tl.constexpr, SPLITS: tl.constexpr, COLUMNS: tl.constexpr
):
    """The sum of a token's choices, weighted before, over all splits."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < WIDTH
    total = tl.zeros((COLUMNS,), tl.float32)
    for part in tl.range(0, SPLITS * TOP_K):
        row = (part // TOP_K * tokens + token) * TOP_K + part % TOP_K
        total += tl.load(x + row * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + token * WIDTH + column, total.to(y.dtype.element_ty), mask=inside)


def build_experts(
    problem: Problem, configuration: Mapping[str, Any], weights: Tensors, *, quantises: bool
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The kernels of a configuration.

    Args:
        problem: of `fused_moe`.
        configuration: `BLOCK_SIZE_M`, `BLOCK_SIZE_N`, `BLOCK_SIZE_K`, `GROUP_SIZE_M`, `num_warps`,
            `num_stages`, and with 4-bit weights `SPLIT_K`: parts that the summed dimension is split into.
        weights: as the checkpoint stores them.
        quantises: whether activations are multiplied in float8; the weights are in float8 then.
    """
    experts, top_k, hidden = problem["experts"], problem["top_k"], problem["hidden"]
    width, dtype, splits = (
        problem["intermediate"],
        getattr(torch, problem["dtype"]),
        configuration.get("SPLIT_K", 1),
    )
    made = {name: weight.contiguous() for name, weight in weights.items()}
    if problem["weight_format"] == "int4_g32":
        made.update({name: made[name].view(torch.uint8) for name in ("w13", "w2")})
    multiply = partial(_multiply, problem, configuration)
    part_type = dtype if splits == 1 else torch.float32

    def run(hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        tokens, device = hidden_states.shape[0], hidden_states.device
        order = put_in_order(topk_ids, experts, configuration["BLOCK_SIZE_M"])
        mix, x = topk_weights.contiguous(), hidden_states.contiguous()
        x_scales = x
        if quantises:
            x, x_scales = _activate(x, tokens, hidden, FLOAT8, splits=1, activates=False)
        choices = tokens * top_k
        both = torch.empty((splits, choices, 2 * width), dtype=part_type, device=device)
        multiply(x, x_scales, made, "w13", both, mix, order, shared=top_k)
        y, y_scales = _activate(
            both, choices, width, FLOAT8 if quantises else dtype, splits=splits, activates=True
        )
        parts = torch.empty((splits, choices, hidden), dtype=part_type, device=device)
        multiply(y, y_scales, made, "w2", parts, mix, order, shared=1)
        out = torch.empty((tokens, hidden), dtype=dtype, device=device)
        grid = (tokens, triton.cdiv(hidden, COLUMNS))
        launch(
            mix_kernel, grid, parts, out, tokens, WIDTH=hidden, TOP_K=top_k, SPLITS=splits, COLUMNS=COLUMNS
        )
        return out

    return run


def _multiply(
    problem: Problem,
    configuration: Mapping[str, Any],
    a: torch.Tensor,
    a_scales: torch.Tensor,
    weights: Tensors,
    name: str,
    c: torch.Tensor,
    mix: torch.Tensor,
    order: Order,
    *,
    shared: int,
) -> None:
    """One grouped product; `shared` choices have one row of `a`. The second one weighs its results."""
    splits, choices, n = c.shape
    b = weights[name]
    launch(
        experts_kernel,
        (order.most * triton.cdiv(n, configuration["BLOCK_SIZE_N"]), splits),
        *(a, a_scales, b, weights.get(f"{name}_scale", b), c, mix, order.choices, order.experts, order.tiles),
        *(choices, order.most),
        N=n,
        K=a.shape[-1],
        TOP_K=shared,
        IS_SORTED=order.is_sorted,
        MIXES=shared == 1,
        WEIGHTS={"native": "native", "int4_g32": "int4"}.get(problem["weight_format"], "float8"),
        SCALES_A=a.dtype == FLOAT8,
        PRECISION="ieee" if a.dtype == torch.float32 else "tf32",
        BLOCK=BLOCK,
        GROUP=GROUP,
        OFFSET=OFFSET,
        BLOCK_SIZE_M=configuration["BLOCK_SIZE_M"],
        BLOCK_SIZE_N=configuration["BLOCK_SIZE_N"],
        BLOCK_SIZE_K=configuration["BLOCK_SIZE_K"],
        GROUP_SIZE_M=configuration["GROUP_SIZE_M"],
        SPLIT_K=splits,
        num_warps=configuration["num_warps"],
        num_stages=configuration["num_stages"],
    )


def _activate(
    x: torch.Tensor, rows: int, width: int, dtype: torch.dtype, *, splits: int, activates: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, width) of `dtype`, and its scales where that is float8; else the result again."""
    y = torch.empty((rows, width), dtype=dtype, device=x.device)
    quantises, scales = dtype == FLOAT8, y
    if quantises:
        scales = torch.empty((rows, triton.cdiv(width, BLOCK)), dtype=torch.float32, device=x.device)
    launch(
        activate_kernel,
        (rows, triton.cdiv(width, COLUMNS)),
        *(x, y, scales, rows),
        WIDTH=width,
        SPLITS=splits,
        ACTIVATES=activates,
        QUANTISES=quantises,
        BLOCK=BLOCK,
        COLUMNS=COLUMNS,
        LARGEST=LARGEST,
        SMALLEST_SCALE=SMALLEST_SCALE,
    )
    return y, scales
