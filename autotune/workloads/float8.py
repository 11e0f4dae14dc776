"""Float8 e4m3 with scales: rows for activations, blocks of 128 by 128 for weights.

A block-scaled weight (..., n, k) is float8 (..., n, k) with float32 scales (..., ceil(n / 128),
ceil(k / 128)), as DeepSeek V3 and Kimi K2 checkpoints store it: a value is stored * scale (DeepSeek-V3,
arXiv:2412.19437).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from autotune.workloads.random_inputs import repeated_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest finite number of e4m3fn."""
SMALLEST_SCALE = 1e-12
"""A row of zeros has this scale, so that nothing is divided by zero."""
BLOCK = 128
BLOCK_FORMAT = f"fp8_block{BLOCK}x{BLOCK}"
"""What problems call a checkpoint's weights that are stored in blocks."""
DISTINCT_ROWS = 509
"""Rows of random stored weights that are drawn; the others repeat them. A prime, so that blocks differ."""
DEVIATION = LARGEST / 4.2
"""Of float8 weights as stored: the largest of a block's 16,384 normal numbers is about 4.2 deviations."""


def quantise_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in float8, each scaled so that its largest magnitude is the largest of float8.

    Args:
        rows: (..., columns) of a floating type; arithmetic is in float32.

    Returns:
        float8 (..., columns) and float32 scales (..., 1): a value is stored * scale.
    """
    values = rows.float()
    scale = (values.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return (values / scale).clamp(-LARGEST, LARGEST).to(FLOAT8), scale


def exact_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `quantise_rows` rounds, in the type given: values scaled to float8's range, and the scales."""
    scale = (rows.abs().amax(-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return rows / scale, scale


def quantise_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight in float8 with a scale for every block of 128 by 128.

    Args:
        weight: (..., n, k) of a floating type.

    Returns:
        float8 (..., n, k) and float32 scales (..., ceil(n / 128), ceil(k / 128)).
    """
    *_, n, k = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -k % BLOCK, 0, -n % BLOCK))
    *outer, rows, columns = padded.shape
    blocks = padded.view(*outer, rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    scale = (blocks.abs().amax((-3, -1)) / LARGEST).clamp_min(SMALLEST_SCALE)
    stored = (weight.float() / _spread(scale, n, k)).clamp(-LARGEST, LARGEST).to(FLOAT8)
    return stored, scale


def dequantise_blocks(weight: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight that float8 storage stands for, each value rounded to `dtype` once.

    Args:
        weight: float8 (..., n, k).
        scale: float32 (..., ceil(n / 128), ceil(k / 128)).
        dtype: of the result.
    """
    *_, n, k = weight.shape
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (weight.to(wide) * _spread(scale.to(wide), n, k)).to(dtype)


def random_blocks(
    shape: Sequence[int], deviation: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal weights as a checkpoint stores them in blocks: they fill float8's range.

    Args:
        shape: (..., n, k).
        deviation: standard deviation of what the weights stand for.
        generator: of the random numbers, on the CPU.

    Returns:
        float8 (..., n, k) and float32 scales (..., ceil(n / 128), ceil(k / 128)).
    """
    *outer, n, k = shape
    rows = math.prod((*outer, n))
    drawn = torch.randn((min(rows, DISTINCT_ROWS), k), generator=generator) * DEVIATION
    stored = drawn.clamp(-LARGEST, LARGEST).to(FLOAT8)
    factors = 1 + 0.2 * torch.rand((*outer, *blocks_of(n, k)), generator=generator)
    return repeated_rows(stored, rows).view(*outer, n, k), factors * deviation / DEVIATION


def blocks_of(n: int, k: int) -> tuple[int, int]:
    """How many blocks a weight (n, k) has along each side."""
    return -(-n // BLOCK), -(-k // BLOCK)


def _spread(scale: torch.Tensor, n: int, k: int) -> torch.Tensor:
    """Scales of blocks, repeated for every value: (..., n, k)."""
    return scale.repeat_interleave(BLOCK, -2).repeat_interleave(BLOCK, -1)[..., :n, :k]
