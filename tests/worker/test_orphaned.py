"""When the study is killed, nothing of its worker is left, whatever the worker was doing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

STUDY = """
import sys
from autotune.space.problem import Problem
from autotune.worker.worker import Worker
with Worker(modules=[sys.argv[1]]) as worker:
    worker.prepare(Problem("misbehaving", {"m": 8, "n": 64}), seed=0)
    worker.build("trial", {"implementation": sys.argv[2]})
    print(worker.process_id, flush=True)
    if sys.argv[2] != "right":
        worker.check("trial", seed=0)
    sys.stdin.read()
"""
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("busy_with", ["right", "hangs_with_lock", "leaves_children_and_hangs"])
def test_the_worker_and_its_children_die_with_the_study(busy_with):
    proof = Path(os.environ["PROOF"])
    proof.unlink(missing_ok=True)
    study = subprocess.Popen(
        [sys.executable, "-c", STUDY, str(Path(__file__).with_name("misbehaving.py")), busy_with],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert study.stdin is not None
    assert study.stdout is not None
    warden = psutil.Process(int(study.stdout.readline()))
    while busy_with == "leaves_children_and_hangs" and not proof.exists():
        time.sleep(0.01)
    family = [warden, *warden.children(recursive=True)]
    assert len(family) >= 2
    study.send_signal(signal.SIGKILL)
    study.wait()
    study.stdin.close()
    study.stdout.close()
    deadline = time.monotonic() + 20
    while any(map(_alive, family)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(_alive, family))


def _alive(process: psutil.Process) -> bool:
    # Whether the machine's init collects the dead is not our affair.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
