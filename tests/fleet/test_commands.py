"""The commands as their user runs them, with wrong input too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from autotune.cli import main
from autotune.fleet.connection import connect
from autotune.fleet.outliers import paces
from tests.store.factories import CPU, STACK

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fleet.nodes import Node
    from tests.fleet.postgres import Database

    Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command with settings; returns its status, what it printed and what it complained of."""

    def run(*words: str, fleet: str = "") -> tuple[int, str, str]:
        settings = tmp_path / "config.toml"
        settings.write_text(f"[fleet]\n{fleet}")
        monkeypatch.setenv("AUTOTUNE_CONFIG", str(settings))
        monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(tmp_path / "state"))
        status = main(list(words))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def section(database: Database, login: str = "node") -> str:
    settings = database.settings(login)
    return f'url = "{settings.url}"\npassword_file = "{settings.password_file}"\n'


@pytest.mark.parametrize("words", ["fleet status", "fleet init", "fleet sync", "generation --fleet"])
def test_without_a_fleet_a_command_says_so_in_one_line(run: Run, words: str) -> None:
    status, _, complaint = run(*words.split())
    assert 2 == status
    assert "autotune: no fleet is configured; set [fleet] url, see docs/fleet.md\n" == complaint


def test_a_server_that_is_not_there_is_one_line(run: Run) -> None:
    status, _, complaint = run("fleet", "status", fleet='url = "postgresql+psycopg://n@127.0.0.1:1/f"')
    assert 2 == status
    assert 1 == len(complaint.splitlines())
    assert complaint.startswith("autotune: f on 127.0.0.1:1: ")


def test_names_and_folders_of_generations_are_for_those_of_the_fleet(run: Run) -> None:
    status, _, complaint = run("generation", "fleet-0123456789abcdef")
    assert (2, "autotune: a name and --to are for generations of the fleet; give --fleet too\n") == (
        status,
        complaint,
    )
    status, _, complaint = run("generation")
    assert 2 == status
    assert "nothing is published yet" in complaint


def test_the_roles_are_printed_for_psql(run: Run) -> None:
    status, told, _ = run("fleet", "roles")
    assert 0 == status
    assert "CREATE ROLE %I NOLOGIN" in told


@pytest.mark.fleet
def test_init_and_status(run: Run, database: Database) -> None:
    status, told, _ = run("fleet", "init", fleet=section(database, "admin"))
    assert 0 == status
    assert told.startswith("the fleet's tables have version 0001, those of shared studies Optuna's v")
    status, told, _ = run("fleet", "status", fleet=section(database, "reader"))
    assert 0 == status
    assert "no node is known to be slower than its equals" in told
    status, _, complaint = run("fleet", "init", fleet=section(database))
    assert (2, True) == (status, "no member of autotune_owner" in complaint)


@pytest.mark.fleet
def test_sync_exchanges_once(run: Run, database: Database) -> None:
    status, told, _ = run("fleet", "sync", "--json", fleet=section(database))
    assert 0 == status
    assert "" == json.loads(told)["failure"]
    assert "1" == database.sql("SELECT count(*) FROM fleet.node")


@pytest.mark.fleet
def test_a_generation_of_nothing_is_refused(run: Run, database: Database) -> None:
    status, _, complaint = run("generation", "--fleet", fleet=section(database))
    assert (2, True) == (status, "knows no winner for the devices" in complaint)


@pytest.mark.fleet
def test_a_slow_card_is_told_from_its_equals(
    nodes: Callable[..., Node], database: Database, run: Run
) -> None:
    """Four nodes measured three problems; the last one takes half as long again for the same baselines."""
    fleet = [nodes() for _ in range(4)]
    for node in fleet:
        for m in (1, 2, 3):
            node.decide(m)
        node.exchange()
    slow = fleet[-1].history.rows("SELECT value FROM fleet_state WHERE key = 'node'")[0]["value"]
    database.sql(f"UPDATE fleet.entry SET baseline_ns = 1.5 * baseline_ns WHERE node = '{slow}'")
    with connect(database.settings("reader")).connect() as connection:
        found = paces(connection, [(CPU, STACK)])
    assert [True, False, False, False] == [pace.is_outlier for pace in found]
    assert (slow, 1.5, 3) == (str(found[0].node), found[0].slowdown, found[0].problems)
    status, told, _ = run("fleet", "status", "--json", fleet=section(database, "reader"))
    assert 0 == status
    assert [slow] == [node["node"] for node in json.loads(told)["nodes"] if node["outlier"]]
    assert 12 == json.loads(told)["counts"]["winners"]
    assert "1.50x the time" in run("fleet", "status", fleet=section(database, "reader"))[1]
