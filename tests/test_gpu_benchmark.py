"""`benchmarks/gpu.py` and `make gpu`: refused without a GPU; goals are judged by what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from autotune.errors import TrialError
from autotune.store.records import Verdict
from benchmarks.correctness import _checked
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
        f"--old-file={environment}",
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


class Checker:
    """A worker whose configurations are off by their `error`, or crash."""

    def build(self, slot: str, configuration: dict) -> None:
        self._error = configuration["error"]

    def check(self, slot: str, seed: int) -> float:
        if self._error is None:
            raise TrialError(Verdict.CRASHED, "segmentation fault")
        return self._error

    def release(self, slot: str) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (0.001, ""),
        (0.2, "wrong: relative error 2.00e-01 exceeds 1.00e-01"),
        (float("nan"), "wrong: relative error nan exceeds 1.00e-01"),
        (None, "crashed: segmentation fault"),
    ],
)
def test_a_corner_that_is_wrong_or_crashes_costs_a_row(error, failure) -> None:
    assert failure == _checked(Checker(), "rope(...)", {"error": error}, 0.1)["failure"]


def test_the_corners_of_a_space_are_checked_on_the_device_that_is_there(tmp_path) -> None:
    words = [sys.executable, str(ROOT / "benchmarks" / "correctness.py"), "--device", "cpu", "--corners", "2"]
    words += ["--workload", "rope", "-p", "tokens=8,heads=2,kv_heads=1,head_dim=32,rotary_dim=16"]
    done = subprocess.run([*words, "--out", str(tmp_path / "out.json")], capture_output=True, text=True)
    assert 0 == done.returncode, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert f"{len(rows)} configurations, 0 failed" in done.stdout
    assert all(0 <= row["error"] < 0.01 for row in rows)
