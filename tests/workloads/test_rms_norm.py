from __future__ import annotations

from conformance import Conformance

from autotune.space.declaration import load_declaration
from autotune.workloads.rms_norm import RmsNorm


class TestRmsNorm(Conformance):
    workload = "rms_norm"
    problems = (
        {"rows": 1, "hidden": 96, "residual": "add"},
        {"rows": 5, "hidden": 37},
        {"rows": 3, "hidden": 130, "dtype": "float16", "residual": "add"},
        {"rows": 7, "hidden": 33, "dtype": "float32", "residual": "add"},
        {"rows": 9, "hidden": 4096},
    )


def test_cost_by_hand():
    """2 rows of 8 bfloat16 with a residual: 4 tensors of 16 elements and a weight of 8, 5 operations each."""
    problem = load_declaration("rms_norm").problem({"rows": 2, "hidden": 8, "residual": "add"})
    assert (80, 144, "bfloat16") == RmsNorm().cost(problem)


def test_cost_without_residual_by_hand():
    """2 rows of 8 float32: 2 tensors of 16 elements and a weight of 8, 4 operations each."""
    problem = load_declaration("rms_norm").problem({"rows": 2, "hidden": 8, "dtype": "float32"})
    assert (64, 160, "float32") == RmsNorm().cost(problem)
