"""Poisoned memory holds garbage at every size, and ordinary memory none."""

from __future__ import annotations

import pytest
import torch

from autotune.measure.poison import POISON_BYTE, patched_torch, perturbed_malloc, poisoned


def _holds_poison(size: int) -> bool:
    # Written and freed first: memory that an allocator hands out again at once is likeliest to be missed.
    torch.zeros(size, dtype=torch.uint8)
    return bool((torch.empty(size, dtype=torch.uint8) == POISON_BYTE).all())


@pytest.mark.parametrize("size", [1, 48, 100, 5000, 1 << 20, 1 << 25])
def test_unwritten_memory_is_poisoned_at_every_size(size):
    with poisoned():
        assert all(_holds_poison(size) for _ in range(100 if size < 1 << 16 else 3))


@pytest.mark.parametrize("size", [4096, 1 << 16, 1 << 20, 1 << 25])
def test_memory_that_native_code_allocates_is_poisoned(size):
    with perturbed_malloc():
        assert all(_holds_poison(size) for _ in range(3))


@pytest.mark.parametrize("way", [poisoned, patched_torch])
def test_every_function_that_returns_unwritten_memory_is_covered(way):
    like = torch.zeros(3, 4)
    with way():
        fresh = [
            torch.empty(3, 4),
            torch.empty_like(like),
            torch.empty_strided((3, 4), (4, 1)),
            like.new_empty(3, 4),
            like.new_empty_strided((3, 4), (4, 1)),
        ]
    assert all(bool((tensor > 1e38).all()) for tensor in fresh)


def test_memory_is_as_before_afterwards():
    original = torch.empty
    with pytest.raises(RuntimeError, match="inside"), poisoned():
        raise RuntimeError("inside")
    assert torch.empty is original
    assert not _holds_poison(1 << 25)


def test_written_memory_is_unharmed():
    with poisoned():
        assert bool((torch.zeros(1000) == 0).all())
        assert bool((torch.ones(1000) @ torch.ones(1000, 5) == 1000).all())
