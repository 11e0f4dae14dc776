"""`autotune report`: every winner that holds, with its gain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.store.listing import WinnerRow

Page = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write one self-contained page with plots.")
]
Rates = Annotated[
    str | None,
    typer.Option("--rates", metavar="FILE", help="With --html: what 'autotune load --json' printed."),
]

Order = Annotated[
    str, typer.Option("--sort", help="By decided, changed, speedup, latency, limit or problem.")
]


def report(
    workload: Annotated[str | None, typer.Argument(help="Only this workload.")] = None,
    search: Annotated[str | None, typer.Option("--search", help="Only problems with this text.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Only this device: digest, its start, or name.")
    ] = None,
    stack: Annotated[
        str | None, typer.Option("--stack", help="Only this stack: digest or its start.")
    ] = None,
    objective: Annotated[str | None, typer.Option("--objective", help="Only this objective.")] = None,
    sort: Order = "decided",
    reverse: options.Reverse = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 100,
    page: Page = None,
    rates: Rates = None,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Show what holds now: problem, baseline, winner, speed-up, error, share of the limit.

    With --html it is written as one page with its plots, which needs no network to be looked at.
    """
    from autotune.cli import output
    from autotune.store import read_history
    from autotune.store.listing import speedups, winner_rows

    with read_history() as reader:
        filters: dict[str, Any] = {
            "workload": workload,
            "device": options.digest(reader, "device", device),
            "stack": options.digest(reader, "stack", stack),
            "objective": objective,
            "search": search,
            "state": "current",
        }
        winners = winner_rows(reader, **filters, order=sort, descending=reverse, limit=limit)
        if page is not None:
            _write(page, reader, winners, workload or search or "What tuning gained", rates)
            return
        gains = speedups(reader, **filters)
    if json:
        output.print_json([_as_row(winner) for winner in winners])
    elif csv:
        output.print_csv([_flat(winner) for winner in winners])
    elif winners:
        output.console.print(_table(winners, gains))
    else:
        output.console.print("nothing is decided yet; 'autotune tune' decides")


def _write(path: str, reader: HistoryReader, winners: list[WinnerRow], title: str, rates: str | None) -> None:
    """Write the page.

    Raises:
        MissingExtraError: what draws it is not installed.
        UsageError: nothing is decided, or the file cannot be written.
    """
    import shlex
    import sys
    import time

    from autotune.cli import output

    try:
        from autotune.web.report import page
        from autotune.web.report_figures import read_rates
    except ModuleNotFoundError as error:
        if str(error.name).startswith("autotune"):
            raise
        raise MissingExtraError("autotune report --html", "web", str(error.name)) from None
    if not winners:
        raise UsageError("--html: nothing is decided that fits; see 'autotune report' without --html")
    points = [] if rates is None else read_rates(rates)
    command = shlex.join(["autotune", *sys.argv[1:]])
    made = page(reader, winners, title=title, command=command, made_at=time.time(), rates=points)
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(made)
    except OSError as error:
        raise UsageError(f"--html {path}: cannot be written: {error.strerror}") from None
    output.console.print(f"{path}: {output.size(len(made.encode()))}, {len(winners)} winners")


def _as_row(winner: WinnerRow) -> dict[str, Any]:
    """A winner for programs."""
    return {
        "workload": winner.workload,
        "problem": winner.dimensions,
        "objective": winner.objective,
        "device": winner.device,
        "stack": winner.stack,
        "configuration": winner.configuration,
        "is_baseline": winner.is_baseline,
        "latency_ns": winner.latency_ns,
        "baseline_ns": winner.baseline_ns,
        "speedup": {"ratio": winner.speedup, "low": winner.speedup_low, "high": winner.speedup_high},
        "error": winner.error,
        "baseline_error": winner.baseline_error,
        "memory_bytes": winner.memory_bytes,
        "limit_share": winner.limit_share,
        "decided_at": winner.decided_at,
    }


def _flat(winner: WinnerRow) -> dict[str, Any]:
    row = {**_as_row(winner), "problem": winner.problem, "speedup": winner.speedup}
    return {**row, "speedup_low": winner.speedup_low, "speedup_high": winner.speedup_high}


def _table(winners: list[WinnerRow], gains: list[float]) -> Any:
    from autotune.cli import output
    from autotune.cli.winners import compared_by, empty_table
    from autotune.space.problem import Problem
    from autotune.store.records import Interval

    others = any(winner.objective != "latency" for winner in winners)
    table = empty_table(others)
    for winner in winners:
        kept = "baseline kept" if winner.is_baseline else output.configuration(winner.configuration)
        table.add_row(
            output.problem(Problem(winner.workload, winner.dimensions)),
            *([compared_by(winner.objective, winner.workload)] if others else []),
            output.latency(winner.baseline_ns),
            kept,
            output.latency(winner.latency_ns if winner.objective == "latency" else winner.proof_ns),
            output.speedup(Interval(winner.speedup, winner.speedup_low, winner.speedup_high)),
            output.error(winner.error),
            output.share(winner.limit_share),
        )
    mean = math.exp(math.fsum(map(math.log, gains)) / len(gains))
    shown = "" if len(winners) == len(gains) else f"; {len(winners)} shown, see --limit and --sort"
    table.caption = f"geometric-mean speed-up {mean:.2f}x over {len(gains)} problems{shown}"
    table.caption_justify = "left"
    return table
