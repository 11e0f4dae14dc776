"""`autotune service install|uninstall`: the systemd units, put in place and taken away."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.daemon.installation import Change

app = typer.Typer(
    help="Install the background service, or remove it.", no_args_is_help=True, rich_markup_mode=None
)

Root = Annotated[str, typer.Option("--root", help="Root of the system to change, e.g. of an image.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace or remove files that were edited, too.")]

AFTER_INSTALLING = """
systemd does not read new units by itself, and was not told to: a daemon-reload can take the GPUs away
from containers that run now (nvidia-container-toolkit issue 48). When none runs:

    systemd-sysusers && systemd-tmpfiles --create autotune.conf
    systemctl daemon-reload
    systemctl enable --now autotuned"""

AFTER_UNINSTALLING = """
A daemon that runs goes on until it is stopped. systemd knows its unit until it reads units again, and was
not told to: a daemon-reload can take the GPUs away from containers that run now.

    systemctl stop autotuned
    systemctl daemon-reload"""


@app.command()
def install(
    root: Root = "/",
    program: Annotated[
        str | None, typer.Option("--program", help="Full path of the command; this one by default.")
    ] = None,
    nvidia: Annotated[
        bool | None,
        typer.Option("--nvidia/--no-nvidia", help="Whether it has an NVIDIA GPU; else looked up."),
    ] = None,
    force: Force = False,
    dry_run: DryRun = False,
    json: options.Json = False,
) -> None:
    """Put the unit, its user and its folders in place; nothing is started, enabled or reloaded."""
    from autotune.cli import output
    from autotune.daemon import installation

    root = os.path.abspath(root)
    changes = installation.install(root, program, nvidia=nvidia, force=force, dry_run=dry_run)
    if json:
        output.print_json([change._asdict() for change in changes])
        return
    _print(changes, dry_run)
    if root == "/" and not dry_run and any(change.action != "unchanged" for change in changes):
        output.console.print(AFTER_INSTALLING)


@app.command()
def uninstall(
    root: Root = "/", force: Force = False, dry_run: DryRun = False, json: options.Json = False
) -> None:
    """Take away what install put in place; settings, history and winners stay."""
    from autotune.cli import output
    from autotune.daemon import installation

    root = os.path.abspath(root)
    changes = installation.uninstall(root, force=force, dry_run=dry_run)
    if json:
        output.print_json([change._asdict() for change in changes])
        return
    _print(changes, dry_run)
    if root == "/" and not dry_run and any(change.action == "removed" for change in changes):
        output.console.print(AFTER_UNINSTALLING)


def _print(changes: list[Change], dry_run: bool) -> None:
    from autotune.cli import output

    for path, action in changes:
        would = "would be " if dry_run and action not in ("unchanged", "absent") else ""
        output.console.print(f"{path}: {would}{action}", soft_wrap=True)
