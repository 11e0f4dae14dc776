"""4-bit weights: what is packed comes back, in the order that checkpoints use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.workloads.int4 import int4_steps, pack_int4_g32, unpack_int4_g32


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_packing_is_as_near_as_half_a_step(rows: int, groups: int, seed: int, dtype: torch.dtype) -> None:
    weight = torch.randn(rows, groups * 32, generator=torch.Generator().manual_seed(seed)).to(dtype)
    packed, scale = pack_int4_g32(weight)
    assert (packed.shape, packed.dtype) == ((rows, groups * 4), torch.int32)
    assert (scale.shape, scale.dtype) == ((rows, groups), dtype)
    error = (unpack_int4_g32(packed, scale, torch.float64) - weight.double()).abs()
    # The scale itself is rounded to the weight's type.
    bound = 0.5 * (1 + 16 * torch.finfo(dtype).eps) * scale.double().repeat_interleave(32, 1)
    assert bool((error <= bound).all())


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.integers(-8, 7), min_size=32, max_size=32), scale=st.floats(2**-6, 100, width=16))
def test_unpacking_gives_the_steps_times_the_scale(steps: list[int], scale: float) -> None:
    words = [sum((steps[8 * w + i] + 8) << (4 * i) for i in range(8)) for w in range(4)]
    packed = torch.from_numpy(np.array([words], dtype=np.uint32).view(np.int32))
    assert int4_steps(packed)[0].tolist() == steps
    weight = unpack_int4_g32(packed, torch.tensor([[scale]], dtype=torch.float16), torch.float64)
    assert weight[0].tolist() == [step * scale for step in steps]


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(st.integers(-7, 7), min_size=31, max_size=31), scale=st.sampled_from([0.25, 1.0, 8.0]))
def test_weights_on_a_grid_come_back_exactly(steps: list[int], scale: float) -> None:
    """With a magnitude of 7.5 steps in the group, every other whole step is representable."""
    weight = torch.tensor([[7.5 * scale, *(step * scale for step in steps)]])
    packed, found = pack_int4_g32(weight)
    assert float(found) == scale
    assert unpack_int4_g32(packed, found, torch.float32)[0, 1:].tolist() == weight[0, 1:].tolist()


def test_the_first_value_lies_in_the_lowest_bits_with_an_offset_of_eight() -> None:
    steps = torch.tensor([[-8, -7, 0, 1, 2, 3, 4, 7] * 4], dtype=torch.float32)
    packed, scale = pack_int4_g32(steps)
    # The largest magnitude, 8, maps to 7.5 steps: values move by at most one.
    assert float(scale) == pytest.approx(8 / 7.5)
    words = packed.numpy().view(np.uint32)
    nibbles = [(int(words[0, 0]) >> (4 * i)) & 15 for i in range(8)]
    assert nibbles == [round(v / float(scale)) + 8 for v in steps[0, :8].tolist()]


def test_every_value_comes_back() -> None:
    word = sum(((i * 7) % 16) << (4 * i) for i in range(8))
    packed = torch.from_numpy(np.array([[word] * 4], dtype=np.uint32).view(np.int32))
    assert int4_steps(packed)[0, :8].tolist() == [(i * 7) % 16 - 8 for i in range(8)]
    assert torch.equal(
        unpack_int4_g32(packed, torch.tensor([[0.5]]), torch.float32), int4_steps(packed).float() * 0.5
    )


def test_a_group_of_zeros_stays_zeros() -> None:
    weight = torch.zeros(2, 64, dtype=torch.bfloat16)
    assert not unpack_int4_g32(*pack_int4_g32(weight), torch.float32).any()


def test_leading_dimensions_are_kept() -> None:
    weight = torch.randn(3, 4, 96)
    packed, scale = pack_int4_g32(weight)
    one, one_scale = pack_int4_g32(weight[1])
    assert torch.equal(packed[1], one)
    assert torch.equal(scale[1], one_scale)


def test_columns_that_are_no_whole_groups_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32, not 40"):
        pack_int4_g32(torch.randn(2, 40))
