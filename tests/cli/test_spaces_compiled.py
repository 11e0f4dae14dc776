"""`autotune spaces --compile` as its user calls it, on a machine without the GPU that is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OVERREACHING = str(ROOT / "tests" / "worker" / "overreaching.py")
WORDS = ("spaces", "overreaching", "--module", OVERREACHING, "-p", "n=4096", "--device", "nvidia-h200")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**os.environ, "PYTHONPATH": str(ROOT), "AUTOTUNE_CACHE_DIR": cache}


def autotune(environment: dict[str, str], *words: str) -> str:
    command = [sys.executable, "-m", "autotune", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.slow
def test_every_configuration_is_counted_with_its_reason(environment) -> None:
    told = json.loads(autotune(environment, *WORDS, "--compile", "--json"))
    (kernel,) = told["implementations"]
    assert (90, 12, 12) == (told["compute_capability"], told["configurations"], told["compiled"])
    # A tile of 256 x 256, twice the misspelt one and twice the one that ends the compiler.
    assert (5, 5, 2) == (
        kernel["feasible"],
        sum(kernel["infeasible"].values()),
        sum(kernel["unknown"].values()),
    )
    assert 2 == kernel["without_kernels"]
    reasons = {each["reason"]: each["configurations"] for each in told["infeasible"]}
    assert 3 == len(reasons)
    (large,) = reasons[next(reason for reason in reasons if "bytes of shared memory" in reason)]
    assert {"implementation": "kernel", "what": "transpose", "block": 256} == large


def test_a_sample_is_drawn_and_printed_for_people(environment) -> None:
    printed = " ".join(autotune(environment, *WORDS, "--compile", "--sample", "2").split())
    assert "compute capability 9.0" in printed
    assert "2 of 12 configurations compiled" in printed
