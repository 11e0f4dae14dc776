"""The benchmark of real tuning: whose times it takes, and when it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.space import Implementation
from tests.search.test_study import space_of

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "device_seconds.py"


def test_a_landscape_of_elsewhere_is_one_line_and_exit_status_2(tmp_path) -> None:
    content = {"cache": {}, "autotune": {"device": "another", "stack": "another"}}
    (tmp_path / "elsewhere.json").write_text(json.dumps(content))
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "elsewhere.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 2
    assert "was not recorded on this device and stack; record it here" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("trials", "shares", "missed", "told"),
    [
        ([4, 9, None], [0.01, 0.03, 0.001], 0, "median 1/33 of exhaustive; there in 2 of 3 runs"),
        ([4, 9, 20], [0.01, 0.06, 0.07], 1, "median 1/17 of exhaustive; there in 3 of 3 runs"),
        ([4, None, None], [0.01, 0.01, 0.01], 1, "never there in the median; there in 1 of 3 runs"),
    ],
)
def test_a_search_that_never_came_there_takes_forever(
    trials, shares, missed, told, monkeypatch, capsys
) -> None:
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    import device_seconds

    space = space_of({"implementation": "right"}, right=Implementation())
    exhaustive = device_seconds.Exhaustive(Path(), space, {0: 1.0}, 100.0, 1.0, 0.1, 0.1, None, None, 0.0)
    runs = [
        device_seconds.Run(seed, tried, 100 * share, 0.1, share, 1.0)
        for seed, (tried, share) in enumerate(zip(trials, shares, strict=True))
    ]
    assert missed == device_seconds.report([(exhaustive, runs)], as_json=False)
    assert told in " ".join(capsys.readouterr().out.split())
