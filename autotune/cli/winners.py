"""The table of winners: problem, baseline, winner, speed-up with its interval, error, share of the limit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from autotune.cli import output
from autotune.search.objective import objective_named
from autotune.space.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from autotune.store.records import Winner


def winners_table(winners: Sequence[Winner]) -> Table:
    """One row a problem, and the geometric mean of the speed-ups beneath.

    Where the objective is not the median, both latencies are what was compared, which a column names.
    """
    others = any(winner.objective != "latency" for winner in winners)
    table = empty_table(others)
    for winner in winners:
        best = winner.choices[0]
        kept = "baseline kept" if best.is_baseline else output.configuration(best.configuration)
        table.add_row(
            output.problem(problem_of(winner)),
            *([compared_by(winner.objective, winner.workload)] if others else []),
            output.latency(best.proof.baseline_ns),
            kept,
            output.latency(best.latency_ns if winner.objective == "latency" else best.proof.latency_ns),
            output.speedup(best.proof.against_baseline),
            output.error(best.error),
            output.share(best.limit_share),
        )
    table.caption = f"geometric-mean speed-up {geometric_mean(winners):.2f}x over {len(winners)} problems"
    table.caption_justify = "left"
    return table


def empty_table(others: bool) -> Table:
    """The columns of a table of winners.

    Args:
        others: whether there are objectives other than the median among them, which a column then names.
    """
    return output.table(
        "problem",
        *(["compared by"] if others else []),
        "baseline",
        "winner",
        "latency",
        "speed-up",
        "error",
        "limit",
        right=("baseline", "latency", "error", "limit"),
    )


OF_A_SERVER = {"throughput": "largest rate", "latency": "median answer", "tail": "p99 of answers"}


def compared_by(objective: str, workload: str = "") -> str:
    """What an objective compares: `mean, p99 at most 5 ms`."""
    if workload == "server":
        return OF_A_SERVER[objective]
    goal = objective_named(objective)
    limit = "" if goal.limit_ns is None else f", p99 at most {output.latency(goal.limit_ns)}"
    return f"{goal.statistic}{limit}"


def geometric_mean(winners: Sequence[Winner]) -> float:
    """Of the proven speed-ups over the baseline."""
    logs = [math.log(winner.choices[0].proof.against_baseline.ratio) for winner in winners]
    return math.exp(sum(logs) / len(logs))


def problem_of(winner: Winner) -> Problem:
    """The problem that a winner is for."""
    return Problem(winner.workload, winner.dimensions)
