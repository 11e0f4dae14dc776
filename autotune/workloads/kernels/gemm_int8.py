"""y = x @ w.T in Triton for weights in 8 bits with a scale per output, activations as they are (W8A16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autotune.workloads.kernels.gemm import build_gemm
from autotune.workloads.linear_quantized import to_int8

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel


def build_triton_int8(problem: Problem, configuration: Mapping[str, Any], weight: torch.Tensor) -> Kernel:
    """The product over the nearest weights in 8 bits, which x's type holds exactly.

    Args:
        problem: of `linear`.
        configuration: as `build_gemm` takes it.
        weight: (n, k).
    """
    quantised, scale = to_int8(weight.float())
    return build_gemm(problem, configuration, quantised, scale.flatten())
