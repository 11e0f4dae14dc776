"""What is wrong with one settings file, in one line: the key, what was expected, what was found."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import msgspec

from autotune.config.database_address import complaints_about
from autotune.config.sections import Sections
from autotune.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PERCENT = re.compile(r"(100|[1-9][0-9]?)%")
DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
WEEKDAYS = re.compile(r"[a-z]{3}|[-,*/]|(?<=/)[1-7]")


def check(table: dict[str, Any], path: str) -> None:
    """Raise for the first thing that is wrong in one file.

    Raises:
        ConfigError: a value is wrong.
        UnknownNameError: a key that nothing reads.
    """
    check_names(table, Sections, path, "")
    try:
        sections = msgspec.convert(table, Sections)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {told(error, table, Sections)}") from None
    for complaint in _complaints(sections):
        raise ConfigError(f"{path}: {complaint}")


def check_names(table: Mapping[str, Any], section: type[msgspec.Struct], path: str, prefix: str) -> None:
    """Refuse keys that nothing reads.

    Args:
        table: of a file, or a part of it.
        section: what is read of it.
        path: of the file.
        prefix: where in the file the part lies, with a dot at its end; empty for all of it.

    Raises:
        UnknownNameError: a key that nothing reads; closest ones are suggested.
    """
    fields = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in table.items():
        if key not in fields:
            kind = f"key of [{prefix.rstrip('.')}]" if prefix else "section"
            raise UnknownNameError(kind, key, fields, path)
        nested = _section_of(fields[key])
        if nested is None:
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                check_names(part, nested, path, f"{prefix}{key}.")


def _section_of(kind: Any) -> type[msgspec.Struct] | None:
    """The section that a field is, or that it is a list of."""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


_WORDS = {
    "object": "a table",
    "array": "a list",
    "int | str": "a whole number or a text",
    "int | null": "a whole number",
    "float | null": "a number",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
}
"""What msgspec calls a type, after `Expected`; the longer names first."""


def told(error: msgspec.ValidationError, table: Mapping[str, Any], sections: type[msgspec.Struct]) -> str:
    """What msgspec says of a value, in words: the key, what was expected, what was found.

    Args:
        error: that converting the table raised.
        table: of a file.
        sections: what it was converted to.
    """
    complaint, _, place = str(error).partition(" - at `$")
    key = place.strip("`.")
    if complaint.startswith("Object missing required field"):
        return f"{key}: needs {complaint.split('`')[1]!r}"
    if key.startswith("fleet.url"):  # whoever mistook its form may have put a password into it
        return f"{key}: {_expected(complaint, key, sections)}"
    found: Any = table
    for part in key.replace("[", ".").replace("]", "").split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return f"{key}: {_expected(complaint, key, sections)}, found {found!r}"


def _expected(complaint: str, key: str, sections: type[msgspec.Struct]) -> str:
    if complaint.startswith("Invalid enum value"):
        return f"expected {' or '.join(_choices(key, sections))}"
    expected = complaint.partition(", got")[0].replace("`", "")
    for theirs, ours in _WORDS.items():
        if expected.startswith(f"Expected {theirs}"):
            return expected.replace(f"Expected {theirs}", f"expected {ours}", 1)
    return f"{expected[:1].lower()}{expected[1:]}"


def _choices(key: str, sections: type[msgspec.Struct]) -> tuple[str, ...]:
    """The values that a key may have, or that each entry of its list may have."""
    kind: Any = sections
    for name in re.sub(r"\[[0-9]+\]", "", key).split("."):
        fields = {field.name: field.type for field in msgspec.structs.fields(_section_of(kind) or kind)}
        kind = fields[name]
    while get_origin(kind) is not Literal:
        kind = get_args(kind)[0]
    return get_args(kind)


def _complaints(sections: Sections) -> Iterator[str]:
    """What types and bounds do not say."""
    yield from _about_worker(sections)
    for device in sections.daemon.devices:
        if not DEVICE.fullmatch(device):
            yield f"daemon.devices: expected cpu, cuda or cuda:N, found {device!r}"
    yield from _about_times(sections)
    yield from _about_metrics(sections)
    if sections.web.address and not _is_loopback(sections.web.address):
        yield (
            "web.address: expected a loopback address and port such as '127.0.0.1:9720' or '[::1]:9720', "
            f"found {sections.web.address!r}; elsewhere `autotune web --address` serves, with a token"
        )
    yield from _about_fleet(sections)
    for number, model in enumerate(sections.daemon.models):
        if "/" in model.name and not (os.path.isabs(model.name) and os.path.isfile(model.name)):
            yield f"daemon.models[{number}].name: {model.name!r} is no full path of a file"


def _about_worker(sections: Sections) -> Iterator[str]:
    worker = sections.worker
    if isinstance(worker.memory_bytes, str) and not PERCENT.fullmatch(worker.memory_bytes):
        yield (
            f"worker.memory_bytes: expected bytes or a share from 1% to 100%, found {worker.memory_bytes!r}"
        )
    if worker.python and not _is_program(worker.python):
        yield (
            f"worker.python: {worker.python!r} is no program that can be run; "
            "give the full path of an environment's python, or leave it out"
        )
    for module in worker.modules:
        if module.endswith(".py"):
            if not (os.path.isabs(module) and os.path.isfile(module)):
                yield f"worker.modules: {module!r} is no full path of a file"
        elif not all(part.isidentifier() for part in module.split(".")):
            yield f"worker.modules: {module!r} is no name that can be imported"


def _about_times(sections: Sections) -> Iterator[str]:
    zone = sections.gate.time_zone
    if not _is_time_zone(zone):
        yield f"gate.time_zone: expected a name such as 'Europe/Berlin', found {zone!r}"
    for number, window in enumerate(sections.gate.windows):
        wrong = _cron_fault(window.start)
        if wrong:
            yield f"gate.windows[{number}].start: {wrong}"
    wrong = _cron_fault(sections.retention.nightly)
    if wrong:
        yield f"retention.nightly: {wrong}"


def _about_metrics(sections: Sections) -> Iterator[str]:
    metrics = sections.metrics
    if metrics.address and not _is_loopback(metrics.address):
        yield (
            "metrics.address: expected a loopback address and port such as '127.0.0.1:9719' or '[::1]:9719', "
            f"found {metrics.address!r}"
        )
    if metrics.textfile and not (os.path.isabs(metrics.textfile) and metrics.textfile.endswith(".prom")):
        yield f"metrics.textfile: expected a full path that ends in .prom, found {metrics.textfile!r}"


def _about_fleet(sections: Sections) -> Iterator[str]:
    fleet = sections.fleet
    if fleet.url:
        yield from (f"fleet.url: {complaint}" for complaint in complaints_about(fleet.url))
    for name in ("password_file", "ca_file"):
        path = getattr(fleet, name)
        if path and not os.path.isabs(path):
            yield f"fleet.{name}: expected a full path, found {path!r}"


def _cron_fault(expression: str) -> str | None:
    # Here, because most settings have no need of it: it takes 50 ms to import.
    from apscheduler.triggers.cron import CronTrigger

    fields = expression.split()
    if len(fields) == 5 and WEEKDAYS.sub("", fields[4].lower()):
        # APScheduler counts weekdays from Monday, cron from Sunday: its issue 286.
        return f"expected weekdays by name, such as mon-fri, found {fields[4]!r}"
    try:
        CronTrigger.from_crontab(expression, timezone="UTC")
    except (ValueError, LookupError):
        return (
            f"expected minute, hour, day, month and weekday, such as '0 22 * * mon-fri', found {expression!r}"
        )
    return None


def _is_time_zone(name: str) -> bool:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        return False
    return True


def _is_loopback(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit() and int(port) < 65_536):
        return False
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        return False
    return found.is_loopback and (found.version == 6) == (bare != host)


def _is_program(path: str) -> bool:
    return os.path.isabs(path) and os.path.isfile(path) and os.access(path, os.X_OK)
