"""Poisoned allocations: memory that a kernel leaves unwritten is full of garbage that no check can miss.

Fresh memory often holds zeros, or the right answer of the call before. Inside `poisoned` every allocation
comes back filled with 0x7F bytes: a huge finite number in float32, float64 and bfloat16 (unlike
NaN it stays harmless where it is multiplied by zero, as padding may be), NaN in float16, 127 in int8.
"""

from __future__ import annotations

import ctypes
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POISON_BYTE = 0x7F
_M_PERTURB = -6
"""From <malloc.h>: fill what is handed out with the complement of the value; 0 for nothing."""
_ALLOCATORS = (
    (torch, "empty"),
    (torch, "empty_like"),
    (torch, "empty_strided"),
    (torch.Tensor, "new_empty"),
    (torch.Tensor, "new_empty_strided"),
)


@contextmanager
def poisoned() -> Iterator[None]:
    """Every CPU allocation inside comes back filled with garbage; for checking only, never while timing.

    glibc's allocator does it for all code in the process, C++ included, but for the small chunks that a
    thread keeps for itself; another allocator (jemalloc, say) does not do it at all. So torch's functions
    that return unwritten tensors to Python are replaced besides.
    """
    with perturbed_malloc(), patched_torch():
        yield


@contextmanager
def perturbed_malloc() -> Iterator[None]:
    """glibc fills what it hands out, above about a kilobyte; without effect on other allocators."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_M_PERTURB, ~POISON_BYTE & 0xFF)
    try:
        yield
    finally:
        mallopt(_M_PERTURB, 0)


@contextmanager
def patched_torch() -> Iterator[None]:
    """torch's allocating functions fill what they hand out to Python."""
    originals = [(owner, name, getattr(owner, name)) for owner, name in _ALLOCATORS]
    try:
        for owner, name, original in originals:
            setattr(owner, name, _filled(original))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _filled(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocate_poisoned(*args: Any, **kwargs: Any) -> torch.Tensor:
        fresh = allocate(*args, **kwargs)
        if fresh.device.type in ("cpu", "cuda") and not fresh.is_mkldnn:
            # torch.tensor, since torch.empty is this very function while the replacement lasts.
            bytes_of = torch.tensor([], dtype=torch.uint8, device=fresh.device)
            bytes_of.set_(fresh.untyped_storage()).fill_(POISON_BYTE)
        return fresh

    return allocate_poisoned
