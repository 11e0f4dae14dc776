"""`autotune status`: what the daemon is doing, and what keeps it from doing more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from rich.console import RenderableType

WATCH_SECONDS = 1.0
MOST_SHOWN = 5
"""Things to do that are shown; `autotune requests` shows them all."""


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it live, until Ctrl-C.")] = False,
    json: options.Json = False,
) -> None:
    """Show each device: its state, the conditions that hold it back, and what is tuned."""
    from autotune.cli import output
    from autotune.daemon.control import Status, ask

    if json:
        output.print_json(ask(Status()))
    elif watch:
        _watch()
    else:
        output.console.print(_view(ask(Status())))


def _watch() -> None:
    from rich.live import Live

    from autotune.cli import output
    from autotune.daemon.control import Status, ask
    from autotune.errors import StateError

    with Live(console=output.console, screen=output.console.is_terminal, auto_refresh=False) as live:
        while True:
            try:
                live.update(_view(ask(Status())), refresh=True)
            except StateError as error:  # it is being started again, perhaps
                live.update(str(error), refresh=True)
            time.sleep(WATCH_SECONDS)


def _view(told: dict[str, Any]) -> RenderableType:
    from rich.console import Group

    from autotune.cli import output

    parts: list[RenderableType] = [
        f"autotune {told['version']}, process {told['pid']}, up {duration(told['uptime_seconds'])}, "
        f"history in {told['state_dir']}"
    ]
    for device in told["devices"]:
        parts += ["", *_device(device)]
    if told["leases"]:
        parts += ["", *map(_lease, told["leases"])]
    parts += ["", f"{told['requests']} requests wait"]
    if told["last_error"]:
        parts.append(f"last error: {told['last_error']}")
    return Group(*(output.plain(part) for part in parts))


def _device(device: dict[str, Any]) -> list[RenderableType]:
    since = duration(time.time() - device["since"])
    parts: list[RenderableType] = [
        f"{device['device']} ({device['name']}): {device['state']} for {since}: {device['reason']}"
    ]
    if device["study"]:
        parts.append(f"  {_study(device['study'])}")
    if device["state"] in ("watching", "busy", "tuning"):
        parts += [
            f"  {'ok  ' if one['holds'] else 'BUSY'} {one['condition']}: {one['told']}"
            for one in device["conditions"]
        ]
    agenda = device["agenda"]
    parts += [f"  to do: {problem_text(item)} ({item['why']})" for item in agenda[:MOST_SHOWN]]
    if len(agenda) > MOST_SHOWN:
        parts.append("  and more; see 'autotune requests'")
    return parts


def _study(study: dict[str, Any]) -> str:
    from autotune.cli import output

    told = f"{problem_text(study)} ({study['why']})"
    if "tried" in study:
        told += f": {study['phase']}, {study['tried']}/{study['possible']} tried"
        if study["best_ns"]:
            told += f", best {output.latency(study['best_ns'])}"
        if study["speedup"]:
            told += f", {study['speedup']:.2f}x"
    return told


def _lease(lease: dict[str, Any]) -> str:
    left, process = lease["seconds_left"], lease["process"]
    ends = "until 'autotune resume'"
    if process is not None:
        ends = f"while process {process} lives"
    elif left is not None:
        ends = f"for another {duration(left)}"
    why = f" ({lease['reason']})" if lease["reason"] else ""
    return f"lease {lease['lease']} on {lease['device']}, {ends}{why}"


def problem_text(item: dict[str, Any]) -> str:
    """A workload and its dimensions: `linear m=16 n=7168`."""
    return " ".join([item["workload"], *(f"{name}={value}" for name, value in item["problem"].items())])


def duration(seconds: float) -> str:
    """A duration in the unit that fits: `3 h`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
