"""`autotune diff`: what changed between two published generations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.store.difference import Change


def diff(
    before: Annotated[int | None, typer.Argument(help="A generation; the one before the newest.")] = None,
    after: Annotated[int | None, typer.Argument(help="A later one; the newest by default.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many changes at most.")] = 100,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Show what changed between two generations: winners added, removed, changed or measured anew."""
    from autotune.cli import output
    from autotune.store import read_history
    from autotune.store.difference import difference, latest_two
    from autotune.store.snapshot import latest_generation

    with read_history() as reader:
        if before is None:
            before, after = latest_two(reader)
        elif after is None:
            after = latest_generation(reader)
        changes = difference(reader, before, after)
    if json:
        output.print_json({"before": before, "after": after, "changes": changes[:limit]})
    elif csv:
        output.print_csv([change_row(change) for change in changes[:limit]])
    else:
        output.console.print(_table(changes[:limit]))
        output.console.print(_summary(before, after, changes, limit))


def change_row(change: Change) -> dict[str, Any]:
    """A change for programs, flat."""
    old, new = change.before, change.after
    return {
        "change": change.kind,
        "workload": change.workload,
        "problem": change.problem,
        "objective": change.objective,
        "device": change.device,
        "stack": change.stack,
        "before": old.configuration if old else None,
        "after": new.configuration if new else None,
        "before_ns": old.latency_ns if old else None,
        "after_ns": new.latency_ns if new else None,
        "before_speedup": old.speedup if old else None,
        "after_speedup": new.speedup if new else None,
        "decided_at": new.decided_at if new else None,
    }


def _table(changes: list[Change]) -> Any:
    from autotune.cli import output
    from autotune.space.problem import Problem

    table = output.table("change", "problem", "before", "after", "latency", right=("latency",))
    for change in changes:
        old, new = change.before, change.after
        gone = "-" if old is None else output.configuration(old.configuration)
        come = "-" if new is None else output.configuration(new.configuration)
        latencies = [output.latency(one.latency_ns) for one in (old, new) if one is not None]
        problem = output.problem(Problem(change.workload, change.dimensions))
        table.add_row(
            change.kind, problem, gone, "same" if change.kind == "measured" else come, " to ".join(latencies)
        )
    return table


def _summary(before: int, after: int, changes: list[Change], limit: int) -> str:
    kinds = [change.kind for change in changes]
    counts = [
        f"{kinds.count(kind)} {kind}" for kind in ("added", "removed", "changed", "measured") if kind in kinds
    ]
    told = f"generation {before} to {after}: {', '.join(counts) or 'the same winners'}"
    return told + (f"; {limit} of {len(changes)} shown, see --limit" if len(changes) > limit else "")
