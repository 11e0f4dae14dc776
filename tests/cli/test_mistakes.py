"""Every mistake of the user ends in one line that names what was wrong, and exit 2; nothing is lost."""

from __future__ import annotations

import json
import os
import sqlite3
from typing import TYPE_CHECKING

import pytest

from autotune.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "state"
    monkeypatch.setenv("AUTOTUNE_STATE_DIR", str(folder))
    monkeypatch.setenv("AUTOTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("")
    return folder


def refused(capsys, *words: str) -> str:
    """The one line on standard error."""
    assert main(list(words)) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("autotune: ")
    assert told.err.count("\n") == 1
    return told.err


LINEAR = ("-p", "m=16,n=64,k=64")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tunne"], "No such command 'tunne'"),
        (["tune", "--bugdet", "1s"], "--bugdet"),
        (["tune"], "give a workload with -p"),
        (["tune", "liner", *LINEAR], "unknown workload 'liner'; did you mean linear?"),
        (["tune", "linear"], "dimension 'm' is missing"),
        (["tune", "linear", "-p", "m=-1,n=64,k=64"], "m=-1 is out of range"),
        (["tune", "linear", "-p", "m=99999999999,n=64,k=64"], "out of range"),
        (["tune", "linear", "-p", "m=16,n=64,k=64,dtpye=float32"], "did you mean dtype"),
        (["tune", "linear", "-p", "m=16,n=64,k=64,dtype=bf16"], "bfloat16"),
        (["tune", "linear", "-p", "m=16,n"], "is not NAME=VALUE"),
        (["tune", "linear", "-p", "m=16,m=17"], "gives 'm' twice"),
        (["tune", "linear", *LINEAR, "--objective", "latencyy"], "did you mean latency"),
        (["tune", "linear", *LINEAR, "--budget", "soon"], "is not a duration"),
        (["tune", "linear", *LINEAR, "--budget", "0s"], "is not a duration"),
        (["tune", "linear", *LINEAR, "--objective", "speed"], "unknown objective 'speed'"),
        (["tune", "linear", *LINEAR, "--latency-limit", "5ms"], "only 'throughput' does"),
        (
            ["tune", "linear", *LINEAR, "--objective", "throughput", "--latency-limit", "soon"],
            "not a duration",
        ),
        (["tune", "linear", *LINEAR, "--module", "no_such_module"], "cannot be imported"),
        (["tune", "linear", *LINEAR, "--module", "nowhere.py"], "is not a file"),
        (["tune", "--model", "kimi-k3", "--tp", "8"], "kimi-k2"),
        (["plan", "--model", "kimi-k2.5", "--tp", "7"], "tp=7"),
        (["plan", "--model", "kimi-k2.5", "--batch", "1,zero"], "whole numbers"),
        (["plan", "--model", "kimi-k2.5", "--phase", "decoding"], "did you mean decode"),
        (["spaces", "linear", *LINEAR, "--device", "nvidia-h2000"], "unknown device 'nvidia-h2000'"),
        (["spaces", "linear", "--compile"], "--compile needs a problem"),
        (["spaces", "linear", *LINEAR, "--sample", "3"], "--sample draws what --compile compiles"),
        (["spaces", "linear", *LINEAR, "--device", "cpu", "--compile"], "not for a cpu device"),
        (["best", "linear", *LINEAR, "-q", "precision"], "is not NAME=VALUE"),
        (["history", "--verdict", "fine"], "unknown verdict 'fine'"),
        (["show", "last"], "is not STUDY or STUDY/TRIAL"),
        (["history"], "there is no history yet"),
        (["explain", "linear", *LINEAR], "there is no history yet"),
        (["db", "check"], "holds no database yet"),
        (["db", "restore"], "holds no backup"),
    ],
)
def test_a_mistake_is_told_in_one_line(capsys, words: list[str], message: str) -> None:
    assert message in refused(capsys, *words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "config.json"),
        ("not json", "config.json"),
        ('{"hidden_size": -5}', "config.json"),
        ("", "config.json"),
    ],
)
def test_a_model_without_the_numbers_is_refused(capsys, tmp_path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)
    assert message in refused(capsys, "plan", "--model", str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[worker]\npythn = 'x'", "pythn"),
        ("[measure]\nmargin = 'much'", "margin"),
        ("[measure\n", "config.toml"),
    ],
)
def test_wrong_settings_are_refused_with_their_place(capsys, tmp_path, text: str, message: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    assert message in refused(capsys, "tune", "linear", *LINEAR)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is not a database, it is a letter" * 100, "history.db"),
        (b"SQLite format 3\0" + bytes(50), "history.db"),
    ],
)
def test_a_damaged_history_is_refused_by_readers(capsys, state, content: bytes, message: str) -> None:
    state.mkdir()
    (state / "history.db").write_bytes(content)
    assert message in refused(capsys, "history")
    assert (state / "history.db").read_bytes() == content


def test_a_foreign_and_a_newer_database_are_refused_and_left_alone(capsys, state) -> None:
    state.mkdir()
    path = state / "history.db"
    for pragma in ("application_id = 7", "application_id = 0x41545548; PRAGMA user_version = 99"):
        connection = sqlite3.connect(path)
        connection.executescript(f"PRAGMA {pragma}; CREATE TABLE IF NOT EXISTS other(x); VACUUM")
        connection.close()
        before = path.read_bytes()
        assert "history.db" in refused(capsys, "rollback")
        assert before == path.read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who may write anywhere, to drop its rights")
def test_a_state_folder_that_is_a_file_is_refused(capsys, state) -> None:
    state.write_text("")
    assert "state" in refused(capsys, "db", "backup")


def test_a_broken_override_is_told_with_its_file(capsys, tmp_path, monkeypatch) -> None:
    from autotune import paths

    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path / "etc"))
    folder = tmp_path / "etc" / "search_spaces"
    folder.mkdir(parents=True)
    (folder / "linear.toml").write_text("[dimensions.m]\nnearst = true\n")
    message = refused(capsys, "spaces", "linear")
    assert str(folder / "linear.toml") in message


def test_json_is_printed_where_a_program_might_read(capsys) -> None:
    for words in (
        ["spaces"],
        ["spaces", "linear"],
        ["spaces", "linear", *LINEAR],
        ["plan", "--model", "kimi-k2.5", "--tp", "8", "--batch", "1"],
        ["best", "linear", *LINEAR],
        ["fingerprint", "--no-ceilings"],
        ["doctor"],
    ):
        with pytest.warns() if words[0] == "best" else _quiet():
            assert main([*words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)


def test_no_line_is_wider_than_100_columns(capsys) -> None:
    for words in (
        ["spaces"],
        ["spaces", "fused_moe"],
        ["spaces", "linear", *LINEAR],
        ["plan", "--model", "kimi-k2.5", "--tp", "8", "--batch", "1,16"],
        ["fingerprint", "--no-ceilings"],
        ["doctor"],
        ["--help"],
    ):
        assert main(words) == 0
        for line in capsys.readouterr().out.splitlines():
            assert len(line.rstrip()) <= 100, (words, line)


def _quiet():
    from contextlib import nullcontext

    return nullcontext()
