"""The routed experts of a mixture-of-experts layer, from chosen experts to mixed outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it

from autotune.workloads.base import Cost, Workload
from autotune.workloads.float8 import BLOCK as FP8_BLOCK
from autotune.workloads.float8 import BLOCK_FORMAT as FP8
from autotune.workloads.float8 import FLOAT8, blocks_of, dequantise_blocks, random_blocks
from autotune.workloads.huge_pages import empty_in_huge_pages
from autotune.workloads.int4 import GROUP, PER_INT32, pack_int4_g32, unpack_int4_g32
from autotune.workloads.native_experts import Experts, Tiling, experts_kernel, native_experts
from autotune.workloads.random_inputs import random_activations, random_weight, repeated_rows
from autotune.workloads.routing import EXPONENTS, draw_routing, expected_hits
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors
    from autotune.workloads.native import NativeKernel

DISTINCT_ROWS = 509
"""Rows of a weight in 4 bits that are drawn; the others repeat them. A prime, so that experts differ."""


class FusedMoe(Workload):
    """`sum over a token's experts of weight * down(silu(gate(x)) * up(x))`.

    Weights are `w13` (experts, 2 * intermediate, hidden), gate above up, and `w2` (experts, hidden,
    intermediate). With `weight_format=int4_g32` each is packed along its last dimension (see `int4.py`), with
    `w13_scale` and `w2_scale`. With `fp8_block128x128` they are float8 with scales of blocks under the same
    names (see `float8.py`). Activations are `hidden_states` (tokens, hidden), `topk_ids` int64 (tokens,
    top_k) without repetition, and `topk_weights` float32 (tokens, top_k). The output is (tokens, hidden).
    """

    name = "fused_moe"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Normal weights, scaled to keep the variance."""
        if device == "meta":
            return _shapes(problem)
        generator = torch.Generator().manual_seed(seed)
        experts, hidden, intermediate = problem["experts"], problem["hidden"], problem["intermediate"]
        dtype = getattr(torch, problem["dtype"])
        weights: Tensors = {}
        for name, rows, columns in (("w13", 2 * intermediate, hidden), ("w2", hidden, intermediate)):
            if problem["weight_format"] == "native":
                weights[name] = random_weight((experts, rows, columns), columns**-0.5, dtype, generator)
            elif problem["weight_format"] == FP8:
                made = random_blocks((experts, rows, columns), columns**-0.5, generator)
                weights[name], weights[f"{name}_scale"] = made
            else:
                block = random_weight((DISTINCT_ROWS, columns), columns**-0.5, dtype, generator)
                packed, scale = pack_int4_g32(block)
                weights[name] = repeated_rows(packed, experts * rows).view(experts, rows, -1)
                weights[f"{name}_scale"] = repeated_rows(scale, experts * rows).view(experts, rows, -1)
        return {name: weights[name].to(device) for name in self.weight_names(problem)}

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """`w13`, `w2`, and their scales where there are."""
        scales = () if problem["weight_format"] == "native" else ("w13_scale", "w2_scale")
        return ("w13", "w2", *scales)

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Hidden states as `random_inputs.py` draws them, and choices as `routing.py` does."""
        generator, dtype = torch.Generator().manual_seed(seed), getattr(torch, problem["dtype"])
        hidden_states = random_activations((problem["tokens"], problem["hidden"]), dtype, generator, device)
        exponent = EXPONENTS[problem["routing"]]
        ids, mix = draw_routing(problem["tokens"], problem["experts"], problem["top_k"], exponent, seed)
        return {
            "hidden_states": hidden_states,
            "topk_ids": ids.to(device),
            "topk_weights": mix.to(device),
        }

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
        """Expert by expert, those that are hit alone: in float64 for float32 problems, else in float32."""
        hidden_states, ids, mix = activations.values()
        dtype = torch.float64 if problem["dtype"] == "float32" else torch.float32
        out = torch.zeros(hidden_states.shape, dtype=dtype, device=hidden_states.device)
        for expert in torch.unique(ids).tolist():
            token, choice = torch.where(ids == expert)
            w13, w2 = (_dense(weights, name, expert, dtype) for name in ("w13", "w2"))
            gate, up = F.linear(hidden_states[token].to(dtype), w13).chunk(2, -1)
            made = F.linear(F.silu(gate) * up, w2)
            out.index_add_(0, token, made * mix[token, choice, None].to(dtype))
        return out

    def native_kernels(self, problem: Problem, configuration: Mapping[str, Any]) -> tuple[NativeKernel, ...]:
        """The kernel of `native`."""
        if configuration["implementation"] != "native":
            return ()
        int4 = problem["weight_format"] == "int4_g32"
        return (experts_kernel(getattr(torch, problem["dtype"]), _tiling(configuration), int4=int4),)

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The kernel of a configuration; see `search_spaces/fused_moe.toml`."""
        make = _IMPLEMENTATIONS[configuration["implementation"]]
        return with_threads(make(problem, configuration, weights), configuration.get("threads"))

    def cost(self, problem: Problem) -> Cost:
        """Products for every choice; of the weights, those of the experts that are hit, in expectation."""
        tokens, top_k, hidden = problem["tokens"], problem["top_k"], problem["hidden"]
        size, expert = getattr(torch, problem["dtype"]).itemsize, 3 * hidden * problem["intermediate"]
        hits = expected_hits(tokens, problem["experts"], top_k, EXPONENTS[problem["routing"]])
        stored = {"int4_g32": 0.5 + size / 32, FP8: 1 + torch.float32.itemsize / FP8_BLOCK**2}
        per_weight = stored.get(problem["weight_format"], size)
        choices = tokens * top_k * (torch.int64.itemsize + torch.float32.itemsize)
        moved = round(hits * expert * per_weight) + 2 * tokens * hidden * size + choices
        return Cost(2 * tokens * top_k * expert, moved, problem["dtype"])


