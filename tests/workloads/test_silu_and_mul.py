from __future__ import annotations

import pytest
import torch
from conformance import Conformance

from autotune.space.declaration import load_declaration
from autotune.workloads.silu_and_mul import SiluAndMul


class TestSiluAndMul(Conformance):
    workload = "silu_and_mul"
    problems = (
        {"rows": 1, "intermediate": 256},
        {"rows": 5, "intermediate": 37},
        {"rows": 3, "intermediate": 2050, "dtype": "float16"},
        {"rows": 7, "intermediate": 33, "dtype": "float32"},
        {"rows": 9, "intermediate": 4096},
    )


def problem(**dimensions):
    return load_declaration("silu_and_mul").problem(dimensions)


def test_cost_by_hand():
    """2 rows of 8 bfloat16: 16 results from 32 inputs, 5 operations each."""
    assert (80, 96, "bfloat16") == SiluAndMul().cost(problem(rows=2, intermediate=8))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_native_takes_extreme_gates(dtype):
    """Gates whose exponential overflows or vanishes give the gate itself or nothing."""
    kernel = SiluAndMul().build(
        problem(rows=1, intermediate=4, dtype=dtype), {"implementation": "native", "threads": 1}, {}
    )
    x = torch.tensor([[-1e4, 1e4, -0.0, 89.0, 1.0, 1.0, 1.0, 1.0]], dtype=getattr(torch, dtype))
    assert [0.0, x[0, 1].item(), 0.0, 89.0] == pytest.approx(kernel(x)[0].tolist(), abs=1e-30)
