"""Settings: what the operator decided, from TOML files, typed and checked.

    /etc/autotune/config.toml, /etc/autotune/config.d/*.toml in order of name, then the user's
    $XDG_CONFIG_HOME/autotune/config.toml; where two set the same key the later one holds

`AUTOTUNE_CONFIG` names a file, or a folder laid out like /etc/autotune, that is read instead of them all.
Look-ups never read settings.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta

from autotune import paths
from autotune.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Mapping

Seconds = Annotated[float, Meta(gt=0, le=86_400)]

PERCENT = re.compile(r"(100|[1-9]?[0-9])%")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file; each field is a key."""


class Limits(_Section, frozen=True):
    """`[worker.limits]`: seconds after which a stage of a trial counts as hung.

    Attributes:
        start: from the interpreter's start until everything is imported.
        prepare: making weights, activations and references.
        build: packing, compiling and the first call.
        check: two calls and their comparison with the reference.
        measure: beyond the budget of a measurement or comparison.
    """

    start: Seconds = 120.0
    prepare: Seconds = 120.0
    build: Seconds = 120.0
    check: Seconds = 60.0
    measure: Seconds = 60.0


class WorkerSettings(_Section, frozen=True):
    """`[worker]`: the process that runs trials.

    Attributes:
        python: interpreter of the environment that serves; empty for the one that runs autotune.
        memory_bytes: cap of its memory, in bytes or as a share of the device's such as `60%`.
        modules: modules, or full paths of `.py` files, that are imported first; they register workloads.
        limits: seconds per stage.
    """

    python: str = ""
    memory_bytes: Annotated[int, Meta(ge=2**28, le=2**50)] | str = "60%"
    modules: tuple[str, ...] = ()
    limits: Limits = Limits()

    @property
    def interpreter(self) -> str:
        """The interpreter that the worker runs."""
        return self.python or sys.executable

    def memory_limit(self, device_bytes: int) -> int:
        """The cap in bytes, on a device with `device_bytes` of memory."""
        if isinstance(self.memory_bytes, int):
            return self.memory_bytes
        return device_bytes * int(self.memory_bytes.removesuffix("%")) // 100


class MeasureSettings(_Section, frozen=True):
    """`[measure]`: how configurations are screened and a winner is decided.

    Attributes:
        margin: share by which a challenger must be faster beyond doubt.
        confidence: that no configuration is promoted that is not faster.
        screen_seconds: longest sampling of one configuration while searching.
        final_share: share of a study's budget for the interleaved comparison and the winner's re-measurement.
    """

    margin: Annotated[float, Meta(ge=0, le=0.5)] = 0.01
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] = 0.99
    screen_seconds: Seconds = 0.5
    final_share: Annotated[float, Meta(ge=0.05, le=0.9)] = 0.35


class StudySettings(_Section, frozen=True):
    """`[study]`: when a search ends.

    Attributes:
        trials: most configurations tried for one problem; None, the default, for no limit.
        budget_seconds: most time spent on one problem, the decision included.
    """

    trials: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    budget_seconds: Seconds = 60.0


class _Sections(_Section, frozen=True):
    worker: WorkerSettings = WorkerSettings()
    measure: MeasureSettings = MeasureSettings()
    study: StudySettings = StudySettings()


@dataclass(frozen=True)
class Settings:
    """All settings, and where each came from.

    Attributes:
        origins: the file that set a key, by its full name such as `worker.limits.build`; keys left at their
            default are absent.
    """

    worker: WorkerSettings
    measure: MeasureSettings
    study: StudySettings
    origins: Mapping[str, str]

    def origin(self, key: str) -> str:
        """The file that set `key`, or `default`."""
        return self.origins.get(key, "default")

    def values(self) -> dict[str, Any]:
        """Every key by its full name, in declared order."""
        sections = _Sections(worker=self.worker, measure=self.measure, study=self.study)
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
        table = _read(path)
        _check(table, path)
        _merge(merged, table)
        origins.update(dict.fromkeys((key for key, _ in _leaves(table, "")), path))
    sections = msgspec.convert(merged, _Sections)
    return Settings(sections.worker, sections.measure, sections.study, origins)


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


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from None


def _check(table: dict[str, Any], path: str) -> None:
    """Raise for what is wrong in one file, so that the message can name it."""
    _check_names(table, _Sections, path, "")
    try:
        sections = msgspec.convert(table, _Sections)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {_told(error, table)}") from None
    worker = sections.worker
    if isinstance(worker.memory_bytes, str) and not _is_share(worker.memory_bytes):
        raise ConfigError(
            f"{path}: worker.memory_bytes: expected bytes or a share from 1% to 100%, "
            f"found {worker.memory_bytes!r}"
        )
    if worker.python and not _is_program(worker.python):
        raise ConfigError(
            f"{path}: worker.python: {worker.python!r} is no program that can be run; "
            "give the full path of an environment's python, or leave it out"
        )
    for module in worker.modules:
        if module.endswith(".py"):
            if not (os.path.isabs(module) and os.path.isfile(module)):
                raise ConfigError(f"{path}: worker.modules: {module!r} is no full path of a file")
        elif not all(part.isidentifier() for part in module.split(".")):
            raise ConfigError(f"{path}: worker.modules: {module!r} is no name that can be imported")


def _check_names(table: Mapping[str, Any], section: type[msgspec.Struct], path: str, prefix: str) -> None:
    fields = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in table.items():
        if key not in fields:
            kind = f"key of [{prefix.rstrip('.')}]" if prefix else "section"
            raise UnknownNameError(kind, key, fields, path)
        nested = fields[key]
        if isinstance(nested, type) and issubclass(nested, msgspec.Struct) and isinstance(value, dict):
            _check_names(value, nested, path, f"{prefix}{key}.")


_WORDS = {
    "object": "a table",
    "array": "a list",
    "int | str": "a whole number or a text",
    "int | null": "a whole number",
    "int": "a whole number",
    "float": "a number",
    "str`": "a text`",
}


def _told(error: msgspec.ValidationError, table: Mapping[str, Any]) -> str:
    """What msgspec says of a value, in words: the key, what was expected, what was found."""
    complaint, _, place = str(error).partition(" - at `$")
    expected = complaint.partition(", got")[0]
    for theirs, ours in _WORDS.items():
        expected = expected.replace(theirs, ours)
    key = place.strip("`.")
    found: Any = table
    for part in key.replace("[", ".").replace("]", "").split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return f"{key}: {expected[:1].lower()}{expected[1:].replace('`', '')}, found {found!r}"


def _is_program(path: str) -> bool:
    return os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK)


def _is_share(text: str) -> bool:
    return PERCENT.fullmatch(text) is not None and text != "0%"


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
