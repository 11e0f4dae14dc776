"""Expressions: what parses, what is refused, and that columns agree with scalars."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import SpaceError, UnknownNameError
from autotune.space.expression import Expression, divisors, powers_of_two

CPU = {"kind": "cpu", "cores": 6, "isa": ["avx2", "fma"]}


def evaluate(text: str, **names: object) -> object:
    return Expression(text, "here").evaluate(names, CPU)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2 * 3", 7),
        ("-7 // 2", -4),
        ("ceil_div(7, 2)", 4),
        ("max(1, 5, 3)", 5),
        ("min([4, 2])", 2),
        ("'avx2' in device.isa and device.cores > 4", True),
        ("'sve' not in device.isa", True),
        ("1 < 2 < 3", True),
        ("8 if device.kind == 'cuda' else 4", 4),
        ("powers_of_two(1, device.cores)", [1, 2, 4]),
        ("divisors(12)", [1, 2, 3, 4, 6, 12]),
        ("range(2, 8, 2)", [2, 4, 6]),
        ("not (1 == 2)", True),
        ("log2(8)", 3.0),
    ],
)
def test_a_scalar_expression_has_its_value(text: str, expected: object) -> None:
    assert expected == evaluate(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__",
        "device.__class__.__mro__",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "m.real",
        "f'{m}'",
        "open('/etc/passwd')",
        "2 ** 1000",
        "'a' * 100000000",
        "m @ m",
        "(m := 1)",
        "1 +",
        "",
        "range(10 ** 9)",
        "1 // 0",
        "device.corse > 1",
        "(" * 500 + "1" + ")" * 500,
        "1" + " + 1" * 600,
    ],
)
def test_what_is_not_whitelisted_is_refused_in_one_line(text: str) -> None:
    with pytest.raises((SpaceError, UnknownNameError)) as caught:
        evaluate(text, m=4)
    assert "here" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_name_is_refused_with_the_closest_known_one() -> None:
    with pytest.raises(UnknownNameError, match="did you mean block_k"):
        Expression("k % blok_k == 0", "here").check_names({"k", "block_k"})


def test_an_unknown_device_fact_is_refused_with_the_closest_known_one() -> None:
    with pytest.raises(SpaceError, match=r"device\.corse .* did you mean cores"):
        evaluate("device.corse > 1")


def test_rows_that_a_guard_excludes_are_never_divided_by_zero() -> None:
    split = np.array([0, 1, 2, 3])
    held = Expression("split > 0 and 6 % split == 0", "here").truth({"split": split}, CPU, 4)
    assert [False, True, True, True] == held.tolist()
    held = Expression("(6 % split == 0) if split > 0 else True", "here").truth({"split": split}, CPU, 4)
    assert [True, True, True, True] == held.tolist()


def test_text_columns_compare_and_belong() -> None:
    layout = np.array(["nk", "kn", "nk"])
    assert [True, False, True] == Expression("layout == 'nk'", "x").truth({"layout": layout}, CPU, 3).tolist()
    assert [False, True, False] == Expression("layout in ['kn', 'z']", "x").truth(
        {"layout": layout}, CPU, 3
    ).tolist()


CONDITIONS = [
    "a * b <= 64",
    "a % b == 0 or b > 8",
    "not (a > b) and a + b != 7",
    "(a if a > b else b) >= 5",
    "1 < a <= b",
    "max(a, b) - min(a, b) < 4",
    "a in [1, 2, 9] or ceil_div(a, b) == 2",
]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=30),
    st.sampled_from(CONDITIONS),
)
def test_columns_agree_with_python_row_by_row(rows: list[tuple[int, int]], text: str) -> None:
    a, b = (np.array(column) for column in zip(*rows, strict=True))
    expression = Expression(text, "here")
    one_by_one = [bool(expression.evaluate({"a": x, "b": y}, CPU)) for x, y in rows]
    assert one_by_one == expression.truth({"a": a, "b": b}, CPU, len(rows)).tolist()


def test_powers_and_divisors() -> None:
    assert [4, 8, 16] == powers_of_two(3, 31)
    assert [1] == powers_of_two(1, 1)
    assert [1, 7] == divisors(7)
