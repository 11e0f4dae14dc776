"""The whole path as its user takes it: tune a kernel of one's own, look it up elsewhere, use it, ask why."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.cli import main
from autotune.store import read_history

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "docs" / "examples" / "blocked_softmax.py")
PROBLEM = ("-p", "rows=512,width=256")


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("tuned")
    (folder / "config.toml").write_text("[measure]\nscreen_seconds = 0.1\n")
    return {
        **os.environ,
        "AUTOTUNE_STATE_DIR": str(folder / "state"),
        "AUTOTUNE_CACHE_DIR": str(folder / "cache"),
        "AUTOTUNE_CONFIG": str(folder / "config.toml"),
    }


def autotune(environment: dict[str, str], *words: str, expect: int = 0) -> str:
    """What a command prints."""
    command = [sys.executable, "-m", "autotune", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tuned(environment) -> dict[str, str]:
    autotune(environment, "tune", "blocked_softmax", "--module", EXAMPLE, *PROBLEM, "--budget", "20s")
    return environment


@pytest.fixture
def view(tuned, monkeypatch, capsys) -> Callable[..., str]:
    """Runs a command in this process and returns what it prints."""
    for name in ("AUTOTUNE_STATE_DIR", "AUTOTUNE_CACHE_DIR", "AUTOTUNE_CONFIG"):
        monkeypatch.setenv(name, tuned[name])
    monkeypatch.chdir(ROOT)

    def run(*words: str) -> str:
        assert main([*words]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


def test_another_process_finds_the_winner_and_uses_it(tuned) -> None:
    script = f"""
import importlib.util, json, sys, torch
spec = importlib.util.spec_from_file_location("example", {EXAMPLE!r})
spec.loader.exec_module(importlib.util.module_from_spec(spec))
import autotune
best = autotune.get_best_config("blocked_softmax", rows=512, width=256)
near = autotune.get_best_config("blocked_softmax", rows=700, width=256)
x = torch.randn(512, 256)
torch.testing.assert_close(autotune.build("blocked_softmax", best)(x), torch.softmax(x, -1))
print(json.dumps([best.match, dict(best), near.match]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=tuned, capture_output=True, text=True, cwd=ROOT, check=True
    )
    match, best, near = json.loads(done.stdout)
    assert "exact" == match
    assert {"implementation", "block"} == set(best)
    assert "nearest" == near


def test_every_view_tells_of_the_study(tuned, view) -> None:
    module = ("--module", EXAMPLE)
    best = json.loads(view("best", "blocked_softmax", *module, *PROBLEM, "--json"))
    assert best["match"] == "exact"
    studies = json.loads(view("history", "--json"))
    assert [study["state"] for study in studies] == ["ended"]
    shown = json.loads(view("show", "1", "--json"))
    assert {trial["verdict"] for trial in shown["trials"]} <= {
        "ok",
        "noisy",
        "preempted",
    }  # on a busy machine
    trial = json.loads(view("show", "1/0", "--json"))
    assert trial["measurement"]["samples_ns"]
    explained = view("explain", "blocked_softmax", *module, *PROBLEM)
    assert "study 1" in explained
    assert "device" in explained
    report = json.loads(view("report", "--json"))
    assert report[0]["problem"] == {"rows": 512, "width": 256}
    assert "study 1" in view("compare", "1", "1")
    for words in (["explain", "blocked_softmax", *module, *PROBLEM], ["report"], ["show", "1"], ["history"]):
        assert all(len(line.rstrip()) <= 100 for line in view(*words).splitlines())


def test_what_is_decided_is_not_tuned_again(tuned) -> None:
    told = autotune(
        tuned, "tune", "blocked_softmax", "--module", EXAMPLE, *PROBLEM, "--budget", "5s", "--json"
    )
    assert [outcome["fresh"] for outcome in json.loads(told)["outcomes"]] == [False]


def test_bench_measures_the_winner_again_and_publishes_nothing(tuned, view) -> None:
    before = view("rollback", "--list", "--json")
    told = autotune(
        tuned, "bench", "blocked_softmax", "--module", EXAMPLE, *PROBLEM, "--budget", "1s", "--json"
    )
    assert json.loads(told)["proof"]["rounds"] >= 1
    assert before == view("rollback", "--list", "--json")


def test_the_database_is_whole_backed_up_and_restored(tuned, view) -> None:
    assert all(not one["faults"] for one in json.loads(view("db", "check", "--json")))
    path = json.loads(view("db", "backup", "--json"))["backup"]
    view("db", "restore", path)
    assert json.loads(view("history", "--json"))


@pytest.mark.slow
def test_each_objective_has_winners_of_its_own(tuned) -> None:
    words = ("blocked_softmax", "--module", EXAMPLE, *PROBLEM, "--objective", "throughput")
    autotune(tuned, "tune", *words, "--budget", "15s", "--trials", "3")
    found = json.loads(autotune(tuned, "best", *words, "--json"))
    assert ("exact", "throughput") == (found["match"], found["objective"])
    assert "by mean with the baseline" in autotune(tuned, "explain", *words)
    limited = json.loads(autotune(tuned, "best", *words, "--latency-limit", "5ms", "--json"))
    assert ("default", "throughput:5ms") == (limited["match"], limited["objective"])


def test_energy_that_cannot_be_measured_is_refused_in_one_line(environment, tmp_path) -> None:
    if Path("/sys/class/powercap/intel-rapl:0").exists():
        pytest.skip("energy can be measured here")
    env = {**environment, "AUTOTUNE_STATE_DIR": str(tmp_path)}
    words = ["tune", "blocked_softmax", "--module", EXAMPLE, *PROBLEM, "--objective", "energy"]
    command = [sys.executable, "-m", "autotune", *words]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 2 == done.returncode
    assert "energy cannot be measured here" in done.stderr
    assert 1 == len(done.stderr.strip().splitlines())
    assert not list(tmp_path.iterdir())


def test_ctrl_c_keeps_every_finished_trial(environment, tmp_path) -> None:
    env = {**environment, "AUTOTUNE_STATE_DIR": str(tmp_path)}
    words = ["tune", "blocked_softmax", "--module", EXAMPLE, *PROBLEM, "--budget", "10m"]
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *words],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        trials = 0
        while not trials:
            time.sleep(0.1)
            assert process.poll() is None, process.stderr.read()
            if (tmp_path / "history.db").exists():
                trials = _trials(tmp_path)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert 130 == process.returncode
    assert "interrupted" in out
    assert "Traceback" not in err
    assert _trials(tmp_path) >= trials


def _trials(state: Path) -> int:
    from autotune.errors import StateError

    try:
        with read_history(str(state)) as reader:
            return sum(study.trials for study in reader.studies())
    except StateError:
        return 0
