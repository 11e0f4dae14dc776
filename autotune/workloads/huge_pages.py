"""Memory in huge pages: where weights are streamed, walking page tables costs as much as reading them.

Under a hypervisor every miss of the translation buffer walks two nested tables. On a 2-core virtual machine
(AMD Zen 4) two threads read 28 GB/s from pages of 4 KiB and 50 GB/s from pages of 2 MiB.
"""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_BYTES = 2 << 20
"""On x86-64, and on Arm with pages of 4 KiB."""

# From <sys/mman.h>: ask for huge pages, fault all in (Linux 5.14), merge what small pages there are (6.1).
_ADVICES = (14, 23, 25)


def empty_in_huge_pages(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """An unwritten tensor on the CPU, in huge pages if the system grants them and it fills at least one.

    Args:
        shape: of the tensor.
        dtype: of the tensor.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < PAGE_BYTES:
        return torch.empty(shape, dtype=dtype)
    whole = math.ceil(size / PAGE_BYTES) * PAGE_BYTES
    memory = torch.empty(whole + PAGE_BYTES, dtype=torch.uint8)
    start = -memory.data_ptr() % PAGE_BYTES
    for advice in _ADVICES:
        # A kernel that does not know an advice, or grants no huge pages, leaves the memory as good as any.
        _madvise()(memory.data_ptr() + start, whole, advice)
    return memory[start : start + size].view(dtype).view(shape)


@cache
def _madvise() -> Callable[[int, int, int], int]:
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    return function
