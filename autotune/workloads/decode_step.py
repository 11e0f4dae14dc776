"""`decode_step`: one step of decode of a decoder-only transformer, composed of the other workloads.

A token of every sequence goes through norm, attention over the sequence's cache, norm and feed-forward block
of each layer, and through the last norm and the output layer. One layer and `vocab=0` make a decoder layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from autotune.errors import UnknownNameError
from autotune.space import decode_step as shapes
from autotune.space.work import estimated_work
from autotune.workloads import decode_reference
from autotune.workloads.base import Cost, Workload
from autotune.workloads.decode_parts import Parts
from autotune.workloads.inductor import OPTIONS
from autotune.workloads.random_inputs import random_activations
from autotune.workloads.routing import EXPONENTS, draw_routing
from autotune.workloads.threads import with_threads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors

CHOSEN = 2.0
"""Added to the scores of the experts that a token is to choose: scores are shares, at most 1."""


class DecodeStep(Workload):
    """One new token of every sequence, from its embedding to its logits.

    Weights are named layer by layer: `0.q` (heads * head_dim, hidden), `0.gate` (intermediate, hidden), ...
    Beside them is what a serving system holds when a step comes: cosines and sines, and each layer's cache of
    `context` positions, of which the last is the new token's, to be written. Activations are `hidden` (batch,
    hidden), `positions` int64 (batch,), and with experts `routing` (layers with experts, batch, experts). The
    output is (batch, vocab), or (batch, hidden) without an output layer.

    `routing` is added to the scores by which a token chooses its experts, and to nothing else, as DeepSeek-V3
    adds a bias for each expert (arXiv:2412.19437). It makes choices as uneven as a trained router's, and the
    same for every configuration: near ties that rounding decides otherwise would drown the errors that are to
    be compared.
    """

    name = "decode_step"

    def weights(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Normal weights that keep the variance, and caches of standard normal numbers."""
        return decode_reference.random_weights(problem, seed, device)

    def weight_names(self, problem: Problem) -> tuple[str, ...]:
        """As `weights` gives them, from the shapes alone."""
        return tuple(decode_reference.random_weights(problem, 0, "meta"))

    def activations(self, problem: Problem, seed: int, device: str = "cpu") -> Tensors:
        """Embeddings as `random_inputs.py` draws activations, and choices as `routing.py` does."""
        generator, batch = torch.Generator().manual_seed(seed), problem["batch"]
        dtype = getattr(torch, problem["dtype"])
        made = {
            "hidden": random_activations((batch, problem["hidden"]), dtype, generator, device),
            "positions": torch.full((batch,), problem["context"] - 1, device=device),
        }
        if problem["moe_layers"]:
            routing = torch.zeros(problem["moe_layers"], batch, problem["experts"])
            for layer in range(problem["moe_layers"]):
                sizes = (batch, problem["experts"], problem["top_k"])
                ids, _ = draw_routing(*sizes, EXPONENTS["skewed"], seed * 1_009 + layer)
                routing[layer].scatter_(1, ids, CHOSEN)
            made["routing"] = routing.to(device)
        return made

    def reference(self, problem: Problem, weights: Tensors, activations: Tensors) -> torch.Tensor:
        """Nothing is rounded between the operators: float64 for float32 problems, else float32."""
        return decode_reference.reference(problem, weights, activations)

    def build(self, problem: Problem, configuration: Mapping[str, Any], weights: Tensors) -> Kernel:
        """The step that a configuration describes; see `search_spaces/decode_step.toml`.

        What steps share of packed weights and caches is held once: they must not run at the same time.
        """
        shapes.check(problem)
        implementation, threads = configuration["implementation"], configuration.get("threads")
        known = ("eager", "compiled", "native", "native_low_precision")
        if implementation not in known:
            raise UnknownNameError("implementation of decode_step", implementation, known)
        if implementation.startswith("native"):
            return Step(problem, Parts(problem, configuration, weights), threads)
        step = Step(problem, Parts(problem, _UNTUNED, weights), threads)
        return step if implementation == "eager" else _compiled(configuration, step)

    def cost(self, problem: Problem) -> Cost:
        """The sum over the operators."""
        work = estimated_work(problem)
        return Cost(round(work.flops), round(work.bytes), problem["dtype"])


_UNTUNED = {
    "fusion": False,
    "projections": "torch",
    "mlp": "torch",
    "head": "torch",
    "experts_by": "torch",
    "attention": "torch",
}


class Step:
    """A built step.

    Attributes:
        memory_bytes: what its operators hold together, whoever shares them.
    """

    def __init__(self, problem: Problem, parts: Parts, threads: int | None) -> None:
        self._parts = parts
        self._dtype = getattr(torch, problem["dtype"])
        self._layers = [
            parts.layer(number) for number in range(problem["dense_layers"] + problem["moe_layers"])
        ]
        self._last_norm = parts.norm("norm", residual=True)
        self._head = parts.product(("lm_head",), "head") if problem["vocab"] else None
        self.memory_bytes = parts.memory_bytes
        self.call = with_threads(self.run, threads)

    def __call__(self, *arguments: torch.Tensor) -> Any:
        """The logits, or what the last layer gives."""
        return self.call(*arguments)

    def run(
        self, hidden: torch.Tensor, positions: torch.Tensor, routing: torch.Tensor | None = None
    ) -> torch.Tensor:
        """One step with the process's own threads."""
        total, added = hidden.to(self._parts.values), None
        for layer in self._layers:
            normed, total = layer.first_norm(added, total)
            normed, total = layer.second_norm(layer.attend(normed, positions), total)
            added = layer.feed_forward(normed, routing)
        normed, total = self._last_norm(added, total)
        if self._head is None:
            return normed.to(self._dtype)
        (logits,) = self._head(normed)
        return logits.to(self._dtype)


def _compiled(configuration: Mapping[str, Any], step: Step) -> Kernel:
    """The step as one graph, for the shapes of the problem."""
    mode = configuration["compile_mode"]
    # A mode and options exclude each other.
    how: dict[str, Any] = {"options": OPTIONS} if mode == "default" else {"mode": mode}
    compiled = torch.compile(step.run, fullgraph=True, dynamic=False, **how)

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = compiled(*arguments)
        # A replayed graph writes into the same memory again.
        return made.clone() if mode != "default" else made

    return with_threads(run, configuration.get("threads"))
