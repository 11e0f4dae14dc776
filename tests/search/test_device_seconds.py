"""The benchmark of real tuning takes no landscape whose times are not this machine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "device_seconds.py"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"cache": {}}, "was not recorded on this device and stack"),
        ({"cache": {}, "autotune": {"device": "another", "stack": "another"}}, "record it here"),
    ],
)
def test_a_landscape_of_elsewhere_is_one_line_and_exit_status_2(tmp_path, content, complaint) -> None:
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
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
