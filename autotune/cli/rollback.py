"""`autotune rollback`: what an earlier generation published holds again."""

from __future__ import annotations

from typing import Annotated

import typer

from autotune.cli import options


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
    from autotune.cli.writing import here_or_by_daemon
    from autotune.daemon.control import Rollback
    from autotune.store.rollback import rollback as roll_back

    done = here_or_by_daemon(
        lambda history: {"generation": roll_back(history, generation, reason)},
        lambda state_dir: Rollback(state_dir, generation, reason),
    )
    return int(done["generation"])
