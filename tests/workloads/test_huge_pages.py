from __future__ import annotations

import pytest
import torch

from autotune.measure.memory import allocated_bytes
from autotune.workloads.huge_pages import PAGE_BYTES, empty_in_huge_pages


@pytest.mark.parametrize("elements", [0, 1, 1000, PAGE_BYTES // 2 - 1, PAGE_BYTES // 2, PAGE_BYTES + 7])
def test_tensor_has_its_shape_and_can_be_written(elements):
    tensor = empty_in_huge_pages((1, elements), torch.bfloat16)
    tensor.fill_(3.0)
    assert ((1, elements), torch.bfloat16, True) == (
        tuple(tensor.shape),
        tensor.dtype,
        tensor.is_contiguous(),
    )
    assert tensor.float().sum().item() == 3.0 * elements


def test_tensor_of_a_page_or_more_starts_on_one():
    assert 0 == empty_in_huge_pages((PAGE_BYTES,), torch.uint8).data_ptr() % PAGE_BYTES


def test_memory_is_counted_and_given_back():
    """It comes from the process's own allocator, so that a configuration is charged for it."""
    before = allocated_bytes()
    tensor = empty_in_huge_pages((16 * PAGE_BYTES,), torch.uint8)
    assert allocated_bytes() - before >= 16 * PAGE_BYTES
    del tensor
    assert allocated_bytes() - before < PAGE_BYTES


def test_memory_that_was_handed_out_before_may_be_used_again():
    """Small pages that the allocator recycles hold no surprise."""
    for _ in range(3):
        torch.empty(3 * PAGE_BYTES, dtype=torch.uint8).fill_(1)
        assert 5 == empty_in_huge_pages((3 * PAGE_BYTES,), torch.uint8).fill_(5).max().item()
