"""The benchmark of the search runs, resumes and reports, on small landscapes made here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "search_efficiency.py"
END = PROGRAM.with_name("search_end.py")


def cache(device: str, factor: float) -> dict:
    entries = {}
    for block, unroll, layout in product((16, 32, 64, 128), (1, 2, 4), (0, 1)):
        entry = {"block": block, "unroll": unroll, "layout": layout}
        failed = block * unroll > 256
        entry["time"] = (
            "RuntimeFailedConfig" if failed else factor * (abs(block - 64) + 20 / unroll + 7 * layout + 5)
        )
        entries[f"{block},{unroll},{layout}"] = entry
    return {
        "kernel_name": "axpy",
        "device_name": device,
        "tune_params_keys": ["block", "unroll", "layout"],
        "tune_params": {"block": [16, 32, 64, 128], "unroll": [1, 2, 4], "layout": [0, 1]},
        "cache": entries,
    }


@pytest.fixture
def landscapes(tmp_path) -> Path:
    folder = tmp_path / "landscapes"
    folder.mkdir()
    for device, factor in (("A", 1.0), ("B", 3.0)):
        (folder / f"axpy__{device}.json").write_text(json.dumps(cache(device, factor)))
    return folder


def benchmark(folder: Path, *arguments: str, program: Path = PROGRAM) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_methods_are_compared_and_a_second_run_uses_what_the_first_stored(tmp_path, landscapes):
    options = (str(landscapes), "--seeds", "2", "--evaluations", "12", "--only", "cold,transfer,tpe,random")

    first = benchmark(tmp_path, *options)
    stored = sorted((tmp_path / "search_efficiency" / "runs").iterdir())
    moments = [file.stat().st_mtime_ns for file in stored]
    second = benchmark(tmp_path, *options)

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "overall, 2 landscape(s)" in first.stdout
    assert "axpy__B" in first.stdout
    assert len(stored) == 8
    assert [file.stat().st_mtime_ns for file in stored] == moments
    assert second.stdout == first.stdout


def test_a_run_is_stored_with_what_was_tried_and_found(tmp_path, landscapes):
    benchmark(
        tmp_path, str(landscapes / "axpy__A.json"), "--seeds", "1", "--evaluations", "6", "--only", "cold"
    )
    (file,) = (tmp_path / "search_efficiency" / "runs").iterdir()
    record = json.loads(file.read_text())["0"]
    assert len(set(record["rows"])) == len(record["best"]) == record["proposals"] == 6
    assert record["best"] == sorted(record["best"], reverse=True)


def test_another_kernels_studies_are_a_prior_with_this_kernels_names(tmp_path, landscapes):
    other = json.loads((landscapes / "axpy__B.json").read_text())
    (landscapes / "gemv__B.json").write_text(json.dumps(other).replace('"block"', '"tile"'))
    outcome = benchmark(
        tmp_path, str(landscapes), "--seeds", "2", "--evaluations", "12", "--only", "cold,foreign,shuffled"
    )
    assert outcome.returncode == 0, outcome.stderr
    overall, reaching = outcome.stdout.strip().split("\n\n")[:2]
    assert "autotune, with another kernel's studies  " in overall
    assert "±" in overall, "with two seeds P has a standard error"
    assert reaching.startswith("evaluations to reach, 2 landscape(s) of all methods")
    assert reaching.splitlines()[1].startswith("autotune, cold")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.json", "--only", "cold"], "cannot be read"),
        (["nowhere.json", "--only", "cold,grid"], "unknown method 'grid'"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_status_2(tmp_path, arguments, complaint):
    outcome = benchmark(tmp_path, *arguments)
    assert outcome.returncode == 2
    assert complaint in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) == 1


def test_where_searches_end_by_themselves_is_told(tmp_path, landscapes):
    outcome = benchmark(tmp_path, str(landscapes), "--seeds", "2", program=END)
    assert outcome.returncode == 0, outcome.stderr
    told = dict(line.rsplit("  ", 1) for line in outcome.stdout.splitlines())
    told = {name.strip(): value.strip() for name, value in told.items()}
    assert told["searches"] == "4"
    assert told["ended by the rule"] == "1.00", "at the latest when all 24 were tried"
    assert 8 < int(told["evaluations of those, median"]) <= 24
    assert told["missed more than 1 %"] == "0.000"

    early = benchmark(tmp_path, str(landscapes), "--evaluations", "3", program=END)
    assert early.stdout.splitlines()[1:] == ["ended by the rule                  0.00"]
    assert benchmark(tmp_path, "nowhere.json", program=END).returncode == 2
