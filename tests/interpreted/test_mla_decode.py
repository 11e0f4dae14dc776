from __future__ import annotations

import pytest

from tests.workloads.gpu_targets import assert_right_in_the_interpreter, interpreted_error, spread

SMALL = {"kv_lora_rank": 32, "qk_nope": 12, "qk_rope": 16, "v_dim": 10}
HALF = {"dtype": "float16", "kv_dtype": "float16"}
FULL = {"dtype": "float32", "kv_dtype": "float32"}
PROBLEMS = (
    {"batch": 1, "context": 200, "heads": 3, **SMALL, **HALF, "kv_lora_rank": 64},
    {"batch": 2, "context": 1, "heads": 2, **SMALL, **FULL, "kv_lora_rank": 24, "qk_rope": 6},
    {"batch": 1, "context": 70, "heads": 40, **SMALL, **FULL},
    {"batch": 1, "context": 150, "heads": 20, **SMALL, "dtype": "float32", "kv_dtype": "float16"},
)
LARGEST_LOW_PRECISION_ERROR = 3e-3
"""A few roundings of float16."""


@pytest.mark.parametrize("dimensions", PROBLEMS, ids=str)
def test_each_value_of_the_space_gives_the_reference(dimensions):
    for problem, configuration in spread("mla_decode", dimensions, "triton"):
        assert_right_in_the_interpreter(problem, configuration)


def test_low_precision_is_a_few_roundings_off():
    for problem, configuration in spread("mla_decode", PROBLEMS[0], "triton_low_precision"):
        error, _ = interpreted_error(problem, configuration)
        assert error < LARGEST_LOW_PRECISION_ERROR, configuration
