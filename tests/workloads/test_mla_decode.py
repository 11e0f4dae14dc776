"""Latent attention: every implementation against the reference, and the reference against plain loops."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from conformance import Conformance, space_of

from autotune.space.declaration import load_declaration
from autotune.workloads.mla_decode import MlaDecode

SMALL = {"heads": 2, "kv_lora_rank": 32, "qk_nope": 12, "qk_rope": 16, "v_dim": 10}


class TestConformance(Conformance):
    workload = "mla_decode"
    problems = (
        {"batch": 1, "context": 530, **SMALL, "heads": 8, "kv_lora_rank": 64},
        {"batch": 5, "context": 33, **SMALL, "heads": 3},
        {"batch": 2, "context": 1, **SMALL, "kv_lora_rank": 24, "qk_rope": 6},
        {"batch": 3, "context": 40, **SMALL, "dtype": "float16", "kv_dtype": "float16"},
        {"batch": 2, "context": 19, **SMALL, "dtype": "float32", "kv_dtype": "bfloat16"},
        {"batch": 2, "context": 19, **SMALL, "dtype": "bfloat16", "kv_dtype": "float32"},
    )
    lossy_errors: ClassVar = {"absorbed_low_precision": 0.03}


def test_the_reference_is_what_plain_loops_compute() -> None:
    """Keys and values of every head, made from the latent one number at a time."""
    problem = load_declaration("mla_decode").problem({"batch": 2, "context": 3, **SMALL})
    weights, activations = MlaDecode().weights(problem, seed=1), MlaDecode().activations(problem, seed=2)
    q_nope, q_rope, latent, rope = (tensor.double().tolist() for tensor in activations.values())
    rows = weights["kv_b"].double().view(2, 12 + 10, 32).tolist()
    expected = torch.zeros(2, 2, 10, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            made = [[dot(row, token) for row in rows[h]] for token in latent[b]]
            keys = [one[:12] + rope[b][t] for t, one in enumerate(made)]
            query = q_nope[b][h] + q_rope[b][h]
            powers = [math.exp(dot(query, key) / math.sqrt(12 + 16)) for key in keys]
            for v in range(10):
                total = math.fsum(p * one[12 + v] for p, one in zip(powers, made, strict=True))
                expected[b, h, v] = total / math.fsum(powers)
    torch.testing.assert_close(MlaDecode().reference(problem, weights, activations), expected)


def dot(x: list[float], y: list[float]) -> float:
    """Product of two vectors."""
    return math.fsum(a * b for a, b in zip(x, y, strict=True))


def test_cost_of_kimi_k2_5_by_hand() -> None:
    problem = load_declaration("mla_decode").problem({"batch": 16, "context": 4096, "heads": 8})
    cost = MlaDecode().cost(problem)
    tokens, weight = 16 * 4096, 8 * 256 * 512
    assert cost.flops == 2 * tokens * 8 * (576 + 512) + 2 * 16 * weight
    assert cost.bytes == 2 * (tokens * 576 + weight + 16 * 8 * (128 + 64 + 128))


@pytest.mark.parametrize(
    ("cache", "shapes"),
    [
        ("separate", {"latent": (2, 3, 32), "rope": (2, 3, 16)}),
        ("concatenated", {"cache": (2, 3, 48)}),
        ("float32", {"cache": (2, 3, 48)}),
        ("expanded", {"keys": (2, 2, 3, 28), "values": (2, 2, 3, 10)}),
    ],
)
def test_the_cache_is_held_as_the_configuration_says(cache: str, shapes: dict[str, tuple[int, ...]]) -> None:
    problem = load_declaration("mla_decode").problem({"batch": 2, "context": 3, **SMALL})
    weights, activations = MlaDecode().weights(problem, seed=1), MlaDecode().activations(problem, seed=2)
    packed = MlaDecode().pack_activations(problem, {"cache": cache}, activations, weights)
    held = {name: tuple(tensor.shape) for name, tensor in packed.items() if not name.startswith("q_")}
    assert held == shapes
    types = {tensor.dtype for name, tensor in packed.items() if name in shapes}
    assert types == {torch.float32 if cache == "float32" else torch.bfloat16}


def test_the_baseline_holds_the_expanded_cache() -> None:
    problem = load_declaration("mla_decode").problem({"batch": 1, "context": 4096, "heads": 8})
    baseline = space_of(problem).baseline
    assert (baseline["implementation"], baseline["cache"]) == ("expanded", "expanded")


@pytest.mark.parametrize("heads", [8, 64])
@pytest.mark.parametrize("batch", [1, 16])
def test_spaces_of_real_problems_are_modest(batch: int, heads: int) -> None:
    declaration = load_declaration("mla_decode")
    problem = declaration.problem({"batch": batch, "context": 4096, "heads": heads})
    assert 10 <= len(space_of(problem)) <= 40