def _shapes(problem: Problem) -> Tensors:
    """Weights without data, where only shapes matter."""
    experts, hidden, width = problem["experts"], problem["hidden"], problem["intermediate"]
    dtype, weights = getattr(torch, problem["dtype"]), {}

    def empty(rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty((experts, rows, columns), dtype=dtype, device="meta")

    for name, rows, columns in (("w13", 2 * width, hidden), ("w2", hidden, width)):
        match problem["weight_format"]:
            case "native":
                weights[name] = empty(rows, columns, dtype)
            case "fp8_block128x128":
                weights[name] = empty(rows, columns, FLOAT8)
                weights[f"{name}_scale"] = empty(*blocks_of(rows, columns), dtype=torch.float32)
            case _:
                weights[name] = empty(rows, columns // PER_INT32, torch.int32)
                weights[f"{name}_scale"] = empty(rows, columns // GROUP, dtype)
    return weights


def _dense(weights: Tensors, name: str, expert: int, dtype: torch.dtype) -> torch.Tensor:
    """One expert's weight in a floating type."""
    scale = weights.get(f"{name}_scale")
    if scale is None:
        return weights[name][expert].to(dtype)
    unpack = unpack_int4_g32 if weights[name].dtype == torch.int32 else dequantise_blocks
    return unpack(weights[name][expert], scale[expert], dtype)


def _loaded(weights: Tensors, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """`w13` and `w2` as they are, or dequantised as transformers does when it loads a checkpoint."""
    if "w13_scale" not in weights:
        return weights["w13"], weights["w2"]
    dense = []
    for name in ("w13", "w2"):
        packed = weights[name]
        columns = packed.shape[2] * (PER_INT32 if packed.dtype == torch.int32 else 1)
        full = torch.empty((*packed.shape[:2], columns), dtype=dtype, device=packed.device)
        for expert in range(len(packed)):  # one at a time: what is in between takes several times the result
            full[expert] = _dense(weights, name, expert, dtype)
        dense.append(full)
    return dense[0], dense[1]


def _mixed(made: torch.Tensor, mix: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Outputs (tokens * top_k, hidden) of all choices, mixed: (tokens, hidden)."""
    weighted = made.view(*mix.shape, -1) * mix.unsqueeze(-1)
    return weighted.sum(1).to(dtype)


def _grouped(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:  # noqa: ARG001 - as its siblings
    """Choices sorted by expert, then one grouped product over all experts for each projection."""
    dtype, experts, top_k = getattr(torch, problem["dtype"]), problem["experts"], problem["top_k"]
    w13, w2 = _loaded(weights, dtype)
    w13, w2 = w13.transpose(1, 2), w2.transpose(1, 2)
    # grouped_mm takes rows that start at multiples of 16 bytes alone; transformers loops over experts then.
    aligned = not any(problem[name] * dtype.itemsize % 16 for name in ("hidden", "intermediate"))
    multiply = F.grouped_mm if aligned else _grouped_mm

    def run(hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        choices = topk_ids.view(-1)
        order = choices.argsort()
        ends = torch.bincount(choices, minlength=experts).cumsum(0, dtype=torch.int32)
        gate, up = multiply(hidden_states[order // top_k], w13, offs=ends).chunk(2, -1)
        in_order = multiply(F.silu(gate) * up, w2, offs=ends)
        made = torch.empty_like(in_order)
        made[order] = in_order
        return _mixed(made, topk_weights, dtype)

    return run


def _grouped_mm(rows: torch.Tensor, weights: torch.Tensor, *, offs: torch.Tensor) -> torch.Tensor:
    """`F.grouped_mm` for any sizes."""
    ends = offs.tolist()
    parts = [
        rows[start:end] @ weight
        for start, end, weight in zip([0, *ends], ends, weights, strict=False)
        if end > start
    ]
    return torch.cat(parts)


def _loop(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:  # noqa: ARG001 - as its siblings
    """One expert after another: transformers' `eager` experts, summed in float32 instead."""
    experts, w13, w2 = problem["experts"], weights["w13"], weights["w2"]

    def run(hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(hidden_states.shape, dtype=torch.float32)
        chosen = F.one_hot(topk_ids, experts).permute(2, 0, 1)
        for expert in chosen.sum((1, 2)).nonzero()[:, 0].tolist():
            token, choice = torch.where(chosen[expert])
            gate, up = F.linear(hidden_states[token], w13[expert]).chunk(2, -1)
            made = F.linear(F.silu(gate) * up, w2[expert])
            out.index_add_(0, token, made * topk_weights[token, choice, None])
        return out.to(hidden_states.dtype)

    return run


def _batched(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:  # noqa: ARG001 - as its siblings
    """All experts in one batched product, each with as many rows as the most popular one has tokens."""
    experts, top_k = problem["experts"], problem["top_k"]
    w13, w2 = weights["w13"].mT, weights["w2"].mT

    def run(hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        choices = topk_ids.view(-1)
        order = choices.argsort()
        counts = torch.bincount(choices, minlength=experts)
        in_order = choices[order]
        rank = torch.arange(len(order)) - (counts.cumsum(0) - counts)[in_order]
        rows = hidden_states.new_zeros((experts, int(counts.max()), hidden_states.shape[1]))
        rows[in_order, rank] = hidden_states[order // top_k]
        gate, up = torch.bmm(rows, w13).chunk(2, -1)
        padded = torch.bmm(F.silu(gate) * up, w2)
        made = torch.empty((len(order), hidden_states.shape[1]), dtype=padded.dtype)
        made[order] = padded[in_order, rank]
        return _mixed(made, topk_weights, hidden_states.dtype)

    return run


def _tiling(configuration: Mapping[str, Any]) -> Tiling:
    return Tiling(
        configuration["rows"],
        configuration["tokens_per_tile"],
        configuration["block"],
        configuration["prefetch"],
        dot=configuration["compute_dtype"] == "bfloat16",
    )


def _native(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
    """Our own kernel, on weights as the checkpoint stores them."""
    given = Experts(weights["w13"], weights["w2"], weights.get("w13_scale"), weights.get("w2_scale"))
    settle = _in_huge_pages if configuration["pages"] == "huge" else torch.Tensor.contiguous
    experts = Experts(*(None if weight is None else settle(weight) for weight in given))  # type: ignore[arg-type]
    forward = native_experts(getattr(torch, problem["dtype"]), experts, _tiling(configuration))

    def run(hidden_states: torch.Tensor, topk_ids: torch.Tensor, topk_weights: torch.Tensor) -> torch.Tensor:
        return forward(hidden_states.contiguous(), topk_ids.contiguous(), topk_weights.contiguous())

    return run


def _in_huge_pages(weight: torch.Tensor) -> torch.Tensor:
    return empty_in_huge_pages(tuple(weight.shape), weight.dtype).copy_(weight)


def _triton(*, quantises: bool) -> Callable[[Problem, Mapping[str, Any], Tensors], Kernel]:
    """Our own Triton kernels, on weights as the checkpoint stores them."""

    def build(problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        from autotune.workloads.kernels.fused_moe import build_experts

        return build_experts(problem, configuration, weights, quantises=quantises)

    return build


_IMPLEMENTATIONS: dict[str, Callable[[Problem, Mapping[str, Any], Tensors], Kernel]] = {
    "grouped": _grouped,
    "loop": _loop,
    "batched": _batched,
    "native": _native,
    "triton": _triton(quantises=False),
    "triton_fp8": _triton(quantises=True),
}
