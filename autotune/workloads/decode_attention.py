"""Attention of a decode step: projections, rotation, the cache and what is attended to in it.

A serving system holds a cache in the layout that its kernel takes, with room for the new token. So a built
step owns one, filled from the step's weights; each call writes its last position, and attends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from autotune.workloads import decode_reference as shapes
from autotune.workloads.native_attention import Tiling, Widths, native_attention
from autotune.workloads.registry import workload

if TYPE_CHECKING:
    from autotune.workloads.base import Kernel, Tensors
    from autotune.workloads.decode_parts import Parts


def _own(weights: Tensors, dtype: torch.dtype) -> list[torch.Tensor]:
    """Copies that may be written to."""
    return [weight.to(dtype, copy=True) for weight in weights.values()]


class GroupedAttention:
    """Grouped-query attention of a layer.

    Args:
        parts: of the step.
        number: of the layer.
    """

    def __init__(self, parts: Parts, number: int) -> None:
        step = parts.step
        self._batch, self._width = step["batch"], step["head_dim"]
        self._project = parts.product(tuple(f"{number}.{name}" for name in "qkv"), "projections")
        self._output = parts.product((f"{number}.o",), "projections")
        self._rotate = parts.rotation()
        self._norms = None
        if step["qk_norm"] == "yes":
            rows = (step["batch"] * step["heads"], step["batch"] * step["kv_heads"])
            self._norms = [
                parts.norm(f"{number}.{name}", rows=count)
                for name, count in zip(("q_norm", "k_norm"), rows, strict=True)
            ]
        cache = getattr(torch, parts.configuration.get("cache", step["dtype"]))
        names = (f"{number}.keys", f"{number}.values")
        self._keys, self._values = parts.hold(("cache", cache), names, lambda weights: _own(weights, cache))
        if parts.configuration["attention"] == "torch":
            problem = shapes.attention_problem(step, number)
            self._attend = workload("attention").build(problem, parts.baseline(problem), {})
        else:
            self._attend = _native_attention(parts, cache)

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the new tokens (batch, hidden) attend to, projected."""
        query, key, value = (part.reshape(self._batch, -1, self._width) for part in self._project(x))
        if self._norms is not None:
            query, key = (
                norm(None, part.reshape(-1, self._width))[0].view(part.shape)
                for norm, part in zip(self._norms, (query, key), strict=True)
            )
        query, key = self._rotate(positions, query, key)
        self._keys[:, :, -1] = key
        self._values[:, :, -1] = value
        out: Any = self._attend(query.unsqueeze(2), self._keys, self._values)
        return self._output(out.reshape(self._batch, -1))[0]


