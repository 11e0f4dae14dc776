"""The operators of a decode step, each built as a configuration says, and layers put together of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - what everybody calls it

from autotune.fingerprint.cpu import cpu_facts
from autotune.space.searchspace import SearchSpace
from autotune.workloads import decode_reference as shapes
from autotune.workloads.decode_attention import GroupedAttention, LatentAttention
from autotune.workloads.int4 import pack_int4_g32
from autotune.workloads.linear_native import build_native, build_native_int4, build_native_rounded
from autotune.workloads.registry import declaration, workload
from autotune.workloads.shared_operators import Operator, operator

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from autotune.space.problem import Problem
    from autotune.workloads.base import Kernel, Tensors

    Product = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]
    Norm = Callable[[torch.Tensor | None, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]

REGISTER_TILES = (12, 8, 6, 4)
"""Rows of a product's tile for more than four tokens, as `search_spaces/linear.toml` has them."""


class Parts:
    """Builds operators of one step.

    Args:
        step: the problem.
        configuration: one of `decode_step`, by operator groups.
        weights: of the step.

    Attributes:
        values: type in which activations pass from operator to operator.
        fuses: whether products of the same input are one, and norms add what comes before them.
    """

    def __init__(self, step: Problem, configuration: Mapping[str, Any], weights: Tensors) -> None:
        self.step = step
        self.configuration = configuration
        self.weights = weights
        self.dtype: torch.dtype = getattr(torch, step["dtype"])
        self.values: torch.dtype = getattr(torch, configuration.get("activations", step["dtype"]))
        self.fuses = bool(configuration["fusion"])
        # The untuned step's own number is that of the process.
        self.threads = int(configuration.get("threads", cpu_facts()["cores"]))
        self._held: dict[int, Operator] = {}

    @property
    def memory_bytes(self) -> int:
        """What all operators that were built hold."""
        return sum(held.memory_bytes for held in self._held.values())

    @property
    def type_name(self) -> str:
        """Of the activations, as problems spell it."""
        return str(self.values).removeprefix("torch.")

    def hold(self, what: Any, names: tuple[str, ...], make: Callable[[Tensors], Any]) -> Any:
        """What is made of weights: kept as long as this step is, shared with others that want the same."""
        made = operator((str(self.step), what), {name: self.weights[name] for name in names}, make)
        self._held[id(made)] = made
        return made.kernel

    def baseline(self, problem: Problem) -> dict[str, Any]:
        """What the framework does for an operator untuned, on the device where the weights are."""
        device = next(iter(self.weights.values())).device
        facts = cpu_facts() if device.type == "cpu" else {"kind": device.type, "compute_capability": 0}
        declared = declaration(problem.workload)
        if device.type == "cpu":
            found = SearchSpace.build(declared, problem, facts).baseline
            found.pop("threads", None)  # the step sets them once
            return found
        resolved = {}
        for key, value in declared.baseline.items():
            is_expression = isinstance(value, str) and value.startswith("=")
            text = declared.expression(value, "baseline", key) if is_expression else None
            resolved[key] = value if text is None else text.evaluate(problem.dimensions, facts)
        return {key: value for key, value in resolved.items() if value is not None}

    def product(self, names: tuple[str, ...], group: str) -> Product:
        """Dense layers of the same input, each with an output of its own.

        Args:
            names: of the weights.
            group: whose implementation is taken.
        """
        how = self.configuration[group]
        if len(names) == 1 or not self.fuses:
            kernels = [
                self.hold(("product", *self._spelt(how)), (name,), self._product_maker(how)) for name in names
            ]
            return lambda x: tuple(kernel(x) for kernel in kernels)
        sizes = [self.weights[name].shape[0] for name in names]
        kernel = self.hold(("product", *self._spelt(how)), names, self._product_maker(how))
        return lambda x: torch.split(kernel(x), sizes, -1)

    def _spelt(self, how: str) -> tuple[Any, ...]:
        if not how.startswith("native"):
            return (how,)
        return (how, self.type_name, self.configuration["tile_n"], self.threads)

    def _product_maker(self, how: str) -> Callable[[Tensors], Kernel]:
        def make(weights: Tensors) -> Kernel:
            parts = list(weights.values())
            weight = parts[0] if len(parts) == 1 else torch.cat(parts)
            (n, k), m = weight.shape, self.step["batch"]
            problem = shapes.of("linear", self.step, m=m, n=n, k=k)
            if not how.startswith("native"):
                configuration = {"implementation": how, "threads": None}
                if how == "torch":
                    configuration = self.baseline(problem)
                return workload("linear").build(problem, configuration, {"weight": weight})
            return self._native_product(problem, how, weight)

        return make

    def _native_product(self, problem: Problem, how: str, weight: torch.Tensor) -> Kernel:
        m, tile_n = self.step["batch"], self.configuration["tile_n"]
        most = (16 * 16 if "avx512f" in cpu_facts()["isa"] else 8 * 12) // tile_n
        tile_m = m if m <= 4 else next((rows for rows in REGISTER_TILES if rows <= min(m, most)), 4)
        tiling = {"tile_m": tile_m, "tile_n": tile_n, "prefetch": 0, "threads": self.threads}
        if how == "native":
            return build_native(problem, tiling, weight, self.values)
        bits = int(how.removeprefix("native_int"))
        if bits > 4:
            return build_native_rounded(problem, {**tiling, "bits": bits}, weight, self.values)
        packed, scale = pack_int4_g32(weight)
        wide = shapes.of("linear", self.step, **{**problem.dimensions, "dtype": self.type_name})
        return build_native_int4(wide, tiling, packed, scale.to(self.values))

    def norm(self, name: str, *, residual: bool = False, rows: int | None = None) -> Norm:
        """A norm of rows, or of what is added to a residual: takes both, returns the norm and the sum.

        Args:
            name: of its weight.
            residual: whether anything is added.
            rows: of its input; the tokens of the step by default.
        """
        given = {
            "rows": rows or self.step["batch"],
            "hidden": self.weights[name].numel(),
            "dtype": self.type_name,
        }
        fused = residual and self.fuses
        problem = shapes.of("rms_norm", self.step, **given, residual="add" if fused else "none")
        configuration = {"implementation": "native", "threads": 1} if self.fuses else self.baseline(problem)

        def make(weights: Tensors) -> Kernel:
            weight = {"weight": weights[name].to(self.values)}
            return workload("rms_norm").build(problem, configuration, weight)

        kernel = self.hold(("norm", problem.key, self.fuses), (name,), make)
        if fused:
            return lambda added, total: kernel(added, total)

        def run(added: torch.Tensor | None, total: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            total = total if added is None else total + added
            return kernel(total), total

        return run

    def rotation(self) -> Kernel:
        """Rotary embedding of a layer's queries and keys."""
        problem = shapes.rope_problem(self.step, dtype=self.type_name)
        halves = {"implementation": "halves", "compute_dtype": "float32"}
        configuration = halves if self.fuses else self.baseline(problem)

        def make(weights: Tensors) -> Kernel:
            table = {"cos_sin": weights["cos_sin"].to(self.values)}
            return workload("rope").build(problem, configuration, table)

        made: Kernel = self.hold(("rope", problem.key, self.fuses), ("cos_sin",), make)
        return made

    def layer(self, number: int) -> Layer:
        """A layer of the decoder."""
        return Layer(self, number)

    def gated(self, number: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """A gated feed-forward block: down(silu(gate(x)) * up(x))."""
        down = self.product((f"{number}.down",), "mlp")
        both = (f"{number}.gate", f"{number}.up")
        if not self.fuses:
            gate_up = self.product(both, "mlp")

            def run_apart(x: torch.Tensor) -> torch.Tensor:
                gate, up = gate_up(x)
                return down(F.silu(gate) * up)[0]

            return run_apart
        how = self.configuration["mlp"]
        kernel = self.hold(("product", *self._spelt(how)), both, self._product_maker(how))
        given = {"rows": self.step["batch"], "intermediate": width, "dtype": self.type_name}
        problem = shapes.of("silu_and_mul", self.step, **given)
        activate: Any = workload("silu_and_mul").build(
            problem, {"implementation": "native", "threads": self.threads}, {}
        )
        return lambda x: down(activate(kernel(x)))[0]

    def experts(self, number: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """The routed experts of a layer, by what is added to a token's scores for them."""
        step, problem = self.step, shapes.experts_problem(self.step)
        names = tuple(f"{number}.{name}" for name in workload("fused_moe").weight_names(problem))
        configuration = self._experts_configuration(problem)

        def make(weights: Tensors) -> Kernel:
            plain = {name.partition(".")[2]: weight for name, weight in weights.items()}
            return workload("fused_moe").build(problem, configuration, plain)

        kernel = self.hold(("experts", tuple(configuration.items())), names, make)
        router, top_k, dtype = self.weights[f"{number}.router"].to(self.values), step["top_k"], self.dtype
        place = number - step["dense_layers"]

        def run(x: torch.Tensor, routing: torch.Tensor) -> torch.Tensor:
            scores = F.linear(x, router).float().softmax(-1)
            ids = (scores + routing[place]).topk(top_k, -1, sorted=False).indices
            mix = scores.gather(-1, ids)
            made: torch.Tensor = kernel(x.to(dtype), ids, mix / mix.sum(-1, keepdim=True))
            return made.to(x.dtype)

        return run

    def _experts_configuration(self, problem: Problem) -> dict[str, Any]:
        if self.configuration["experts_by"] == "torch":
            return self.baseline(problem)
        facts, own = cpu_facts(), problem["weight_format"] == "native"
        few = problem["tokens"] * problem["top_k"] < 2 * problem["experts"]
        size = problem["experts"] * problem["hidden"] * problem["intermediate"]
        dots = "avx512_bf16" in facts["isa"] and problem["dtype"] == "bfloat16"
        return {
            "implementation": "native",
            "compute_dtype": "bfloat16" if dots else "float32",
            "rows": self.configuration["expert_rows"],
            "tokens_per_tile": 4,
            "block": self.configuration["expert_block"],
            "prefetch": 0 if own or few else 2048,
            "pages": "huge" if size <= (2**28 if own else 2**30) else "small",
        }


class Layer:
    """A layer of the decoder, put together."""

    def __init__(self, parts: Parts, number: int) -> None:
        step = parts.step
        self.first_norm = parts.norm(f"{number}.norm1", residual=number > 0)
        self.second_norm = parts.norm(f"{number}.norm2", residual=True)
        self.attend = (LatentAttention if step["kv_lora_rank"] else GroupedAttention)(parts, number)
        dense = shapes.is_dense(step, number)
        width = step["intermediate"] if dense else step["shared_intermediate"]
        self._gated = parts.gated(number, width) if width else None
        self._experts = None if dense else parts.experts(number)

    def feed_forward(self, x: torch.Tensor, routing: torch.Tensor | None) -> torch.Tensor:
        """The dense block, or the experts and those that are shared."""
        if self._experts is None or routing is None:
            assert self._gated is not None, "a layer without experts has a dense block"
            return self._gated(x)
        made = self._experts(x, routing)
        return made if self._gated is None else made + self._gated(x)
