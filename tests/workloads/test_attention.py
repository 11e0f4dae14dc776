"""Attention: every implementation against the reference, and the reference against plain loops."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from conformance import Conformance, space_of

from autotune.space.declaration import load_declaration
from autotune.workloads.attention import Attention

LLAMA = {"heads": 32, "kv_heads": 8, "head_dim": 128}


class TestConformance(Conformance):
    workload = "attention"
    problems = (
        {"batch": 2, "q_len": 1, "kv_len": 37, "heads": 6, "kv_heads": 2, "head_dim": 32},
        {
            "batch": 1,
            "q_len": 1,
            "kv_len": 1030,
            "heads": 8,
            "kv_heads": 1,
            "head_dim": 48,
            "dtype": "float16",
        },
        {"batch": 1, "q_len": 70, "kv_len": 70, "heads": 4, "kv_heads": 2, "head_dim": 64, "causal": "yes"},
        {"batch": 2, "q_len": 3, "kv_len": 9, "heads": 3, "kv_heads": 3, "head_dim": 20, "dtype": "float32"},
        {
            "batch": 1,
            "q_len": 17,
            "kv_len": 40,
            "heads": 4,
            "kv_heads": 1,
            "head_dim": 16,
            "dtype": "float32",
            "causal": "yes",
        },
    )
    lossy_errors: ClassVar = {"matmul": 0.01}


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool) -> torch.Tensor:
    """(batch, q_len, heads, head_dim), one number at a time."""
    batch, heads, q_len, head_dim = query.shape
    shared, kv_len = heads // key.shape[1], key.shape[2]
    out = torch.zeros(batch, q_len, heads, head_dim, dtype=torch.float64)
    for b in range(batch):
        for h in range(heads):
            for i in range(q_len):
                visible = kv_len - q_len + i + 1 if causal else kv_len
                keys, values = key[b, h // shared].tolist(), value[b, h // shared].tolist()
                row = query[b, h, i].tolist()
                scores = [math.fsum(x * y for x, y in zip(row, keys[j], strict=True)) for j in range(visible)]
                powers = [math.exp(score / math.sqrt(head_dim)) for score in scores]
                for d in range(head_dim):
                    total = math.fsum(p * values[j][d] for j, p in enumerate(powers))
                    out[b, i, h, d] = total / math.fsum(powers)
    return out


@pytest.mark.parametrize("causal", ["yes", "no"])
def test_the_reference_is_what_plain_loops_compute(causal: str) -> None:
    problem = load_declaration("attention").problem(
        {"batch": 2, "q_len": 3, "kv_len": 5, "heads": 4, "kv_heads": 2, "head_dim": 4, "causal": causal}
    )
    activations = Attention().activations(problem, seed=1)
    reference = Attention().reference(problem, {}, activations)
    torch.testing.assert_close(reference, naive(*activations.values(), causal == "yes"))


def test_cost_of_a_decode_step_by_hand() -> None:
    problem = load_declaration("attention").problem({"batch": 2, "q_len": 1, "kv_len": 100, **LLAMA})
    cost = Attention().cost(problem)
    assert cost.flops == 2 * 32 * 100 * 128 * 4
    assert cost.bytes == 2 * (2 * 2 * 32 * 128 + 2 * 2 * 8 * 100 * 128)
    assert cost.dtype == "bfloat16"


def test_a_causal_prompt_costs_the_pairs_that_are_seen() -> None:
    declaration = load_declaration("attention")
    problem = declaration.problem({"batch": 1, "q_len": 3, "kv_len": 5, **LLAMA, "causal": "yes"})
    assert Attention().cost(problem).flops == 4 * 32 * 128 * (3 + 4 + 5)


def test_layout_bshd_holds_positions_before_heads() -> None:
    problem = load_declaration("attention").problem({"batch": 2, "q_len": 1, "kv_len": 7, **LLAMA})
    activations = Attention().activations(problem, seed=1)
    packed = Attention().pack_activations(problem, {"layout": "bshd"}, activations, {})
    assert packed["key"].shape == (2, 7, 8, 128)
    assert packed["key"].is_contiguous()
    assert torch.equal(packed["key"].transpose(1, 2), activations["key"])


def test_the_baseline_is_sdpa_over_shared_heads() -> None:
    problem = load_declaration("attention").problem({"batch": 1, "q_len": 1, "kv_len": 7, **LLAMA})
    baseline = space_of(problem).baseline
    assert baseline["implementation"] == "sdpa"
    assert (baseline["backend"], baseline["kv_heads_as"], baseline["layout"]) == ("default", "shared", "bhsd")


@pytest.mark.parametrize("batch", [1, 16])
def test_spaces_of_real_problems_are_modest(batch: int) -> None:
    declaration = load_declaration("attention")
    for q_len, causal in ((1, "no"), (512, "yes")):
        problem = declaration.problem(
            {"batch": batch, "q_len": q_len, "kv_len": 4096, **LLAMA, "causal": causal}
        )
        assert 10 <= len(space_of(problem)) <= 40
