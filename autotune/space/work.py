"""How much work a stock problem is, by formula: enough to order a plan without importing torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from autotune.errors import UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.space.problem import Problem

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "int8": 1}


class Work(NamedTuple):
    """Floating-point operations (a multiply-add counts two) and the least bytes that must move."""

    flops: float
    bytes: float

    def seconds(self, bandwidth_bytes_per_s: float, flops_per_s: float = float("inf")) -> float:
        """The least time it can take: the roofline (Williams et al., CACM 52(4), 2009)."""
        return max(self.bytes / bandwidth_bytes_per_s, self.flops / flops_per_s)


def estimated_work(problem: Problem) -> Work:
    """The work of a problem.

    Raises:
        UnknownNameError: its workload is none of the stock ones.
    """
    if problem.workload not in _RULES:
        raise UnknownNameError("stock workload", problem.workload, _RULES)
    return _RULES[problem.workload](problem)


def estimated_bytes(problem: Problem) -> float:
    """The least bytes that must move: weights, activations and caches read once, outputs written once."""
    return estimated_work(problem).bytes


def held_bytes(problem: Problem) -> float:
    """Bytes of its weights, activations and caches: as `estimated_bytes`, but with all experts, hit or not.

    Raises:
        UnknownNameError: its workload is none of the stock ones.
    """
    if problem.workload == "decode_step":
        from autotune.space.decode_step import operators

        return sum(one.times * held_bytes(one.problem) for one in operators(problem))
    if problem.workload == "fused_moe":
        return float(problem["experts"] * _expert_bytes(problem))
    return estimated_bytes(problem)


def _linear(p: Problem) -> Work:
    m, n, k, size = p["m"], p["n"], p["k"], BYTES[p["dtype"]]
    weight = n * k * _weight_bytes(p["weight_format"], size)
    return Work(2 * m * n * k, weight + m * (n + k) * size)


def _mla_decode(p: Problem) -> Work:
    # In the absorbed form every head attends to the latent itself, once as key and once as value.
    latent, tokens = p["kv_lora_rank"] + p["qk_rope"], p["batch"] * p["context"]
    size = BYTES[p["dtype"]]
    weight = p["heads"] * (p["qk_nope"] + p["v_dim"]) * p["kv_lora_rank"]
    per_head = p["qk_nope"] + p["qk_rope"] + p["v_dim"]
    cache = tokens * latent * BYTES.get(p["kv_dtype"], size)
    flops = 2 * tokens * p["heads"] * (latent + p["kv_lora_rank"]) + 2 * p["batch"] * weight
    return Work(flops, cache + (weight + p["batch"] * p["heads"] * per_head) * size)


def _attention(p: Problem) -> Work:
    queries, keys = p["batch"] * p["q_len"] * p["heads"], p["batch"] * p["kv_len"] * p["kv_heads"]
    seen = p["kv_len"] - (p["q_len"] - 1) / 2 if p["causal"] == "yes" else p["kv_len"]
    size = p["head_dim"] * BYTES[p["dtype"]]
    return Work(4 * queries * max(seen, 1) * p["head_dim"], 2 * (queries + keys) * size)


def _rms_norm(p: Problem) -> Work:
    elements = p["rows"] * p["hidden"]
    adds = p["residual"] == "add"
    passes = 4 if adds else 2
    flops, moved = (4 + adds) * elements, (passes * elements + p["hidden"]) * BYTES[p["dtype"]]
    return _with_quantised_rows(p, Work(flops, moved), elements)


def _silu_and_mul(p: Problem) -> Work:
    elements = p["rows"] * p["intermediate"]
    return _with_quantised_rows(p, Work(5 * elements, 3 * elements * BYTES[p["dtype"]]), elements)


def _with_quantised_rows(p: Problem, work: Work, written: int) -> Work:
    """The work where `quantise` asks for an output in float8 with a float32 scale for every row."""
    if p.dimensions.get("quantise", "none") == "none":
        return work
    saved = written * (BYTES[p["dtype"]] - BYTES[p["quantise"]]) - p["rows"] * BYTES["float32"]
    return Work(work.flops + 3 * written, work.bytes - saved)


def _rope(p: Problem) -> Work:
    heads, size = p["heads"] + p["kv_heads"], BYTES[p["dtype"]]
    rotated = p["tokens"] * heads * p["rotary_dim"]
    moved = 2 * p["tokens"] * heads * p["head_dim"] * size + p["tokens"] * (p["rotary_dim"] * size + 8)
    return Work(3 * rotated, moved)


def _fused_moe(p: Problem) -> Work:
    tokens, experts, size = p["tokens"], p["experts"], BYTES[p["dtype"]]
    # Expected number of experts that get any token, were the routing even; a skewed one reads fewer.
    touched = experts * (1 - (1 - p["top_k"] / experts) ** tokens)
    expert = 3 * p["hidden"] * p["intermediate"]
    weight = touched * _expert_bytes(p)
    return Work(2 * tokens * p["top_k"] * expert, weight + 2 * tokens * p["hidden"] * size)


def _decode_step(p: Problem) -> Work:
    from autotune.space.decode_step import operators  # which plans it, and plans are weighed here

    works = [(one.times, estimated_work(one.problem)) for one in operators(p)]
    return Work(sum(n * work.flops for n, work in works), sum(n * work.bytes for n, work in works))


def _expert_bytes(p: Problem) -> float:
    expert: int = 3 * p["hidden"] * p["intermediate"]
    return expert * _weight_bytes(p["weight_format"], BYTES[p["dtype"]])


def _weight_bytes(weight_format: str, native: int) -> float:
    """Bytes per weight: with int4_g32, half a byte and a scale of the native type for every 32; with
    fp8_block128x128, one byte and a float32 for every block.
    """
    if weight_format == "fp8_block128x128":
        return 1 + BYTES["float32"] / 128**2
    return 0.5 + native / 32 if weight_format == "int4_g32" else native


_RULES: dict[str, Callable[[Problem], Work]] = {
    "linear": _linear,
    "mla_decode": _mla_decode,
    "attention": _attention,
    "rms_norm": _rms_norm,
    "silu_and_mul": _silu_and_mul,
    "fused_moe": _fused_moe,
    "rope": _rope,
    "decode_step": _decode_step,
}
