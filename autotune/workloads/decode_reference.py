"""The weights of a decode step, and what it should yield: in plain torch, with nothing rounded in between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it

from autotune.space.declaration import load_declaration
from autotune.space.decode_step import check
from autotune.workloads.attention import Attention
from autotune.workloads.fused_moe import FusedMoe
from autotune.workloads.linear import Linear
from autotune.workloads.mla_decode import MlaDecode
from autotune.workloads.rms_norm import EPSILON, RmsNorm
from autotune.workloads.rope import Rope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.space.problem import Problem
    from autotune.workloads.base import Tensors

BLOCK = 1 << 22
"""Weights that the reference converts at a time."""


def of(workload: str, step: Problem, **dimensions: Any) -> Problem:
    """A problem of another workload in the step's type."""
    return load_declaration(workload).problem({"dtype": step["dtype"], **dimensions})


def is_dense(step: Problem, layer: int) -> bool:
    """Whether a layer has a dense feed-forward block: the first ones, as in DeepSeek-V3 and Kimi K2."""
    return bool(layer < step["dense_layers"])


def positions_of(step: Problem, layer: int) -> int:
    """Cached positions of a layer; the first layers are the sliding ones."""
    if layer < step["sliding_layers"]:
        return int(min(step["window"], step["context"]))
    return int(step["context"])


def widths(step: Problem) -> tuple[int, int, int]:
    """Rows of the query's projection, width of a rotated head, and what goes into the output projection."""
    if step["kv_lora_rank"]:
        query = step["heads"] * (step["qk_nope"] + step["qk_rope"])
        return query, step["qk_rope"], step["heads"] * step["v_dim"]
    width = step["heads"] * step["head_dim"]
    return width, step["head_dim"], width


def rope_problem(step: Problem, dtype: str | None = None) -> Problem:
    """Of the heads that are rotated."""
    latent = step["kv_lora_rank"] > 0
    return of(
        "rope",
        step,
        tokens=step["batch"],
        heads=step["heads"],
        kv_heads=1 if latent else step["kv_heads"],
        head_dim=widths(step)[1],
        rotary_dim=widths(step)[1],
        positions=step["context"],
        dtype=dtype or step["dtype"],
    )


def attention_problem(step: Problem, layer: int, **types: str) -> Problem:
    """Of a layer: `mla_decode`, or `attention` of one query position."""
    if step["kv_lora_rank"]:
        names = ("batch", "context", "heads", "kv_lora_rank", "qk_nope", "qk_rope", "v_dim")
        given = {"kv_dtype": step["dtype"], **{name: step[name] for name in names}, **types}
        return of("mla_decode", step, **given)
    sizes = {name: step[name] for name in ("batch", "heads", "kv_heads", "head_dim")}
    return of("attention", step, q_len=1, kv_len=positions_of(step, layer), causal="no", **sizes, **types)


def experts_problem(step: Problem) -> Problem:
    """The routed experts of a layer."""
    return of(
        "fused_moe",
        step,
        tokens=step["batch"],
        experts=step["experts"],
        top_k=step["top_k"],
        hidden=step["hidden"],
        intermediate=step["expert_intermediate"],
        weight_format=step["expert_format"],
    )


def products(step: Problem, layer: int) -> Iterator[tuple[str, int, int]]:
    """Name, outputs and inputs of a layer's dense weights, the latent attention's `kv_b` apart."""
    hidden, (query, _, attended) = step["hidden"], widths(step)
    if step["kv_lora_rank"]:
        if step["q_lora_rank"]:
            yield "q_a", step["q_lora_rank"], hidden
            yield "q_b", query, step["q_lora_rank"]
        else:
            yield "q", query, hidden
        yield "kv_a", step["kv_lora_rank"] + step["qk_rope"], hidden
    else:
        yield "q", query, hidden
        for name in ("k", "v"):
            yield name, step["kv_heads"] * step["head_dim"], hidden
    yield "o", hidden, attended
    dense = is_dense(step, layer)
    width = step["intermediate"] if dense else step["shared_intermediate"]
    if not dense:
        yield "router", step["experts"], hidden
    if width:
        yield "gate", width, hidden
        yield "up", width, hidden
        yield "down", hidden, width


def norms(step: Problem) -> Iterator[tuple[str, int]]:
    """Name and width of a layer's norms."""
    yield "norm1", step["hidden"]
    yield "norm2", step["hidden"]
    if step["q_lora_rank"]:
        yield "q_a_norm", step["q_lora_rank"]
    if step["kv_lora_rank"]:
        yield "kv_a_norm", step["kv_lora_rank"]
    elif step["qk_norm"] == "yes":
        yield "q_norm", step["head_dim"]
        yield "k_norm", step["head_dim"]


