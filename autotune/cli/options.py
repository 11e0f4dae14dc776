"""Options that several commands share, and how their text is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from autotune.fingerprint import Device
    from autotune.space.problem import Problem
    from autotune.store import HistoryReader

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV for programs instead of a table.")]
Reverse = Annotated[bool, typer.Option("--reverse", help="The other way round.")]
Dimensions = Annotated[
    list[str] | None,
    typer.Option(
        "--problem",
        "-p",
        metavar="NAME=VALUE,...",
        help="Dimensions of the problem, e.g. m=16,n=7168,k=2048.",
    ),
]
Modules = Annotated[
    list[str] | None,
    typer.Option("--module", metavar="MODULE|FILE.py", help="Python that registers workloads of your own."),
]
DeviceName = Annotated[
    str | None,
    typer.Option(
        "--device", help="cpu, cuda, cuda:1, or a profile such as nvidia-h200; this host's by default."
    ),
]
Objective = Annotated[
    str,
    typer.Option(
        "--objective",
        help="What to optimise: latency (the median), tail (p99), throughput (calls per second) or energy "
        "(joules per call).",
    ),
]
LatencyLimit = Annotated[
    str | None,
    typer.Option("--latency-limit", help="With throughput: what p99 must not exceed, e.g. 5ms."),
]
Spec = Annotated[
    str | None,
    typer.Option(
        "--spec", metavar="FILE.toml|NAME", help="A server's spec: a file, or a shipped one's name."
    ),
]
Variables = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A variable of the spec, e.g. model=my-model."),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        "--max-error", min=0.0, help="Relative error that is acceptable; by default the baseline's."
    ),
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(us|ms|s|m|h|)")
_UNIT_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "": 1.0, "m": 60.0, "h": 3600.0}


def dimensions(words: list[str] | None) -> dict[str, str]:
    """The dimensions in `-p m=16,n=7168 -p k=2048`.

    Raises:
        UsageError: a piece is not NAME=VALUE, or a name stands twice.
    """
    given: dict[str, str] = {}
    for piece in (piece for word in words or [] for piece in word.split(",") if piece.strip()):
        name, equals, value = piece.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name or not value:
            raise UsageError(f"-p {piece!r} is not NAME=VALUE; write e.g. -p m=16,n=7168,k=2048")
        if name in given:
            raise UsageError(f"-p gives {name!r} twice")
        given[name] = value
    return given


def variables(words: list[str] | None) -> dict[str, str]:
    """The variables in `--set model=x --set tp=2`.

    Raises:
        UsageError: a piece is not NAME=VALUE.
    """
    pieces = [word.partition("=") for word in words or []]
    for (name, equals, value), word in zip(pieces, words or [], strict=True):
        if not (name and equals and value):
            raise UsageError(f"--set {word!r} is not NAME=VALUE; write e.g. --set model=my-model")
    return {name: value for name, _, value in pieces}


def problem(workload: str, words: list[str] | None) -> Problem:
    """The problem that a workload's name and `-p` make.

    Raises:
        UnknownNameError: the workload or a dimension is unknown.
        ProblemError: a dimension is missing or wrong.
    """
    from autotune.space.declared import INCLUDED, declared
    from autotune.space.problem import Problem
    from autotune.workloads.registry import declaration

    if workload in INCLUDED:
        return Problem.of(workload, declared(workload).dimensions or {}, dimensions(words))
    return declaration(workload).problem(spelt_out(workload, dimensions(words)))


def spelt_out(workload: str, given: dict[str, Any]) -> dict[str, Any]:
    """Dimensions of a workload, a model's name among them replaced by its numbers.

    Raises:
        UsageError: the workload takes no model.
        ModelError: there is no such model.
    """
    if "model" not in given:
        return given
    from autotune.space.decode_step import WORKLOAD, named_dimensions
    from autotune.workloads.registry import declaration

    if "model" in declaration(workload).dimensions:
        return given
    if workload != WORKLOAD:
        raise UsageError(
            f"{workload} takes no model; 'autotune plan --model {given['model']}' lists what it has of it"
        )
    return named_dimensions(given)


def objective(name: str, latency_limit: str | None) -> str:
    """The objective's full name: `throughput:5ms` for `throughput` under a limit of 5 ms.

    Raises:
        UnknownNameError: there is no such objective.
        UsageError: the limit is no duration, or the objective takes none.
    """
    from autotune.space.declared import check_objective, limited

    check_objective(name)
    if latency_limit is None:
        return name
    return limited(name, 1e3 * seconds(latency_limit, "--latency-limit"))


def seconds(text: str, option: str) -> float:
    """A duration such as `90`, `90s`, `5m` or `1h30m`, in seconds.

    Raises:
        UsageError: it is no positive duration.
    """
    pieces = list(_DURATION.finditer(text.strip()))
    total = sum(float(piece[1]) * _UNIT_SECONDS[piece[2]] for piece in pieces)
    if not pieces or "".join(piece[0] for piece in pieces) != text.strip() or not total > 0:
        raise UsageError(f"{option} {text!r} is not a duration; write e.g. 90s, 5m or 1h30m")
    return total


def moment(text: str, option: str) -> float:
    """A moment, as `2026-11-28`, `2026-11-28T14:30`, or how long ago it was: `90m`, `12h`, `7d`.

    Returns:
        Seconds since the epoch; what names no zone is meant in local time.

    Raises:
        UsageError: it is neither.
    """
    import time
    from datetime import datetime

    days = text.removesuffix("d")
    if days != text and days.isdigit() and len(days) < 6:
        return time.time() - 86_400.0 * int(days)
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return time.time() - seconds(text, option)
    except UsageError:
        raise UsageError(
            f"{option} {text!r} is neither a moment nor how long ago; write e.g. 2026-11-28, 12h or 7d"
        ) from None


def digest(reader: HistoryReader, kind: str, text: str | None) -> str | None:
    """The digest of the device or stack that a person means by its first characters, or a device's name.

    Args:
        reader: the history that knows them.
        kind: `device` or `stack`.
        text: what was given; None stays None.

    Raises:
        UnknownNameError: nothing or more than one thing answers to it.
    """
    if text is None:
        return None
    known = {entry.digest for entry in (reader.devices() if kind == "device" else reader.stacks())}
    if text in known:
        return text
    meant = {one for one in known if len(text) >= 4 and one.startswith(text)}
    if kind == "device":
        meant |= {one.digest for one in reader.devices() if text in (one.name, one.kind)}
    if len(meant) != 1:
        raise UnknownNameError(kind if not meant else f"(ambiguous) {kind}", text, meant or known)
    return meant.pop()


def name_of(device: Device) -> str:
    """`cpu`, or e.g. `cuda:1`."""
    return device.kind if device.kind == "cpu" else f"{device.kind}:{device.index}"


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """A comma-separated list of positive whole numbers.

    Raises:
        UsageError: it is not one.
    """
    try:
        numbers = tuple(dict.fromkeys(int(piece) for piece in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{option} {text!r} is not a list of positive whole numbers; write e.g. 1,16,64")
    return numbers


def import_modules(modules: list[str] | None) -> list[str]:
    """Import what `--module` names, so that its workloads are registered; returns the names.

    Raises:
        UsageError: one cannot be imported.
    """
    from autotune.workloads.registry import import_module

    for module in modules or []:
        import_module(module)
    return modules or []


def as_plain(value: Any) -> Any:
    """`value` in the types that JSON knows."""
    import msgspec

    return msgspec.to_builtins(value, str_keys=True, enc_hook=_problem_as_plain)


def _problem_as_plain(value: Any) -> Any:
    from autotune.space.problem import Problem

    if isinstance(value, Problem):
        return {"workload": value.workload, **value.dimensions}
    raise TypeError(f"{type(value).__name__} is not printed as JSON")
