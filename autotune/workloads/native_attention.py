"""The native attention kernel, `kernels/attention.cpp`, as a function of tensors."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, NamedTuple

from autotune.workloads.native import NativeKernel, Workspaces, address, load_kernel, storage_type

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


class Tiling(NamedTuple):
    """How the kernel goes through queries and keys.

    Attributes:
        rows: query rows in a register tile: 1, 2, 4 or 8.
        block: keys per step of the softmax.
        tile: query rows that one work item holds.
        prefetch: keys ahead of the one in use to fetch; 0 leaves it to the hardware.
        packed: whether a block of keys and values is rearranged for bfloat16 dot products.
    """

    rows: int
    block: int
    tile: int
    prefetch: int = 0
    packed: bool = False


class Widths(NamedTuple):
    """Elements of a key's first part, of its second part (0: none) and of a value."""

    key1: int
    key2: int
    value: int


def attention_kernel(
    query: torch.dtype, cache: torch.dtype, out: torch.dtype, widths: Widths, tiling: Tiling
) -> NativeKernel:
    """What is compiled for these types and sizes."""
    definitions: dict[str, int | str] = {
        "QUERY": storage_type(query),
        "KV": storage_type(cache),
        "OUT": storage_type(out),
        "K1": widths.key1,
        "K2": widths.key2,
        "V": widths.value,
        "ROWS": tiling.rows,
        "BLOCK": tiling.block,
        "TILE": tiling.tile,
        "PREFETCH": tiling.prefetch,
        "PACK": int(tiling.packed),
    }
    return NativeKernel.of("attention.cpp", definitions)


def native_attention(
    query: torch.dtype, cache: torch.dtype, out: torch.dtype, widths: Widths, tiling: Tiling
) -> Callable[..., None]:
    """Compile the kernel for these types and sizes.

    Returns:
        `attend(query, key1, key2, value, out, scale=..., splits=1, causal=False)`, which writes `out`.
        Tensors are (batch, heads, positions, width), of any strides but for the last dimension; keys and
        values may have fewer heads than queries. `key2` is None when its width is 0. `splits` is the number
        of parts of the context that are attended to independently. Causal queries are the last positions of
        the keys.
    """
    library = load_kernel(attention_kernel(query, cache, out, widths, tiling))
    kernel, workspace_size = library.attention, library.attention_workspace
    kernel.argtypes = [ctypes.c_void_p] * 7 + [ctypes.c_float, ctypes.c_void_p]
    kernel.restype = None
    workspace_size.argtypes = [ctypes.c_int64] * 4
    workspace_size.restype = ctypes.c_int64
    workspaces = Workspaces()

    def attend(
        query: torch.Tensor,
        key1: torch.Tensor,
        key2: torch.Tensor | None,
        value: torch.Tensor,
        out: torch.Tensor,
        *,
        scale: float,
        splits: int = 1,
        causal: bool = False,
    ) -> None:
        batch, heads, queries, _ = query.shape
        groups, keys = key1.shape[1:3]
        shared = heads // groups
        strides: list[int] = []
        for tensor in (query, key1, key2, value, out):
            strides += (0, 0, 0) if tensor is None else tensor.stride()[:3]
        with workspaces.lent(workspace_size(batch, groups, shared * queries, splits)) as workspace:
            kernel(
                *map(address, (query, key1, key2, value, out)),
                (ctypes.c_int64 * 7)(batch, groups, shared, queries, keys, splits, causal),
                (ctypes.c_int64 * 15)(*strides),
                scale,
                workspace,
            )

    return attend
