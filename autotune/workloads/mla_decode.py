"""One decode step of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434)."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it

from autotune.workloads.base import Cost, Workload
from autotune.workloads.native import NativeKernel, address, load_kernel, storage_type
from autotune.workloads.native_attention import Tiling, Widths, attention_kernel, native_attention
from autotune.workloads.random_inputs import random_weight
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors


class MlaDecode(Workload):
    """Every head of one new position attends to the cached positions of its sequence.

    The weight `kv_b` (heads * (qk_nope + v_dim), kv_lora_rank) makes keys and values of a latent. Activations
    are `q_nope` (batch, heads, qk_nope), `q_rope` (batch, heads, qk_rope), and the cache: `latent` (batch,
    context, kv_lora_rank) and `rope` (batch, context, qk_rope). The output is (batch, heads, v_dim).

    How a serving system holds the cache is part of a configuration, `cache`:
        separate: as above.
        concatenated: `latent` and `rope` side by side, (batch, context, kv_lora_rank + qk_rope).
        float32: concatenated, converted to float32: twice the memory of a 16-bit cache.
        expanded: keys (batch, heads, context, qk_nope + qk_rope) and values (batch, heads, context, v_dim) of
            every head, as Hugging Face transformers does: 4.4 times the memory at 8 heads, 36 times at 64.
    """

    name = "mla_decode"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Normal `kv_b`, scaled so that keys and values have the latent's variance."""
        generator, rank = torch.Generator().manual_seed(seed), problem["kv_lora_rank"]
        rows = problem["heads"] * (problem["qk_nope"] + problem["v_dim"])
        weight = random_weight((rows, rank), rank**-0.5, getattr(torch, problem["dtype"]), generator, device)
        return {"kv_b": weight}

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """`kv_b`."""
        return ("kv_b",)

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Standard normal queries and cache."""
        generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
        batch, context, heads = problem["batch"], problem["context"], problem["heads"]
        dtype, kv_dtype = getattr(torch, problem["dtype"]), getattr(torch, problem["kv_dtype"])

        def draw(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        return {
            "q_nope": draw(dtype, batch, heads, problem["qk_nope"]),
            "q_rope": draw(dtype, batch, heads, problem["qk_rope"]),
            "latent": draw(kv_dtype, batch, context, problem["kv_lora_rank"]),
            "rope": draw(kv_dtype, batch, context, problem["qk_rope"]),
        }

    def pack_activations(
        self, problem: Problem, configuration: Mapping[str, Any], activations: Tensors, weights: Tensors
    ) -> Tensors:
        """The cache as `configuration["cache"]` says."""
        queries = {name: activations[name] for name in ("q_nope", "q_rope")}
        latent, rope, cache = activations["latent"], activations["rope"], configuration["cache"]
        if cache == "separate":
            return activations
        if cache == "expanded":
            keys, values = _expand(problem, weights["kv_b"], latent, rope)
            return {**queries, "keys": keys.contiguous(), "values": values.contiguous()}
        joined = torch.cat([latent, rope], -1)
        return {**queries, "cache": joined.float() if cache == "float32" else joined}

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
        """In float64 and the absorbed form, one sequence at a time."""
        q_nope, q_rope, latent, rope = activations.values()
        to_key, to_value = _split(problem, weights["kv_b"].double())
        out = []
        for b in range(problem["batch"]):
            query = torch.einsum("hn,hnr->hr", q_nope[b].double(), to_key)
            cache = latent[b].double()
            scores = (query @ cache.mT + q_rope[b].double() @ rope[b].double().mT) * _scale(problem)
            out.append(torch.einsum("hr,hvr->hv", scores.softmax(-1) @ cache, to_value))
        return torch.stack(out)

    def native_kernels(self, problem: Problem, configuration: Mapping[str, Any]) -> tuple[NativeKernel, ...]:
        """The kernel of `native`."""
        if configuration["implementation"] != "native":
            return ()
        return (attention_kernel(*_compiled_for(problem, configuration)), _latent_kernel(problem))

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The kernel of a configuration; see `search_spaces/mla_decode.toml`."""
        make = _IMPLEMENTATIONS[configuration["implementation"]]
        return with_threads(make(problem, configuration, weights["kv_b"]), configuration.get("threads"))

    def cost(self, problem: Problem) -> Cost:
        """The absorbed form: each head attends to the latent itself, once as key and once as value."""
        batch, heads, rank = problem["batch"], problem["heads"], problem["kv_lora_rank"]
        nope, rope, v_dim = problem["qk_nope"], problem["qk_rope"], problem["v_dim"]
        tokens, weight = batch * problem["context"], heads * (nope + v_dim) * rank
        size = getattr(torch, problem["dtype"]).itemsize
        cache = tokens * (rank + rope) * getattr(torch, problem["kv_dtype"]).itemsize
        flops = 2 * tokens * heads * (2 * rank + rope) + 2 * batch * weight
        moved = cache + (weight + batch * heads * (nope + rope + v_dim)) * size
        return Cost(flops, moved, problem["dtype"])


