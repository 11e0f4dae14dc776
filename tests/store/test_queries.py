"""The named queries under `db/queries/`: each says what it tells, runs as it stands, and tells that."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from autotune import paths
from autotune.store import open_history
from autotune.store.records import Verdict
from autotune.store.rollback import rollback
from autotune.store.snapshot import publish
from tests.store.factories import (
    EPOCH,
    configuration,
    measurement,
    problem,
    promote,
    record_host,
    study_key,
    trial,
)

QUERIES = sorted(Path(paths.data_dir("db"), "queries").glob("*.sql"))


@pytest.fixture
def lived(state: Path) -> Path:
    """A history in which something of everything happened."""
    with open_history(str(state)) as history:
        promote(history, latency_ns=4e5)
        publish(history, "first")
        promote(history, latency_ns=3e5, decided_at=EPOCH + 86_400)
        promote(history, m=1, latency_ns=2e5, decided_at=EPOCH + 86_400)
        publish(history, "second")
        rollback(history, 1, "slower in production")
        record_host(history)
        study = history.begin_study(study_key(64), problem(64).dimensions)
        history.add_trial(study, trial(0, measurement=measurement(variation=0.5)))
        history.add_trial(study, trial(1, Verdict.COMPILE_ERROR, stage="compile", compile_seconds=99.0))
        history.add_trial(study, trial(2, Verdict.HUNG))
    return state / "history.db"


def ask(path: Path, name: str) -> list[dict[str, Any]]:
    """The rows of a named query, over a connection that cannot write."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(Path(QUERIES[0].parent, f"{name}.sql").read_text())]


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_a_query_says_what_it_tells_and_finds_something(lived: Path, path: Path) -> None:
    text = path.read_text()
    assert text.startswith("-- ")
    assert text.endswith(";\n")
    assert 1 == text.count(";")
    assert ask(lived, path.stem)


def test_datasette_is_told_every_query_as_it_stands() -> None:
    told = json.loads(Path(paths.data_dir("db"), "datasette.json").read_text())
    queries = told["databases"]["history"]["queries"]
    assert {path.stem: path.read_text() for path in QUERIES} == {
        name: query["sql"] for name, query in queries.items()
    }


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="needs the sqlite3 shell: apt install sqlite3")
@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path.stem)
def test_the_sqlite3_shell_runs_a_query_as_the_docs_say(lived: Path, path: Path) -> None:
    command = ["sqlite3", "-readonly", "-header", "-csv", str(lived)]
    with path.open() as query:
        done = subprocess.run(command, stdin=query, capture_output=True, text=True, check=False)
    assert ("", 0) == (done.stderr, done.returncode)
    assert 2 <= len(done.stdout.splitlines())


def test_trials_are_counted_by_verdict(lived: Path) -> None:
    rows = ask(lived, "trials_by_verdict")
    assert 12 == sum(row["trials"] for row in rows)
    assert {"ok": 10, "compile_error": 1, "hung": 1} == {
        verdict: sum(row["trials"] for row in rows if row["verdict"] == verdict)
        for verdict in {row["verdict"] for row in rows}
    }


def test_the_best_of_a_problem_is_its_current_winner(lived: Path) -> None:
    (row,) = ask(lived, "best_per_problem")
    assert (problem().key, 400.0, 800.0, 2.0) == tuple(
        row[name] for name in ("problem", "latency_us", "baseline_us", "speedup")
    )


def test_the_noisiest_trial_comes_first(lived: Path) -> None:
    assert (problem(64).key, 0) == tuple(
        ask(lived, "noisiest_trials")[0][name] for name in ("problem", "number")
    )


def test_the_slowest_compile_comes_first(lived: Path) -> None:
    first = ask(lived, "slowest_compiles")[0]
    assert (99.0, "compile_error") == (first["compile_seconds"], first["verdict"])


def test_promotions_tell_what_became_of_them(lived: Path) -> None:
    rows = ask(lived, "promotions_over_time")
    assert [2.0, 2.667, 4.0] == [row["speedup_over_baseline"] for row in rows]
    assert ["current", "withdrawn", "withdrawn"] == [row["state"] for row in rows]
    assert rows[0]["day_utc"] < rows[1]["day_utc"] == rows[2]["day_utc"]


def test_generations_tell_what_was_rolled_back(lived: Path) -> None:
    assert [(3, 1), (2, None), (1, None)] == [
        (row["number"], row["restored_from"]) for row in ask(lived, "generations")
    ]


def test_the_quarantined_are_those_that_did_harm(lived: Path) -> None:
    (row,) = ask(lived, "quarantined")
    assert ("hung", 1) == (row["verdict"], row["times"])
    assert configuration(2)["implementation"] in row["configuration"]
