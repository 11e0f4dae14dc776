"""`autotune rollback`: what an earlier generation published holds again."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from autotune.cli import options
from autotune.errors import HistoryLockedError, StateDirError


def rollback(
    generation: Annotated[
        int | None, typer.Argument(help="A generation; the one before the present by default.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.")] = "",
    list_: Annotated[bool, typer.Option("--list", help="Show generations instead.")] = False,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Publish an earlier generation again, under a new number; winners since then are withdrawn.

    While a daemon holds the history, it is asked to.
    """
    from autotune.cli import output
    from autotune.store import read_history
    from autotune.store.snapshot import generations

    if list_:
        with read_history() as reader:
            found = generations(reader)
        if json:
            output.print_json(found)
            return
        if csv:
            output.print_csv(output.as_rows(found))
            return
        table = output.table(
            "generation", "published", "choices", "kept", "reason", right=("generation", "choices")
        )
        for one in found:
            kept = f"pinned: {one.pin_reason}" if one.pin_reason is not None else "yes" if one.kept else "no"
            table.add_row(
                str(one.number), output.moment(one.published_at), str(one.choices), kept, one.reason
            )
        output.console.print(table)
        return
    number = _roll_back(generation, reason)
    if json:
        output.print_json({"generation": number})
    else:
        output.console.print(f"published generation {number}")


def _roll_back(generation: int | None, reason: str) -> int:
    from autotune import paths
    from autotune.daemon.control import NoDaemonError, Rollback, ask
    from autotune.store import open_history
    from autotune.store.rollback import rollback as roll_back

    try:
        with open_history() as history:
            return roll_back(history, generation, reason)
    # The folder is written by the daemon's user alone, and members of its group may ask.
    except (HistoryLockedError, StateDirError) as error:
        question = Rollback(os.path.abspath(paths.state_dir()), generation, reason)
        try:
            return int(ask(question)["generation"])
        except NoDaemonError:
            raise error from None
