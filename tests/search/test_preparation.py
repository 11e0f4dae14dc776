"""What is expected of making a problem: learned from those that were made."""

from __future__ import annotations

import pytest

from autotune.search.preparation import BYTES_PER_S, Preparations
from autotune.space import Dimension, Implementation, SpaceDeclaration
from autotune.workloads.registry import declaration


def moe(tokens: int, experts: int = 64):
    dimensions = {"tokens": tokens, "experts": experts, "top_k": 2, "hidden": 1024, "intermediate": 256}
    return declaration("fused_moe").problem(dimensions)


def test_all_experts_count_however_few_a_token_hits() -> None:
    expected = Preparations().expected_seconds(moe(1))
    assert expected == Preparations().expected_seconds(moe(512))
    assert expected == pytest.approx(64 * 3 * 1024 * 256 * 2 / BYTES_PER_S["fused_moe"])


def test_a_machine_that_was_slower_is_expected_to_stay_so() -> None:
    preparations = Preparations()
    linear = declaration("linear").problem({"m": 1, "n": 1024, "k": 1024})
    before = preparations.expected_seconds(moe(1))
    preparations.learn(linear, 3 * preparations.expected_seconds(linear))
    assert preparations.expected_seconds(linear) > 0
    assert preparations.expected_seconds(moe(1)) == pytest.approx(3 * before)
    # A large problem tells more than a small one.
    preparations.learn(moe(1), before)
    assert preparations.expected_seconds(moe(1)) == pytest.approx(before, rel=0.2)


def test_of_a_workload_of_unknown_size_nothing_is_expected_or_learned() -> None:
    own = SpaceDeclaration("own", {"n": Dimension("n")}, {"one": Implementation()}, {"implementation": "one"})
    own = own.problem({"n": 1 << 20})
    preparations = Preparations()
    preparations.learn(own, 5.0)
    assert preparations.expected_seconds(own) == 0.0
    assert preparations.expected_seconds(moe(1)) == Preparations().expected_seconds(moe(1))
