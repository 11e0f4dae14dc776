"""Launches of Triton kernels: run on the device, or noted, to be compiled for a device that is not here.

A kernel is launched by `launch(kernel, grid, *arguments, **options)`, never by `kernel[grid](...)`. Inside
`noting_launches()` nothing runs: the same code, over tensors on torch's `meta` device, tells its launches.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Launch(NamedTuple):
    """One launch of a Triton kernel.

    Attributes:
        kernel: what `triton.jit` made.
        grid: programs in each of up to three dimensions.
        arguments: by position: tensors, tensor descriptors, numbers.
        options: constants of the kernel and `num_warps`, `num_stages`, ... by name.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


_noted: ContextVar[list[Launch] | None] = ContextVar("noted", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a Triton kernel on the current device, or only note it inside `noting_launches`.

    Args:
        kernel: what `triton.jit` made.
        grid: programs in each of up to three dimensions.
        *arguments: tensors, tensor descriptors and numbers, by position.
        **options: constants of the kernel and `num_warps`, `num_stages`, ... by name.
    """
    noted = _noted.get()
    if noted is None:
        kernel[grid](*arguments, **options)
    else:
        noted.append(Launch(kernel, grid, arguments, options))


@contextmanager
def noting_launches() -> Iterator[list[Launch]]:
    """Collect what `launch` is asked for in this thread, in order, without running any of it."""
    launches: list[Launch] = []
    token = _noted.set(launches)
    try:
        yield launches
    finally:
        _noted.reset(token)
