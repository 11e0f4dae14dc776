from __future__ import annotations

import pytest
import torch

from autotune.space.declaration import load_declaration
from autotune.workloads.silu_and_mul import SiluAndMul
from tests.workloads.gpu_targets import assert_right_in_the_interpreter, spread

PROBLEMS = (
    {"rows": 1, "intermediate": 256, "dtype": "float16"},
    {"rows": 5, "intermediate": 37, "dtype": "float32"},
    {"rows": 11, "intermediate": 300, "dtype": "float16"},
    {"rows": 3, "intermediate": 5000, "dtype": "float16", "quantise": "float8_e4m3fn"},
    {"rows": 2, "intermediate": 100, "dtype": "float32", "quantise": "float8_e4m3fn"},
)


@pytest.mark.parametrize("dimensions", PROBLEMS, ids=str)
def test_each_value_of_the_space_gives_the_reference(dimensions):
    for problem, configuration in spread("silu_and_mul", dimensions, "triton"):
        assert_right_in_the_interpreter(problem, configuration)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_extreme_gates_give_the_gate_itself_or_nothing():
    problem = load_declaration("silu_and_mul").problem({"rows": 1, "intermediate": 4, "dtype": "float32"})
    configuration = {"implementation": "triton", "rows_per_program": 1, "block": 4, "num_warps": 1}
    x = torch.tensor([[-1e4, 1e4, -0.0, 89.0, 1.0, 1.0, 1.0, 1.0]])
    kernel = SiluAndMul().build(problem, configuration, {})
    assert [0.0, 1e4, 0.0, 89.0] == pytest.approx(kernel(x)[0].tolist(), abs=1e-30)
