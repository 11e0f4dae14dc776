"""`autotune pin` and `autotune unpin`: a generation that is kept for good, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.store import History

Number = Annotated[int, typer.Argument(help="A generation; see 'autotune rollback --list'.")]


def pin(
    generation: Number,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.")],
    json: options.Json = False,
) -> None:
    """Keep a generation's file for good, with the reason; a job may pin it for all its ranks.

    While a daemon holds the history, it is asked to.
    """
    _set(generation, reason, json)


def unpin(generation: Number, json: options.Json = False) -> None:
    """Let a generation be deleted again once it is no longer among the newest."""
    _set(generation, None, json)


def _set(generation: int, reason: str | None, json: bool) -> None:
    from autotune.cli import output

    reason = None if reason is None else " ".join(reason.split())
    _ask_or_do(generation, reason)
    if json:
        output.print_json({"generation": generation, "pin_reason": reason})
    elif reason is None:
        output.console.print(f"generation {generation} is not pinned any more")
    else:
        output.console.print(output.plain(f"pinned generation {generation}: {reason}"))


def _ask_or_do(generation: int, reason: str | None) -> None:
    from autotune.cli.writing import here_or_by_daemon
    from autotune.daemon.control import Pin
    from autotune.store import snapshot

    def write(history: History) -> None:
        if reason is None:
            snapshot.unpin(history, generation)
        else:
            snapshot.pin(history, generation, reason)

    here_or_by_daemon(write, lambda state_dir: Pin(state_dir, generation, reason))
