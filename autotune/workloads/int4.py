"""Symmetric 4-bit weights in groups of 32, stored as compressed-tensors stores `pack-quantized` ones.

A weight (..., n, k) becomes `packed` int32 (..., n, k / 8) and `scale` (..., n, k / 32). Eight values lie in
one int32 along the input dimension, the first in the lowest four bits, each offset by 8.
"""

from __future__ import annotations

import torch

GROUP = 32
PER_INT32 = 8
OFFSET = 8


def pack_int4_g32(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest 4-bit weight: largest magnitude of a group maps to 7.5 steps, as in compressed-tensors.

    Args:
        weight: (..., n, k) of a floating type; k is a multiple of 32.

    Returns:
        `packed` int32 (..., n, k / 8) and `scale` (..., n, k / 32) in the weight's type.

    Raises:
        ValueError: k is not a multiple of 32.
    """
    *rows, k = weight.shape
    if k % GROUP:
        raise ValueError(f"int4_g32 needs the input dimension to be a multiple of {GROUP}, not {k}")
    groups = weight.float().view(*rows, k // GROUP, GROUP)
    scale = (groups.abs().amax(-1) / 7.5).clamp_min(torch.finfo(torch.float32).tiny).to(weight.dtype)
    steps = (groups / scale.float().unsqueeze(-1)).nan_to_num(0.0).round().clamp(-OFFSET, OFFSET - 1)
    nibbles = (steps.to(torch.int8) + OFFSET).view(torch.uint8).view(*rows, k // 2, 2)
    # Two values make a byte; four bytes, least significant first, make the int32.
    octets = nibbles[..., 0] | (nibbles[..., 1] << 4)
    return octets.contiguous().view(torch.int32), scale


def int4_steps(packed: torch.Tensor) -> torch.Tensor:
    """The stored values, -8 to 7: `packed` (..., n, k / 8) gives int8 (..., n, k)."""
    octets = packed.contiguous().view(torch.uint8)
    nibbles = torch.stack([octets & 15, octets >> 4], dim=-1).flatten(-2)
    return nibbles.view(torch.int8) - OFFSET


def unpack_int4_g32(packed: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The weight that 4-bit storage stands for.

    Args:
        packed: int32 (..., n, k / 8).
        scale: (..., n, k / 32).
        dtype: of the result; each value is rounded to it once.

    Returns:
        (..., n, k) of `dtype`.
    """
    steps = int4_steps(packed)
    *rows, k = steps.shape
    groups = steps.view(*rows, k // GROUP, GROUP).to(dtype) * scale.to(dtype).unsqueeze(-1)
    return groups.view(*rows, k)
