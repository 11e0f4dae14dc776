"""Enumeration: exactly the valid configurations, counted step by step."""

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.errors import SpaceError
from autotune.space import Dimension, Implementation, SearchSpace, SpaceDeclaration

CPU = {"kind": "cpu", "cores": 6, "isa": ["avx2"]}
DIMENSIONS = {"m": Dimension("m", nearest=True), "k": Dimension("k")}


def declare(baseline: dict[str, Any], **implementations: Implementation) -> SpaceDeclaration:
    return SpaceDeclaration("toy", DIMENSIONS, implementations, baseline)


def build(declaration: SpaceDeclaration, max_error: float | None = None, **dimensions: int) -> SearchSpace:
    problem = declaration.problem({"m": 1, "k": 64, **dimensions})
    return SearchSpace.build(declaration, problem, CPU, max_error)


TWO = declare(
    {"implementation": "plain", "threads": "=device.cores"},
    plain=Implementation(parameters={"threads": "powers_of_two(1, device.cores)"}),
    blocked=Implementation(
        qualifiers={"packed": [True, False]},
        parameters={"block": [16, 32, 48], "threads": [1, 2]},
        constraints={"whole": "k % block == 0", "unpacked_is_single": "packed or threads == 1"},
    ),
    gpu=Implementation(requires="device.kind == 'cuda'", parameters={"warps": [4]}),
    int8=Implementation(lossy=True),
)


def test_the_pool_holds_each_valid_configuration_once() -> None:
    space = build(TWO)
    found = [space.pool.configuration(row) for row in range(len(space))]
    plain = [{"implementation": "plain", "threads": threads} for threads in (1, 2, 4, 6)]
    blocked = [
        {"implementation": "blocked", "packed": packed, "block": block, "threads": threads}
        for packed, block, threads in itertools.product([True, False], [16, 32], [1, 2])
        if packed or threads == 1
    ]
    assert sorted(map(repr, map(sorted_items, plain + blocked))) == sorted(
        map(repr, map(sorted_items, found))
    )
    assert {"implementation": "plain", "threads": 6} == space.pool.configuration(space.baseline_row)


