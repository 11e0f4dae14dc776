"""`benchmarks/gpu.py` and `make gpu`: refused without a GPU; goals are judged by what was measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import judged

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


def linear(m: int, speedup: float, **changes) -> dict:
    row = {
        "m": m,
        "weight_format": "native",
        "speedup": speedup,
        "memory_bound": m < 64,
        "bandwidth_share": 0.9,
    }
    return row | changes


def test_without_a_gpu_the_benchmark_says_so_in_one_line(tmp_path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (2, "", 1) == (done.returncode, done.stdout, done.stderr.count("\n"))
    assert "cuda:0" in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_a_gpu_make_says_so_in_one_line(tmp_path) -> None:
    environment = str(Path(sys.executable).parents[1])
    words = [
        "make",
        "-s",
        "gpu",
        f"VENV={environment}",
        f"INSTALLED={environment}",
        f"GPU_OUT={tmp_path / 'out'}",
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "finds no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_was_not_measured_is_missed() -> None:
    assert not any(reached for _, _, reached in judged({}))
    assert {None} == {figure for _, figure, _ in judged({"linear": [{"m": 1, "failure": "no kernel"}]})}


def test_goals_are_judged_by_the_worst_and_by_geometric_means() -> None:
    results = {
        "linear": [linear(1, 1.2), linear(16, 1.5), linear(4096, 1.0)],
        "moe": [{"over_default": 1.2}, {"over_default": 1.6}],
        "fused": [{"bandwidth_share": 0.95}, {"bandwidth_share": 0.89}],
        "cost": [{"share": 0.019}],
        "noise": [{"spread": 0.004}],
        "yield": [{"longest": 0.4}],
    }
    found = {name: (figure, reached) for name, figure, reached in judged(results)}
    assert (1.0, True) == found["linear: slowest winner over cuBLAS"]
    mean, reached = found["linear: geometric mean over cuBLAS, m <= 64"]
    assert ((1.2 * 1.5) ** 0.5, True) == (pytest.approx(mean), reached)
    assert (0.9, True) == found["linear: least share of copy bandwidth, memory-bound"]
    assert not found["W4A16 over bf16, least, m <= 16"][1]
    assert found["fused_moe: geometric mean over vLLM's default"][1]
    assert (0.89, False) == found["rms_norm, silu_and_mul: least share of copy bandwidth"]
    assert found["yield: longest time until a killed worker's memory is free, in seconds"][1]
    assert found["noise: spread of 20 final decisions' ratios"][1]
