"""Decode steps of models: the dimensions that a model gives `decode_step`, and the operators of a step.

A step's dimensions are the numbers of the model's geometry, so that equal models share what was tuned, under
whatever name; a model's name becomes them here.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune.errors import AutotuneError, ProblemError
from autotune.space.models import Geometry, Mla, Moe, WeightFormats, load_model, model_names
from autotune.space.plan import plan
from autotune.space.quantization import NATIVE, WeightFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.problem import Problem

WORKLOAD = "decode_step"

GROUPS = {
    "projections": ("qkv_a", "q_b", "qkv", "q", "kv_a", "o"),
    "mlp": ("dense gate_up", "dense down", "shared gate_up", "shared down"),
    "head": ("lm_head",),
    "experts": ("experts",),
    "attention": ("attention", "sliding attention"),
}
"""Roles of operators, as plans name them, by the setting of `decode_step` that chooses for them together."""

EXPERT_FORMATS = ("native", "int4_g32", "fp8_block128x128")

SCALED = ("batch", "context", "dense_layers", "moe_layers", "sliding_layers", "experts", "top_k")
"""Dimensions that say how much of a model is run; the others say which model it is."""


class Operator(NamedTuple):
    """One operator of a step.

    Attributes:
        role: as plans name it; several, joined by commas, where they are the same problem.
        times: how often it runs in a step.
    """

    role: str
    problem: Problem
    times: int

    @property
    def group(self) -> str | None:
        """The setting that chooses for it; None for small ones, which have none of their own."""
        roles = set(self.role.split(", "))
        return next((group for group, members in GROUPS.items() if roles & set(members)), None)


def decode_step(
    model: str | Geometry,
    *,
    batch: int = 1,
    context: int = 4096,
    layers: int | None = None,
    experts: int | None = None,
    head: bool = True,
) -> dict[str, int | str]:
    """The dimensions of a model's decode step: `get_best_config("decode_step", **decode_step("kimi-k2.5"))`.

    Args:
        model: a name under `search_spaces/models/`, or the path of a config.json or its folder.
        batch: sequences, one new token each.
        context: tokens that each attends to, the new one among them.
        layers: of the model, to fit a machine; of each kind as large a share as the model has, and at least
            one of each if there are two. All by default.
        experts: of a layer, to fit a machine. All by default.
        head: whether the output layer belongs to the step; without it, one layer is a decoder layer.

    Raises:
        ModelError: the model is unknown or lacks a number.
        ProblemError: there are not so many layers or experts.
    """
    geometry = load_model(model) if isinstance(model, str) else model
    moe, mla, name = geometry.moe, geometry.mla, geometry.name
    wanted = _within(layers, geometry.layers, f"{name}: layers")
    moe_layers = _share(wanted, moe.layers if moe else 0, geometry.layers)
    dimensions: dict[str, int | str] = {
        "batch": batch,
        "context": context,
        "dense_layers": wanted - moe_layers,
        "moe_layers": moe_layers,
        "hidden": geometry.hidden,
        "heads": geometry.heads,
        "kv_heads": geometry.kv_heads,
        "head_dim": geometry.head_dim,
        "vocab": geometry.vocab if head else 0,
        "dtype": geometry.dtype,
        "qk_norm": "yes" if geometry.qk_norm else "no",
    }
    if moe_layers < wanted:
        dimensions["intermediate"] = geometry.intermediate
    if moe is not None and moe_layers:
        number = _within(experts, moe.experts, f"{name}: experts")
        stored = geometry.formats.experts.name
        dimensions.update(
            experts=number,
            top_k=min(moe.top_k, number),
            expert_intermediate=moe.intermediate,
            shared_intermediate=moe.shared_intermediate,
            expert_format=stored if stored in EXPERT_FORMATS else NATIVE.name,
        )
    if mla is not None:
        dimensions.update(
            kv_heads=geometry.heads,
            q_lora_rank=mla.q_lora_rank or 0,
            kv_lora_rank=mla.kv_lora_rank,
            qk_nope=mla.qk_nope,
            qk_rope=mla.qk_rope,
            v_dim=mla.v_dim,
        )
    elif geometry.sliding_layers:
        sliding = _share(wanted, geometry.sliding_layers, geometry.layers)
        dimensions.update(sliding_layers=sliding, window=geometry.window)
    return dimensions


def named_dimensions(given: Mapping[str, Any]) -> dict[str, int | str]:
    """Dimensions in which a model's name stands for its numbers: `model=kimi-k2.5,layers=2,batch=1`.

    Raises:
        ProblemError: `layers`, `experts`, `batch` or `context` is no whole number.
    """
    rest = dict(given)
    model, wanted = str(rest.pop("model")), {}
    for name in ("batch", "context", "layers", "experts"):
        if name in rest:
            text = str(rest.pop(name))
            if not text.isdecimal():
                raise ProblemError(f"{WORKLOAD}: {name}={text!r} is not a whole number")
            wanted[name] = int(text)
    # What else is given replaces the model's own, e.g. a vocabulary of 0 or another dtype.
    return {**decode_step(model, **wanted), **rest}  # type: ignore[arg-type]


def operators(problem: Problem) -> list[Operator]:
    """The operators of a step, the heaviest groups' among them, as `autotune plan` lists a model's.

    Raises:
        ProblemError: the dimensions make no step.
    """
    geometry = geometry_of(problem)
    headless = not geometry.vocab
    planned = plan(
        replace(geometry, vocab=1) if headless else geometry,
        batches=(problem["batch"],),
        context=problem["context"],
    )
    # Absorbed attention computes kv_b inside.
    left_out = {"kv_b", "lm_head"} if headless else {"kv_b"}
    return [Operator(one.role, one.problem, one.count) for one in planned if one.role not in left_out]


def geometry_of(problem: Problem) -> Geometry:
    """The geometry that a problem of `decode_step` spells out.

    Raises:
        ProblemError: the dimensions make no step.
    """
    check(problem)
    mla = None
    if problem["kv_lora_rank"]:
        ranks = problem["q_lora_rank"] or None, problem["kv_lora_rank"]
        mla = Mla(*ranks, problem["qk_nope"], problem["qk_rope"], problem["v_dim"])
    moe = None
    if problem["moe_layers"]:
        sizes = (problem["experts"], problem["top_k"], problem["expert_intermediate"])
        moe = Moe(problem["moe_layers"], *sizes, problem["shared_intermediate"])
    layers, sliding = problem["dense_layers"] + problem["moe_layers"], problem["sliding_layers"]
    stored = problem["expert_format"]
    return Geometry(
        name=WORKLOAD,
        hidden=problem["hidden"],
        layers=layers,
        heads=problem["heads"],
        kv_heads=problem["kv_heads"],
        head_dim=problem["head_dim"],
        vocab=problem["vocab"],
        dtype=problem["dtype"],
        dense_layers=problem["dense_layers"],
        intermediate=problem["intermediate"],
        full_layers=layers - sliding,
        sliding_layers=sliding,
        window=problem["window"],
        mla=mla,
        moe=moe,
        formats=WeightFormats(experts=NATIVE if stored == "native" else WeightFormat(stored)),
        qk_norm=problem["qk_norm"] == "yes",
    )


def check(problem: Problem) -> None:
    """Refuse dimensions that make no step.

    Raises:
        ProblemError: a part lacks its size, or heads do not divide.
    """

    def require(holds: bool, expected: str) -> None:
        if not holds:
            raise ProblemError(f"{WORKLOAD}: {expected}; -p model=NAME gives all of a model's sizes")

    layers = problem["dense_layers"] + problem["moe_layers"]
    require(layers > 0, "dense_layers and moe_layers are both 0, expected a layer at least")
    require(problem["intermediate"] > 0 or not problem["dense_layers"], "dense layers need intermediate")
    if problem["moe_layers"]:
        sizes = [problem[name] > 0 for name in ("experts", "top_k", "expert_intermediate")]
        require(all(sizes), "layers of experts need experts, top_k and expert_intermediate")
        require(problem["top_k"] <= problem["experts"], "top_k is more than there are experts")
    if problem["kv_lora_rank"]:
        sizes = [problem[name] > 0 for name in ("qk_nope", "qk_rope", "v_dim")]
        require(all(sizes), "latent attention needs qk_nope, qk_rope and v_dim")
        require(problem["qk_rope"] % 2 == 0, "qk_rope is odd")
    else:
        require(problem["heads"] % problem["kv_heads"] == 0, "kv_heads does not divide heads")
        require(problem["head_dim"] % 2 == 0, "head_dim is odd")
    require(problem["sliding_layers"] <= layers, "sliding_layers is more than there are layers")
    require(problem["window"] > 0 or not problem["sliding_layers"], "sliding layers need window")


def model_of(dimensions: Mapping[str, int | str]) -> str | None:
    """The shipped model whose sizes a step has, whatever its layers and experts; None if it is none's."""
    # A model of two kinds of layers may be run with one of them.
    absent = {
        *(_OF_EXPERTS if not dimensions.get("moe_layers") else ()),
        *(("intermediate",) if not dimensions.get("dense_layers") else ()),
        *(("vocab",) if not dimensions.get("vocab") else ()),
    }
    for name, sizes in _shipped().items():
        if all(dimensions.get(key) == value for key, value in sizes.items() if key not in absent):
            return name
    return None


_OF_EXPERTS = ("expert_intermediate", "shared_intermediate", "expert_format")


@cache
def _shipped() -> dict[str, dict[str, int | str]]:
    found = {}
    for name in model_names():
        try:
            sizes = decode_step(name)
        except AutotuneError:
            continue
        found[name] = {key: value for key, value in sizes.items() if key not in SCALED}
    return found


def _within(wanted: int | None, most: int, what: str) -> int:
    if wanted is None:
        return most
    if not 1 <= wanted <= most:
        raise ProblemError(f"{what}={wanted} is out of range; expected 1 to {most}")
    return wanted


def _share(wanted: int, of_kind: int, layers: int) -> int:
    """How many of `wanted` layers are of a kind; of two kinds each has one if there are two layers."""
    if of_kind in (0, layers):
        return wanted if of_kind else 0
    rounded = round(wanted * of_kind / layers)
    return min(max(rounded, 1), wanted - 1) if wanted > 1 else rounded
