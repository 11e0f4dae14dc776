"""Choices of experts put in order on the device, without the host ever knowing them, in Triton.

The rows of a tile of a grouped product share an expert. So every expert's choices are padded to whole tiles:
a count of each expert, sums of counts, and a place for each choice. Where there are at most a quarter as many
choices as experts, each choice has a tile of its own, and nothing is put in order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from autotune.workloads.launch import launch

CHUNK = 256
"""Choices, or tiles, of one program."""
SPARSE = 4


class Order(NamedTuple):
    """Tiles of choices.

    Attributes:
        choices: int32 (tiles * rows of a tile,), number of a choice or, for padding, how many there are.
        experts: of every tile.
        tiles: int32 (1,), how many tiles are in use.
        most: tiles that there may be.
        is_sorted: whether there is an order; without one, tile i holds choice i alone and `choices` nothing.
    """

    choices: torch.Tensor
    experts: torch.Tensor
    tiles: torch.Tensor
    most: int
    is_sorted: bool


@triton.jit
def count_kernel(ids, counts, numel, CHUNK: tl.constexpr):
    choice = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    expert = tl.load(ids + choice, mask=choice < numel, other=0)
    tl.atomic_add(counts + expert, 1, mask=choice < numel)


@triton.jit
def tiles_kernel(
    counts,
    places,
    experts,
    tiles,
    most,
    EXPERTS: tl.constexpr,
    EXPERTS_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
):
    expert = tl.arange(0, EXPERTS_BLOCK)
    known = expert < EXPERTS
    taken = (tl.load(counts + expert, mask=known, other=0) + ROWS - 1) // ROWS
    ends = tl.cumsum(taken, 0)
    program = tl.program_id(0)
    if program == 0:
        tl.store(places + expert, (ends - taken) * ROWS, mask=known)
        tl.store(tiles, tl.sum(taken, 0))
    # A tile's expert is the number of experts whose tiles end before it or with it.
    tile = program * TILES + tl.arange(0, TILES)
    before = known[None, :] & (ends[None, :] <= tile[:, None])
    found = tl.minimum(tl.sum(before.to(tl.int32), 1), EXPERTS - 1)
    tl.store(experts + tile, found, mask=tile < most)


@triton.jit
def place_kernel(ids, places, choices, numel, CHUNK: tl.constexpr):
    choice = tl.program_id(0) * CHUNK + tl.arange(0, CHUNK)
    there = choice < numel
    expert = tl.load(ids + choice, mask=there, other=0)
    # Which of an expert's rows a choice gets is chance; what is computed for it does not depend on that.
    place = tl.atomic_add(places + expert, 1, mask=there)
    tl.store(choices + place, choice, mask=there)


def put_in_order(ids: torch.Tensor, experts: int, rows: int) -> Order:
    """Tiles of `rows` choices that share an expert.

    Args:
        ids: int64 (tokens, top_k), the experts chosen.
        experts: how many there are.
        rows: of a tile.
    """
    numel, ids = ids.numel(), ids.contiguous()
    if numel * SPARSE <= experts:
        return Order(ids, ids, ids, numel, is_sorted=False)
    most = triton.cdiv(numel + min(experts, numel) * (rows - 1), rows)

    def integers(count: int) -> torch.Tensor:
        return torch.empty(count, dtype=torch.int32, device=ids.device)

    counts = torch.zeros(experts, dtype=torch.int32, device=ids.device)
    places, tile_experts, tiles = integers(experts), integers(most), integers(1)
    choices = torch.full((most * rows,), numel, dtype=torch.int32, device=ids.device)
    chunks, tiles_of_program = triton.cdiv(numel, CHUNK), 16
    launch(count_kernel, (chunks,), ids, counts, numel, CHUNK=CHUNK)
    launch(
        tiles_kernel,
        (triton.cdiv(most, tiles_of_program),),
        *(counts, places, tile_experts, tiles, most),
        EXPERTS=experts,
        EXPERTS_BLOCK=triton.next_power_of_2(experts),
        ROWS=rows,
        TILES=tiles_of_program,
    )
    launch(place_kernel, (chunks,), ids, places, choices, numel, CHUNK=CHUNK)
    return Order(choices, tile_experts, tiles, most, is_sorted=True)
