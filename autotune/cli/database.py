"""`autotune db check|backup|restore`: care of the databases."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from autotune.cli import options

app = typer.Typer(help="Check, back up and restore the history.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(
    path: Annotated[
        str | None, typer.Argument(help="A database; all of the state folder by default.")
    ] = None,
    json: options.Json = False,
) -> int:
    """Check databases for damage."""
    from autotune import paths
    from autotune.cli import output
    from autotune.errors import DatabaseError
    from autotune.store.backup import check as check_database

    state = paths.state_dir()
    files = [path] if path else [os.path.join(state, name) for name in ("history.db", "best.db")]
    present = [file for file in files if path or os.path.exists(file)]
    if not present:
        raise DatabaseError(f"{state}: holds no database yet; 'autotune tune' makes one")
    checked = [check_database(file) for file in present]
    if json:
        output.print_json([one._asdict() for one in checked])
    else:
        for file, one in zip(present, checked, strict=True):
            found = "; ".join(one.faults) if one.faults else f"whole ({one.kind}, version {one.version})"
            output.console.print(f"{file}: {found}")
    return 1 if any(one.faults for one in checked) else 0


@app.command()
def backup(json: options.Json = False) -> None:
    """Write a verified copy of the history into the state folder's backups."""
    from autotune.cli import output
    from autotune.config import load_settings
    from autotune.store import read_history
    from autotune.store.backup import backup as back_up

    keep = load_settings().retention.backups
    with read_history() as history:
        path = back_up(history, keep)
    output.print_json({"backup": path}) if json else output.console.print(path)


@app.command()
def restore(
    path: Annotated[str | None, typer.Argument(help="A backup; the newest whole one by default.")] = None,
) -> None:
    """Put a backup in the place of the history; what was there is kept beside it."""
    from autotune.store import restore_history

    with restore_history(backup=path) as history:
        for notice in history.notices:
            print(notice, file=sys.stderr)
