"""`autotune record` as its user calls it: recorded, stopped, killed, gone on with, and told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autotune.cli import main
from autotune.search.landscape import read_landscape

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "docs" / "examples" / "blocked_softmax.py")
WORDS = ("record", "blocked_softmax", "--module", EXAMPLE, "-p", "rows=512,width=256")


@pytest.fixture
def environment(tmp_path) -> dict[str, str]:
    (tmp_path / "config.toml").write_text("[measure]\nscreen_seconds = 0.05\n")
    (tmp_path / "here").mkdir()
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "AUTOTUNE_STATE_DIR": str(tmp_path / "state"),
        "AUTOTUNE_CACHE_DIR": str(tmp_path / "cache"),
        "AUTOTUNE_CONFIG": str(tmp_path / "config.toml"),
    }


def autotune(environment: dict[str, str], folder: Path, *words: str) -> str:
    command = [sys.executable, "-m", "autotune", *words]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_part_is_recorded_then_the_rest_and_then_nothing(
    environment, tmp_path, monkeypatch, capsys
) -> None:
    folder = tmp_path / "here"
    for name in ("AUTOTUNE_STATE_DIR", "AUTOTUNE_CACHE_DIR", "AUTOTUNE_CONFIG"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.chdir(folder)

    def record(*words: str) -> str:
        assert main([*WORDS, *words]) == 0, capsys.readouterr().err
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    part = json.loads(record("--share", "40%", "--json"))
    (file,) = folder.iterdir()
    told = record()
    written = file.read_bytes()
    again = record()

    assert (part["recorded"], part["part"], part["configurations"]) == (3, 3, 7)
    assert part["complete"]
    assert part["file"] == file.name
    assert file.name.startswith("blocked_softmax_rows512_width256__")
    assert "7 of 7 configurations" in told
    assert written == file.read_bytes()
    assert told == again
    landscape = read_landscape(file)
    assert sorted(landscape.pool.parameters[1].values) == [8, 16, 32, 64, 128, 256, 512]
    assert len(landscape) == 7


@pytest.mark.slow
def test_another_declaration_of_the_space_is_recorded(environment, tmp_path) -> None:
    (tmp_path / "blocked_softmax.toml").write_text(
        "[dimensions.rows]\n[dimensions.width]\n[baseline]\nimplementation = 'function'\nblock = 8\n"
        "[implementations.function.parameters]\nblock = [8, 24]\n"
    )
    words = ("--space", str(tmp_path / "blocked_softmax.toml"), "--out", "narrow.json", "--json")
    told = json.loads(autotune(environment, tmp_path / "here", *WORDS, *words))
    assert told["recorded"] == told["configurations"] == 2
    landscape = read_landscape(tmp_path / "here" / "narrow.json")
    assert landscape.pool.find({"implementation": "function", "block": 24}) is not None


@pytest.mark.parametrize("sent", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL])
def test_what_was_recorded_survives_ctrl_c_and_kill(environment, tmp_path, sent) -> None:
    environment["AUTOTUNE_CONFIG"] = str(tmp_path / "slow.toml")
    (tmp_path / "slow.toml").write_text("[measure]\nscreen_seconds = 1.5\n")
    file = tmp_path / "softmax.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "autotune", *WORDS, "--out", str(file)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not file.exists() or not json.loads(file.read_text())["cache"]:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    recorded = json.loads(file.read_text())["cache"]
    assert 1 <= len(recorded) < 7
    if sent == signal.SIGINT:
        assert 130 == process.returncode
        assert "interrupted" in out
        assert "run the same command again to go on" in out
    assert "Traceback" not in err
    # A budget that is spent before anything begins shows what there is.
    told = json.loads(
        autotune(environment, tmp_path, *WORDS, "--out", str(file), "--budget", "1ms", "--json")
    )
    assert told["recorded"] == len(recorded)
    assert not told["complete"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--share", "lots"], "--share 'lots' is not a share; write e.g. 20%"),
        (["--share", "120%"], "--share '120%' is not a share"),
        (["--share", "20%", "--part", "3"], "give one of them"),
        (["--part", "0"], "Invalid value for '--part'"),
        (["--out", "softmax.txt"], "expected a name that ends in .json or .json.gz"),
        (["--out", "nowhere/softmax.json"], "cannot be written"),
        (["--budget", "soon"], "--budget 'soon' is not a duration"),
        (["--space", "nowhere/blocked_softmax.toml"], "blocked_softmax.toml: cannot be read"),
        (
            ["--space", str(ROOT / "search_spaces" / "linear.toml")],
            "expected a file named blocked_softmax.toml",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(words, complaint, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words]) == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
