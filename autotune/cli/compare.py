"""`autotune compare`: two studies, devices, stacks or generations, what differs and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.cli.sides import Contrast, Side
    from autotune.store import HistoryReader

KINDS = ("study", "device", "stack", "generation")

SideName = typer.Argument(
    metavar="A|B", help="A study's number, or device:DIGEST, stack:DIGEST, generation:NUMBER."
)


def compare(
    first: Annotated[str, SideName],
    second: Annotated[str, SideName],
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many problems at most.")] = 50,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Compare what two studies, devices, stacks or generations decided: what differs, what it gained.

    A ratio above 1 says that the second is faster. Its interval (98 %) is made of the two medians' own: they
    were measured at different times, so that a drift of the machine counts as a difference.
    """
    from autotune.cli import output, sides
    from autotune.store import read_history

    kinds = [_kind(first), _kind(second)]
    if kinds[0][0] != kinds[1][0]:
        raise UsageError(f"{first} is a {kinds[0][0]} and {second} a {kinds[1][0]}; compare two of a kind")
    with read_history() as reader:
        one, other = (sides.side(reader, kind, name) for kind, name in kinds)
        contrasts = sides.contrasts(reader, one, other, limit)
        both = [_facts(reader, name) for _, name in kinds] if kinds[0][0] == "study" else []
    if json:
        told = {"sides": [first, second], "studies": both, "problems": output.as_rows(contrasts)}
        output.print_json({**told, "mean_ratio": sides.mean_ratio(one, other)})
    elif csv:
        output.print_csv(output.as_rows(contrasts))
    else:
        if both:
            output.console.print(_side_by_side(kinds[0][1], kinds[1][1], both))
        if contrasts:
            output.console.print(_table(first, second, contrasts))
        output.console.print(output.plain(_summary(one, other, contrasts)))


def _kind(text: str) -> tuple[str, str]:
    kind, colon, name = text.partition(":")
    if not colon:
        kind, name = "study", text
    if kind not in KINDS or not name:
        raise UsageError(
            f"{text!r} is not a study's number, device:DIGEST, stack:DIGEST or generation:NUMBER"
        )
    if kind in ("study", "generation") and not (name.isascii() and name.isdigit() and len(name) <= 18):
        raise UsageError(
            f"{text!r}: a {kind} has a number; write e.g. {'3' if kind == 'study' else text[:11] + '3'}"
        )
    return kind, name


def _facts(reader: HistoryReader, name: str) -> dict[str, str]:
    """What there is to compare of one study, as text."""
    from autotune.cli import output
    from autotune.cli.history import problem_of_study

    study = reader.study(int(name))
    device, stack = reader.device(study.key.device), reader.stack(study.key.stack)
    facts = {
        "problem": output.problem(problem_of_study(study)),
        "objective": study.key.objective,
        "device": f"{device.name} {device.digest}" if device else study.key.device,
        "stack": study.key.stack,
        "torch": str(stack.facts.get("torch")) if stack else "-",
        "space": study.key.space,
        "trials": str(study.trials),
        "ended": study.end_reason or study.state,
    }
    decisions = reader.decisions(study=study.id, limit=1)
    if decisions:
        best = decisions[0].winner.choices[0]
        facts |= {
            "winner": output.configuration(best.configuration),
            "latency": output.latency(best.latency_ns),
            "baseline": output.latency(best.proof.baseline_ns),
            "speed-up": output.speedup(best.proof.against_baseline),
            "error": output.error(best.error),
            "limit": output.share(best.limit_share),
            "state": decisions[0].state,
        }
    return facts


def _side_by_side(first: str, second: str, both: Sequence[dict[str, str]]) -> Any:
    from autotune.cli import output

    table = output.table("", f"study {first}", f"study {second}")
    for name in both[0] | both[1]:
        left, right = (side.get(name, "-") for side in both)
        table.add_row(name if left == right else f"{name} *", left, right)
    table.caption = "* differs"
    table.caption_justify = "left"
    return table


def _table(first: str, second: str, contrasts: Sequence[Contrast]) -> Any:
    from autotune.cli import output
    from autotune.space.problem import Problem

    table = output.table("problem", first, second, "ratio", "configuration", right=(first, second))
    for one in contrasts:
        same = one.first_configuration == one.second_configuration
        table.add_row(
            output.problem(Problem(one.workload, one.dimensions)),
            output.latency(one.first_ns),
            output.latency(one.second_ns),
            output.speedup(one.ratio),
            "same" if same else output.configuration(one.second_configuration),
        )
    return table


def _summary(first: Side, second: Side, contrasts: Sequence[Contrast]) -> str:
    from autotune.cli import sides

    if not contrasts:
        return f"{first.name} and {second.name} decided no problem both, so there is nothing to weigh"
    common = len(first.winners.keys() & second.winners.keys())
    only = [len(first.winners) - common, len(second.winners) - common]
    told = f"{len(contrasts)} of {common} common problems shown, those that differ most first; "
    told += f"{only[0]} decided by {first.name} alone, {only[1]} by {second.name} alone"
    mean = sides.mean_ratio(first, second)
    if mean is None:
        return told
    return f"{told}. Over all common ones {second.name} is {mean:.3f}x as fast (geometric mean)."
