"""Other tools, really started: optuna-dashboard over exported studies, Datasette beside the writer."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune import paths
from autotune.cli import main
from autotune.store import open_history
from autotune.store.snapshot import publish
from tests.store.factories import EPOCH, promote

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIES = 600
"""Looks, a tenth of a second apart, until a server answers: it may have to be compiled first."""


@contextmanager
def started(program: str, *arguments: str) -> Iterator[str]:
    """A server of another project; gives the address it listens at."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [found, *arguments, "--host", "127.0.0.1", "--port", port]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def fetched(address: str) -> Any:
    """What it answers, once it does."""
    for _ in range(TRIES):
        try:
            with urllib.request.urlopen(address) as answer:
                return json.load(answer)
        except (urllib.error.URLError, ConnectionError) as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


def test_optuna_dashboard_opens_exported_studies(winners, tmp_path, capsys) -> None:
    configuration = {"implementation": "triton", "BLOCK_SIZE_M": 16, "num_warps": 4}
    winners.linear(16, trials=((configuration, 2e6), ({**configuration, "num_warps": 8}, 3e6)))
    url = f"sqlite:///{tmp_path}/studies.db"
    assert 0 == main(["export", "optuna", "--to", url])
    capsys.readouterr()
    with started("optuna-dashboard", url) as site:
        (summary,) = fetched(f"{site}/api/studies")["study_summaries"]
        assert summary["study_name"].startswith("linear ")
        study = fetched(f"{site}/api/studies/{summary['study_id']}?after=0")
    assert [2.0, 3.0] == pytest.approx([trial["values"][0] for trial in study["trials"]], rel=0.01)
    assert {"Complete"} == {trial["state"] for trial in study["trials"]}
    assert {"implementation", "BLOCK_SIZE_M", "num_warps"} == {
        parameter["name"] for parameter in study["trials"][0]["params"]
    }


def test_datasette_answers_the_named_queries_beside_the_writer(state) -> None:
    with open_history(str(state)) as history:
        promote(history)
        publish(history, "first")
        metadata = str(Path(paths.data_dir("db"), "datasette.json"))
        with started("datasette", str(state / "history.db"), "--metadata", metadata) as site:
            (best,) = fetched(f"{site}/history/best_per_problem.json?_shape=array")
            assert "linear" == best["workload"]
            promote(history, m=1, decided_at=EPOCH + 1)
            names = sorted(path.stem for path in Path(paths.data_dir("db"), "queries").glob("*.sql"))
            rows = {name: fetched(f"{site}/history/{name}.json?_shape=array") for name in names}
    assert 2 == len(rows["best_per_problem"])
    assert 1 == len(rows["generations"])
