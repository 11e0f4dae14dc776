from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from autotune import paths
from autotune.config import load_settings, settings_files
from autotune.errors import ConfigError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Write = Callable[[str, str], str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without settings; what stands for /etc/autotune is `etc`, for ~/.config `home`."""
    monkeypatch.delenv("AUTOTUNE_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(paths, "OVERRIDE_DIR", str(tmp_path / "etc"))
    return tmp_path


@pytest.fixture
def write(folder: Path) -> Write:
    def write(name: str, text: str) -> str:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


@pytest.fixture
def rejected(write: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The one line about a file with this text, without the file's name."""

    def rejected(text: str) -> str:
        path = write("config.toml", text)
        monkeypatch.setenv("AUTOTUNE_CONFIG", path)
        with pytest.raises(UsageError) as caught:
            load_settings()
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        return message.removeprefix(f"{path}: ")

    return rejected


def test_without_files_every_key_is_at_its_default(folder: Path) -> None:
    settings = load_settings()
    assert settings_files() == []
    assert settings.origins == {}
    assert settings.origin("measure.margin") == "default"
    assert settings.worker.interpreter == sys.executable
    assert (settings.measure.margin, settings.measure.confidence) == (0.01, 0.99)


def test_values_lists_every_key_by_its_full_name(folder: Path) -> None:
    values = load_settings().values()
    assert values["worker.limits.build"] == 120.0
    assert values["worker.memory_bytes"] == "60%"
    assert "study.budget_seconds" in values


def test_every_section_of_the_daemon_can_be_set(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    [daemon]
    devices = ["cpu", "cuda:1"]
    [gate]
    time_zone = "Europe/Berlin"
    [[gate.windows]]
    start = "0 22 * * mon-fri"
    hours = 8
    [[gate.windows]]
    start = "*/30 6-7 1 jan sat,SUN"
    hours = 0.5
    [metrics]
    address = "[::1]:9719"
    textfile = "/var/lib/node_exporter/autotune.prom"
    [[daemon.models]]
    name = "kimi-k2.5"
    tp = 8
    batch = [1, 16]
    """
    path = write("config.toml", text)
    monkeypatch.setenv("AUTOTUNE_CONFIG", path)
    settings = load_settings()
    assert settings.daemon.devices == ("cpu", "cuda:1")
    assert [window.hours for window in settings.gate.windows] == [8.0, 0.5]
    assert settings.daemon.models[0].batch == (1, 16)
    assert settings.origin("gate.windows") == settings.origin("daemon.models") == path


def test_later_files_override_earlier_ones_key_by_key(write: Write) -> None:
    main = write("etc/config.toml", "[study]\ntrials = 1\nbudget_seconds = 1\n[measure]\nmargin = 0.02")
    write("etc/config.d/20-b.toml", "[study]\ntrials = 3")
    part = write("etc/config.d/10-a.toml", "[study]\ntrials = 2\nbudget_seconds = 2")
    write("etc/config.d/ignored.txt", "not TOML")
    user = write("home/autotune/config.toml", "[study]\ntrials = 4")
    settings = load_settings()
    assert (settings.study.trials, settings.study.budget_seconds, settings.measure.margin) == (4, 2.0, 0.02)
    assert settings.origin("study.trials") == user
    assert settings.origin("study.budget_seconds") == part
    assert settings.origin("measure.margin") == main


def test_autotune_config_replaces_all_other_files(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("etc/config.toml", "[study]\ntrials = 1")
    write("home/autotune/config.toml", "[study]\ntrials = 2")
    monkeypatch.setenv("AUTOTUNE_CONFIG", write("own.toml", "[measure]\nmargin = 0.03"))
    settings = load_settings()
    assert (settings.study.trials, settings.measure.margin) == (None, 0.03)


def test_autotune_config_may_name_a_folder(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("own/config.d/a.toml", "[study]\ntrials = 7")
    monkeypatch.setenv("AUTOTUNE_CONFIG", os.path.dirname(os.path.dirname(path)))
    assert settings_files() == [path]
    assert load_settings().study.trials == 7


def test_autotune_config_that_names_nothing_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(folder / "gone.toml"))
    with pytest.raises(ConfigError, match=r"gone\.toml: no such file, though AUTOTUNE_CONFIG names it"):
        load_settings()


def test_a_relative_xdg_config_home_is_ignored(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("home/autotune/config.toml", "[study]\ntrials = 2")
    monkeypatch.setenv("XDG_CONFIG_HOME", "home")
    monkeypatch.setenv("HOME", "/nonexistent")
    assert settings_files() == []


def test_the_worker_may_run_another_interpreter(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        f'[worker]\npython = "{sys.executable}"\nmodules = ["my_kernels.linear"]\n[worker.limits]\nbuild = 5'
    )
    monkeypatch.setenv("AUTOTUNE_CONFIG", write("config.toml", text))
    worker = load_settings().worker
    assert worker.interpreter == sys.executable
    assert worker.modules == ("my_kernels.linear",)
    assert worker.limits.build == 5.0


@pytest.mark.parametrize(
    ("value", "limit"), [('"60%"', 6_000_000_000), ('"100%"', 10_000_000_000), ("1000000000", 1_000_000_000)]
)
def test_the_memory_cap_is_bytes_or_a_share(
    value: str, limit: int, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOTUNE_CONFIG", write("config.toml", f"[worker]\nmemory_bytes = {value}"))
    assert load_settings().worker.memory_limit(10_000_000_000) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[worker]\npyton = "x"', "unknown key of [worker] 'pyton'; did you mean python?"),
        ("[worker.limits]\nbuld = 3", "unknown key of [worker.limits] 'buld'; did you mean build?"),
        ("[wroker]", "unknown section 'wroker'; did you mean worker?"),
        ("worker = 1", "worker: expected a table, found 1"),
        ('[worker.limits]\nbuild = "a"', "worker.limits.build: expected a number, found 'a'"),
        ("[worker.limits]\nbuild = nan", "worker.limits.build: expected a number > 0.0, found nan"),
        ("[worker.limits]\nbuild = inf", "worker.limits.build: expected a number <= 86400.0, found inf"),
        ("[measure]\nmargin = -1", "measure.margin: expected a number >= 0.0, found -1"),
        ("[measure]\nconfidence = true", "measure.confidence: expected a number, found True"),
        ("[study]\ntrials = 1.5", "study.trials: expected a whole number, found 1.5"),
        ("[study]\ntrials = 0", "study.trials: expected a whole number >= 1, found 0"),
        ("[worker]\nmodules = [1]", "worker.modules[0]: expected a text, found 1"),
        ('[worker]\nmodules = ["mine.py"]', "worker.modules: 'mine.py' is no full path of a file"),
        ('[worker]\nmodules = ["a b"]', "worker.modules: 'a b' is no name that can be imported"),
        ("[daemon]\ndevices = ['gpu']", "daemon.devices: expected cpu, cuda or cuda:N, found 'gpu'"),
        (
            "[daemon]\nlog_level = 'loud'",
            "daemon.log_level: expected debug or info or warning or error, found 'loud'",
        ),
        ("[requests]\nmost = true", "requests.most: expected a whole number, found True"),
        ("[gate]\npower_watts = 'all'", "gate.power_watts: expected a number, found 'all'"),
        ("[gate]\nwindow = []", "unknown key of [gate] 'window'; did you mean windows?"),
        ("[[gate.windows]]\nstart = '0 22 * * *'", "gate.windows[0]: needs 'hours'"),
        (
            "[[gate.windows]]\nstart = '0 22 * * *'\nhour = 8",
            "unknown key of [gate.windows] 'hour'; did you mean hours?",
        ),
        (
            "[[gate.windows]]\nstart = '0 25 * * *'\nhours = 8",
            "gate.windows[0].start: expected minute, hour, day, month and weekday, such as "
            "'0 22 * * mon-fri', found '0 25 * * *'",
        ),
        (
            "[[gate.windows]]\nstart = '0 22 * * 0'\nhours = 8",
            "gate.windows[0].start: expected weekdays by name, such as mon-fri, found '0'",
        ),
        (
            "[gate]\ntime_zone = 'Europe/Bonn'",
            "gate.time_zone: expected a name such as 'Europe/Berlin', found 'Europe/Bonn'",
        ),
        (
            "[retention]\nnightly = 'at night'",
            "retention.nightly: expected minute, hour, day, month and weekday, such as "
            "'0 22 * * mon-fri', found 'at night'",
        ),
        (
            "[metrics]\naddress = '0.0.0.0:9719'",
            "metrics.address: expected a loopback address and port such as '127.0.0.1:9719' or "
            "'[::1]:9719', found '0.0.0.0:9719'",
        ),
        (
            "[metrics]\ntextfile = 'autotune.prom'",
            "metrics.textfile: expected a full path that ends in .prom, found 'autotune.prom'",
        ),
        ("[[daemon.models]]\ntp = 8", "daemon.models[0]: needs 'name'"),
        (
            "[[daemon.models]]\nname = 'x'\nbatches = [1]",
            "unknown key of [daemon.models] 'batches'; did you mean batch?",
        ),
        (
            "[[daemon.models]]\nname = 'x'\nbatch = []",
            "daemon.models[0].batch: expected a list of length >= 1, found []",
        ),
        (
            "[[daemon.models]]\nname = 'x'\nphase = 'train'",
            "daemon.models[0].phase: expected decode or prefill or decode,prefill, found 'train'",
        ),
        (
            "[[daemon.models]]\nname = 'a/config.json'",
            "daemon.models[0].name: 'a/config.json' is no full path of a file",
        ),
        ("[worker]\nmemory_bytes = 1", "worker.memory_bytes: expected a whole number >= 268435456, found 1"),
        (
            '[worker]\nmemory_bytes = "0%"',
            "worker.memory_bytes: expected bytes or a share from 1% to 100%, found '0%'",
        ),
        (
            '[worker]\npython = "python3"',
            "worker.python: 'python3' is no program that can be run; "
            "give the full path of an environment's python, or leave it out",
        ),
    ],
)
def test_a_wrong_key_or_value_is_told_in_one_line(
    text: str, message: str, rejected: Callable[[str], str]
) -> None:
    assert rejected(text) == message


@pytest.mark.parametrize("text", ["[worker", "x = 1\nx = 2", "\0"])
def test_what_is_not_toml_is_told_with_its_place(text: str, rejected: Callable[[str], str]) -> None:
    assert rejected(text).startswith("is not TOML: ")


def test_bytes_that_are_no_text_are_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "config.toml"
    path.write_bytes(b"\xff\xfe")
    monkeypatch.setenv("AUTOTUNE_CONFIG", str(path))
    with pytest.raises(ConfigError, match="is not TOML"):
        load_settings()


def test_a_folder_in_place_of_the_file_is_told(folder: Path) -> None:
    (folder / "etc" / "config.toml").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config\.toml: cannot be read: Is a directory"):
        load_settings()


def test_the_wrong_file_of_several_is_the_one_named(write: Write) -> None:
    write("etc/config.toml", "[study]\ntrials = 1")
    wrong = write("etc/config.d/bad.toml", "[study]\ntrails = 1")
    with pytest.raises(UnknownNameError) as caught:
        load_settings()
    assert str(caught.value) == f"{wrong}: unknown key of [study] 'trails'; did you mean trials?"


@pytest.mark.parametrize(
    "url",
    [
        '"postgresql+psycopg://node:hunter2@db/fleet"',
        '"postgresql+psycopg://node@db/fleet?password=hunter2"',
        '"postgresql://hunter2@db"',
        '"hunter2"',
        '["postgresql+psycopg://node:hunter2@db/fleet"]',
        '"postgresql+psycopg://node@db:hunter2/fleet"',
    ],
)
def test_a_wrong_address_of_a_fleet_is_told_without_repeating_it(
    rejected: Callable[[str], str], url: str
) -> None:
    told = rejected(f"[fleet]\nurl = {url}")
    assert told.startswith("fleet.url: ")
    assert "hunter2" not in told


def test_the_address_of_a_fleet_may_be_a_unix_socket(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql+psycopg://node@/fleet?host=/run/postgresql"
    monkeypatch.setenv("AUTOTUNE_CONFIG", write("config.toml", f'[fleet]\nurl = "{url}"'))
    assert load_settings().fleet.url == url


def test_files_of_a_fleet_are_named_by_their_full_path(rejected: Callable[[str], str]) -> None:
    told = rejected('[fleet]\npassword_file = "secret"')
    assert told == "fleet.password_file: expected a full path, found 'secret'"
