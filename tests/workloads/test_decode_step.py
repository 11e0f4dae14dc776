"""Decode steps: the reference against one written otherwise, and every way to compute a step against it."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from autotune.fingerprint.cpu import cpu_facts
from autotune.measure.correctness import check, checksum, relative_error
from autotune.space.declaration import load_declaration
from autotune.space.decode_step import decode_step, operators
from autotune.space.searchspace import SearchSpace
from autotune.space.work import estimated_work
from autotune.workloads.decode_step import DecodeStep

if TYPE_CHECKING:
    from autotune.space.problem import Problem

GQA = {"batch": 2, "context": 40, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 32, "vocab": 96}
DENSE = {**GQA, "dense_layers": 2, "intermediate": 96}
LATENT = {"kv_heads": 4, "head_dim": 48, "kv_lora_rank": 32, "qk_nope": 32, "qk_rope": 16, "v_dim": 32}
EXPERTS = {"moe_layers": 1, "experts": 6, "top_k": 2, "expert_intermediate": 32}
KIMI = {**DENSE, **LATENT, **EXPERTS, "dense_layers": 1, "q_lora_rank": 32, "shared_intermediate": 32}
STEPS = {
    "llama": DENSE,
    "kimi": {**KIMI, "expert_format": "int4_g32"},
    "direct query": {**KIMI, "q_lora_rank": 0, "shared_intermediate": 0, "vocab": 0},
    "qwen": {**GQA, **EXPERTS, "qk_norm": "yes"},
    "sliding": {**DENSE, "sliding_layers": 1, "window": 8},
    "float32": {**DENSE, "dtype": "float32"},
}
FAST = {"tile_n": 32, "attention_block": 32, "attention_splits": 1, "threads": cpu_facts()["cores"]}
TILES = {"expert_rows": 1, "expert_block": 16}


def problem(name: str) -> Problem:
    return load_declaration("decode_step").problem(STEPS[name])


def space(name: str, max_error: float | None = None) -> SearchSpace:
    return SearchSpace.build(load_declaration("decode_step"), problem(name), cpu_facts(), max_error)


def native(name: str, products: str, **settings: Any) -> dict[str, Any]:
    """A configuration of operators of our own."""
    step = STEPS[name]
    wide = {"fusion": True, "activations": "float32", "attention": "native"}
    chosen: dict[str, Any] = {"implementation": "native", **wide, "projections": products, **FAST}
    chosen["cache"] = step.get("dtype", "bfloat16")
    if step.get("intermediate", 0) + step.get("shared_intermediate", 0):
        chosen["mlp"] = products
    if step["vocab"]:
        chosen["head"] = products
    if "moe_layers" in step:
        chosen.update(experts_by="native", **TILES)
    return {**chosen, **settings}


@cache
def made(name: str) -> tuple[Any, list[tuple[tuple[torch.Tensor, ...], torch.Tensor]]]:
    """Weights, and two cases of activations with what they should yield."""
    step, workload = problem(name), DecodeStep()
    weights = workload.weights(step, 3)
    cases = []
    for seed in (3, 4):
        activations = workload.activations(step, seed)
        cases.append((tuple(activations.values()), workload.reference(step, weights, activations)))
    return weights, cases


def error(name: str, configuration: dict[str, Any]) -> float:
    weights, cases = made(name)
    before = checksum([*weights.values(), *(tensor for arguments, _ in cases for tensor in arguments)])
    found = check(DecodeStep().build(problem(name), configuration, weights), cases)
    assert before == checksum([*weights.values(), *(one for arguments, _ in cases for one in arguments)])
    return found


def test_the_reference_is_what_a_layer_written_otherwise_computes() -> None:
    """One dense layer with grouped queries, token by token, in float64."""
    given = {**DENSE, "dense_layers": 1, "batch": 1, "context": 5, "dtype": "float32"}
    step = load_declaration("decode_step").problem(given)
    weights = {name: weight.double() for name, weight in DecodeStep().weights(step, 1).items()}
    activations = DecodeStep().activations(step, 2)
    x = activations["hidden"][0].double()

    def norm(v: torch.Tensor, name: str) -> torch.Tensor:
        return v / math.sqrt(float(v @ v) / len(v) + 1e-6) * weights[name]

    def turn(v: torch.Tensor) -> torch.Tensor:
        cos, sin = weights["cos_sin"][4].chunk(2)
        turned = torch.complex(*v.chunk(2, -1)) * torch.complex(cos, sin)
        return torch.cat([turned.real, turned.imag], -1)

    normed = norm(x, "0.norm1")
    query, key, value = ((weights[f"0.{name}"] @ normed).view(-1, 32) for name in "qkv")
    heads = []
    for head in range(4):
        keys = torch.cat([weights["0.keys"][0, head // 2, :4], turn(key)[head // 2 : head // 2 + 1]])
        values = torch.cat([weights["0.values"][0, head // 2, :4], value[head // 2 : head // 2 + 1]])
        heads.append(torch.softmax(keys @ turn(query)[head] / math.sqrt(32), 0) @ values)
    x = x + weights["0.o"] @ torch.cat(heads)
    normed = norm(x, "0.norm2")
    gate, up = weights["0.gate"] @ normed, weights["0.up"] @ normed
    x = x + weights["0.down"] @ (gate * torch.sigmoid(gate) * up)
    expected = weights["lm_head"] @ norm(x, "norm")
    torch.testing.assert_close(
        DecodeStep().reference(step, DecodeStep().weights(step, 1), activations)[0], expected
    )


@pytest.mark.parametrize("name", STEPS)
def test_the_baseline_is_near_the_reference(name: str) -> None:
    assert error(name, space(name).baseline) < (1e-5 if name == "float32" else 0.012)


@pytest.mark.parametrize("name", ["llama", "kimi", "qwen"])
def test_own_operators_are_as_accurate_as_the_baseline(name: str) -> None:
    """With float32 between them and weights as stored."""
    assert error(name, native(name, "native")) <= max(1.01 * error(name, space(name).baseline), 1e-5)


@pytest.mark.parametrize("name", ["llama", "kimi"])
def test_a_step_without_fusion_computes_the_same(name: str) -> None:
    """Products of the same input one by one, and norms that add nothing."""
    fused, apart = (error(name, native(name, "native", fusion=fusion)) for fusion in (True, False))
    assert pytest.approx(fused, rel=0.05) == apart


def test_rounded_weights_cost_less_accuracy_than_rounding_between_operators() -> None:
    """9 bits and float32 between the operators are nearer to the reference than 16 bits everywhere."""
    assert error("llama", native("llama", "native_int9")) < error("llama", space("llama").baseline)


def test_a_cache_in_float16_is_nearer_to_the_reference_than_one_in_bfloat16() -> None:
    half, brain = (
        error("llama", native("llama", "native", cache=cache)) for cache in ("float16", "bfloat16")
    )
    assert half < brain


def test_weights_in_4_bits_are_offered_to_those_who_accept_an_error() -> None:
    offered = {configuration["implementation"] for configuration in _all(space("llama"))}
    assert {"eager", "compiled", "native"} == offered
    assert 0.02 < error("llama", native("llama", "native_int4")) < 0.3


@pytest.mark.parametrize("name", STEPS)
def test_what_the_space_offers_is_what_can_be_built(name: str) -> None:
    """The configurations of these tests are points of it."""
    pool = space(name).pool
    assert pool.find(native(name, "native")) is not None
    assert 50 < len(pool) < 20_000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # from inductor's own code
def test_the_compiled_step_computes_the_reference() -> None:
    configuration = {"implementation": "compiled", "compile_mode": "default", "threads": cpu_facts()["cores"]}
    weights, cases = made("llama")
    kernel = DecodeStep().build(problem("llama"), configuration, weights)
    kernel(*cases[0][0])
    assert check(kernel, cases) < 0.012


def test_steps_share_what_they_pack_alike_and_each_counts_it() -> None:
    """Two that differ in the output layer alone hold everything else once."""
    # The output layer outweighs what the process allocates for itself meanwhile: a kernel's first load, say.
    step, workload = load_declaration("decode_step").problem({**DENSE, "vocab": 8_192}), DecodeStep()
    weights, activations = workload.weights(step, 3), workload.activations(step, 3)
    steps = [
        workload.build(step, native("llama", "native_int9", head=head), weights)
        for head in ("native_int9", "native")
    ]
    held = [set(built._parts._held) for built in steps]
    assert 1 == len(held[0] - held[1]) == len(held[1] - held[0])
    assert steps[0].memory_bytes < steps[1].memory_bytes
    found = relative_error(steps[0](*activations.values()), workload.reference(step, weights, activations))
    assert found < 0.01


def test_another_weight_at_the_same_address_is_not_taken_for_the_first() -> None:
    step, workload = problem("llama"), DecodeStep()
    weights, cases = made("llama")
    mine = {name: weight.clone() for name, weight in weights.items()}
    first = workload.build(step, native("llama", "native"), mine)
    before = first(*cases[0][0])
    mine["lm_head"].neg_()
    again = workload.build(step, native("llama", "native"), mine)
    torch.testing.assert_close(again(*cases[0][0]), -before)


def test_weights_and_activations_follow_the_seed() -> None:
    step, workload = problem("kimi"), DecodeStep()
    first, again, other = (workload.weights(step, seed) for seed in (1, 1, 2))
    assert tuple(first) == workload.weight_names(step)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "norm" not in name)
    routing = workload.activations(step, 5)["routing"]
    assert (1, 2, 6) == tuple(routing.shape)
    assert 2 * 2 == int(routing.bool().sum())


def test_cost_is_the_sum_over_the_operators() -> None:
    step = load_declaration("decode_step").problem(decode_step("llama-3.1-8b", layers=2))
    expected = sum(one.times * estimated_work(one.problem).bytes for one in operators(step))
    cost = DecodeStep().cost(step)
    assert (round(expected), "bfloat16") == (cost.bytes, cost.dtype)
    weights = 2 * (4096 * (6144 + 4096) + 3 * 4096 * 14336) + 128256 * 4096
    assert 2 * weights < cost.bytes < 2.05 * weights


def _all(found: SearchSpace) -> list[dict[str, Any]]:
    return [found.pool.configuration(row) for row in range(len(found))]
