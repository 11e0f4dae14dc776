"""`linear` by our own C++ kernel: weights packed tile by tile, so that a call reads them once, front to back.

It computes what oneDNN's packed product computes, in the same order of tiles (Goto and van de Geijn, ACM TOMS
34(3), 2008, without blocking along k: with few rows the weights are the traffic). What it gains over oneDNN
comes from memory: one sequential stream a thread, in huge pages.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch

from autotune.workloads import native
from autotune.workloads.huge_pages import empty_in_huge_pages
from autotune.workloads.int4 import GROUP, int4_steps
from autotune.workloads.native import STORAGE_TYPES, NativeKernel, accepted, load_kernel, storage_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel

OFFSET = 8
"""Added to signed 4-bit values, which are stored unsigned."""


def build_native(
    problem: Problem,
    configuration: Mapping[str, Any],
    weight: torch.Tensor,
    values: torch.dtype | None = None,
) -> Kernel:
    """The kernel over weights of the problem's own type.

    Args:
        problem: of `linear`.
        configuration: `tile_m` and `tile_n` in elements of the output, `threads`.
        weight: (n, k).
        values: type of x and y; the problem's own by default.
    """
    packed = pack_dense(weight, configuration["tile_n"])
    return _kernel(problem, configuration, packed, weight_bits=0, values=values)


def build_native_rounded(
    problem: Problem,
    configuration: Mapping[str, Any],
    weight: torch.Tensor,
    values: torch.dtype | None = None,
) -> Kernel:
    """The kernel over weights rounded to `bits` bits in groups of 32, each with a scale in float16.

    Args:
        problem: of `linear`; k is a multiple of 32.
        configuration: `bits` (8, 9, 10 or 12), `tile_m` and `tile_n` in elements of the output, `threads`.
        weight: (n, k).
        values: type of x and y; the problem's own by default.
    """
    bits, (n, k) = configuration["bits"], weight.shape
    library = load_kernel(native_kernel(problem, configuration, bits, values))
    library.linear_packed.argtypes = (ctypes.c_int64,) * 2
    library.linear_packed.restype = ctypes.c_int64
    library.linear_pack.argtypes = (ctypes.c_void_p,) * 2 + (ctypes.c_int64,) * 3
    library.linear_pack.restype = None
    packed, weight = empty_in_huge_pages((library.linear_packed(n, k),), torch.uint8), weight.contiguous()
    library.linear_pack(weight.data_ptr(), packed.data_ptr(), n, k, configuration["threads"])
    return _kernel(problem, configuration, packed, weight_bits=bits, values=values)


def build_native_int4(
    problem: Problem, configuration: Mapping[str, Any], packed: torch.Tensor, scale: torch.Tensor
) -> Kernel:
    """The kernel over 4-bit weights in groups of 32, which it multiplies as they are stored.

    Args:
        problem: of `linear`.
        configuration: `tile_m` and `tile_n` in elements of the output, `threads`.
        packed: int32 (n, k / 8).
        scale: (n, k / 32).
    """
    pairs = scale.dtype == torch.bfloat16
    repacked = pack_int4(packed, scale, configuration["tile_n"], pairs=pairs)
    return _kernel(problem, configuration, repacked, weight_bits=4)


def pack_dense(weight: torch.Tensor, tile_n: int) -> torch.Tensor:
    """Weights in the order in which the kernel reads them: (tiles, steps, tile_n).

    bfloat16 goes in pairs along k, as int32, so a step is two k; other types go one by one.
    """
    n, k = weight.shape
    lanes = weight
    if weight.dtype == torch.bfloat16:
        even = torch.nn.functional.pad(weight, (0, 1)) if k % 2 else weight.contiguous()
        lanes = even.view(torch.int32)
    tiles, steps = -(-n // tile_n), lanes.shape[1]
    packed = empty_in_huge_pages((tiles, steps, tile_n), lanes.dtype)
    whole = n // tile_n
    packed[:whole] = lanes[: whole * tile_n].view(whole, tile_n, steps).transpose(1, 2)
    if whole < tiles:
        packed[whole:] = 0
        packed[whole, :, : n - whole * tile_n] = lanes[whole * tile_n :].t()
    return packed


def pack_int4(packed: torch.Tensor, scale: torch.Tensor, tile_n: int, *, pairs: bool) -> torch.Tensor:
    """4-bit weights in the order in which the kernel reads them: bytes (tiles, bytes of a tile).

    Args:
        packed: int32 (n, k / 8), eight values each, the first in the lowest bits.
        scale: (n, k / 32).
        tile_n: columns of a tile.
        pairs: whether the kernel takes two values along k at a time.
    """
    n, groups = scale.shape
    lanes = native.LANES
    tiles, vectors = -(-n // tile_n), tile_n // lanes
    padding = (0, 0, 0, tiles * tile_n - n)
    words = torch.nn.functional.pad(_in_pairs(packed) if pairs else packed, padding)
    scales = torch.nn.functional.pad(scale, padding)
    value_bytes = groups * tile_n * GROUP // 2
    tile_bytes = value_bytes + groups * tile_n * scale.element_size()
    whole = empty_in_huge_pages((tiles, tile_bytes), torch.uint8)
    # (tiles, vectors, lanes, groups, words) -> (tiles, groups, vectors, words, lanes)
    ordered = words.view(tiles, vectors, lanes, groups, 4).permute(0, 3, 1, 4, 2)
    whole[:, :value_bytes] = ordered.contiguous().view(torch.uint8).view(tiles, value_bytes)
    by_group = scales.view(tiles, tile_n, groups).transpose(1, 2)
    whole[:, value_bytes:] = by_group.contiguous().view(torch.uint8).view(tiles, -1)
    return whole


def _in_pairs(packed: torch.Tensor) -> torch.Tensor:
    """Words whose even values lie in the lower half and whose odd values lie in the upper half."""
    values = (int4_steps(packed) + OFFSET).view(torch.uint8).view(*packed.shape, 4, 2)
    halves = torch.zeros(*packed.shape, 2, dtype=torch.int32)
    for r in range(4):
        halves |= values[..., r, :].to(torch.int32) << (4 * r)
    low, high = halves.unbind(-1)
    return low | (high << 16)


def native_kernel(
    problem: Problem,
    configuration: Mapping[str, Any],
    weight_bits: int,
    values: torch.dtype | None = None,
) -> NativeKernel:
    """What is compiled for a configuration.

    Args:
        problem: of `linear`.
        configuration: tiles and prefetching.
        weight_bits: 4, 8, 9, 10 or 12, or 0 for the problem's own type.
        values: type of x and y; the problem's own by default.
    """
    definitions: dict[str, int | str] = {
        "STORED": STORAGE_TYPES[problem["dtype"]],
        "WEIGHT_BITS": weight_bits,
        "TILE_M": configuration["tile_m"],
        "TILE_N": configuration["tile_n"],
        "REST": problem["m"] % configuration["tile_m"],
        "PREFETCH": configuration.get("prefetch", 0),
    }
    if values is not None:
        definitions["VALUES"] = storage_type(values)
    return NativeKernel.of("linear.cpp", definitions)


def _kernel(
    problem: Problem,
    configuration: Mapping[str, Any],
    packed: torch.Tensor,
    weight_bits: int,
    values: torch.dtype | None = None,
) -> Kernel:
    m, n, k, dtype = problem["m"], problem["n"], problem["k"], values or getattr(torch, problem["dtype"])
    library = load_kernel(native_kernel(problem, configuration, weight_bits, values))
    library.linear_workspace.argtypes = (ctypes.c_int64,) * 2
    library.linear_workspace.restype = ctypes.c_int64
    library.linear.argtypes = (ctypes.c_void_p,) * 4 + (ctypes.c_int64,) * 4
    library.linear.restype = None
    linear, threads = library.linear, configuration["threads"]
    workspace_bytes = library.linear_workspace(m, k)
    shape, count = torch.Size((m, k)), m * k
    spare: list[torch.Tensor] = []

    def run(x: torch.Tensor) -> torch.Tensor:
        # What is needed for safety; comparing shapes takes 5 us with cold caches.
        if x.numel() != count or x.dtype is not dtype or not x.is_contiguous():
            x = accepted(x, shape, dtype, "linear: x")
        y = torch.empty(m, n, dtype=dtype)
        if not workspace_bytes:
            linear(x.data_ptr(), packed.data_ptr(), y.data_ptr(), 0, m, n, k, threads)
            return y
        # Each call under way has its own; with cold caches an allocation takes 25 us.
        try:
            workspace = spare.pop()
        except IndexError:
            workspace = torch.empty(workspace_bytes, dtype=torch.uint8)
        linear(x.data_ptr(), packed.data_ptr(), y.data_ptr(), workspace.data_ptr(), m, n, k, threads)
        spare.append(workspace)
        return y

    return run
