"""`autotune generation`: the generation that look-ups read, and one that all nodes of a job can read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import options
from autotune.errors import StateError, UsageError


def generation(
    name: Annotated[str | None, typer.Argument(help="One of the fleet's, to be put in place here.")] = None,
    fleet: Annotated[
        bool, typer.Option("--fleet", help="One that every node can read: made now, or the one named.")
    ] = False,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="Where to write it; else the state folder."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Print the generation that look-ups read now; with --fleet, one for all nodes of a job.

    Set AUTOTUNE_GENERATION to what is printed, or to a file that holds it, on every rank.
    """
    from autotune.cli import output

    if not fleet:
        if name is not None or to is not None:
            raise UsageError("a name and --to are for generations of the fleet; give --fleet too")
        number = _local()
        output.print_json({"generation": number}) if json else output.console.print(str(number))
        return
    made, path = _of_fleet(name, to)
    if json:
        output.print_json({"generation": made, "file": path})
    else:
        output.console.print(output.plain(path if to else made))


def _local() -> int:
    from autotune import paths
    from autotune.store.snapshot import published_generation
    from autotune.store.statedir import StateDir

    state = StateDir(paths.state_dir())
    number = published_generation(state.snapshot)
    if number is None:
        raise StateError(f"{state.snapshot}: nothing is published yet; 'autotune tune' makes it")
    return number


def _of_fleet(name: str | None, to: Path | None) -> tuple[str, str]:
    """Make one, or take one, and put it in place; its name and path."""
    from autotune import paths
    from autotune.config import load_settings
    from autotune.fleet.generations import fetch_generation, make_generation, write_generation
    from autotune.fleet.here import cells_here, devices_here
    from autotune.fleet.validation import Validator
    from autotune.workloads.registry import import_module

    settings = load_settings()
    if name is None:
        for module in settings.worker.modules:
            import_module(module)
        cells = cells_here(settings)
        name = make_generation(settings.fleet, cells, Validator(cells).fault)
    content = fetch_generation(settings.fleet, name)
    folder = str(to.absolute()) if to else ""
    return name, write_generation(content, name, paths.state_dir(), devices_here(), folder)
