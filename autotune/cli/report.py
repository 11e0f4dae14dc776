"""`autotune report`: every winner that holds, with its gain."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli import options


def report(
    workload: Annotated[str | None, typer.Argument(help="Only this workload.")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Only this device digest.")] = None,
    stack: Annotated[str | None, typer.Option("--stack", help="Only this stack digest.")] = None,
    json: options.Json = False,
) -> None:
    """Show what holds now: problem, baseline, winner, speed-up, error, share of the limit."""
    from autotune.cli import output
    from autotune.cli.winners import as_row, winners_table
    from autotune.store import read_history

    with read_history() as reader:
        decisions = reader.decisions(workload=workload, device=device, stack=stack, state="current")
    winners = [decision.winner for decision in decisions]
    if json:
        output.print_json([as_row(winner) for winner in winners])
    elif winners:
        output.console.print(winners_table(winners))
    else:
        output.console.print("nothing is decided yet; 'autotune tune' decides")
