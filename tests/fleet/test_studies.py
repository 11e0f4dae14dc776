"""Studies that nodes search together in a real PostgreSQL: nodes that die, a server that goes, rights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from autotune.errors import FleetError
from autotune.fleet.studies import make_tables, open_storage, sharing_of
from autotune.search.sampler import PoolSearch
from autotune.search.shared_study import RETURNED, ROW, SharedStudy, name_of
from autotune.space.searchspace import SearchSpace
from autotune.store.records import StudyKey
from tests.fleet.postgres import ROLES
from tests.search.simulated import DECLARATION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fleet.postgres import Database

ROOT = Path(__file__).parents[2]
LANDSCAPE = next((ROOT / "benchmarks" / "landscapes").glob("linear_m4_*"))
SPACE = SearchSpace.build(DECLARATION, DECLARATION.problem({"m": 8, "n": 64}), {"kind": "cpu"})
KEY = StudyKey("simulated", SPACE.problem.key, "d" * 16, "5" * 16, "latency", SPACE.digest)

pytestmark = pytest.mark.fleet


@pytest.fixture
def database(empty: Database) -> Database:
    """A database without Optuna's tables."""
    empty.sql("DROP SCHEMA studies CASCADE")
    empty.server._psql(["-q", "-f", str(ROLES)], empty.name)
    return empty


@pytest.fixture
def studies(database: Database) -> Database:
    """A database with Optuna's tables."""
    make_tables(database.settings("admin"))
    return database


