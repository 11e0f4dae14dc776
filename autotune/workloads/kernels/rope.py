"""Rotary embedding in Triton: queries and keys in one launch, each read and written once.

A program takes some tokens and some heads; which of the two tensors they belong to, its number says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.launch import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem


@triton.jit
def _rotate(
    source,
    target,
    cos,
    sin,
    token,
    head,
    tokens,
    COUNT: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
):
    lane = tl.arange(0, HALF_BLOCK)[None, None, :]
    within = (token < tokens)[:, None, None] & (head < COUNT)[None, :, None]
    start = (token.to(tl.int64)[:, None, None] * COUNT + head[None, :, None]) * HEAD_DIM
    inside = within & (lane < HALF)
    low = tl.load(source + start + lane, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + start + HALF + lane, mask=inside, other=0.0).to(tl.float32)
    dtype: tl.constexpr = target.dtype.element_ty
    tl.store(target + start + lane, (low * cos - high * sin).to(dtype), mask=inside)
    tl.store(target + start + HALF + lane, (high * cos + low * sin).to(dtype), mask=inside)
    if HEAD_DIM > 2 * HALF:
        rest = 2 * HALF + tl.arange(0, REST_BLOCK)[None, None, :]
        inside = within & (rest < HEAD_DIM)
        tl.store(target + start + rest, tl.load(source + start + rest, mask=inside), mask=inside)


@triton.jit
def rope_kernel(
    positions,
    query,
    key,
    cos_sin,
    query_out,
    key_out,
    tokens,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    REST_BLOCK: tl.constexpr,
    TOKENS: tl.constexpr,
    TOGETHER: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    lane = tl.arange(0, HALF_BLOCK)[None, :]
    known = (token < tokens)[:, None] & (lane < HALF)
    position = tl.load(positions + token, mask=token < tokens, other=0)
    at = cos_sin + position[:, None] * (2 * HALF) + lane
    cos = tl.load(at, mask=known, other=0.0).to(tl.float32)[:, None, :]
    sin = tl.load(at + HALF, mask=known, other=0.0).to(tl.float32)[:, None, :]
    block = tl.program_id(1)
    lanes = tl.arange(0, TOGETHER)
    query_blocks: tl.constexpr = (HEADS + TOGETHER - 1) // TOGETHER
    if block < query_blocks:
        head = block * TOGETHER + lanes
        _rotate(
            query, query_out, cos, sin, token, head, tokens, HEADS, HEAD_DIM, HALF, HALF_BLOCK, REST_BLOCK
        )
    else:
        head = (block - query_blocks) * TOGETHER + lanes
        _rotate(key, key_out, cos, sin, token, head, tokens, KV_HEADS, HEAD_DIM, HALF, HALF_BLOCK, REST_BLOCK)


def build_rope(
    problem: Problem, configuration: Mapping[str, Any], cos_sin: torch.Tensor
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The kernel of a configuration.

    Args:
        problem: of `rope`.
        configuration: `tokens_per_program`, `heads_per_program`, `num_warps`.
        cos_sin: (positions, rotary_dim), cosines before sines.
    """
    heads, kv_heads, head_dim = problem["heads"], problem["kv_heads"], problem["head_dim"]
    half, together = problem["rotary_dim"] // 2, configuration["heads_per_program"]
    cos_sin = cos_sin.contiguous()

    def rotate(
        positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        query, key = query.contiguous(), key.contiguous()
        outputs = torch.empty_like(query), torch.empty_like(key)
        grid = (
            triton.cdiv(len(positions), configuration["tokens_per_program"]),
            triton.cdiv(heads, together) + triton.cdiv(kv_heads, together),
        )
        launch(
            rope_kernel,
            grid,
            *(positions, query, key, cos_sin, *outputs, len(positions)),
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            HALF=half,
            HALF_BLOCK=triton.next_power_of_2(half),
            REST_BLOCK=triton.next_power_of_2(max(head_dim - 2 * half, 1)),
            TOKENS=configuration["tokens_per_program"],
            TOGETHER=together,
            num_warps=configuration["num_warps"],
        )
        return outputs

    return rotate
