"""Runs `tests/interpreted/` where Triton interprets kernels: on CPU tensors, without a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


@pytest.mark.timeout(900)
def test_kernels_are_right_in_the_interpreter():
    """In two processes for all files: importing torch and Triton takes longer than most files."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-n", "2", "--dist", "worksteal", str(FOLDER)]
    # Arrays of an interpreted program are small: threads for each of their operations only get in the way.
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=FOLDER.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
