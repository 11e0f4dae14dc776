"""What a model's name stands for in a decode step, and which operators the step has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.cli import output
from autotune.errors import ModelError, ProblemError, UnknownNameError
from autotune.space.declaration import load_declaration
from autotune.space.decode_step import decode_step, model_of, named_dimensions, operators
from autotune.space.models import model_names

if TYPE_CHECKING:
    from autotune.space.problem import Problem


def problem(**given: object) -> Problem:
    return load_declaration("decode_step").problem(given)


def test_kimi_k2_5_scaled_keeps_a_layer_of_each_kind() -> None:
    made = decode_step("kimi-k2.5", layers=2, experts=16, batch=4, context=512)
    assert (1, 1, 16, 8) == tuple(made[name] for name in ("dense_layers", "moe_layers", "experts", "top_k"))
    assert ("int4_g32", 512, 163840) == (made["expert_format"], made["kv_lora_rank"], made["vocab"])


def test_one_layer_is_of_the_kind_that_most_are_of() -> None:
    made = decode_step("kimi-k2.5", layers=1, head=False)
    assert (0, 1, 0) == (made["dense_layers"], made["moe_layers"], made["vocab"])


@pytest.mark.parametrize("model", model_names())
def test_every_shipped_model_makes_a_step_with_its_name(model: str) -> None:
    """Whatever is scaled down; Kimi K2 and DeepSeek V3 differ from each other in more than that."""
    made = problem(**decode_step(model, layers=2, batch=2, context=64))
    assert operators(made)
    assert model == model_of(made.dimensions)


def test_layers_beyond_the_model_s_are_refused() -> None:
    with pytest.raises(ProblemError, match=r"llama-3.1-8b: layers=33 .* expected 1 to 32"):
        decode_step("llama-3.1-8b", layers=33)


@pytest.mark.parametrize(
    ("given", "error"), [({"model": "lama"}, UnknownNameError), ({"model": "a/b"}, ModelError)]
)
def test_an_unknown_model_is_refused(given: dict[str, str], error: type[Exception]) -> None:
    with pytest.raises(error):
        named_dimensions(given)


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(ProblemError, match=r"layers='two' is not a whole number"):
        named_dimensions({"model": "llama-3.1-8b", "layers": "two"})


def test_what_is_given_beside_the_model_replaces_its_own() -> None:
    made = named_dimensions({"model": "llama-3.1-8b", "layers": "1", "vocab": "0"})
    assert (1, "0") == (made["dense_layers"], made["vocab"])


def test_sizes_that_make_no_step_are_told() -> None:
    with pytest.raises(ProblemError, match="dense layers need intermediate; -p model=NAME"):
        operators(
            problem(batch=1, context=8, dense_layers=1, hidden=32, heads=2, kv_heads=1, head_dim=16, vocab=8)
        )


def test_a_step_is_shown_by_its_model_s_name() -> None:
    made = problem(**decode_step("kimi-k2.5", layers=2, experts=16, batch=4, context=512))
    expected = "decode_step kimi-k2.5 batch=4 context=512 dense_layers=1 moe_layers=1 experts=16"
    assert expected == output.problem(made)


def test_the_operators_of_llama_s_layer() -> None:
    made = problem(**decode_step("llama-3.1-8b", layers=1, batch=2, context=64, head=False))
    roles = {role: one.group for one in operators(made) for role in one.role.split(", ")}
    expected = {"qkv": "projections", "o": "projections", "dense gate_up": "mlp", "dense down": "mlp"}
    assert {**expected, "attention": "attention"} == {role: group for role, group in roles.items() if group}
