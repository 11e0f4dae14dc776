"""Memory: what a built configuration holds, in bytes."""

from __future__ import annotations

import ctypes
import gc
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "out of memory")
"""What torch, libc, libstdc++ and CUDA say, lower case."""


def says_out_of_memory(text: str) -> bool:
    """Whether a message is about memory that could not be had."""
    return any(phrase in text.lower() for phrase in OUT_OF_MEMORY)


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of <malloc.h>, glibc 2.33."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


class MemoryHeld:
    """What a configuration holds: what was allocated while it was built, and the weights it kept as they are.

    A packed copy lets production free the original, so a configuration is charged for the original only if it
    still refers to it.

    Args:
        weights: the tensors that the build is given.
        allocated: tells the bytes that are allocated now, where the tensors are.
        collects: whether garbage that refers to itself is collected first, which takes a tenth of a second.
    """

    def __init__(
        self,
        weights: Iterable[torch.Tensor],
        allocated: Callable[[], int] | None = None,
        *,
        collects: bool = True,
    ) -> None:
        self._collects = collects
        self._collect()
        self._now = allocated or allocated_bytes
        self._storages = {storage.data_ptr(): storage for storage in (w.untyped_storage() for w in weights)}
        self._uses = {pointer: _uses(storage) for pointer, storage in self._storages.items()}
        self._allocated = self._now()

    def bytes_since(self) -> int:
        """Bytes held now by what was built since this object was made."""
        self._collect()
        fresh = max(0, self._now() - self._allocated)
        kept = sum(
            storage.nbytes()
            for pointer, storage in self._storages.items()
            if _uses(storage) is None or _uses(storage) != self._uses[pointer]
        )
        return fresh + kept

    def _collect(self) -> None:
        if self._collects:
            gc.collect()


def allocated_bytes() -> int:
    """Bytes that the process holds from `malloc`; where libc does not tell, its resident memory."""
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return resident_bytes(os.getpid())
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def resident_bytes(pid: int) -> int:
    """Resident memory of a process that is not backed by files; 0 if the process is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            fields = dict(line.split(":", 1) for line in file)
        return sum(int(fields.get(name, "0").split()[0]) for name in ("RssAnon", "RssShmem")) << 10
    except (OSError, ValueError, IndexError):
        return 0


def _uses(storage: torch.UntypedStorage) -> int | None:
    """How many tensors refer to a storage, None if torch does not tell."""
    import torch

    count = getattr(torch._C, "_storage_Use_Count", None)
    return None if count is None else int(count(storage._cdata))
