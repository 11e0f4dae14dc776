"""`autotune export` and `autotune import`: what leaves this history for elsewhere, and what comes in."""

from __future__ import annotations

import typer

from autotune.cli import bundle, export_optuna

app = typer.Typer(
    help="Write winners as other systems read them.", no_args_is_help=True, rich_markup_mode=None
)
importing = typer.Typer(
    help="Take other systems' files as a start for searches.", no_args_is_help=True, rich_markup_mode=None
)

app.command("bundle")(bundle.export_bundle)
app.command("optuna")(export_optuna.export_optuna)
importing.command("bundle")(bundle.import_bundle)
importing.command("list")(bundle.list_bundles)
importing.command("undo")(bundle.undo_bundle)
