"""The scripts for SLURM: the leases of a job come and go with it, and a node is never drained for them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SLURM = Path(__file__).parents[2] / "deploy" / "slurm"


@pytest.fixture
def called(tmp_path: Path):
    """Runs a script with an `autotune` that notes how it is called; returns the calls."""
    log = tmp_path / "calls"

    def run(script: str, exit_status: int = 0, **environment: str) -> list[str]:
        log.write_text("")
        fake = tmp_path / "autotune"
        fake.write_text(f'#!/bin/sh\necho "$*" >> {log}\nexit {exit_status}\n')
        fake.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run([str(SLURM / script)], env={"PATH": path, **environment}, check=False)
        assert 0 == done.returncode, "a script that fails drains the node"
        return log.read_text().splitlines()

    return run


def test_a_job_without_gpus_takes_everything(called) -> None:
    assert ["pause --wait --device all --reason slurm:17"] == called("prolog.sh", SLURM_JOB_ID="17")


def test_a_job_with_gpus_takes_those_and_the_cpu(called) -> None:
    calls = called("prolog.sh", SLURM_JOB_ID="17", SLURM_JOB_GPUS="0,3")
    devices = [call.split()[3] for call in calls]
    assert ["cuda:0", "cuda:3", "cpu"] == devices
    assert {"slurm:17"} == {call.split()[-1] for call in calls}


def test_the_epilog_ends_what_the_prolog_began(called) -> None:
    assert ["resume --reason slurm:17"] == called("epilog.sh", SLURM_JOB_ID="17")


@pytest.mark.parametrize("script", ["prolog.sh", "epilog.sh"])
def test_a_node_without_a_daemon_is_not_drained(called, script: str) -> None:
    called(script, exit_status=2, SLURM_JOB_ID="17", SLURM_JOB_GPUS="0")


@pytest.mark.parametrize("script", ["prolog.sh", "epilog.sh"])
def test_outside_of_a_job_nothing_is_done(called, script: str) -> None:
    assert [] == called(script)
