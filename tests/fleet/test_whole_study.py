"""Four nodes with state folders of their own tune one problem together, and one of them is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.fleet.studies import make_tables
from autotune.store import open_history

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fleet.postgres import Database

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KERNELS = """
import time
import torch
import autotune

@autotune.tunable(
    dimensions=[autotune.Dimension("rows", nearest=True)],
    parameters={"pause_ms": [40, *range(240, 800, 20)]},
    baseline={"pause_ms": 780},
    inputs=lambda problem, draw: {"x": draw(problem["rows"], 8)},
    reference=lambda _, x: torch.softmax(x.double(), -1),
)
def napping(x: torch.Tensor, *, pause_ms: int) -> torch.Tensor:
    time.sleep(pause_ms / 1e3)
    return torch.softmax(x, -1)
"""
"""One configuration is faster by more than a busy machine delays any."""

FAILED = """SELECT number FROM studies.trials t WHERE state = 'FAIL'
    AND EXISTS (SELECT FROM studies.trial_system_attributes a
        WHERE a.trial_id = t.trial_id AND key = 'autotune:row')
    AND NOT EXISTS (SELECT FROM studies.trial_user_attributes a
        WHERE a.trial_id = t.trial_id AND key = 'autotune:returned')"""
"""Trials that came to nothing and were not handed back by their node."""
RETRIES = """SELECT state FROM studies.trials JOIN studies.trial_system_attributes USING (trial_id)
    WHERE key = 'retry_history'"""


class TunedNode:
    """`autotune` as the user of one node runs it."""

    def __init__(self, folder: Path, database: Database, name: str, kernels: Path) -> None:
        settings = database.settings()
        self.name, self.state = name, folder / name
        config = folder / f"{name}.toml"
        config.write_text(
            f'[fleet]\nurl = "{settings.url}"\npassword_file = "{settings.password_file}"\nname = "{name}"\n'
            f'heartbeat_seconds = 2\n[worker]\nmodules = ["{kernels}"]\n[measure]\nscreen_seconds = 3\n'
        )
        self._environment = {
            **os.environ,
            "AUTOTUNE_STATE_DIR": str(self.state),
            "AUTOTUNE_CONFIG": str(config),
        }
        self.process = self._start(
            "tune", "napping", "-p", "rows=8", "--module", str(kernels), "--budget", "400s", "--json"
        )

    def _start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "autotune", *words]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self._environment, **pipes)

    def finish(self) -> dict[str, Any]:
        """What the study came to."""
        out, err = self.process.communicate(timeout=600)
        assert 0 == self.process.returncode, err
        assert "goes on without the other nodes" not in err
        [outcome] = json.loads(out)["outcomes"]
        return dict(outcome)

    def sync(self) -> None:
        """Exchange with the fleet, as hosts without a daemon do."""
        done = self._start("fleet", "sync")
        _, err = done.communicate(timeout=300)
        assert 0 == done.returncode, err

    def winner(self) -> dict[str, Any]:
        """What it serves."""
        with open_history(str(self.state)) as history:
            [decision] = history.decisions(state="current")
        return dict(decision.winner.choices[0].configuration)


@pytest.fixture
def nodes(empty: Database, tmp_path: Path) -> Iterator[list[TunedNode]]:
    make_tables(empty.settings("admin"))
    empty.sql("TRUNCATE fleet.entry, fleet.verification, fleet.node; TRUNCATE studies.studies CASCADE")
    kernels = tmp_path / "napping.py"
    kernels.write_text(KERNELS)
    started = [TunedNode(tmp_path, empty, f"node{number}", kernels) for number in range(4)]
    yield started
    for node in started:
        with node.process:  # closes its pipes
            node.process.kill()


def running(database: Database, node: TunedNode) -> list[str]:
    """Numbers of the trials that a node is in the middle of."""
    return database.sql(
        f"""SELECT t.number FROM studies.trials t JOIN studies.trial_user_attributes a USING (trial_id)
        JOIN studies.trial_system_attributes r USING (trial_id)
        WHERE t.state = 'RUNNING' AND a.key = 'node' AND a.value_json = '"{node.name}"'
        AND r.key = 'autotune:row'"""
    ).split()


def test_a_killed_node_costs_one_trial_and_the_others_prove_one_winner(
    nodes: list[TunedNode], empty: Database
) -> None:
    victim, *others = nodes
    deadline = time.monotonic() + 300
    lost: list[str] = []
    while not lost and time.monotonic() < deadline:
        assert victim.process.poll() is None, victim.process.stderr
        if len(running(empty, victim)) == 1:
            victim.process.send_signal(signal.SIGSTOP)
            lost = running(empty, victim)  # it may just have ended
            if not lost:
                victim.process.send_signal(signal.SIGCONT)
        time.sleep(0.1)
    assert 1 == len(lost)
    victim.process.kill()
    endings = [node.finish() for node in others]
    # One trial came to nothing, and was tried again.
    assert lost == empty.sql(FAILED).split()
    retried = "SELECT value_json FROM studies.trial_system_attributes WHERE key = 'retry_history'"
    assert [int(lost[0])] == json.loads(empty.sql(retried))
    assert "COMPLETE" == empty.sql(RETRIES)
    # One node proved the winner, and every node comes to serve it: the killed one too.
    [winner] = [node for node, outcome in zip(others, endings, strict=True) if outcome["winner"]]
    for node in (winner, *nodes):
        node.sync()
    assert [{"implementation": "function", "pause_ms": 40}] * 4 == [node.winner() for node in nodes]
    assert "1" == empty.sql("SELECT count(*) FROM fleet.entry WHERE kind = 'winner'")
