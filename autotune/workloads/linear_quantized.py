"""`linear` by torch's own quantised products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from autotune.fingerprint.cpu import cpu_facts
from autotune.workloads.int4 import OFFSET
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel

LARGEST_INT8 = 127
ZERO_POINT = 128
"""Activations are unsigned: where AVX-512 VNNI would multiply signed by signed, oneDNN takes its reference
code, which is a thousand times slower."""
SATURATES = "avx2" in cpu_facts()["isa"] and not {"avx512_vnni", "avx_vnni"} & set(cpu_facts()["isa"])
"""Without VNNI, x86 adds two products in 16 bits, which saturate: weights then take 7 of their 8 bits."""


def build_int8_dynamic(problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor) -> Kernel:
    """Weights in 8 bits with a scale per output, activations in 8 bits with a scale per row of each call.

    Args:
        problem: of `linear`.
        configuration: `threads`.
        weight: (n, k).
    """
    m, n, k = problem["m"], problem["n"], problem["k"]
    quantised, scale = to_int8(weight.float(), LARGEST_INT8 // 2 if SATURATES else LARGEST_INT8)
    packed = torch.ops.onednn.qlinear_prepack(quantised, [m, k])
    scale, zeros = scale.flatten(), torch.zeros(n, dtype=torch.int32)
    multiply = torch.ops.onednn.qlinear_pointwise

    def run(x: torch.Tensor) -> torch.Tensor:
        rows, row_scale = _scaled_to_int8(x.float())
        rows = rows.add_(ZERO_POINT).to(torch.uint8)
        # oneDNN takes one scale for all rows: it is 1, and each row's own is applied to the result.
        y: torch.Tensor = multiply(
            rows, 1.0, ZERO_POINT, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.mul_(row_scale).to(x.dtype)

    return with_threads(run, configuration["threads"])


def build_int8_weight_only(
    problem: Problem,  # noqa: ARG001 - as its siblings
    configuration: Mapping[str, Any],
    weight: torch.Tensor,
) -> Kernel:
    """Weights in 8 bits with a scale per output, activations as they are.

    Args:
        problem: of `linear`.
        configuration: `threads`.
        weight: (n, k).
    """
    quantised, scale = to_int8(weight.float())
    scale = scale.flatten().to(weight.dtype)
    return with_threads(
        lambda x: torch.ops.aten._weight_int8pack_mm(x, quantised, scale), configuration["threads"]
    )


def build_int4_weight_only(
    configuration: Mapping[str, Any], values: torch.Tensor, scale: torch.Tensor
) -> Kernel:
    """Weights in 4 bits with a scale for every group along k, activations as they are.

    Args:
        configuration: `threads`.
        values: int8 (n, k), -8 to 7.
        scale: (n, groups), in the type of the activations.
    """
    group = values.shape[1] // scale.shape[1]
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(values.to(torch.int32) + OFFSET, 1)
    # A weight is (stored - 8) * scale + zero; signed values have no zero point.
    scale_and_zero = torch.stack([scale, torch.zeros_like(scale)], dim=-1).transpose(0, 1).contiguous()
    return with_threads(
        lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, scale_and_zero),
        configuration["threads"],
    )


def round_to_int4(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest 4-bit values, int8 (n, k) from -8 to 7, and the scales (n, k / group).

    Args:
        weight: (n, k).
        group: values along k that share a scale.
    """
    n, k = weight.shape
    groups = weight.float().view(n, k // group, group)
    scale = (groups.abs().amax(-1) / 7.5).clamp_min(1e-12).to(weight.dtype)
    values = (groups / scale.float().unsqueeze(-1)).round().clamp(-OFFSET, OFFSET - 1)
    return values.view(n, k).to(torch.int8), scale


def to_int8(rows: torch.Tensor, largest: int = LARGEST_INT8) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of float32 rounded to 8 bits, none beyond `largest`, and its scale (rows, 1)."""
    rounded, scale = _scaled_to_int8(rows, largest)
    return rounded.to(torch.int8), scale


def _scaled_to_int8(rows: torch.Tensor, largest: int = LARGEST_INT8) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row of float32 as whole numbers that 8 bits hold, still in float32, and its scale (rows, 1)."""
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / largest
    return (rows / scale).round_(), scale
