"""Intra-op threads as a kernel parameter: set while the kernel runs, and restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from autotune.workloads.base import Kernel


def with_threads(kernel: Kernel, threads: int | None) -> Kernel:
    """`kernel`, run with this many intra-op threads; the process's own number holds before and after.

    Args:
        kernel: to run.
        threads: at least 1; None leaves them as they are, as on a GPU, where they compute nothing.
    """
    if threads is None:
        return kernel

    def run(*arguments: torch.Tensor) -> Any:
        before = torch.get_num_threads()
        if before == threads:
            return kernel(*arguments)
        torch.set_num_threads(threads)
        try:
            return kernel(*arguments)
        finally:
            torch.set_num_threads(before)

    return run
