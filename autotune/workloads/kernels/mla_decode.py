"""Latent attention over the cache as it is stored, in Triton: a latent is read once, as key and value.

Queries are taken into the latent space first, results out of it last (DeepSeek-V2, arXiv:2405.04434), in
between all heads share one key. Positions are dealt out over programs as in `split_kv.py`. The precise form
writes a query and a weight as the sum of two 16-bit numbers, which multiplies a 16-bit cache nearly as
float32 would, without converting the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from autotune.workloads.kernels.split_kv import HIDDEN, LOG2_E, attend_in_splits, split_positions, weigh_block
from autotune.workloads.launch import launch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem


@triton.jit
def _times(x, y, TERMS: tl.constexpr, PRECISION: tl.constexpr):
    """x @ y in float32 for float32 x: x rounded to y's type, and with a second term what that lost."""
    rounded = x.to(y.dtype)
    product = tl.dot(rounded, y, input_precision=PRECISION)
    if TERMS == 2:
        product += tl.dot((x - rounded.to(tl.float32)).to(y.dtype), y, input_precision=PRECISION)
    return product


@triton.jit
def latent_kernel(
    query,
    latent,
    rope,
    parts,
    sums,
    scale,
    context,
    each,
    latent_batch,
    latent_row,
    rope_batch,
    rope_row,
    HEADS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROPE: tl.constexpr,
    ROPE_BLOCK: tl.constexpr,
    SPLITS: tl.constexpr,
    TERMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    head_blocks: tl.constexpr = (HEADS + BLOCK_H - 1) // BLOCK_H
    program = tl.program_id(0)
    batch = (program // head_blocks).to(tl.int64)
    head = program % head_blocks * BLOCK_H + tl.arange(0, BLOCK_H)
    lane, rope_lane = tl.arange(0, RANK_BLOCK), tl.arange(0, ROPE_BLOCK)
    lanes, rope_lanes = (lane < RANK)[None, :], (rope_lane < ROPE)[None, :]
    within = (head < HEADS)[:, None]
    query_row = query + (batch * HEADS + head)[:, None] * (RANK + ROPE)
    q = tl.load(query_row + lane[None, :], mask=within & lanes, other=0.0)
    q_rope = tl.load(query_row + RANK + rope_lane[None, :], mask=within & rope_lanes, other=0.0)
    latent += batch * latent_batch
    rope += batch * rope_batch

    split = tl.program_id(1)
    first = split * each
    last = tl.minimum(first + each, context)
    largest = tl.full((BLOCK_H,), HIDDEN, tl.float32)
    total = tl.zeros((BLOCK_H,), tl.float32)
    result = tl.zeros((BLOCK_H, RANK_BLOCK), tl.float32)
    for start in tl.range(first, last, BLOCK_N):
        position = start + tl.arange(0, BLOCK_N)
        there = (position < last)[:, None]
        offset = position.to(tl.int64)[:, None]
        c = tl.load(latent + offset * latent_row + lane[None, :], mask=there & lanes, other=0.0)
        r = tl.load(rope + offset * rope_row + rope_lane[None, :], mask=there & rope_lanes, other=0.0)
        scores = _times(q, tl.trans(c), TERMS, PRECISION) + _times(q_rope, tl.trans(r), TERMS, PRECISION)
        seen = (position < last)[None, :]
        weights, shrink, largest, total = weigh_block(scores * scale, seen, largest, total)
        result = result * shrink[:, None] + _times(weights, c, TERMS, PRECISION)
    result = result / total[:, None]
    out_row = (batch * HEADS + head) * SPLITS + split
    stored = within & lanes
    tl.store(parts + out_row[:, None] * RANK + lane[None, :], result.to(parts.dtype.element_ty), mask=stored)
    if SPLITS > 1:
        tl.store(sums + out_row, largest + tl.log2(total), mask=head < HEADS)


def build_latent_attention(
    problem: Problem,
    configuration: Mapping[str, Any],
    to_key: torch.Tensor,
    to_value: torch.Tensor,
    *,
    precise: bool,
) -> Callable[..., torch.Tensor]:
    """The kernel of a configuration, over `q_nope`, `q_rope` and the cache in one tensor or two.

    Args:
        problem: of `mla_decode`.
        configuration: `block_h`, `block_n`, `splits`, `num_warps`, `num_stages`.
        to_key: (heads, qk_nope, kv_lora_rank), takes a query into the latent space.
        to_value: (heads, v_dim, kv_lora_rank), takes a result out of it.
        precise: whether queries, weights and what is between the products are as good as float32.
    """
    heads, rank, rope = problem["heads"], problem["kv_lora_rank"], problem["qk_rope"]
    context, dtype, kv_dtype = problem["context"], getattr(torch, problem["dtype"]), problem["kv_dtype"]
    between = torch.float32 if precise else dtype
    to_key, to_value = to_key.to(between).contiguous(), to_value.to(between).contiguous()
    scale = (problem["qk_nope"] + rope) ** -0.5 * LOG2_E
    each, splits = split_positions(context, configuration["splits"], configuration["block_n"])
    head_blocks = triton.cdiv(heads, configuration["block_h"])
    full = kv_dtype == "float32"

    def attend(q_nope: torch.Tensor, q_rope: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        batch = len(q_nope)
        query = torch.empty((batch, heads, rank + rope), dtype=torch.float32, device=q_nope.device)
        query[..., :rank] = torch.bmm(q_nope.transpose(0, 1).to(between), to_key).transpose(0, 1)
        query[..., rank:] = q_rope
        keys, ropes = cache if len(cache) == 2 else (cache[0][..., :rank], cache[0][..., rank:])

        def run(parts: torch.Tensor, sums: torch.Tensor) -> None:
            launch(
                latent_kernel,
                (batch * head_blocks, splits),
                *(query, keys, ropes, parts, sums, scale, context, each),
                *(*keys.stride()[:2], *ropes.stride()[:2]),
                HEADS=heads,
                RANK=rank,
                RANK_BLOCK=max(16, triton.next_power_of_2(rank)),
                ROPE=rope,
                ROPE_BLOCK=max(16, triton.next_power_of_2(rope)),
                SPLITS=splits,
                TERMS=2 if precise and not full else 1,
                PRECISION="ieee" if full else "tf32",
                BLOCK_H=configuration["block_h"],
                BLOCK_N=configuration["block_n"],
                num_warps=configuration["num_warps"],
                num_stages=configuration["num_stages"],
            )

        latent = torch.empty((batch, heads, rank), dtype=between, device=q_nope.device)
        attend_in_splits(run, latent, splits)
        return torch.bmm(latent.transpose(0, 1), to_value.mT).transpose(0, 1).to(dtype).contiguous()

    return attend
