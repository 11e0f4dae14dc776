"""`autotune plan`: the exact problems that a model brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options

if TYPE_CHECKING:
    from autotune.space.plan import PlannedProblem

Model = Annotated[
    str, typer.Option("--model", help="A shipped name, or a path to a Hugging Face config.json.")
]
TensorParallel = Annotated[
    int, typer.Option("--tp", min=1, help="Ranks that share attention and dense layers.")
]
ExpertParallel = Annotated[
    int, typer.Option("--ep", min=1, help="Ranks that the routed experts are dealt to.")
]
Batches = Annotated[str, typer.Option("--batch", help="Sequences per decode step, e.g. 1,16,64.")]
Context = Annotated[int, typer.Option("--context", min=1, help="Tokens that each sequence attends to.")]
Phases = Annotated[str, typer.Option("--phase", help="decode, prefill, or both: decode,prefill.")]

TYPICAL_BYTES_PER_S = 50e9
"""Memory bandwidth assumed where none was measured: only the order of a plan depends on it."""


def plan(
    model: Model,
    tp: TensorParallel = 1,
    ep: ExpertParallel = 1,
    batch: Batches = "1,16,64",
    context: Context = 4096,
    phase: Phases = "decode",
    json: options.Json = False,
) -> None:
    """List the problems of one rank, most valuable first."""
    from autotune.cli import output

    planned = planned_problems(model, tp, ep, batch, context, phase)
    worth = [one.worth(TYPICAL_BYTES_PER_S) for one in planned]
    shares = [one / sum(worth) for one in worth]
    if json:
        output.print_json(
            [
                {
                    "workload": one.problem.workload,
                    "problem": one.problem.dimensions,
                    "role": one.role,
                    "count": one.count,
                    "share": share,
                    "note": one.note or None,
                }
                for one, share in zip(planned, shares, strict=True)
            ]
        )
        return
    table = output.table("problem", "role", "per step", "share", right=("per step", "share"))
    for one, share in zip(planned, shares, strict=True):
        table.add_row(output.problem(one.problem), one.role, str(one.count), output.share(share))
    output.console.print(table)
    for note in dict.fromkeys(one.note for one in planned if one.note):
        output.console.print(f"note: {note}")
    output.console.print(f"{len(planned)} problems; share is of the least time that a step must take")


def planned_problems(
    model: str, tp: int, ep: int, batch: str, context: int, phase: str
) -> list[PlannedProblem]:
    """The plan that the options describe, most valuable first.

    Raises:
        ModelError: the model is unknown, lacks what is needed, or cannot be split this way.
        UsageError: an option is malformed.
    """
    from autotune.space import plan as plans
    from autotune.space.models import load_model

    batches, phases = options.whole_numbers(batch, "--batch"), tuple(phase.split(","))
    problems = plans.plan(load_model(model), tp=tp, ep=ep, batches=batches, context=context, phases=phases)
    return plans.most_valuable_first(problems, TYPICAL_BYTES_PER_S)
