"""`autotune qualifiers`: what precision, quantisation and kernel choice cost and buy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.search.tradeoffs import SettingCost, Switch
    from autotune.space import Problem, SpaceDeclaration
    from autotune.store import HistoryReader
    from autotune.store.entries import StudyEntry
    from autotune.store.records import Trial, Winner

MOST_STUDIES = 50
"""Of one problem on one device and stack: one for each objective, accepted error and space."""


def qualifiers(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    problem: options.Dimensions = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Only this device: digest, its start, or name.")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", min=0.0, help="Of the device per hour, to tell costs per million tokens."),
    ] = None,
    module: options.Modules = None,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Show what each qualifier setting costs and buys, and what one switch alone does.

    For every combination of implementation, precision and the like its fastest configuration that was tried.
    What was in a final is told by its proof; of the others a screening is all there is, marked '~'.
    """
    from autotune.cli import output
    from autotune.search.tradeoffs import setting_costs, switches
    from autotune.store import read_history
    from autotune.workloads.registry import declaration

    options.import_modules(module)
    declared = declaration(workload)
    wanted = options.problem(workload, problem)
    with read_history() as reader:
        studies, trials, winners = _tried(reader, wanted, options.digest(reader, "device", device))
        baseline = _baseline(reader, studies[0])
    names = sorted({name for one in declared.implementations.values() for name in one.qualifiers})
    tokens = _tokens(declared, wanted)
    costs = setting_costs(trials, winners, names, baseline, tokens=tokens, price_per_hour=price)
    if not costs:
        raise UsageError(f"{wanted}: no trial ended well; see 'autotune history' and 'autotune show'")
    alone = switches(costs)
    if json:
        output.print_json(
            {"problem": wanted, "device": studies[0].key.device, "settings": costs, "switches": alone}
        )
    elif csv:
        output.print_csv(output.as_rows(costs))
    else:
        output.console.print(f"{output.problem(wanted)}: {len(trials)} trials of {len(studies)} studies")
        output.console.print(_costs_table(costs, price is not None))
        if price is not None:
            unit = (
                "unknown: no dimension says how many tokens a call serves" if tokens is None else "per hour"
            )
            output.console.print(f"cost/M: of a million tokens through this operation, at {price:g} {unit}\n")
        if alone:
            output.console.print("One switch alone, all else as in the baseline:")
            output.console.print(_switches_table(alone))


def _tried(
    reader: HistoryReader, problem: Problem, device: str | None
) -> tuple[list[StudyEntry], list[Trial], list[Winner]]:
    """The studies of a problem on the device and stack of the latest, what they tried and what they proved.

    Raises:
        UsageError: there is none.
    """
    latest = reader.studies(workload=problem.workload, problem=problem.key, device=device, limit=1)
    if not latest:
        raise UsageError(
            f"{problem}: was never tuned here; 'autotune tune {problem.workload} -p ...' does it"
        )
    key = latest[0].key
    of: dict[str, Any] = {
        "workload": key.workload,
        "problem": key.problem,
        "device": key.device,
        "stack": key.stack,
        "limit": MOST_STUDIES,
    }
    studies = reader.studies(**of)
    decisions = reader.decisions(objective="latency", **of)
    winners = [decision.winner for decision in decisions if decision.state != "withdrawn"]
    return studies, [trial for study in studies for trial in reader.trials(study.id)], winners


def _baseline(reader: HistoryReader, study: StudyEntry) -> dict[str, Any]:
    """The framework's configuration on the device of a study; empty where it is not known any more."""
    from autotune.errors import AutotuneError
    from autotune.space import SearchSpace
    from autotune.space.problem import Problem
    from autotune.workloads.registry import declaration

    device = reader.device(study.key.device)
    try:
        declared = declaration(study.key.workload)
        problem = Problem(study.key.workload, study.dimensions)
        return SearchSpace.build(declared, problem, device.facts if device else {}).baseline
    except AutotuneError:
        return {}


def _tokens(declared: SpaceDeclaration, problem: Problem) -> int | None:
    """Tokens that a call serves: the first dimension of which look-ups may take the nearest."""
    name = next((name for name, dimension in declared.dimensions.items() if dimension.nearest), None)
    return None if name is None else int(problem[name])


def _costs_table(costs: Sequence[SettingCost], priced: bool) -> Any:
    from autotune.cli import output

    # As wide as a terminal is: the price takes the place of the coefficient of variation.
    numbers = ("p50", "p99", "cost/M" if priced else "CV", "memory", "error")
    table = output.table("qualifiers", *numbers, "against baseline", right=numbers)
    table.columns[0].min_width, table.columns[-1].min_width = 22, 27
    for cost in costs:
        price = "-" if cost.cost_per_million is None else f"{cost.cost_per_million:.3g}"
        table.add_row(
            output.configuration(cost.qualifiers),
            output.latency(cost.p50_ns),
            output.latency(cost.p99_ns),
            price if priced else output.share(cost.variation),
            output.size(cost.memory_bytes),
            output.error(cost.error),
            _against(cost),
        )
    return table


def _switches_table(alone: Sequence[Switch]) -> Any:
    from autotune.cli import output

    table = output.table("qualifier", "from", "to", "gain", "error", "memory", right=("error", "memory"))
    for switch in alone:
        table.add_row(
            switch.qualifier,
            output.value(switch.before),
            output.value(switch.after),
            _against(switch.cost),
            output.error(switch.cost.error),
            output.size(switch.cost.memory_bytes),
        )
    return table


def _against(cost: SettingCost) -> str:
    """The speed-up over the baseline: `~` where only a screening says so, and whether it may be none."""
    from autotune.cli import output

    if cost.is_baseline:
        return "is the baseline"
    told = output.speedup(cost.speedup)
    return f"{'' if cost.proven else '~'}{told}{' noise' if cost.within_noise else ''}"
