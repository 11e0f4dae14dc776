"""The kill campaign: SIGKILL at random moments of tuning and publishing, under ten readers."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from autotune.store import open_history
from autotune.store.backup import check
from tests.store.campaign import write
from tests.store.factories import ROOT, problem

if TYPE_CHECKING:
    from pathlib import Path

READERS = 10
MOST_PROMOTIONS = 4
"""After which a writer is killed, at the latest; then it lives for a moment more."""
LONGEST_MOMENT_SECONDS = 0.05
"""A writer promotes and publishes about once in it, and opens."""

Acknowledged = dict[int, list[float]]
"""When the promotions that returned were decided, by problem."""


def live_and_die(state: Path, moments: random.Random, acknowledged: Acknowledged) -> None:
    """Let a writer promote a few times and live for a moment more, kill it, and note what it acknowledged."""
    reading, writing = os.pipe()
    arguments = (str(state), writing, moments.randrange(2**32))
    writer = multiprocessing.get_context("fork").Process(target=write, args=arguments)
    writer.start()
    os.close(writing)
    with os.fdopen(reading) as lines:
        told = [lines.readline() for _ in range(moments.randint(0, MOST_PROMOTIONS))]
        time.sleep(moments.uniform(0.0, LONGEST_MOMENT_SECONDS))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        told += lines.readlines()
    for line in told:
        m, decided_at = line.split()
        acknowledged.setdefault(int(m), []).append(float(decided_at))
    assert -signal.SIGKILL == writer.exitcode


def decided(path: Path, table: str) -> dict[str, list[float]]:
    """When the decisions in a database were made, by problem."""
    found: dict[str, list[float]] = {}
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        for key, decided_at in connection.execute(f"SELECT problem, decided_at FROM {table}"):
            found.setdefault(key, []).append(decided_at)
    return found


def verify(state: Path, acknowledged: Acknowledged) -> None:
    """No damage, no promotion lost from the history, and after opening it none from `best.db`."""
    for name in ("history.db", "best.db"):
        if (state / name).exists():
            # A writer may die before it has made the schema.
            expected = [()] if acknowledged else [(), ("is empty",)]
            assert check(str(state / name)).faults in expected
    with open_history(str(state)) as history:
        assert [] == history.notices
    recorded = decided(state / "history.db", "winner")
    for m, moments in acknowledged.items():
        assert set(moments) <= set(recorded[problem(m).key])
    if acknowledged:
        published = decided(state / "best.db", "choice WHERE rank = 0")
        assert {key: [max(moments)] for key, moments in recorded.items()} == published


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_no_kill_tears_a_read_loses_a_promotion_or_damages_a_database(state: Path, kills: int) -> None:
    state.mkdir()
    command = [sys.executable, "-m", "tests.store.campaign", str(state)]
    readers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(READERS)]
    acknowledged: Acknowledged = {}
    moments = random.Random(kills)
    try:
        for _ in range(kills):
            live_and_die(state, moments, acknowledged)
            verify(state, acknowledged)
    finally:
        (state / "stop").touch()
        read = [reader.communicate()[0] for reader in readers]
    assert [0] * READERS == [reader.returncode for reader in readers]
    assert all(int(count) > 0 for count in read)
    assert sum(map(len, acknowledged.values())) > kills
