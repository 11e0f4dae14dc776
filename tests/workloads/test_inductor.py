from __future__ import annotations

import pytest
import torch

from autotune.workloads.inductor import compile_with_inductor


@pytest.mark.slow
def test_a_function_is_compiled_for_as_many_sizes_as_there_are():
    """Dynamo gives up on a code object after eight recompilations; each of ours is one of its own."""

    def double(x):
        return x * 2

    kernels = [compile_with_inductor(double, [torch.zeros(size)], threads=1) for size in range(2, 13)]
    for size, kernel in enumerate(kernels, start=2):
        assert torch.equal(torch.full((size,), 2.0), kernel(torch.ones(size)))
