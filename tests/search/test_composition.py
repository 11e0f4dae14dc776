"""Where the search for a decode step starts: at what won for its operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from autotune.search.composition import starting_configurations
from autotune.space.declaration import load_declaration
from autotune.space.decode_step import decode_step, operators
from autotune.space.searchspace import SearchSpace
from autotune.store import open_history
from tests.store.factories import CPU, STACK, choice, record_host, study_key, winner

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autotune.space.problem import Problem
    from autotune.store import History

FACTS = {"kind": "cpu", "cores": 2, "isa": ["avx2", "f16c"]}
STEP = decode_step("llama-3.1-8b", layers=2, batch=1, context=4096)


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    with open_history(str(tmp_path / "state")) as opened:
        yield opened


def space(**dimensions: Any) -> SearchSpace:
    declared = load_declaration("decode_step")
    return SearchSpace.build(declared, declared.problem({**STEP, **dimensions}), FACTS)


def won(history: History, problem: Problem, configuration: dict[str, Any]) -> None:
    """Let a configuration be the winner of an operator."""
    record_host(history)
    made = winner(choices=(choice(settings=configuration),))
    key = {"workload": problem.workload, "problem": problem.key, "dimensions": problem.dimensions}
    decided = msgspec.structs.replace(made, neighbourhood=problem.neighbourhood, **key)
    number = history.begin_study(
        study_key(workload=problem.workload, problem=problem.key), problem.dimensions
    )
    history.promote(number, decided)
    history.end_study(number, "trials")


def test_without_winners_there_is_no_start(history: History) -> None:
    assert [] == starting_configurations(history, space(), CPU, STACK)


def test_another_workload_has_no_start(history: History) -> None:
    declared = load_declaration("linear")
    of_linear = SearchSpace.build(declared, declared.problem({"m": 1, "n": 64, "k": 64}), FACTS)
    assert [] == starting_configurations(history, of_linear, CPU, STACK)


def test_the_start_is_made_of_the_winners_of_the_operators(history: History) -> None:
    """Implementations, and the tile of the heaviest; then rounded weights, float32 between them."""
    here = space()
    roles = {one.role: one.problem for one in operators(here.problem)}
    tiled = {"implementation": "native", "threads": 2, "tile_m": 1, "prefetch": 0}
    won(history, roles["lm_head"], {**tiled, "tile_n": 32})
    won(history, roles["qkv"], {**tiled, "tile_n": 64})
    won(history, roles["attention"], {"implementation": "native", "block": 128, "splits": 2, "rows": 4})
    first, wide, rounded = starting_configurations(history, here, CPU, STACK)
    assert ("native", "native", "native", 32) == tuple(
        first[name] for name in ("head", "projections", "attention", "tile_n")
    )
    assert (128, 2) == (first["attention_block"], first["attention_splits"])
    assert "bfloat16" == first["activations"]
    assert {"native_int9"} == {wide[name] for name in ("projections", "mlp", "head")}
    assert ("float32", "float16", "native_int8") == tuple(
        rounded[name] for name in ("activations", "cache", "head")
    )


def test_the_heaviest_operator_of_a_group_decides_for_it(history: History) -> None:
    """gate_up and down of the feed-forward block are one choice."""
    here = space()
    roles = {one.role: one.problem for one in operators(here.problem)}
    won(history, roles["dense down"], {"implementation": "native", "tile_n": 32, "threads": 2})
    won(history, roles["dense gate_up"], {"implementation": "torch", "weight_layout": "nk", "threads": 2})
    assert "torch" == starting_configurations(history, here, CPU, STACK)[0]["mlp"]
