"""Equal devices of a host: they work on one study together, and one of them decides."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.store import read_history
from tests.daemon.running import ROOT, SETTINGS, RunningDaemon
from tests.daemon.test_faults_around import compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from autotune.store.reading import HistoryReader

SIMULATED = str(Path(__file__).parent / "simulated_devices.py")
GPUS = ("cuda:0", "cuda:1")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")


@pytest.fixture
def host(folder) -> Iterator[dict[str, str]]:
    """The environment of a host with two H200, simulated; what is built on each is noted in its folder."""
    compiled(folder / "libnvidia-ml.so.1", "fake_nvml.c")
    (folder / "mood").write_text("idle")
    (folder / "built").mkdir()
    return {
        "LD_LIBRARY_PATH": str(folder),
        "FAKE_NVML": str(folder / "mood"),
        "FAKE_NVML_COUNT": "2",
        "SIMULATED_LOG": str(folder / "built"),
    }


def built(folder: Path, device: str) -> list[str]:
    """What was built on a device, in order."""
    log = folder / "built" / device
    return log.read_text().split() if log.exists() else []


def assert_searched_together(folder: Path, history: HistoryReader) -> None:
    """One study, whose trials both devices ran and numbered without a gap, decided once."""
    (study,) = history.studies()
    trials = history.trials(study.id)
    assert list(range(len(trials))) == [trial.number for trial in trials]
    tried = [set(built(folder, device)) - {"baseline", "incumbent"} for device in GPUS]
    assert all(tried)
    # The device that decides tries the best of what the other found itself, and nothing else twice.
    assert len(tried[0] & tried[1]) <= 4
    assert len({json.dumps(trial.configuration, sort_keys=True) for trial in trials}) >= len(trials) - 4
    assert 1 == len(history.decisions())
    assert "decided by another node" != study.end_reason
    assert "ended" == study.state


def test_the_command_tunes_on_all_idle_equals_and_one_decides(folder, host) -> None:
    environment = {
        **os.environ,
        **host,
        "PYTHONPATH": str(ROOT),
        "AUTOTUNE_STATE_DIR": str(folder / "state"),
        "AUTOTUNE_CACHE_DIR": str(folder / "cache"),
        "AUTOTUNE_RUNTIME_DIR": str(folder / "run"),
        "AUTOTUNE_CONFIG": os.devnull,
    }
    words = ["tune", "simulated", "-p", "m=16,n=64", "--device", "cuda", "--trials", "24", "--budget", "120s"]
    done = subprocess.run(
        [sys.executable, "-m", "autotune", *words, "--module", SIMULATED, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr
    told = json.loads(done.stdout)
    assert [True] == [outcome["winner"] is not None for outcome in told["outcomes"]]
    with read_history(str(folder / "state")) as history:
        assert_searched_together(folder, history)


def test_the_daemon_has_equal_devices_search_together(folder, host) -> None:
    settings = SETTINGS.replace('["cpu"]', '["cuda:0", "cuda:1"]').replace(
        "quick_kernels", "simulated_devices"
    )
    assert SIMULATED in settings
    settings = settings.replace("budget_seconds = 30", "budget_seconds = 120\ntrials = 24")
    with RunningDaemon(folder, settings, host) as daemon:
        daemon.order("simulated", m=16, n=64)
        daemon.wait_until(
            lambda: all(daemon.device(gpu)["state"] == "idle" for gpu in GPUS) and both_built(folder)
        )
    with read_history(str(folder / "state")) as history:
        assert_searched_together(folder, history)


def both_built(folder: Path) -> bool:
    return all(built(folder, device) for device in GPUS)
