from __future__ import annotations

import pytest
import torch
from conformance import Conformance

from autotune.space.declaration import load_declaration
from autotune.space.work import estimated_work
from autotune.workloads.silu_and_mul import SiluAndMul
from tests.workloads.gpu_targets import space_on


class TestSiluAndMul(Conformance):
    workload = "silu_and_mul"
    problems = (
        {"rows": 1, "intermediate": 256},
        {"rows": 5, "intermediate": 37},
        {"rows": 3, "intermediate": 2050, "dtype": "float16"},
        {"rows": 7, "intermediate": 33, "dtype": "float32"},
        {"rows": 9, "intermediate": 4096},
        {"rows": 3, "intermediate": 70, "quantise": "float8_e4m3fn"},
        {"rows": 4, "intermediate": 4100, "dtype": "float32", "quantise": "float8_e4m3fn"},
    )


def problem(**dimensions):
    return load_declaration("silu_and_mul").problem(dimensions)


def test_cost_by_hand():
    """2 rows of 8 bfloat16: 16 results from 32 inputs, 5 operations each."""
    assert (80, 96, "bfloat16") == SiluAndMul().cost(problem(rows=2, intermediate=8))


def test_cost_of_a_quantised_result_by_hand():
    """2 rows of 8 bfloat16 to float8: 32 inputs in 2 bytes, 16 results in 1, 2 scales in 4."""
    quantised = problem(rows=2, intermediate=8, quantise="float8_e4m3fn")
    assert (8 * 16, 88, "bfloat16") == SiluAndMul().cost(quantised)
    assert (8 * 16, 88) == estimated_work(quantised)


@pytest.mark.parametrize("quantise", ["none", "float8_e4m3fn"])
def test_the_baseline_on_a_gpu_is_unfused(quantise):
    space = space_on("nvidia-h200", "silu_and_mul", {"rows": 64, "intermediate": 2048, "quantise": quantise})
    assert {"implementation": "eager", "compute_dtype": "bfloat16", "in_place": False} == space.baseline
    assert 8 <= len(space) <= 200


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_native_takes_extreme_gates(dtype):
    """Gates whose exponential overflows or vanishes give the gate itself or nothing."""
    kernel = SiluAndMul().build(
        problem(rows=1, intermediate=4, dtype=dtype), {"implementation": "native", "threads": 1}, {}
    )
    x = torch.tensor([[-1e4, 1e4, -0.0, 89.0, 1.0, 1.0, 1.0, 1.0]], dtype=getattr(torch, dtype))
    assert [0.0, x[0, 1].item(), 0.0, 89.0] == pytest.approx(kernel(x)[0].tolist(), abs=1e-30)