def _scale(problem: Problem) -> float:
    return float((problem["qk_nope"] + problem["qk_rope"]) ** -0.5)


def _split(problem: Problem, kv_b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of `kv_b` (heads, width, kv_lora_rank) that make keys and values."""
    rows = kv_b.view(problem["heads"], problem["qk_nope"] + problem["v_dim"], -1)
    return rows[:, : problem["qk_nope"]], rows[:, problem["qk_nope"] :]


def _expand(
    problem: Problem, kv_b: torch.Tensor, latent: torch.Tensor, rope: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (batch, heads, context, width) of a cache."""
    heads, nope = problem["heads"], problem["qk_nope"]
    rows = F.linear(latent, kv_b.to(latent.dtype))
    both = rows.view(*latent.shape[:2], heads, nope + problem["v_dim"]).transpose(1, 2)
    keys = torch.cat([both[..., :nope], rope.unsqueeze(1).expand(-1, heads, -1, -1)], -1)
    return keys, both[..., nope:]


def _expanded(problem: Problem, configuration: Mapping[str, Any], kv_b: torch.Tensor) -> Kernel:
    """Keys and values of every head, held or made anew, and torch's scaled_dot_product_attention."""
    scale, dtype = _scale(problem), getattr(torch, problem["dtype"])

    def attend(q_nope: torch.Tensor, q_rope: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> Any:
        query = torch.cat([q_nope, q_rope], -1).unsqueeze(2).to(keys.dtype)
        out = F.scaled_dot_product_attention(query, keys, values, scale=scale)
        return out.squeeze(2).to(dtype).contiguous()

    def attend_anew(
        q_nope: torch.Tensor, q_rope: torch.Tensor, latent: torch.Tensor, rope: torch.Tensor
    ) -> Any:
        return attend(q_nope, q_rope, *_expand(problem, kv_b, latent, rope))

    return attend if configuration["cache"] == "expanded" else attend_anew


def _absorbed(problem: Problem, configuration: Mapping[str, Any], kv_b: torch.Tensor) -> Kernel:
    """Float32 arithmetic on the latent itself; a 16-bit cache is converted a few sequences at a time."""
    rank, width = problem["kv_lora_rank"], problem["kv_lora_rank"] + problem["qk_rope"]
    together = min(configuration["sequences"], problem["batch"])
    to_key, to_value = (part.float().contiguous() for part in _split(problem, kv_b))
    dtype, scale = getattr(torch, problem["dtype"]), _scale(problem)
    spare: list[torch.Tensor] = []

    def attend(query: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
        # All heads are rows of one; the value is the latent part of the key itself.
        keys = cache.unsqueeze(1)
        return F.scaled_dot_product_attention(query.unsqueeze(1), keys, keys, scale=scale)[:, 0, :, :rank]

    def convert_and_attend(query: torch.Tensor, latent: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        # Kept between calls: a fresh one would fault in every page again.
        scratch = spare.pop() if spare else torch.empty((together, latent.shape[1], width))
        parts = []
        for first in range(0, len(query), together):
            last = min(first + together, len(query))
            scratch[: last - first, :, :rank] = latent[first:last]
            scratch[: last - first, :, rank:] = rope[first:last]
            parts.append(attend(query[first:last], scratch[: last - first]))
        spare.append(scratch)
        return torch.cat(parts)

    def run(q_nope: torch.Tensor, q_rope: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        query = torch.empty((*q_rope.shape[:2], width))
        query[..., :rank] = torch.bmm(q_nope.transpose(0, 1).float(), to_key).transpose(0, 1)
        query[..., rank:] = q_rope
        latent = attend(query, cache[0]) if len(cache) == 1 else convert_and_attend(query, *cache)
        return torch.bmm(latent.transpose(0, 1), to_value.mT).transpose(0, 1).to(dtype).contiguous()

    return run


def _absorbed_low_precision(problem: Problem, configuration: Mapping[str, Any], kv_b: torch.Tensor) -> Kernel:
    """Arithmetic in the cache's own type: every intermediate result is rounded to it."""
    rank, scale, dtype = problem["kv_lora_rank"], _scale(problem), getattr(torch, problem["dtype"])
    kv_dtype = getattr(torch, problem["kv_dtype"])
    to_key, to_value = (part.to(kv_dtype).contiguous() for part in _split(problem, kv_b))
    uses_flash = configuration["attend"] == "flash"

    def attend(query: torch.Tensor, cache: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Latents (batch, heads, kv_lora_rank) for a query (batch, heads, kv_lora_rank + qk_rope)."""
        if uses_flash:
            keys = cache[0].unsqueeze(1)
            return F.scaled_dot_product_attention(query.unsqueeze(1), keys, keys, scale=scale)[:, 0, :, :rank]
        if len(cache) == 1:
            scores, latent = query @ cache[0].mT, cache[0][..., :rank]
        else:
            latent, rope = cache
            scores = query[..., :rank] @ latent.mT + query[..., rank:] @ rope.mT
        return (scores.float() * scale).softmax(-1).to(kv_dtype) @ latent

    def run(q_nope: torch.Tensor, q_rope: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        absorbed = torch.bmm(q_nope.transpose(0, 1).to(kv_dtype), to_key).transpose(0, 1)
        latent = attend(torch.cat([absorbed, q_rope.to(kv_dtype)], -1), cache)
        return torch.bmm(latent.transpose(0, 1), to_value.mT).transpose(0, 1).to(dtype).contiguous()

    return run


def _compiled_for(
    problem: Problem, configuration: Mapping[str, Any]
) -> tuple[torch.dtype, torch.dtype, torch.dtype, Widths, Tiling]:
    """Types and sizes that the native attention of a configuration is compiled for."""
    rank, kv_dtype = problem["kv_lora_rank"], getattr(torch, problem["kv_dtype"])
    tiling = Tiling(
        configuration["rows"], configuration["block"], configuration["tile"], configuration["prefetch"]
    )
    return torch.float32, kv_dtype, torch.float32, Widths(rank, problem["qk_rope"], rank), tiling


def _latent_kernel(problem: Problem) -> NativeKernel:
    """Into the latent space and out of it again."""
    definitions: dict[str, int | str] = {
        "TYPE": storage_type(getattr(torch, problem["dtype"])),
        "NOPE": problem["qk_nope"],
        "ROPE": problem["qk_rope"],
        "V": problem["v_dim"],
        "RANK": problem["kv_lora_rank"],
        "SEQUENCES": 2,
    }
    return NativeKernel.of("latent.cpp", definitions)


def _native(problem: Problem, configuration: Mapping[str, Any], kv_b: torch.Tensor) -> Kernel:
    """Our own kernels in float32, on weights and cache as they are stored."""
    rank, rope, v_dim = problem["kv_lora_rank"], problem["qk_rope"], problem["v_dim"]
    batch, heads, dtype = problem["batch"], problem["heads"], kv_b.dtype
    attend = native_attention(*_compiled_for(problem, configuration))
    library = load_kernel(_latent_kernel(problem))
    library.absorb.argtypes = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 2
    library.expand_values.argtypes = [ctypes.c_void_p] * 3 + [ctypes.c_int64] * 2
    absorb, expand_values, kv_b = library.absorb, library.expand_values, kv_b.contiguous()
    scale, splits = _scale(problem), configuration["splits"]

    def run(q_nope: torch.Tensor, q_rope: torch.Tensor, *cache: torch.Tensor) -> torch.Tensor:
        q_nope, q_rope = q_nope.contiguous(), q_rope.contiguous()
        query, latent = torch.empty((batch, heads, 1, rank + rope)), torch.empty((batch, heads, 1, rank))
        out = torch.empty((batch, heads, v_dim), dtype=dtype)
        keys, ropes = cache if len(cache) == 2 else (cache[0][..., :rank], cache[0][..., rank:])
        keys, ropes = keys.unsqueeze(1), ropes.unsqueeze(1)
        absorb(address(q_nope), address(q_rope), address(kv_b), address(query), batch, heads)
        attend(query, keys, ropes, keys, latent, scale=scale, splits=splits)
        expand_values(address(latent), address(kv_b), address(out), batch, heads)
        return out

    return run


def _triton(*, precise: bool) -> Callable[[Problem, Mapping[str, Any], torch.Tensor], Kernel]:
    """Our own Triton kernel, on the cache as it is stored."""

    def build(problem: Problem, configuration: Mapping[str, Any], kv_b: torch.Tensor) -> Kernel:
        from autotune.workloads.kernels.mla_decode import build_latent_attention

        to_key, to_value = _split(problem, kv_b)
        return build_latent_attention(problem, configuration, to_key, to_value, precise=precise)

    return build


_IMPLEMENTATIONS: dict[str, Callable[[Problem, Mapping[str, Any], torch.Tensor], Kernel]] = {
    "expanded": _expanded,
    "absorbed": _absorbed,
    "absorbed_low_precision": _absorbed_low_precision,
    "native": _native,
    "triton": _triton(precise=True),
    "triton_low_precision": _triton(precise=False),
}
