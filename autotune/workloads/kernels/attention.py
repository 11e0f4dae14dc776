"""Decode attention with grouped queries in Triton: keys and values read once for all heads that share them.

The query heads of a key head, and the few query positions of speculative decoding, are the rows of one tile
for the matrix unit. Positions are dealt out over programs (see `split_kv.py`) with softmax computed as they
come (Milakov and Gimelshein, arXiv:1805.02867).
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
def decode_kernel(
    query,
    key,
    value,
    parts,
    sums,
    scale,
    kv_len,
    each,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    value_batch,
    value_head,
    value_row,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    Q_LEN: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    CAUSAL: tl.constexpr,
    SPLITS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    shared: tl.constexpr = HEADS // KV_HEADS
    row_blocks: tl.constexpr = (shared * Q_LEN + BLOCK_M - 1) // BLOCK_M
    program = tl.program_id(0)
    kv_head = program // row_blocks % KV_HEADS
    batch = (program // row_blocks // KV_HEADS).to(tl.int64)
    row = program % row_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    head = kv_head * shared + row // Q_LEN
    at = row % Q_LEN
    within = row < shared * Q_LEN
    lane = tl.arange(0, HEAD_BLOCK)
    query_at = (
        query + batch * query_batch + head[:, None] * query_head + at[:, None] * query_row + lane[None, :]
    )
    q = tl.load(query_at, mask=within[:, None] & (lane < HEAD_DIM)[None, :], other=0.0)
    key += batch * key_batch + kv_head.to(tl.int64) * key_head
    value += batch * value_batch + kv_head.to(tl.int64) * value_head

    split = tl.program_id(1)
    first = split * each
    last = tl.minimum(first + each, kv_len)
    largest = tl.full((BLOCK_M,), HIDDEN, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    result = tl.zeros((BLOCK_M, HEAD_BLOCK), tl.float32)
    for start in tl.range(first, last, BLOCK_N):
        position = start + tl.arange(0, BLOCK_N)
        inside = (position < last)[:, None] & (lane < HEAD_DIM)[None, :]
        offset = position.to(tl.int64)[:, None]
        k = tl.load(key + offset * key_row + lane[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        seen = (position < last)[None, :]
        if CAUSAL:
            seen = seen & (position[None, :] <= kv_len - Q_LEN + at[:, None])
        weights, shrink, largest, total = weigh_block(scores, seen, largest, total)
        v = tl.load(value + offset * value_row + lane[None, :], mask=inside, other=0.0)
        result = result * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    # A row may see nothing of a split: its weight is nothing then, and its part must be a number.
    result = result / tl.where(total > 0, total, 1.0)[:, None]
    out_row = ((batch * Q_LEN + at) * HEADS + head) * SPLITS + split
    stored = within[:, None] & (lane < HEAD_DIM)[None, :]
    tl.store(
        parts + out_row[:, None] * HEAD_DIM + lane[None, :], result.to(parts.dtype.element_ty), mask=stored
    )
    if SPLITS > 1:
        logarithm = largest + tl.log2(tl.where(total > 0, total, 1.0))
        tl.store(sums + out_row, tl.where(total > 0, logarithm, HIDDEN), mask=within)


def build_decode(
    problem: Problem, configuration: Mapping[str, Any]
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """The kernel of a configuration, over tensors (batch, heads, positions, head_dim) of any strides.

    Args:
        problem: of `attention`.
        configuration: `block_m`, `block_n`, `splits`, `num_warps`, `num_stages`.
    """
    heads, kv_heads, head_dim = problem["heads"], problem["kv_heads"], problem["head_dim"]
    q_len, kv_len, block_m = problem["q_len"], problem["kv_len"], configuration["block_m"]
    each, splits = split_positions(kv_len, configuration["splits"], configuration["block_n"])
    row_blocks = triton.cdiv(heads // kv_heads * q_len, block_m)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        query, key, value = (t if t.stride(-1) == 1 else t.contiguous() for t in (query, key, value))
        batch = query.shape[0]

        def run(parts: torch.Tensor, sums: torch.Tensor) -> None:
            launch(
                decode_kernel,
                (batch * kv_heads * row_blocks, splits),
                *(query, key, value, parts, sums, head_dim**-0.5 * LOG2_E, kv_len, each),
                *query.stride()[:3],
                *key.stride()[:3],
                *value.stride()[:3],
                HEADS=heads,
                KV_HEADS=kv_heads,
                Q_LEN=q_len,
                HEAD_DIM=head_dim,
                HEAD_BLOCK=max(16, triton.next_power_of_2(head_dim)),
                CAUSAL=problem["causal"] == "yes" and q_len > 1,
                SPLITS=splits,
                PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
                BLOCK_M=block_m,
                BLOCK_N=configuration["block_n"],
                num_warps=configuration["num_warps"],
                num_stages=configuration["num_stages"],
            )

        out = torch.empty((batch, q_len, heads, head_dim), dtype=query.dtype, device=query.device)
        return attend_in_splits(run, out, splits)

    return attend