def _native_attention(parts: Parts, cache: torch.dtype) -> Kernel:
    """Our own kernel, with a cache of its own type."""
    step, values = parts.step, parts.values
    shared, width, scale = step["heads"] // step["kv_heads"], step["head_dim"], step["head_dim"] ** -0.5
    rows = 8 if shared >= 8 else 4 if shared > 2 else shared
    tiling = Tiling(rows, parts.configuration["attention_block"], min(shared, 64))
    kernel = native_attention(values, cache, values, Widths(width, 0, width), tiling)
    splits = parts.configuration["attention_splits"]

    def attend(query: torch.Tensor, keys: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
        query = query.contiguous()
        out = torch.empty_like(query)
        kernel(query, keys, None, held, out, scale=scale, splits=splits)
        return out

    return attend


class LatentAttention:
    """Multi-head latent attention of a layer.

    Args:
        parts: of the step.
        number: of the layer.
    """

    def __init__(self, parts: Parts, number: int) -> None:
        step = parts.step
        self._batch, self._heads = step["batch"], step["heads"]
        self._nope, self._rope, self._rank = step["qk_nope"], step["qk_rope"], step["kv_lora_rank"]
        self._has_query_latent = step["q_lora_rank"] > 0
        first = "q_a" if self._has_query_latent else "q"
        self._project = parts.product((f"{number}.{first}", f"{number}.kv_a"), "projections")
        self._latent_norm = parts.norm(f"{number}.kv_a_norm")
        if self._has_query_latent:
            self._query_norm = parts.norm(f"{number}.q_a_norm")
            self._query = parts.product((f"{number}.q_b",), "projections")
        self._rotate = parts.rotation()
        self._output = parts.product((f"{number}.o",), "projections")
        self._write, self._attend = (
            _expanded(parts, number)
            if parts.configuration["attention"] == "torch"
            else _absorbed(parts, number)
        )

    def __call__(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the new tokens (batch, hidden) attend to, projected."""
        query, latent = self._project(x)
        if self._has_query_latent:
            (query,) = self._query(self._query_norm(None, query.contiguous())[0])
        nope, turned = torch.split(query.view(self._batch, self._heads, -1), [self._nope, self._rope], -1)
        latent, key = torch.split(latent, [self._rank, self._rope], -1)
        turned, key = self._rotate(positions, turned, key.unsqueeze(1))
        self._write(self._latent_norm(None, latent.contiguous())[0], key[:, 0])
        return self._output(self._attend(nope, turned).reshape(self._batch, -1))[0]


def _expanded(parts: Parts, number: int) -> tuple[Any, Any]:
    """Keys and values of every head in the cache, as Hugging Face transformers holds them."""
    step, name = parts.step, f"{number}.kv_b"
    problem = shapes.attention_problem(step, number)
    configuration = parts.baseline(problem)
    weights = {"kv_b": parts.weights[name]}

    def make(given: Tensors) -> list[torch.Tensor]:
        kv_b, latent, rope = given.values()
        query = torch.empty(0)
        cached = {"q_nope": query, "q_rope": query, "latent": latent, "rope": rope}
        packed = workload("mla_decode").pack_activations(problem, configuration, cached, {"kv_b": kv_b})
        return [packed["keys"], packed["values"]]

    names = (name, f"{number}.latent", f"{number}.rope")
    keys, values = parts.hold(("cache", "expanded"), names, make)
    expand = parts.product((name,), "projections")
    kernel = workload("mla_decode").build(problem, configuration, weights)
    nope, heads = step["qk_nope"], step["heads"]

    def write(latent: torch.Tensor, rope: torch.Tensor) -> None:
        both = expand(latent)[0].view(len(latent), heads, -1)
        keys[:, :, -1, :nope] = both[..., :nope]
        keys[:, :, -1, nope:] = rope.unsqueeze(1)
        values[:, :, -1] = both[..., nope:]

    return write, lambda query, turned: kernel(query, turned, keys, values)


def _absorbed(parts: Parts, number: int) -> tuple[Any, Any]:
    """Our own kernel over the latent itself, the absorbed weight in the type of the activations."""
    step, configuration, name = parts.step, parts.configuration, f"{number}.kv_b"
    cache = getattr(torch, configuration["cache"])
    problem = shapes.attention_problem(step, number, dtype=parts.type_name, kv_dtype=configuration["cache"])
    heads = step["heads"]
    chosen = {
        "implementation": "native",
        "cache": "separate",
        "rows": 8 if heads >= 8 else 4 if heads > 2 else heads,
        "block": configuration["attention_block"],
        "tile": heads if heads <= 32 else 32,
        "prefetch": 0,
        "splits": configuration["attention_splits"],
    }
    held = (f"{number}.latent", f"{number}.rope")
    latents, ropes = parts.hold(("cache", cache), held, lambda weights: _own(weights, cache))

    def make(weights: Tensors) -> Kernel:
        return workload("mla_decode").build(problem, chosen, {"kv_b": weights[name].to(parts.values)})

    kernel = parts.hold(("attention", problem.key, tuple(chosen.items())), (name,), make)

    def write(latent: torch.Tensor, rope: torch.Tensor) -> None:
        latents[:, -1] = latent
        ropes[:, -1] = rope

    return write, lambda query, turned: kernel(query.contiguous(), turned.contiguous(), latents, ropes)
