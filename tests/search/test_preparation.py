"""What is expected of making a problem: learned from those that were made."""

from __future__ import annotations

import pytest

from autotune.search.preparation import TYPICAL_BYTES_PER_S, Preparations
from autotune.space import Dimension, Implementation, SpaceDeclaration
from autotune.workloads.registry import declaration


def moe(tokens: int, experts: int = 64):
    dimensions = {"tokens": tokens, "experts": experts, "top_k": 2, "hidden": 1024, "intermediate": 256}
    return declaration("fused_moe").problem(dimensions)


def test_all_experts_count_however_few_a_token_hits() -> None:
    expected = Preparations().expected_seconds(moe(1))
    assert expected == Preparations().expected_seconds(moe(512))
    assert expected == pytest.approx(64 * 3 * 1024 * 256 * 2 / TYPICAL_BYTES_PER_S)


def test_what_a_workload_took_is_expected_again_in_proportion() -> None:
    preparations = Preparations()
    linear = declaration("linear").problem({"m": 1, "n": 1024, "k": 1024})
    preparations.learn(linear, 1e-3)
    by_linear = preparations.expected_seconds(moe(1))
    preparations.learn(moe(1), 40.0)
    assert by_linear < 1.0
    assert preparations.expected_seconds(moe(1, experts=128)) == pytest.approx(80.0)
    assert preparations.expected_seconds(linear) == pytest.approx(1e-3)


def test_of_a_workload_of_unknown_size_nothing_is_expected() -> None:
    own = SpaceDeclaration("own", {"n": Dimension("n")}, {"one": Implementation()}, {"implementation": "one"})
    own = own.problem({"n": 1 << 20})
    preparations = Preparations()
    preparations.learn(own, 5.0)
    assert preparations.expected_seconds(own) == 0.0