def random_weights(step: Problem, seed: int, device: str) -> Tensors:
    """Each part as its own workload draws it, from a seed of its own."""
    check(step)
    made: Tensors = {}
    seeds = iter(range(seed * 1_000_003, (seed + 1) * 1_000_003))

    def draw_product(name: str, n: int, k: int) -> None:
        made[name] = Linear().weights(of("linear", step, m=1, n=n, k=k), next(seeds), device)["weight"]

    def draw_norm(name: str, width: int) -> None:
        made[name] = (
            RmsNorm().weights(of("rms_norm", step, rows=1, hidden=width), next(seeds))["weight"].to(device)
        )

    for layer in range(step["dense_layers"] + step["moe_layers"]):
        for name, width in norms(step):
            draw_norm(f"{layer}.{name}", width)
        for name, n, k in products(step, layer):
            draw_product(f"{layer}.{name}", n, k)
        attention = attention_problem(step, layer)
        if step["kv_lora_rank"]:
            made[f"{layer}.kv_b"] = MlaDecode().weights(attention, next(seeds), device)["kv_b"]
            cached = MlaDecode().activations(attention, next(seeds), device)
            made[f"{layer}.latent"], made[f"{layer}.rope"] = cached["latent"], cached["rope"]
        else:
            cached = Attention().activations(attention, next(seeds), device)
            made[f"{layer}.keys"], made[f"{layer}.values"] = cached["key"], cached["value"]
        if not is_dense(step, layer):
            experts = FusedMoe().weights(experts_problem(step), next(seeds), device)
            for name in FusedMoe().weight_names(experts_problem(step)):
                made[f"{layer}.{name}"] = experts[name]
    draw_norm("norm", step["hidden"])
    if step["vocab"]:
        draw_product("lm_head", step["vocab"], step["hidden"])
    made["cos_sin"] = Rope().weights(rope_problem(step), next(seeds))["cos_sin"].to(device)
    return made


class _Reference:
    """One step in a higher precision."""

    def __init__(self, step: Problem, weights: Tensors) -> None:
        self._step = step
        self._weights = weights
        self._dtype = torch.float64 if step["dtype"] == "float32" else torch.float32

    def run(self, activations: Tensors) -> torch.Tensor:
        step, total = self._step, activations["hidden"].to(self._dtype)
        for layer in range(step["dense_layers"] + step["moe_layers"]):
            attended = self._attention(layer, self._norm(f"{layer}.norm1", total), activations["positions"])
            total = total + self._product(f"{layer}.o", attended.to(self._dtype))
            x = self._norm(f"{layer}.norm2", total)
            dense = is_dense(step, layer)
            if dense or step["shared_intermediate"]:
                gated = F.silu(self._product(f"{layer}.gate", x)) * self._product(f"{layer}.up", x)
                total = total + self._product(f"{layer}.down", gated)
            if not dense:
                total = total + self._experts(layer, x, activations["routing"])
        normed = self._norm("norm", total)
        return self._product("lm_head", normed) if step["vocab"] else normed

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON)
        return x * scale * self._weights[name].to(self._dtype)

    def _product(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """By blocks of rows: a whole weight converted would take several times its memory."""
        rows = torch.split(self._weights[name], max(1, BLOCK // x.shape[-1]))
        return torch.cat([F.linear(x, part.to(self._dtype)) for part in rows], -1)

    def _attention(self, layer: int, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        step, batch, heads = self._step, self._step["batch"], self._step["heads"]
        width = widths(step)[1]
        # The problem's own type would round what is rotated.
        rope = Rope(), rope_problem(step, dtype="float32"), {"cos_sin": self._weights["cos_sin"]}

        def rotate(query: torch.Tensor, key: torch.Tensor) -> Any:
            arguments = {"positions": positions, "query": query, "key": key}
            return rope[0].reference(rope[1], rope[2], arguments)

        if step["kv_lora_rank"]:
            query = self._product(f"{layer}.q", x) if not step["q_lora_rank"] else self._query(layer, x)
            nope, turned = torch.split(query.view(batch, heads, -1), [step["qk_nope"], width], -1)
            latent, key = torch.split(self._product(f"{layer}.kv_a", x), [step["kv_lora_rank"], width], -1)
            turned, key = rotate(turned, key.unsqueeze(1))
            caches = self._with_last(layer, latent=self._norm(f"{layer}.kv_a_norm", latent), rope=key[:, 0])
            given = {"q_nope": nope, "q_rope": turned, **caches}
            problem, weights = attention_problem(step, layer), {"kv_b": self._weights[f"{layer}.kv_b"]}
            return MlaDecode().reference(problem, weights, given).flatten(1)
        query, key, value = (self._product(f"{layer}.{name}", x).view(batch, -1, width) for name in "qkv")
        if step["qk_norm"] == "yes":
            query, key = self._norm(f"{layer}.q_norm", query), self._norm(f"{layer}.k_norm", key)
        query, key = rotate(query, key)
        caches = self._with_last(layer, keys=key, values=value)
        given = {"query": query.unsqueeze(2), "key": caches["keys"], "value": caches["values"]}
        return Attention().reference(attention_problem(step, layer), {}, given).flatten(1)

    def _query(self, layer: int, x: torch.Tensor) -> torch.Tensor:
        latent = self._norm(f"{layer}.q_a_norm", self._product(f"{layer}.q_a", x))
        return self._product(f"{layer}.q_b", latent)

    def _with_last(self, layer: int, **last: torch.Tensor) -> Tensors:
        """Caches, in a copy, with the new token's entries as their last position."""
        caches = {}
        for name, entries in last.items():
            caches[name] = self._weights[f"{layer}.{name}"].to(entries.dtype, copy=True)
            caches[name][..., -1, :] = entries
        return caches

    def _experts(self, layer: int, x: torch.Tensor, routing: torch.Tensor) -> torch.Tensor:
        step = self._step
        scores = self._product(f"{layer}.router", x).softmax(-1)
        bias = routing[layer - step["dense_layers"]].to(scores.dtype)
        ids = (scores + bias).topk(step["top_k"], -1, sorted=False).indices
        mix = scores.gather(-1, ids)
        names = FusedMoe().weight_names(experts_problem(step))
        given = {"hidden_states": x, "topk_ids": ids, "topk_weights": mix / mix.sum(-1, keepdim=True)}
        weights = {name: self._weights[f"{layer}.{name}"] for name in names}
        return FusedMoe().reference(experts_problem(step), weights, given)


def reference(step: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
    """What the step should yield, in float32, or in float64 for float32 problems."""
    return _Reference(step, weights).run(activations)
