"""Baseline expressions over single values agree with those over columns, and fail with one line."""

from __future__ import annotations

import math

import pytest

from autotune.errors import SpaceError
from autotune.space.expression import Expression
from autotune.space.scalar import evaluate

NAMES = {"m": 16, "n": 7168, "dtype": "bfloat16"}
DEVICE = {"cores": 6, "isa": ["avx2", "fma"], "kind": "cpu"}

EXPRESSIONS = [
    "m", "dtype", "device.cores", "3", "'x'", "True", "None", "1.5", "-m", "+m", "not m",
    "m + 1", "m - 1", "m * 2", "m / 3", "m // 3", "m % 3", "m ** 2", "2 ** -1",
    "m == 16", "m != 16", "m < 17", "m <= 15", "m > 1", "m >= 16", "1 < m < 10", "1 < m <= 16",
    "'avx2' in device.isa", "'amx' not in device.isa", "dtype in ['float16', 'bfloat16']",
    "m == 16 and dtype == 'bfloat16'", "m == 1 or n == 7168", "m == 1 or n == 1",
    "m > 100 and 1 // 0", "'a' if m > 8 else 'b'", "m if device.kind == 'cuda' else device.cores",
    "min(m, device.cores)", "max(1, device.cores // 2)", "abs(-3)", "ceil_div(n, 1000)", "log2(8)",
    "len(device.isa)", "powers_of_two(1, device.cores)", "max(1, min(device.cores, ceil_div(m * n, 100000)))",
]  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_single_values_and_columns_agree(text):
    single, column = evaluate(text, NAMES, DEVICE), Expression(text, "here").evaluate(NAMES, DEVICE)
    assert single == column or math.isclose(single, column)


@pytest.mark.parametrize(
    "text",
    [
        "", "m +", "absent", "device.absent", "m.real", "device.isa.pop", "open('x')", "__import__('os')",
        "(lambda: 1)()", "[x for x in device.isa]", "m[0]", "f'{m}'", "1 // 0", "m + 'x'", "2 ** 1000",
        "min(m, key=abs)", "m @ n", "(m := 3)", "device", "log2(0)", "(" * 500,
        "m" * 10 + "\0",
    ],
)  # fmt: skip
def test_what_cannot_be_calculated_is_one_line(text):
    with pytest.raises(SpaceError) as caught:
        evaluate(text, NAMES, DEVICE)
    assert "\n" not in str(caught.value)