def sorted_items(configuration: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(configuration.items())


def test_find_is_the_inverse_of_configuration() -> None:
    pool = build(TWO).pool
    assert list(range(len(pool))) == [pool.find(pool.configuration(row)) for row in range(len(pool))]
    assert pool.find({"implementation": "plain", "threads": 3}) is None
    assert pool.find({"implementation": "plain", "threads": True}) is None
    assert pool.find({"implementation": "plain"}) is None
    assert pool.find({"implementation": "plain", "threads": 1, "other": 1}) is None


def test_counts_are_told_before_and_after_each_constraint() -> None:
    offers = {offer.name: offer for offer in build(TWO).offers}
    assert (12, (("whole", 8), ("unpacked_is_single", 6))) == (offers["blocked"].raw, offers["blocked"].steps)
    assert 4 == offers["plain"].valid


def test_an_implementation_that_is_not_offered_says_why() -> None:
    offers = {offer.name: offer for offer in build(TWO).offers}
    assert "requires device.kind == 'cuda'" == offers["gpu"].withheld
    assert "max_error" in offers["int8"].withheld
    assert 0 == offers["gpu"].valid


def test_a_lossy_implementation_is_offered_to_who_accepts_error() -> None:
    offers = {offer.name: offer for offer in build(TWO, max_error=0.05).offers}
    assert "" == offers["int8"].withheld
    assert 1 == offers["int8"].valid


def test_a_constraint_that_empties_an_implementation_is_named() -> None:
    offers = {offer.name: offer for offer in build(TWO, k=7).offers}
    assert "constraint 'whole' leaves none of its 12 points" == offers["blocked"].withheld


def test_a_constraint_that_empties_the_space_is_an_error() -> None:
    empty = declare(
        {"implementation": "only", "block": 16},
        only=Implementation(parameters={"block": [16, 32]}, constraints={"whole": "k % block == 0"}),
    )
    with pytest.raises(
        SpaceError, match=r"baseline's implementation 'only' is not offered .* 'whole' leaves none"
    ):
        build(empty, k=7)
    with pytest.raises(SpaceError, match=r"the baseline breaks 'big' \(block > 16\)"):
        build(
            declare(
                {"implementation": "only", "block": 16},
                only=Implementation(parameters={"block": [16, 32]}, constraints={"big": "block > 16"}),
            )
        )


def test_a_baseline_outside_its_values_is_an_error() -> None:
    with pytest.raises(SpaceError, match=r"baseline.block is 8, which is not among \[16, 32\]"):
        build(declare({"implementation": "a", "block": 8}, a=Implementation(parameters={"block": [16, 32]})))


def test_a_space_too_large_to_enumerate_is_refused() -> None:
    wide = {f"p{i}": list(range(100)) for i in range(4)}
    baseline = {"implementation": "a", **dict.fromkeys(wide, 0)}
    with pytest.raises(SpaceError, match="expands to more than"):
        build(declare(baseline, a=Implementation(parameters=wide)))


def test_the_digest_follows_values_constraints_and_baseline_alone() -> None:
    same = declare({"implementation": "a", "b": 1}, a=Implementation(summary="x", parameters={"b": [1, 2]}))
    again = declare({"implementation": "a", "b": 1}, a=Implementation(summary="y", parameters={"b": [1, 2]}))
    other = declare({"implementation": "a", "b": 2}, a=Implementation(parameters={"b": [1, 2]}))
    assert build(same).digest == build(again).digest
    assert build(same).digest != build(other).digest


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True), min_size=3, max_size=3),
    st.integers(1, 60),
    st.integers(1, 200),
)
def test_enumeration_equals_the_filtered_product(values: list[list[int]], limit: int, k: int) -> None:
    a, b, c = values
    declaration = declare(
        {"implementation": "x", "a": a[0], "b": b[0], "c": c[0]},
        x=Implementation(
            parameters={"a": a, "b": b, "c": c},
            constraints={"small": f"a * b + c <= {limit}", "divides": "k % c == 0 or a == b"},
        ),
    )
    expected = {
        (x, y, z) for x, y, z in itertools.product(a, b, c) if x * y + z <= limit and (k % z == 0 or x == y)
    }
    if (a[0], b[0], c[0]) not in expected:
        with pytest.raises(SpaceError):
            build(declaration, k=k)
        return
    pool = build(declaration, k=k).pool
    rows = [pool.configuration(row) for row in range(len(pool))]
    assert expected == {(row["a"], row["b"], row["c"]) for row in rows}
    assert len(expected) == len(rows)


BY_KIND = declare(
    {"implementation": "plain", "threads": "=device.cores if device.kind == 'cpu' else None", "block": 16},
    plain=Implementation(
        parameters={"threads": "[1, 6] if device.kind == 'cpu' else []", "block": [16, 32]},
        constraints={"alone": "threads == 1 or block == 16"},
    ),
)


def test_a_setting_without_values_is_absent_and_so_are_its_constraints() -> None:
    gpu = SearchSpace.build(BY_KIND, BY_KIND.problem({"m": 1, "k": 1}), {"kind": "cuda"})
    expected = [{"implementation": "plain", "block": block} for block in (16, 32)]
    assert expected == [gpu.pool.configuration(row) for row in range(len(gpu))]
    assert {"implementation": "plain", "block": 16} == gpu.baseline
    assert 3 == len(build(BY_KIND))


def test_a_baseline_must_leave_out_what_is_absent() -> None:
    wrong = declare({**BY_KIND.baseline, "threads": 1}, **BY_KIND.implementations)
    with pytest.raises(SpaceError, match=r"baseline.threads gives one, but the setting is absent .* cuda"):
        SearchSpace.build(wrong, wrong.problem({"m": 1, "k": 1}), {"kind": "cuda"})
