from __future__ import annotations

import pytest
import torch
from conformance import Conformance

from autotune.space.declaration import load_declaration
from autotune.space.work import estimated_work
from autotune.workloads.rms_norm import RmsNorm
from tests.workloads.gpu_targets import configurations, space_on


class TestRmsNorm(Conformance):
    workload = "rms_norm"
    problems = (
        {"rows": 1, "hidden": 96, "residual": "add"},
        {"rows": 5, "hidden": 37},
        {"rows": 3, "hidden": 130, "dtype": "float16", "residual": "add"},
        {"rows": 7, "hidden": 33, "dtype": "float32", "residual": "add"},
        {"rows": 9, "hidden": 4096},
        {"rows": 3, "hidden": 70, "residual": "add", "quantise": "float8_e4m3fn"},
        {"rows": 4, "hidden": 4100, "dtype": "float32", "quantise": "float8_e4m3fn"},
    )


def test_cost_by_hand():
    """2 rows of 8 bfloat16 with a residual: 4 tensors of 16 elements and a weight of 8, 5 operations each."""
    problem = load_declaration("rms_norm").problem({"rows": 2, "hidden": 8, "residual": "add"})
    assert (80, 144, "bfloat16") == RmsNorm().cost(problem)


def test_cost_without_residual_by_hand():
    """2 rows of 8 float32: 2 tensors of 16 elements and a weight of 8, 4 operations each."""
    problem = load_declaration("rms_norm").problem({"rows": 2, "hidden": 8, "dtype": "float32"})
    assert (64, 160, "float32") == RmsNorm().cost(problem)


def test_cost_of_a_quantised_result_by_hand():
    """2 rows of 8 bfloat16 to float8: 16 inputs, a weight of 8 in 2 bytes, 16 outputs in 1, 2 scales in 4."""
    problem = load_declaration("rms_norm").problem({"rows": 2, "hidden": 8, "quantise": "float8_e4m3fn"})
    assert (7 * 16, 72, "bfloat16") == RmsNorm().cost(problem)
    assert (7 * 16, 72) == estimated_work(problem)


def test_rows_of_zeros_are_quantised_to_zeros():
    problem = load_declaration("rms_norm").problem({"rows": 2, "hidden": 8, "quantise": "float8_e4m3fn"})
    weight = {"weight": torch.ones(8, dtype=torch.bfloat16)}
    kernel = RmsNorm().build(problem, {"implementation": "eager", "threads": 1}, weight)
    y, scale = kernel(torch.zeros(2, 8, dtype=torch.bfloat16))
    assert not y.float().any()
    assert (scale > 0).all()


@pytest.mark.parametrize("quantise", ["none", "float8_e4m3fn"])
def test_the_baseline_on_a_gpu_is_the_unfused_norm(quantise):
    space = space_on("nvidia-h200", "rms_norm", {"rows": 64, "hidden": 7168, "quantise": quantise})
    assert {"implementation": "eager"} == space.baseline
    assert 20 <= len(space) <= 200


def test_float8_is_not_offered_where_the_gpu_has_none():
    dimensions = {"rows": 64, "hidden": 7168, "quantise": "float8_e4m3fn"}
    assert [] == configurations(space_on("nvidia-a100-80gb", "rms_norm", dimensions), "triton")
