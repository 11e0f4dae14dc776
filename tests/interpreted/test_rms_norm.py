from __future__ import annotations

import pytest

from tests.workloads.gpu_targets import assert_right_in_the_interpreter, spread

PROBLEMS = (
    {"rows": 1, "hidden": 96, "dtype": "float16", "residual": "add"},
    {"rows": 5, "hidden": 37, "dtype": "float32"},
    {"rows": 11, "hidden": 33, "dtype": "float16"},
    {"rows": 3, "hidden": 5000, "dtype": "float16", "residual": "add"},
    {"rows": 3, "hidden": 2049, "dtype": "float32", "quantise": "float8_e4m3fn"},
    {"rows": 5, "hidden": 4100, "dtype": "float16", "residual": "add", "quantise": "float8_e4m3fn"},
)


@pytest.mark.parametrize("dimensions", PROBLEMS, ids=str)
def test_each_value_of_the_space_gives_the_reference(dimensions):
    for problem, configuration in spread("rms_norm", dimensions, "triton"):
        assert_right_in_the_interpreter(problem, configuration)