class Node:
    """A node in a process of its own, which may be killed."""

    def __init__(self, folder: Path, fleet: Path, name: str, trials: int, trial_seconds: float) -> None:
        program = ROOT / "benchmarks" / "shared_node.py"
        command = [sys.executable, str(program), str(LANDSCAPE), str(folder / name), f"--fleet={fleet}"]
        options = [f"--name={name}", f"--trials={trials}", f"--trial-seconds={trial_seconds}"]
        self.process = subprocess.Popen(
            [*command, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        self.ended: dict[str, Any] = {}
        self.rows: list[int] = []

    def begin(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdin is not None
        assert "ready\n" == self.process.stdout.readline()
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def read(self) -> bool:
        """Take in what it says next; False when it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            told = json.loads(line)
            if "at" in told:
                self.rows.append(told["row"])
            else:
                self.ended = told
        return bool(line)

    def finish(self) -> None:
        while self.read():
            pass
        assert 0 == self.process.wait()


@pytest.fixture
def nodes(studies: Database, tmp_path: Path) -> Iterator[Any]:
    """Starts nodes; all that still run are ended."""
    started: list[Node] = []
    fleet = tmp_path / "fleet.json"
    fleet.write_bytes(msgspec.json.encode(studies.settings(heartbeat_seconds=2)))

    def start(count: int, trials: int, trial_seconds: float) -> list[Node]:
        names = [f"node{number}" for number in range(count)]
        started.extend(Node(tmp_path, fleet, name, trials, trial_seconds) for name in names)
        for node in started:
            node.begin()
        return started

    yield start
    for node in started:
        with node.process:  # closes its pipes
            node.process.kill()


def shared_trials(database: Database) -> list[Any]:
    import optuna

    with open_storage(database.settings()) as storage:
        [study] = storage.get_all_studies()
        return optuna.load_study(study_name=study.study_name, storage=storage).trials


@pytest.mark.slow
def test_a_node_killed_in_a_trial_loses_that_trial_which_another_one_tries(nodes, studies) -> None:
    first, second, third = nodes(3, trials=24, trial_seconds=0.4)
    assert first.read()
    time.sleep(0.2)  # it is in the middle of its next trial now, or about to begin it
    first.process.kill()
    for survivor in (second, third):
        survivor.finish()
    trials = [trial for trial in shared_trials(studies) if ROW in trial.system_attrs]
    lost = [trial for trial in trials if trial.state.name == "FAIL" and RETURNED not in trial.user_attrs]
    retried = [
        trial.system_attrs["retry_history"] for trial in trials if "retry_history" in trial.system_attrs
    ]
    assert len(lost) <= 1
    assert [[trial.number] for trial in lost] == retried
    complete = Counter(trial.system_attrs[ROW] for trial in trials if trial.state.name == "COMPLETE")
    assert {trial.system_attrs[ROW] for trial in lost} <= set(complete)
    # The baseline is each node's own.
    assert [] == [row for row, count in complete.items() if count > 1][1:]
    assert [] == second.ended["lost"] + third.ended["lost"]
    assert [False, True] == sorted(node.ended["decided"] for node in (second, third))


@pytest.mark.slow
def test_nodes_go_on_when_the_server_is_killed(nodes, studies) -> None:
    both = nodes(2, trials=14, trial_seconds=0.2)
    for node in both:
        node.read()
    studies.server.stop()
    try:
        for node in both:
            node.finish()
        assert [True, True] == [node.ended["decided"] for node in both]
        assert [1, 1] == [len(node.ended["lost"]) for node in both]
        assert all("goes on without the other nodes" in node.ended["lost"][0] for node in both)
    finally:
        studies.server.start()


def test_many_processes_search_through_one_relay_with_heartbeats(studies, tmp_path) -> None:
    settings = studies.settings(heartbeat_seconds=1, relay=str(tmp_path / "relay.sock"))
    config = tmp_path / "config.toml"
    lines = [f'{name} = "{getattr(settings, name)}"' for name in ("url", "password_file", "relay")]
    config.write_text("\n".join(["[fleet]", *lines, "heartbeat_seconds = 1"]))
    environment = {**os.environ, "AUTOTUNE_CONFIG": str(config)}
    server = subprocess.Popen([sys.executable, "-m", "autotune", "fleet", "relay"], env=environment, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not os.path.exists(settings.relay) and time.monotonic() < deadline:
            time.sleep(0.1)
        sharing = sharing_of(settings)
        dead, alive = (SharedStudy(sharing, KEY, SPACE.pool, PoolSearch(SPACE.pool, 0)) for _ in range(2))
        lost, row = dead.ask()
        taken, other = alive.ask()
        assert row != other
        dead.leave()  # its heart stops, and the trial is still its own
        deadline = time.monotonic() + 60
        while alive.ask()[1] != row and time.monotonic() < deadline:
            time.sleep(0.3)
            alive.refresh()
        alive.refresh()
        assert "FAIL" == next(t.state.name for t in alive.trials if t._trial_id == lost)
        assert "RUNNING" == next(t.state.name for t in alive.trials if t._trial_id == taken)
        alive.leave()
    finally:
        server.terminate()
        server.wait()


def test_two_that_choose_at_once_do_not_choose_the_same(studies) -> None:
    sharing = sharing_of(studies.settings())
    assert sharing is not None
    one, other = (SharedStudy(sharing, KEY, SPACE.pool, PoolSearch(SPACE.pool, 0)) for _ in range(2))
    try:
        # Each knows what it knew before the other chose, and the same seed would choose the same.
        rows = [study.ask()[1] for _ in range(3) for study in (one, other)]
        assert 6 == len(set(rows))
    finally:
        one.leave()
        other.leave()


def test_what_others_run_costs_a_node_no_statement_each(studies) -> None:
    from sqlalchemy import event

    sharing = sharing_of(studies.settings(heartbeat_seconds=300))
    assert sharing is not None
    one, *others = (SharedStudy(sharing, KEY, SPACE.pool, PoolSearch(SPACE.pool, 0)) for _ in range(4))
    said: list[int] = []
    event.listen(one._storage._backend.engine, "after_cursor_execute", lambda *_: said.append(1))
    taken = []
    for other in others:
        other.ask()
        said.clear()
        one.refresh()
        taken.append(len(said))
    assert [taken[0]] * 3 == taken
    for study in (one, *others):
        study.leave()


def test_tables_are_made_by_their_owner_alone_and_nothing_is_deleted_by_nodes(database) -> None:
    with pytest.raises(FleetError):
        make_tables(database.settings("node"))
    with pytest.raises(FleetError), open_storage(database.settings("node")):
        pass
    version = make_tables(database.settings("admin"))
    assert version == make_tables(database.settings("admin"))
    sharing = sharing_of(database.settings("node"))
    study = SharedStudy(sharing, KEY, SPACE.pool, PoolSearch(SPACE.pool, 0))
    study.leave()
    for right, granted in (
        ("SELECT", "t"),
        ("INSERT", "t"),
        ("UPDATE", "t"),
        ("DELETE", "f"),
        ("TRUNCATE", "f"),
    ):
        asked = f"SELECT has_table_privilege('node', 'studies.trials', '{right}')"
        assert granted == database.sql(asked), right


@pytest.mark.parametrize(
    "attributes", ['"17"', "true", "-1", "100000", '{"a": 1}', "null"], ids=lambda value: value
)
def test_a_row_that_is_none_of_the_pools_is_passed_over(studies, attributes) -> None:
    sharing = sharing_of(studies.settings())
    study = SharedStudy(sharing, KEY, SPACE.pool, PoolSearch(SPACE.pool, 0))
    study.enqueue(3)
    studies.sql(f"UPDATE studies.trial_system_attributes SET value_json = '{attributes}'")
    study.refresh()
    assert len(SPACE) <= study.left <= len(SPACE) + 1
    assert study.ask() is not None
    study.leave()
    assert name_of(KEY).startswith("autotune:simulated:")
