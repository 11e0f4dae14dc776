"""Experts: every implementation against the reference, and the reference against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from conformance import Conformance, space_of

from autotune.errors import SpaceError
from autotune.space.declaration import load_declaration
from autotune.space.work import estimated_work
from autotune.workloads.fused_moe import FusedMoe
from autotune.workloads.int4 import unpack_int4_g32
from tests.workloads.gpu_targets import configurations, space_on

KIMI = {"experts": 384, "top_k": 8, "hidden": 7168, "intermediate": 256}


class TestConformance(Conformance):
    workload = "fused_moe"
    problems = (
        {"tokens": 67, "experts": 5, "top_k": 3, "hidden": 33, "intermediate": 7},
        {
            "tokens": 7,
            "experts": 3,
            "top_k": 2,
            "hidden": 136,
            "intermediate": 72,
            "weight_format": "fp8_block128x128",
        },
        {
            "tokens": 1,
            "experts": 4,
            "top_k": 3,
            "hidden": 160,
            "intermediate": 96,
            "weight_format": "int4_g32",
        },
        {
            "tokens": 3,
            "experts": 2,
            "top_k": 2,
            "hidden": 40,
            "intermediate": 20,
            "dtype": "float16",
            "routing": "uniform",
        },
        {
            "tokens": 6,
            "experts": 3,
            "top_k": 1,
            "hidden": 32,
            "intermediate": 64,
            "dtype": "float32",
            "weight_format": "int4_g32",
        },
    )


@pytest.mark.parametrize("weight_format", ["native", "int4_g32"])
def test_the_reference_is_what_plain_loops_compute(weight_format: str) -> None:
    problem = load_declaration("fused_moe").problem(
        {
            "tokens": 3,
            "experts": 4,
            "top_k": 2,
            "hidden": 32,
            "intermediate": 32,
            "dtype": "float32",
            "weight_format": weight_format,
        }
    )
    weights, activations = FusedMoe().weights(problem, seed=1), FusedMoe().activations(problem, seed=2)
    if weight_format == "int4_g32":
        dense = {w: unpack_int4_g32(weights[w], weights[f"{w}_scale"], torch.float64) for w in ("w13", "w2")}
    else:
        dense = dict(weights)
    w13, w2 = dense["w13"].tolist(), dense["w2"].tolist()
    x, ids, mix = (tensor.tolist() for tensor in activations.values())
    expected = torch.zeros(3, 32, dtype=torch.float64)
    for t in range(3):
        for e, weight in zip(ids[t], mix[t], strict=True):
            products = [math.fsum(a * b for a, b in zip(row, x[t], strict=True)) for row in w13[e]]
            inner = [g / (1 + math.exp(-g)) * u for g, u in zip(products[:32], products[32:], strict=True)]
            for h in range(32):
                expected[t, h] += weight * math.fsum(a * b for a, b in zip(w2[e][h], inner, strict=True))
    torch.testing.assert_close(FusedMoe().reference(problem, weights, activations), expected)


def test_int4_weights_are_stored_as_checkpoints_store_them() -> None:
    declaration = load_declaration("fused_moe")
    problem = declaration.problem(
        {"tokens": 1, **KIMI, "experts": 2, "top_k": 1, "weight_format": "int4_g32"}
    )
    weights = FusedMoe().weights(problem, seed=1)
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in weights.items()}
    assert shapes == {
        "w13": ((2, 512, 896), torch.int32),
        "w2": ((2, 7168, 32), torch.int32),
        "w13_scale": ((2, 512, 224), torch.bfloat16),
        "w2_scale": ((2, 7168, 8), torch.bfloat16),
    }


def test_experts_have_weights_of_their_own() -> None:
    problem = load_declaration("fused_moe").problem({"tokens": 1, **KIMI, "experts": 3, "top_k": 1})
    w13 = FusedMoe().weights(problem, seed=1)["w13"]
    assert not torch.equal(w13[0], w13[1])
    assert w13.is_contiguous()
    assert w13[0].data_ptr() != w13[1].data_ptr()
    assert 0.9 < float(w13.float().std() * 7168**0.5) < 1.1


def test_cost_of_one_token_by_hand() -> None:
    """One token hits exactly top_k experts, however uneven the routing is."""
    cost = FusedMoe().cost(load_declaration("fused_moe").problem({"tokens": 1, **KIMI}))
    expert = 3 * 7168 * 256
    assert cost.flops == 2 * 8 * expert
    assert cost.bytes == pytest.approx(8 * expert * 2 + 2 * 7168 * 2 + 8 * 12, rel=0.01)


def test_int4_weights_cost_four_and_a_half_bits() -> None:
    problem = load_declaration("fused_moe").problem({"tokens": 1, **KIMI, "weight_format": "int4_g32"})
    expected = 8 * 3 * 7168 * 256 * 4.5 / 8 + 2 * 7168 * 2
    assert FusedMoe().cost(problem).bytes == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("tokens", [1, 16, 256])
def test_cost_agrees_with_the_plan_s_estimate_where_routing_is_even(tokens: int) -> None:
    problem = load_declaration("fused_moe").problem({"tokens": tokens, **KIMI, "routing": "uniform"})
    assert FusedMoe().cost(problem).bytes == pytest.approx(estimated_work(problem).bytes, rel=0.02)


def test_skewed_routing_reads_fewer_weights() -> None:
    declaration = load_declaration("fused_moe")
    costs = {
        routing: FusedMoe().cost(declaration.problem({"tokens": 64, **KIMI, "routing": routing})).bytes
        for routing in ("uniform", "skewed")
    }
    assert costs["skewed"] < 0.95 * costs["uniform"]


def test_more_choices_than_experts_are_no_problem_that_can_be_tuned() -> None:
    declaration = load_declaration("fused_moe")
    with pytest.raises(SpaceError, match="top_k <= experts"):
        space_of(declaration.problem({"tokens": 1, **KIMI, "experts": 4}))


def test_sizes_that_are_no_whole_groups_cannot_be_int4() -> None:
    declaration = load_declaration("fused_moe")
    problem = declaration.problem({"tokens": 1, **KIMI, "hidden": 7184, "weight_format": "int4_g32"})
    with pytest.raises(SpaceError, match="hidden % 32 == 0"):
        space_of(problem)


@pytest.mark.parametrize("weight_format", ["native", "int4_g32"])
@pytest.mark.parametrize("tokens", [1, 16, 256])
def test_spaces_of_real_problems_are_modest(tokens: int, weight_format: str) -> None:
    declaration = load_declaration("fused_moe")
    problem = declaration.problem({"tokens": tokens, **KIMI, "weight_format": weight_format})
    assert 10 <= len(space_of(problem)) <= 40


def test_a_gpu_is_offered_the_parameters_of_vllm_s_files() -> None:
    """One set for both products, as in the files; SPLIT_K for 4-bit weights alone."""
    sizes = {"tokens": 16, "experts": 384, "top_k": 8, "hidden": 7168, "intermediate": 256}
    names = {"BLOCK_SIZE_M", "BLOCK_SIZE_N", "BLOCK_SIZE_K", "GROUP_SIZE_M", "num_warps", "num_stages"}
    for weight_format, extra in (("native", set()), ("int4_g32", {"SPLIT_K"}), ("fp8_block128x128", set())):
        space = space_on("nvidia-h200", "fused_moe", {**sizes, "weight_format": weight_format})
        assert {"implementation": "grouped"} == space.baseline
        found = configurations(space, "triton")
        assert {"implementation", *names, *extra} == set(found[0])
        assert 40 <= len(found) <= 400


def test_float8_activations_are_for_who_accepts_an_error() -> None:
    sizes = {"tokens": 16, "experts": 384, "top_k": 8, "hidden": 7168, "intermediate": 256}
    problem = {**sizes, "weight_format": "fp8_block128x128"}
    assert not configurations(space_on("nvidia-h200", "fused_moe", problem), "triton_fp8")
    assert configurations(space_on("nvidia-h200", "fused_moe", problem, 0.05), "triton_fp8")


def test_cost_of_float8_blocks_by_hand() -> None:
    """One expert of 256 x 128 and 128 x 128 in one byte, three blocks of them."""
    dimensions = {"tokens": 1, "experts": 1, "top_k": 1, "hidden": 128, "intermediate": 128}
    problem = load_declaration("fused_moe").problem({**dimensions, "weight_format": "fp8_block128x128"})
    assert 3 * 128 * 128 + 3 * 4 + 2 * 128 * 2 + 8 + 4 == FusedMoe().cost(problem).bytes
