"""What decode attention kernels share: positions dealt out to programs, and their parts put together again.

Each split of the cached positions gives, for every query row, the weighted mean of its values and the log
of the sum of its weights; the parts are then weighted by those sums (Dao et al., "Flash-Decoding", 2023).
Nothing is added up in an order that varies, so the same inputs always give the same result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from autotune.workloads.launch import launch

if TYPE_CHECKING:
    from collections.abc import Callable

HIDDEN = tl.constexpr(-1.0e30)
"""Score of a position that a query does not see; infinities would give NaN where a row sees none."""
LOG2_E = 1.4426950408889634


@triton.jit
def weigh_block(scores, seen, largest, total):
    """Weights of a block of positions under the running maximum, and what was summed before, rescaled."""
    scores = tl.where(seen, scores, HIDDEN)
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    shrink = tl.exp2(largest - new_largest)
    weights = tl.where(seen, tl.exp2(scores - new_largest[:, None]), 0.0)
    return weights, shrink, new_largest, total * shrink + tl.sum(weights, 1)


@triton.jit
def combine_kernel(
    parts,
    sums,
    out,
    SPLITS: tl.constexpr,
    SPLITS_BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH_BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS_BLOCK)
    every = tl.load(sums + row * SPLITS + split, mask=split < SPLITS, other=HIDDEN)
    largest = tl.max(every, 0)
    total = tl.sum(tl.where(split < SPLITS, tl.exp2(every - largest), 0.0), 0)
    lane = tl.arange(0, WIDTH_BLOCK)
    result = tl.zeros((WIDTH_BLOCK,), tl.float32)
    for i in tl.range(0, SPLITS):
        weight = tl.exp2(tl.load(sums + row * SPLITS + i) - largest)
        part = tl.load(parts + (row * SPLITS + i) * WIDTH + lane, mask=lane < WIDTH, other=0.0)
        result += weight * part
    tl.store(out + row * WIDTH + lane, (result / total).to(out.dtype.element_ty), mask=lane < WIDTH)


def split_positions(positions: int, splits: int, block: int) -> tuple[int, int]:
    """Positions of a split, a multiple of `block`, and how many splits there are then.

    Args:
        positions: to be dealt out.
        splits: wished for; there may be fewer, as none is empty.
        block: positions that are computed at once.
    """
    each = triton.cdiv(triton.cdiv(positions, splits), block) * block
    return each, triton.cdiv(positions, each)


def attend_in_splits(
    attend: Callable[[torch.Tensor, torch.Tensor], None], out: torch.Tensor, splits: int
) -> torch.Tensor:
    """Run an attention kernel over every split, and put the parts together.

    Args:
        attend: writes parts (rows, splits, width) and sums (rows, splits) in float32; with one split, `out`.
        out: (..., width), contiguous.
        splits: how many there are.
    """
    width = out.shape[-1]
    rows = out.numel() // width
    if splits == 1:
        attend(out, out)
        return out
    parts = torch.empty((rows, splits, width), dtype=torch.float32, device=out.device)
    sums = torch.empty((rows, splits), dtype=torch.float32, device=out.device)
    attend(parts, sums)
    launch(
        combine_kernel,
        (rows,),
        *(parts, sums, out),
        SPLITS=splits,
        SPLITS_BLOCK=triton.next_power_of_2(splits),
        WIDTH=width,
        WIDTH_BLOCK=triton.next_power_of_2(width),
        num_warps=4 if width > 128 else 1,
    )
    return out
