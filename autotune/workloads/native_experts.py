"""The native kernel for a mixture of experts, `kernels/experts.cpp`, as a function of tensors."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

import torch

from autotune.workloads.native import NativeKernel, Workspaces, address, load_kernel, storage_type

if TYPE_CHECKING:
    from collections.abc import Callable


class Tiling(NamedTuple):
    """How the kernel goes through weights and tokens.

    Attributes:
        rows: weight rows in a register tile.
        tokens: tokens in a register tile.
        block: weight rows visited before the next tile of tokens.
        prefetch: bytes ahead of the weights in use to fetch; 0 leaves it to the hardware.
        dot: whether products are the CPU's bfloat16 dot products; else they are taken in float32.
    """

    rows: int
    tokens: int
    block: int
    prefetch: int
    dot: bool


class Experts(NamedTuple):
    """Weights of all experts.

    Attributes:
        w13: gate above up, (experts, 2 * intermediate, hidden), or packed in int4_g32.
        w2: down, (experts, hidden, intermediate), or packed in int4_g32.
        w13_scale: scales of int4_g32, else None.
        w2_scale: the same.
    """

    w13: torch.Tensor
    w2: torch.Tensor
    w13_scale: torch.Tensor | None = None
    w2_scale: torch.Tensor | None = None


def experts_kernel(dtype: torch.dtype, tiling: Tiling, *, int4: bool) -> NativeKernel:
    """What is compiled for weights of a type, or in int4_g32 with scales of that type."""
    definitions: dict[str, int | str] = {
        "TYPE": storage_type(dtype),
        "INT4": int(int4),
        "DOT": int(tiling.dot),
        "ROWS": tiling.rows,
        "TOKENS": tiling.tokens,
        "BLOCK": tiling.block,
        "PREFETCH": tiling.prefetch,
    }
    return NativeKernel.of("experts.cpp", definitions)


def native_experts(
    dtype: torch.dtype, experts: Experts, tiling: Tiling
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Compile the kernel.

    Args:
        dtype: of hidden states, scales and native weights.
        experts: contiguous; used as they are.
        tiling: how to go through them.

    Returns:
        `forward(hidden_states, topk_ids, topk_weights)` for contiguous (tokens, hidden) of `dtype`, int64 and
        float32 (tokens, top_k).
    """
    library = load_kernel(experts_kernel(dtype, tiling, int4=experts.w13_scale is not None))
    kernel, workspace_size = library.experts_forward, library.experts_workspace
    kernel.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64] * 5 + [ctypes.c_void_p]
    kernel.restype = None
    workspace_size.argtypes = [ctypes.c_int64] * 5
    workspace_size.restype = ctypes.c_int64
    workspaces = Workspaces()
    count, intermediate = experts.w13.shape[0], experts.w13.shape[1] // 2
    weights = (experts.w13, experts.w13_scale, experts.w2, experts.w2_scale)

    def forward(
        hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor
    ) -> torch.Tensor:
        out = torch.empty_like(hidden_states)
        tokens, hidden = hidden_states.shape
        sizes = (tokens, topk_ids.shape[1], count, hidden, intermediate)
        inputs = map(address, (hidden_states, topk_ids, topk_weights))
        size = workspace_size(tokens, topk_ids.shape[1], count, hidden, intermediate)
        with workspaces.lent(size) as workspace:
            kernel(*inputs, *map(address, weights), out.data_ptr(), *sizes, workspace)
        return out

    return forward
