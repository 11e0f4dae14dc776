from __future__ import annotations

import pytest

from tests.workloads.gpu_targets import assert_right_in_the_interpreter, spread

PROBLEMS = (
    {"tokens": 1, "heads": 3, "kv_heads": 1, "head_dim": 64, "rotary_dim": 64, "dtype": "float16"},
    {"tokens": 5, "heads": 4, "kv_heads": 2, "head_dim": 20, "rotary_dim": 12, "dtype": "float32"},
    {"tokens": 11, "heads": 6, "kv_heads": 6, "head_dim": 24, "rotary_dim": 24, "dtype": "float16"},
)


@pytest.mark.parametrize("dimensions", PROBLEMS, ids=str)
def test_each_value_of_the_space_gives_the_reference(dimensions):
    for problem, configuration in spread("rope", {**dimensions, "positions": 50}, "triton"):
        assert_right_in_the_interpreter(problem, configuration)
