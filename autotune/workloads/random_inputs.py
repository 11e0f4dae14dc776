"""Realistic random weights and activations, made quickly."""

from __future__ import annotations

import math

import torch

BLOCK = (1 << 22) - 3
"""Normal random numbers drawn for one tensor: 20480 x 7168 of them would take seconds. Larger tensors repeat
the block under other scales; its odd length keeps rows of usual widths from repeating each other in step."""
OUTLIER_SHARE = 1 / 256
OUTLIER_SCALE = 8.0
"""A few channels of a model's activations are far larger than the rest (Dettmers et al., "LLM.int8()",
NeurIPS 2022): it is what rounding activations to 8 bits suffers from."""


def random_weight(
    shape: tuple[int, ...],
    scale: float,
    dtype: torch.dtype,
    generator: torch.Generator,
    device: str = "cpu",
) -> torch.Tensor:
    """Normal random numbers of mean 0.

    Args:
        shape: of the tensor.
        scale: standard deviation.
        dtype: of the tensor.
        generator: of the random numbers, on the CPU, so that they are the same for every device.
        device: of the tensor; on `meta`, where only shapes matter, nothing is drawn.
    """
    if device == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    return _drawn(shape, scale, dtype, generator).to(device)


def _drawn(
    shape: tuple[int, ...], scale: float, dtype: torch.dtype, generator: torch.Generator
) -> torch.Tensor:
    count = math.prod(shape)
    block = torch.randn(min(count, BLOCK), generator=generator).mul_(scale).to(dtype)
    if count <= BLOCK:
        return block.view(shape)
    weight = torch.empty(count, dtype=dtype)
    parts = torch.split(weight, BLOCK)
    factors = (1 + 0.2 * torch.rand(len(parts), generator=generator)).tolist()
    for part, factor in zip(parts, factors, strict=True):
        torch.mul(block[: len(part)], factor, out=part)
    return weight.view(shape)


def random_activations(
    shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator, device: str = "cpu"
) -> torch.Tensor:
    """Normal random numbers of mean 0 and deviation 1, but for the few columns that are outliers.

    Args:
        shape: rows and columns.
        dtype: of the tensor.
        generator: of the random numbers, on the CPU, so that they are the same for every device.
        device: of the tensor; on `meta`, where only shapes matter, nothing is drawn.
    """
    if device == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    rows, columns = shape
    x = torch.randn(rows, columns, generator=generator)
    outliers = torch.randperm(columns, generator=generator)[: int(columns * OUTLIER_SHARE)]
    x[:, outliers] *= OUTLIER_SCALE
    return x.to(dtype).to(device)


def repeated_rows(block: torch.Tensor, rows: int) -> torch.Tensor:
    """Memory of its own, filled with the rows of a block over and over.

    Args:
        block: (drawn, columns).
        rows: of the result, (rows, columns).
    """
    full = torch.empty((rows, block.shape[1]), dtype=block.dtype)
    for first in range(0, rows, len(block)):
        part = full[first : first + len(block)]
        part.copy_(block[: len(part)])
    return full
