"""Which files hold settings, and what they say together."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from autotune import paths
from autotune.config.checks import check
from autotune.config.sections import (
    DaemonSettings,
    FleetSettings,
    GateSettings,
    MeasureSettings,
    MetricsSettings,
    RequestSettings,
    RetentionSettings,
    Sections,
    StudySettings,
    WebSettings,
    WorkerSettings,
)
from autotune.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Settings:
    """All settings, and where each came from.

    Attributes:
        origins: the file that set a key, by its full name such as `worker.limits.build`; keys left at their
            default are absent. A list, such as `gate.windows`, is one key.
    """

    worker: WorkerSettings
    measure: MeasureSettings
    study: StudySettings
    daemon: DaemonSettings
    gate: GateSettings
    requests: RequestSettings
    metrics: MetricsSettings
    web: WebSettings
    retention: RetentionSettings
    fleet: FleetSettings
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """The file that set `key`, or `default`."""
        return self.origins.get(key, "default")

    def values(self) -> dict[str, Any]:
        """Every key by its full name, in declared order."""
        sections = {name: getattr(self, name) for name in Sections.__struct_fields__}
        return dict(_leaves(msgspec.to_builtins(sections), ""))


def load_settings() -> Settings:
    """The settings that hold for this process.

    Raises:
        ConfigError: a file cannot be read, is no TOML, or a value in it is wrong.
        UnknownNameError: a key that nothing reads.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for path in settings_files():
        table = check_file(path)
        _merge(merged, table)
        origins.update(dict.fromkeys((key for key, _ in _leaves(table, "")), path))
    sections = msgspec.convert(merged, Sections)
    return Settings(**{name: getattr(sections, name) for name in Sections.__struct_fields__}, origins=origins)


def check_file(path: str) -> dict[str, Any]:
    """What one file says, after making sure that all of it is right.

    Raises:
        ConfigError: it cannot be read, is no TOML, or a value in it is wrong.
        UnknownNameError: a key that nothing reads.
    """
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    check(table, path)
    return table


def settings_files() -> list[str]:
    """The files that are read, in the order in which they apply.

    Raises:
        ConfigError: `AUTOTUNE_CONFIG` names nothing.
    """
    given = os.environ.get("AUTOTUNE_CONFIG")
    if given:
        if os.path.isdir(given):
            return _folder(given)
        if not os.path.lexists(given):
            raise ConfigError(f"{given}: no such file, though AUTOTUNE_CONFIG names it; correct or unset it")
        return [given]
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG base directory specification: a relative path is to be ignored.
    home = home if os.path.isabs(home) else os.path.join(os.path.expanduser("~"), ".config")
    user = os.path.join(home, "autotune", "config.toml")
    return [*_folder(paths.OVERRIDE_DIR), *([user] if os.path.lexists(user) else [])]


def _folder(folder: str) -> list[str]:
    """`config.toml` and then `config.d/*.toml`, as far as they exist."""
    own, more = os.path.join(folder, "config.toml"), os.path.join(folder, "config.d")
    try:
        parts = sorted(name for name in os.listdir(more) if name.endswith(".toml"))
    except (FileNotFoundError, NotADirectoryError):
        parts = []
    except OSError as error:
        raise ConfigError(f"{more}: cannot be read: {error.strerror}") from None
    return [*([own] if os.path.lexists(own) else []), *(os.path.join(more, name) for name in parts)]


def _merge(into: dict[str, Any], table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


def _leaves(table: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    """Full names and values of everything in a nested table."""
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        else:
            found.append((f"{prefix}{key}", value))
    return found
