from __future__ import annotations

import pytest

from tests.workloads.gpu_targets import assert_right_in_the_interpreter, spread

PROBLEMS = (
    {"batch": 1, "q_len": 1, "kv_len": 300, "heads": 4, "kv_heads": 2, "head_dim": 64, "dtype": "float16"},
    {"batch": 2, "q_len": 1, "kv_len": 33, "heads": 3, "kv_heads": 1, "head_dim": 24, "dtype": "float32"},
    {"batch": 1, "q_len": 3, "kv_len": 130, "heads": 24, "kv_heads": 2, "head_dim": 16, "causal": "yes"},
    {"batch": 1, "q_len": 5, "kv_len": 5, "heads": 2, "kv_heads": 2, "head_dim": 80, "causal": "yes"},
)


@pytest.mark.parametrize("dimensions", PROBLEMS, ids=str)
def test_each_value_of_the_space_gives_the_reference(dimensions):
    for problem, configuration in spread("attention", {"dtype": "float32", **dimensions}, "triton"):
        assert_right_in_the_interpreter(problem, configuration)
