"""`autotune qualifiers`: what precision, quantisation and kernel choice cost and buy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from autotune.cli import options
from autotune.errors import UnknownNameError, UsageError
from autotune.space.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autotune.search.tradeoffs import SettingCost, Switch
    from autotune.space import SpaceDeclaration
    from autotune.space.problem import Dimension
    from autotune.store import HistoryReader
    from autotune.store.entries import StudyEntry
    from autotune.store.records import Trial, Winner

MOST_STEPS = 1_000
"""Studies of decode steps that are looked through for a model's."""

MOST_STUDIES = 50
"""Of one problem on one device and stack: one for each objective, accepted error and space."""


def qualifiers(
    workload: Annotated[str, typer.Argument(help="A workload, or a model for its decode steps.")],
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
    'noise': no difference to the baseline is sure; 'ties': none to the fastest setting.
    """
    from autotune.cli import output
    from autotune.store import read_history

    options.import_modules(module)
    with read_history() as reader:
        digest = options.digest(reader, "device", device)
        wanted = _wanted(reader, workload, problem, digest)
        told = [table for one in wanted if (table := _told(reader, one, digest, price)) is not None]
    if not told:
        raise UsageError(f"{wanted[0]}: no trial ended well; see 'autotune history' and 'autotune show'")
    if json:
        tables = [table.plain() for table in told]
        # One problem as ever; the decode steps of a model in a list.
        output.print_json(tables if _is_model(workload) else tables[0])
    elif csv:
        rows = [
            {"problem": table.problem.key, **row} for table in told for row in output.as_rows(table.costs)
        ]
        output.print_csv(rows if _is_model(workload) else output.as_rows(told[0].costs))
    else:
        for table in told:
            table.show(price)


class _Table(NamedTuple):
    """What is told of one problem."""

    problem: Problem
    device: str
    studies: int
    trials: int
    tokens: int | None
    costs: list[SettingCost]
    alone: list[Switch]
    from_winner: list[Switch]

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "problem": self.problem,
            "device": self.device,
            "settings": self.costs,
            "switches": self.alone,
            "switches_from_winner": self.from_winner,
        }

    def show(self, price: float | None) -> None:
        """Print it."""
        from autotune.cli import output

        of = f"{self.trials} trials of {self.studies} {'study' if self.studies == 1 else 'studies'}"
        output.console.print(f"{output.problem(self.problem)}: {of}")
        output.console.print(_costs_table(self.costs, price is not None))
        if price is not None:
            unknown = "unknown: no dimension says how many tokens a call serves"
            unit = unknown if self.tokens is None else "per hour"
            output.console.print(f"cost/M: of a million tokens through this operation, at {price:g} {unit}\n")
        for title, switched in (
            ("One switch alone, all else as in the baseline:", self.alone),
            ("One switch alone, all else as in the fastest that is as accurate:", self.from_winner),
        ):
            if switched:
                output.console.print(title)
                output.console.print(_switches_table(switched))


def _is_model(name: str) -> bool:
    from autotune.space.models import model_names
    from autotune.workloads.registry import workload_names

    return name in model_names() and name not in workload_names()


def _wanted(reader: HistoryReader, name: str, words: list[str] | None, device: str | None) -> list[Problem]:
    """The problem that is meant, or the decode steps of a model that were tuned, smallest batch first.

    Raises:
        UsageError: none of the model's was.
    """
    if not _is_model(name):
        return [options.problem(name, words)]
    from autotune.space.decode_step import WORKLOAD, model_of
    from autotune.workloads.registry import declaration

    declared = declaration(WORKLOAD).dimensions
    given = {key: declared[key].accept(value, WORKLOAD) for key, value in _known(words, declared).items()}
    found = {}
    for study in reader.studies(workload=WORKLOAD, device=device, limit=MOST_STEPS):
        fits = all(study.dimensions.get(key) == value for key, value in given.items())
        if fits and model_of(study.dimensions) == name:
            found[study.key.problem] = study.dimensions
    if not found:
        given_too = "".join(f",{key}={value}" for key, value in given.items())
        command = f"autotune tune {WORKLOAD} -p model={name}{given_too}"
        raise UsageError(f"{name}: no decode step was tuned here; '{command}' does it")
    nearest = tuple(key for key, dimension in declared.items() if dimension.nearest)
    problems = [Problem(WORKLOAD, dimensions, nearest) for dimensions in found.values()]
    return sorted(problems, key=lambda one: (one["context"], one["batch"]))


def _known(words: list[str] | None, declared: Mapping[str, Dimension]) -> dict[str, str]:
    given = options.dimensions(words)
    for key in given:
        if key not in declared:
            raise UnknownNameError("dimension of decode_step", key, declared)
    return given


def _told(reader: HistoryReader, problem: Problem, device: str | None, price: float | None) -> _Table | None:
    """What the history says of a problem; None where no trial ended well."""
    from autotune.search.tradeoffs import most_accurate_fastest, setting_costs, switches
    from autotune.workloads.registry import declaration

    declared = declaration(problem.workload)
    studies, trials, winners = _tried(reader, problem, device)
    names = sorted({name for one in declared.implementations.values() for name in one.qualifiers})
    tokens = _tokens(declared, problem)
    baseline = _baseline(reader, studies[0])
    costs = setting_costs(trials, winners, names, baseline, tokens=tokens, price_per_hour=price)
    if not costs:
        return None
    winner = most_accurate_fastest(costs)
    from_winner = switches(costs, winner) if winner is not None else []
    counts = len(studies), len(trials)
    return _Table(problem, studies[0].key.device, *counts, tokens, costs, switches(costs), from_winner)


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

    numbers = ("p50", "p99", "CV", "tok/s", *(["cost/M"] if priced else []), "memory", "error")
    table = output.table("qualifiers", *numbers, "against baseline", right=numbers)
    # As wide as a terminal is.
    table.padding = (0, 1, 0, 0)
    table.columns[0].min_width, table.columns[-1].min_width = 18, 20
    for cost in costs:
        price = "-" if cost.cost_per_million is None else f"{cost.cost_per_million:.3g}"
        rate = "-" if cost.tokens_per_second is None else _rate(cost.tokens_per_second)
        table.add_row(
            output.configuration(cost.qualifiers),
            output.latency(cost.p50_ns),
            output.latency(cost.p99_ns),
            output.share(cost.variation),
            rate,
            *([price] if priced else []),
            output.size(cost.memory_bytes),
            output.error(cost.error),
            _against(cost),
        )
    return table


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _switches_table(alone: Sequence[Switch]) -> Any:
    from autotune.cli import output

    table = output.table("qualifier", "from", "to", "gain", "error", "memory", right=("error", "memory"))
    for switch in alone:
        sure = switch.cost.proven or switch.cost.is_baseline
        gain = f"{'' if sure else '~'}{output.speedup(switch.gain)}{' noise' if switch.within_noise else ''}"
        table.add_row(
            switch.qualifier,
            output.value(switch.before),
            output.value(switch.after),
            gain,
            output.error(switch.cost.error),
            output.size(switch.cost.memory_bytes),
        )
    return table


def _against(cost: SettingCost) -> str:
    """The speed-up over the baseline: `~` where only a screening says so, and what may be no difference."""
    from autotune.cli import output

    if cost.is_baseline:
        return "is the baseline"
    told = f"{'' if cost.proven else '~'}{output.speedup(cost.speedup)}"
    notes = [*(["noise"] if cost.within_noise else []), *(["ties"] if cost.ties_with_fastest else [])]
    return " ".join([told, *notes])
