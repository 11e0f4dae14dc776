"""Attention with grouped queries, for prompts and for one step of decode."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it
from torch.nn.attention import SDPBackend, sdpa_kernel

from autotune.workloads.base import Cost, Workload
from autotune.workloads.native_attention import Tiling, Widths, attention_kernel, native_attention
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors
    from autotune.workloads.native import NativeKernel


class Attention(Workload):
    """`softmax(query @ key.T / sqrt(head_dim)) @ value`, causal or not.

    Activations are query (batch, heads, q_len, head_dim), key and value (batch, kv_heads, kv_len, head_dim);
    a configuration of layout `bshd` takes them as (batch, positions, heads, head_dim). The output is (batch,
    q_len, heads, head_dim), as the projection after it wants it. Causal queries are the last positions of the
    keys.
    """

    name = "attention"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """None."""
        return {}

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Standard normal query, key and value."""
        generator = None if device == "meta" else torch.Generator(device).manual_seed(seed)
        dtype = getattr(torch, problem["dtype"])

        def draw(heads: int, positions: int) -> torch.Tensor:
            shape = (problem["batch"], heads, positions, problem["head_dim"])
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        return {
            "query": draw(problem["heads"], problem["q_len"]),
            "key": draw(problem["kv_heads"], problem["kv_len"]),
            "value": draw(problem["kv_heads"], problem["kv_len"]),
        }

    def pack_activations(
        self,
        problem: Problem,
        configuration: Mapping[str, Any],
        activations: Tensors,
        weights: Tensors,
    ) -> Tensors:
        """Positions before heads in layout `bshd`."""
        if configuration.get("layout", "bhsd") == "bhsd":
            return activations
        return {name: tensor.transpose(1, 2).contiguous() for name, tensor in activations.items()}

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
        """In float64, one head at a time."""
        query, key, value = activations.values()
        batch, heads, q_len, head_dim = query.shape
        shared = heads // problem["kv_heads"]
        hidden = _hidden(problem, query.device)
        out = torch.empty((batch, q_len, heads, head_dim), dtype=torch.float64, device=query.device)
        for b in range(batch):
            for h in range(heads):
                k, v = key[b, h // shared].double(), value[b, h // shared].double()
                scores = (query[b, h].double() @ k.mT) * head_dim**-0.5
                if hidden is not None:
                    scores.masked_fill_(hidden, -torch.inf)
                out[b, :, h] = scores.softmax(-1) @ v
        return out

    def native_kernels(self, problem: Problem, configuration: Mapping[str, Any]) -> tuple[NativeKernel, ...]:
        """The kernel of `native`."""
        if configuration["implementation"] != "native":
            return ()
        return (attention_kernel(*_compiled_for(problem, configuration)),)

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The kernel of a configuration; see `search_spaces/attention.toml`."""
        attend = _IMPLEMENTATIONS[configuration["implementation"]](problem, configuration)
        is_bshd = configuration.get("layout") == "bshd"

        def run(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Any:
            if is_bshd:
                query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
            return attend(query, key, value)

        return with_threads(run, configuration.get("threads"))

    def cost(self, problem: Problem) -> Cost:
        """Two products for each pair of a query and a key that it sees; everything moves once."""
        b, q, kv = problem["batch"], problem["q_len"], problem["kv_len"]
        pairs = q * kv - (q * (q - 1) // 2 if problem["causal"] == "yes" else 0)
        rows = 2 * b * (problem["heads"] * q + problem["kv_heads"] * kv)
        size = getattr(torch, problem["dtype"]).itemsize
        flops = 4 * b * problem["heads"] * pairs * problem["head_dim"]
        return Cost(flops, rows * problem["head_dim"] * size, problem["dtype"])


def _masks(problem: Problem) -> bool:
    """Whether there are keys that a query does not see."""
    return bool(problem["causal"] == "yes" and problem["q_len"] > 1)


def _hidden(problem: Problem, device: torch.device) -> torch.Tensor | None:
    """Mask (q_len, kv_len) of the keys that a query does not see; None if it sees all."""
    q_len, kv_len = problem["q_len"], problem["kv_len"]
    if not _masks(problem):
        return None
    return torch.ones((q_len, kv_len), dtype=torch.bool, device=device).triu(kv_len - q_len + 1)


def _sdpa(problem: Problem, configuration: Mapping[str, Any]) -> Kernel:
    """torch's scaled_dot_product_attention, as Hugging Face transformers calls it."""
    # `is_causal` aligns the first query with the first key: right only when there are as many of both.
    is_causal = _masks(problem) and problem["q_len"] == problem["kv_len"]
    masks: dict[torch.device, torch.Tensor | None] = {}
    shared = problem["heads"] // problem["kv_heads"]
    repeats = configuration["kv_heads_as"] == "repeated"
    backends = [SDPBackend.MATH] if configuration["backend"] == "math" else None

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if repeats:
            key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        grouped = shared > 1 and not repeats
        if query.device not in masks:
            hidden = None if is_causal else _hidden(problem, query.device)
            masks[query.device] = None if hidden is None else ~hidden
        mask = masks[query.device]
        out = F.scaled_dot_product_attention(query, key, value, mask, is_causal=is_causal, enable_gqa=grouped)
        return out.transpose(1, 2).contiguous()

    if backends is None:
        return attend

    def attend_with(*arguments: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backends):
            return attend(*arguments)

    return attend_with


def _lower_right(q_len: int, kv_len: int) -> Any:
    """The mask whose diagonal ends at the last key; its module takes seconds to import."""
    from torch.nn.attention.bias import causal_lower_right

    return causal_lower_right(q_len, kv_len)


def _sdpa_backend(backend: SDPBackend) -> Callable[[Problem, Mapping[str, Any]], Kernel]:
    """scaled_dot_product_attention by one of torch's backends; one that cannot do it raises when it runs."""

    def build(problem: Problem, configuration: Mapping[str, Any]) -> Kernel:
        q_len, kv_len, shared = problem["q_len"], problem["kv_len"], problem["heads"] // problem["kv_heads"]
        repeats = configuration["kv_heads_as"] == "repeated"
        is_causal = _masks(problem) and q_len == kv_len
        # Aligns the last query with the last key, without a mask in memory.
        bias = _lower_right(q_len, kv_len) if _masks(problem) and not is_causal else None

        def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            if repeats:
                key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
            grouped = shared > 1 and not repeats
            with sdpa_kernel([backend]):
                out = F.scaled_dot_product_attention(
                    query, key, value, bias, is_causal=is_causal, enable_gqa=grouped
                )
            return out.transpose(1, 2).contiguous()

        return attend

    return build


def _triton(problem: Problem, configuration: Mapping[str, Any]) -> Kernel:
    """Our own Triton kernel for decode."""
    from autotune.workloads.kernels.attention import build_decode

    return build_decode(problem, configuration)


def _grouped(problem: Problem, configuration: Mapping[str, Any]) -> Kernel:
    """Query heads that share a key head become rows of one head, so that each key is read once for all."""
    shared, block = problem["heads"] // problem["kv_heads"], configuration["query_block"]
    hidden = _hidden(problem, torch.device("cpu"))
    kv_len, q_len = problem["kv_len"], problem["q_len"]
    spans = [(i, min(i + block, q_len)) for i in range(0, q_len, block)]
    # With a causal mask, a block of queries needs the keys up to its last one alone.
    ends = [kv_len if hidden is None else kv_len - q_len + stop for _, stop in spans]
    masks = [
        None if hidden is None else ~hidden[start:stop, :end].repeat(shared, 1)
        for (start, stop), end in zip(spans, ends, strict=True)
    ]

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, _, head_dim = query.shape
        parts = []
        for (start, stop), end, mask in zip(spans, ends, masks, strict=True):
            rows = query[:, :, start:stop].reshape(batch, heads // shared, -1, head_dim)
            part = F.scaled_dot_product_attention(rows, key[:, :, :end], value[:, :, :end], mask)
            parts.append(part.reshape(batch, heads, stop - start, head_dim).transpose(1, 2))
        return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, 1)

    return attend


def _matmul(problem: Problem, configuration: Mapping[str, Any]) -> Kernel:  # noqa: ARG001 - as its siblings
    """Matmul, softmax, matmul; scores and weights are rounded to the problem's type in between."""
    shared = problem["heads"] // problem["kv_heads"]
    hidden = _hidden(problem, torch.device("cpu"))
    hidden = None if hidden is None else hidden.repeat(shared, 1)

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        batch, heads, q_len, head_dim = query.shape
        rows = query.reshape(batch, heads // shared, shared * q_len, head_dim)
        scores = torch.matmul(rows, key.mT).float() * head_dim**-0.5
        if hidden is not None:
            scores = scores.masked_fill_(hidden, -torch.inf)
        out = torch.matmul(scores.softmax(-1).to(value.dtype), value)
        return out.reshape(batch, heads, q_len, head_dim).transpose(1, 2).contiguous()

    return attend


def _compiled_for(
    problem: Problem, configuration: Mapping[str, Any]
) -> tuple[torch.dtype, torch.dtype, torch.dtype, Widths, Tiling]:
    """Types and sizes that the native kernel of a configuration is compiled for."""
    dtype, head_dim = getattr(torch, problem["dtype"]), problem["head_dim"]
    tiling = Tiling(
        configuration["rows"],
        configuration["block"],
        configuration["tile"],
        configuration["prefetch"],
        packed=configuration["weights_dtype"] == "bfloat16",
    )
    return dtype, dtype, dtype, Widths(head_dim, 0, head_dim), tiling


def _native(problem: Problem, configuration: Mapping[str, Any]) -> Kernel:
    """Our own kernel."""
    kernel = native_attention(*_compiled_for(problem, configuration))
    splits, causal, scale = configuration["splits"], problem["causal"] == "yes", problem["head_dim"] ** -0.5

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        kernel(query, key, None, value, out.transpose(1, 2), scale=scale, splits=splits, causal=causal)
        return out

    return attend


_IMPLEMENTATIONS: dict[str, Callable[[Problem, Mapping[str, Any]], Kernel]] = {
    "sdpa": _sdpa,
    "grouped": _grouped,
    "matmul": _matmul,
    "native": _native,
    "sdpa_flash": _sdpa_backend(SDPBackend.FLASH_ATTENTION),
    "sdpa_efficient": _sdpa_backend(SDPBackend.EFFICIENT_ATTENTION),
    "sdpa_cudnn": _sdpa_backend(SDPBackend.CUDNN_ATTENTION),
    "sdpa_math": _sdpa_backend(SDPBackend.MATH),
    "triton": _triton,
}
