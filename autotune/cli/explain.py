"""`autotune explain`: why a configuration is the winner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.store.entries import Decision
    from autotune.store.listing import TrialRow
    from autotune.store.records import Winner

RUNNERS_UP = 5
MOST_TRIALS = 5000
"""Trials of a study that are looked at; the first ones, should there ever be more."""


def explain(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    problem: options.Dimensions = None,
    objective: options.Objective = "latency",
    latency_limit: options.LatencyLimit = None,
    module: options.Modules = None,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Say why the present winner of a problem is the winner: compared to what, and how sure.

    As CSV: the winner, the other points of its front and the runners-up, one a row.
    """
    from autotune.cli import output
    from autotune.cli.explanation import explanation
    from autotune.store import read_history

    options.import_modules(module)
    wanted = options.problem(workload, problem)
    goal = options.objective(objective, latency_limit)
    with read_history() as reader:
        decisions = reader.decisions(workload=workload, problem=wanted.key, objective=goal, state="current")
        if not decisions:
            raise UsageError(
                f"{wanted}: nothing is decided yet; tune it with 'autotune tune {workload} -p ...'"
            )
        if json:
            output.print_json([_explained(reader, decision) for decision in decisions])
        elif csv:
            output.print_csv([row for decision in decisions for row in _contenders(reader, decision)])
        else:
            for decision in decisions:
                study = reader.study(decision.study) if decision.study is not None else None
                trials = _trials(reader, decision)
                output.console.print(explanation(reader, decision, study, trials))


def _trials(reader: HistoryReader, decision: Decision) -> list[TrialRow]:
    from autotune.store.listing import trial_rows

    return trial_rows(reader, decision.study, limit=MOST_TRIALS) if decision.study is not None else []


def _explained(reader: HistoryReader, decision: Decision) -> dict[str, Any]:
    from autotune.search.influence import influences
    from autotune.store.listing import succeeded

    winner, trials = decision.winner, _trials(reader, decision)
    return {
        "decision": decision,
        "device": reader.device(winner.device),
        "stack": reader.stack(winner.stack),
        "study": reader.study(decision.study) if decision.study is not None else None,
        "runners_up": _runners_up(trials, winner),
        "influences": influences(winner.choices[0].configuration, succeeded(trials)),
    }


def _runners_up(trials: list[TrialRow], winner: Winner) -> list[TrialRow]:
    """The best screened trials that did not win."""
    measured = [t for t in trials if t.p50_ns and t.configuration != winner.choices[0].configuration]
    return sorted(measured, key=lambda trial: trial.p50_ns or 0.0)[:RUNNERS_UP]


def _contenders(reader: HistoryReader, decision: Decision) -> list[dict[str, Any]]:
    winner = decision.winner
    rows = [
        {
            "problem": winner.problem,
            "contender": "winner" if choice.rank == 0 else "front",
            "configuration": choice.configuration,
            "latency_ns": choice.latency_ns,
            "speedup": choice.proof.against_baseline.ratio,
            "speedup_low": choice.proof.against_baseline.low,
            "speedup_high": choice.proof.against_baseline.high,
            "error": choice.error,
            "memory_bytes": choice.memory_bytes,
            "trial": choice.trial,
        }
        for choice in winner.choices
    ]
    for trial in _runners_up(_trials(reader, decision), winner):
        told = {"problem": winner.problem, "contender": "runner-up", "latency_ns": trial.p50_ns}
        own = {"configuration": trial.configuration, "error": trial.error, "trial": trial.number}
        rows.append({**dict.fromkeys(rows[0]), **told, **own, "memory_bytes": trial.memory_bytes})
    return rows
