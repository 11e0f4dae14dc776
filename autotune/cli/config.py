"""`autotune config check|show`: whether the settings are right, and what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from collections.abc import Mapping

app = typer.Typer(help="Check and show the settings.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def check(
    file: Annotated[
        str | None, typer.Argument(help="A settings file; all that hold here by default.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Check settings files; the first mistake is told and exits 2."""
    from autotune.cli import output
    from autotune.config import check_file, settings_files

    files = settings_files() if file is None else [file]
    for path in files:
        check_file(path)
    if json:
        output.print_json({"files": files})
        return
    for path in files:
        output.console.print(f"{path}: right")
    if not files:
        output.console.print("no settings file; every key is at its default")


@app.command()
def show(
    prefix: Annotated[str, typer.Argument(help="Only keys that begin so, e.g. gate or worker.limits.")] = "",
    json: options.Json = False,
) -> None:
    """Show every setting that holds here, and the file that it comes from."""
    from autotune.cli import output
    from autotune.config import load_settings
    from autotune.errors import UnknownNameError

    settings = load_settings()
    everything = settings.values()
    values = {key: value for key, value in everything.items() if _begins(key, prefix)}
    if not values:
        sections = {key.partition(".")[0] for key in everything}
        raise UnknownNameError("setting", prefix, {*sections, *everything})
    if json:
        output.print_json(
            {key: {"value": value, "origin": settings.origin(key)} for key, value in values.items()}
        )
        return
    table = output.table("key", "value", "from")
    for key, value in values.items():
        table.add_row(key, _toml(value), settings.origin(key))
    output.console.print(table)


def _begins(key: str, prefix: str) -> bool:
    return not prefix or key == prefix or key.startswith(f"{prefix}.")


def _toml(value: Any) -> str:
    """A value as it would stand in a file; `-` for one that is absent."""
    import json

    if value is None:
        return "-"
    if isinstance(value, dict):
        return _inline_table(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _inline_table(value: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
