from __future__ import annotations

import math

import pytest
import torch
from conformance import Conformance

from autotune.errors import ProblemError
from autotune.space.declaration import load_declaration
from autotune.space.work import estimated_work
from autotune.workloads.rope import Rope
from tests.workloads.gpu_targets import space_on


class TestRope(Conformance):
    workload = "rope"
    problems = (
        {"tokens": 1, "heads": 3, "kv_heads": 1, "head_dim": 16, "rotary_dim": 16, "positions": 9},
        {"tokens": 5, "heads": 4, "kv_heads": 2, "head_dim": 20, "rotary_dim": 12, "dtype": "float16"},
        {"tokens": 3, "heads": 2, "kv_heads": 2, "head_dim": 6, "rotary_dim": 2, "dtype": "float32"},
        {"tokens": 70, "heads": 8, "kv_heads": 2, "head_dim": 128, "rotary_dim": 128},
    )


def problem(**dimensions):
    return load_declaration("rope").problem({"heads": 2, "kv_heads": 1, "dtype": "float32", **dimensions})


def test_a_pair_is_turned_by_the_angle_of_its_position():
    """Written out: number i and number i + 2 of a head of 6, of which 4 are turned, at position 3."""
    one = problem(tokens=1, head_dim=6, rotary_dim=4, positions=5)
    cos_sin, activations = Rope().weights(one, seed=1)["cos_sin"], Rope().activations(one, seed=2)
    query, position = activations["query"][0].tolist(), int(activations["positions"][0])
    turned, _ = Rope().reference(one, {"cos_sin": cos_sin}, activations)
    for head in range(2):
        for i in range(2):
            cos, sin = cos_sin[position, i].item(), cos_sin[position, 2 + i].item()
            assert math.isclose(1.0, cos * cos + sin * sin, rel_tol=1e-6)
            low, high = query[head][i], query[head][i + 2]
            assert turned[0, head, i].item() == pytest.approx(low * cos - high * sin)
            assert turned[0, head, i + 2].item() == pytest.approx(high * cos + low * sin)
        assert query[head][4:] == turned[0, head, 4:].tolist()


def test_position_0_changes_nothing():
    one = problem(tokens=1, head_dim=4, rotary_dim=4, positions=1)
    weights, activations = Rope().weights(one, seed=1), Rope().activations(one, seed=2)
    query, key = Rope().reference(one, weights, activations)
    assert torch.equal(query, activations["query"].double())
    assert torch.equal(key, activations["key"].double())


@pytest.mark.parametrize("rotary_dim", [3, 8])
def test_a_part_that_cannot_be_turned_is_refused(rotary_dim):
    with pytest.raises(ProblemError, match="not an even number up to head_dim"):
        Rope().weights(problem(tokens=1, head_dim=6, rotary_dim=rotary_dim), seed=1)


def test_cost_by_hand():
    """2 tokens of 3 heads of 6 float32, of which 4 are turned; cosines, sines and a position each."""
    one = problem(tokens=2, head_dim=6, rotary_dim=4)
    assert (3 * 24, 2 * 36 * 4 + 2 * (4 * 4 + 8), "float32") == Rope().cost(one)
    assert Rope().cost(one)[:2] == estimated_work(one)


def test_the_baseline_on_a_gpu_is_unfused():
    dimensions = {"tokens": 64, "heads": 8, "kv_heads": 1, "head_dim": 64, "rotary_dim": 64}
    space = space_on("nvidia-h200", "rope", dimensions)
    assert {"implementation": "eager"} == space.baseline
    assert 8 <= len(space) <= 100
