"""`autotune config`: what it checks and shows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from autotune import paths
from autotune.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /etc/autotune; nobody has settings of their own."""
    monkeypatch.delenv("AUTOTUNE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path / "etc"))
    (tmp_path / "etc" / "config.d").mkdir(parents=True)
    return tmp_path / "etc"


def test_show_says_which_file_each_value_comes_from(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (etc / "config.toml").write_text("[gate]\nlooks = 2\nlook_seconds = 3")
    (etc / "config.d" / "10-night.toml").write_text("[gate]\nlooks = 7")
    assert main(["config", "show", "gate", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["gate.looks"] == {"value": 7, "origin": str(etc / "config.d" / "10-night.toml")}
    assert shown["gate.look_seconds"] == {"value": 3.0, "origin": str(etc / "config.toml")}
    assert shown["gate.windows"] == {"value": [], "origin": "default"}
    assert all(key.startswith("gate.") for key in shown)


def test_show_prints_values_as_they_stand_in_a_file(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (etc / "config.toml").write_text("[[gate.windows]]\nstart = '0 22 * * *'\nhours = 8")
    assert main(["config", "show", "gate.windows"]) == 0
    assert '[{ start = "0 22 * * *", hours = 8.0 }]' in capsys.readouterr().out


def test_show_of_an_unknown_key_names_the_closest(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "gaet"]) == 2
    assert "unknown setting 'gaet'; did you mean gate?" in capsys.readouterr().err


def test_check_names_every_file_that_holds(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "no settings file; every key is at its default\n"
    (etc / "config.toml").write_text("[gate]\nlooks = 2")
    assert main(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"files": [str(etc / "config.toml")]}


def test_check_of_a_wrong_file_says_where_and_exits_2(
    etc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draft = tmp_path / "draft.toml"
    draft.write_text("[gate]\nlook = 2")
    assert main(["config", "check", str(draft)]) == 2
    told = f"autotune: {draft}: unknown key of [gate] 'look'; did you mean looks or look_seconds?\n"
    assert capsys.readouterr().err == told
    assert main(["config", "check", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: cannot be read: No such file or directory" in capsys.readouterr().err
