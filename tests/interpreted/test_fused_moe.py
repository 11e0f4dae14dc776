"""The experts' kernels: every weight format, choices in order or not, sizes that no tile divides."""

from __future__ import annotations

import pytest
import torch

from autotune.workloads.kernels.expert_order import put_in_order
from tests.workloads.gpu_targets import assert_right_in_the_interpreter, interpreted_error, spread

SMALL = {"hidden": 96, "intermediate": 64, "dtype": "float16"}
PROBLEMS = (
    {"tokens": 1, "experts": 9, "top_k": 2, **SMALL},
    {"tokens": 19, "experts": 3, "top_k": 2, "hidden": 40, "intermediate": 24, "dtype": "float32"},
    {"tokens": 1, "experts": 8, "top_k": 2, **SMALL, "weight_format": "int4_g32"},
    {"tokens": 5, "experts": 2, "top_k": 2, **SMALL, "weight_format": "int4_g32"},
    {"tokens": 3, "experts": 4, "top_k": 2, **SMALL, "hidden": 136, "weight_format": "fp8_block128x128"},
)
LARGEST_FLOAT8_ERROR = 0.05
"""Activations of three mantissa bits before either product."""


@pytest.mark.parametrize("dimensions", PROBLEMS, ids=str)
def test_each_value_of_the_space_gives_the_reference(dimensions):
    for problem, configuration in spread("fused_moe", dimensions, "triton"):
        assert_right_in_the_interpreter(problem, configuration)


def test_activations_in_float8_are_some_percent_off():
    for problem, configuration in spread("fused_moe", PROBLEMS[-1], "triton_fp8"):
        error, _ = interpreted_error(problem, configuration)
        assert 0.01 < error < LARGEST_FLOAT8_ERROR, configuration


@pytest.mark.parametrize(("tokens", "experts", "rows"), [(1, 2, 16), (70, 5, 16), (40, 300, 32)])
def test_every_choice_has_one_place_in_a_tile_of_its_expert(tokens, experts, rows):
    top_k = 2
    generator = torch.Generator().manual_seed(3)
    ids = torch.rand((tokens, experts), generator=generator).topk(top_k).indices
    order = put_in_order(ids, experts, rows)
    assert order.is_sorted
    tiles = order.choices.view(-1, rows)
    assert int(order.tiles) <= order.most == len(tiles)
    assert list(range(tokens * top_k)) == sorted(c for c in order.choices.tolist() if c < tokens * top_k)
    for tile, expert in zip(tiles.tolist(), order.experts.tolist(), strict=True):
        real = [choice for choice in tile if choice < tokens * top_k]
        assert all(ids.view(-1)[choice] == expert for choice in real)
    counts = torch.bincount(ids.view(-1), minlength=experts)
    assert int(order.tiles) == int(((counts + rows - 1) // rows).sum())


def test_few_choices_are_not_put_in_order():
    ids = torch.tensor([[3, 7]])
    order = put_in_order(ids, 8, 16)
    assert not order.is_sorted
    assert 2 == order.most
    assert ids.tolist() == order.experts.tolist()
