"""`autotune history`, `show`, `explain` and `compare`: what was tried, and why a winner won."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from autotune.store import HistoryReader
    from autotune.store.entries import Decision, StudyEntry
    from autotune.store.records import Trial, Winner

RUNNERS_UP = 5


def history(
    workload: Annotated[str | None, typer.Argument(help="Only this workload.")] = None,
    problem: options.Dimensions = None,
    device: Annotated[str | None, typer.Option("--device", help="Only this device digest.")] = None,
    verdict: Annotated[str | None, typer.Option("--verdict", help="With at least one such trial.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many studies at most.")] = 30,
    json: options.Json = False,
) -> None:
    """List studies, the latest first."""
    from autotune.cli import output
    from autotune.store import read_history

    dimensions, ended_with = _typed(options.dimensions(problem)), _verdict(verdict)
    with read_history() as reader:
        studies = reader.studies(
            workload=workload,
            dimensions=dimensions,
            device=device,
            verdict=ended_with,
            limit=limit,
        )
    if json:
        output.print_json(studies)
        return
    table = output.table(
        "study", "problem", "started", "state", "trials", "best", right=("study", "trials", "best")
    )
    for study in studies:
        ended = study.end_reason or study.state
        best, started = output.latency(study.best_ns), output.moment(study.started_at)
        table.add_row(str(study.id), output.problem(_problem(study)), started, ended, str(study.trials), best)
    output.console.print(table)


def show(
    which: Annotated[str, typer.Argument(metavar="STUDY[/TRIAL]", help="A study's number, or 3/17.")],
    json: options.Json = False,
) -> None:
    """Show a study with its trials, or one trial with its samples."""
    from autotune.cli import output
    from autotune.store import read_history

    study_id, number = _study_and_trial(which)
    with read_history() as reader:
        study = reader.study(study_id)
        if number is not None:
            trial = reader.trial(study_id, number)
            output.print_json(trial) if json else _print_trial(study, trial)
            return
        trials, decisions = reader.trials(study_id), reader.decisions(study=study_id)
    if json:
        output.print_json({"study": study, "trials": trials, "decisions": decisions})
    else:
        _print_study(study, trials, decisions)


def explain(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    problem: options.Dimensions = None,
    objective: options.Objective = "latency",
    latency_limit: options.LatencyLimit = None,
    module: options.Modules = None,
    json: options.Json = False,
) -> None:
    """Say why the present winner of a problem is the winner: compared to what, and how sure."""
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
            return
        for decision in decisions:
            study = reader.study(decision.study) if decision.study is not None else None
            trials = reader.trials(decision.study) if decision.study is not None else []
            output.console.print(explanation(reader, decision, study, trials))


def compare(
    first: Annotated[int, typer.Argument(help="A study's number.")],
    second: Annotated[int, typer.Argument(help="Another's.")],
    json: options.Json = False,
) -> None:
    """Compare what two studies decided: what differs, and what it cost or gained."""
    from autotune.cli import output
    from autotune.store import read_history

    with read_history() as reader:
        sides = [_side(reader, number) for number in (first, second)]
    names = sorted({name for side in sides for name in side})
    if json:
        output.print_json({"studies": [first, second], "sides": sides})
        return
    table = output.table("", f"study {first}", f"study {second}")
    for name in sorted(names, key=list(sides[0] | sides[1]).index):
        left, right = (str(side.get(name, "-")) for side in sides)
        table.add_row(name if left == right else f"{name} *", left, right)
    table.caption = "* differs"
    table.caption_justify = "left"
    output.console.print(table)


def _side(reader: HistoryReader, number: int) -> dict[str, str]:
    """What there is to compare of one study, as text."""
    from autotune.cli import output

    study = reader.study(number)
    device, stack = reader.device(study.key.device), reader.stack(study.key.stack)
    side = {
        "problem": output.problem(_problem(study)),
        "device": f"{device.name} {device.digest}" if device else study.key.device,
        "stack": study.key.stack,
        "torch": str(stack.facts.get("torch")) if stack else "-",
        "space": study.key.space,
        "trials": str(study.trials),
        "ended": study.end_reason or study.state,
    }
    decisions = reader.decisions(study=number, limit=1)
    if decisions:
        best = decisions[0].winner.choices[0]
        side |= {
            "winner": output.configuration(best.configuration),
            "latency": output.latency(best.latency_ns),
            "baseline": output.latency(best.proof.baseline_ns),
            "speed-up": output.speedup(best.proof.against_baseline),
            "error": output.error(best.error),
            "limit": output.share(best.limit_share),
            "state": decisions[0].state,
        }
    return side


def _explained(reader: HistoryReader, decision: Decision) -> dict[str, Any]:
    winner = decision.winner
    return {
        "decision": decision,
        "device": reader.device(winner.device),
        "stack": reader.stack(winner.stack),
        "study": reader.study(decision.study) if decision.study is not None else None,
        "runners_up": _runners_up(reader.trials(decision.study), winner)
        if decision.study is not None
        else [],
    }


def _runners_up(trials: list[Trial], winner: Winner) -> list[Trial]:
    """The best screened trials that did not win."""
    measured = [t for t in trials if t.measurement and t.configuration != winner.choices[0].configuration]
    return sorted(measured, key=lambda t: t.measurement.p50_ns if t.measurement else 0.0)[:RUNNERS_UP]


def _print_study(study: StudyEntry, trials: list[Trial], decisions: list[Decision]) -> None:
    from autotune.cli import output

    output.console.print(f"study {study.id}: {output.problem(_problem(study))}")
    facts = {
        "started": output.moment(study.started_at),
        "ended": f"{output.moment(study.ended_at)}, {study.end_reason or study.state}",
        "device": study.key.device,
        "stack": study.key.stack,
        "space": f"{study.key.space}, {study.space_facts.get('configurations', '?')} configurations",
        "seed": study.seed,
    }
    output.console.print(output.facts(facts))
    table = output.table(
        "trial",
        "configuration",
        "verdict",
        "p50",
        "error",
        "compile",
        right=("trial", "p50", "error", "compile"),
    )
    for trial in trials:
        median = output.latency(trial.measurement.p50_ns) if trial.measurement else "-"
        ended = trial.verdict if not trial.reason else f"{trial.verdict}: {trial.reason}"
        compiled = f"{trial.compile_seconds:.1f} s"
        settings = output.configuration(trial.configuration)
        table.add_row(str(trial.number), settings, ended, median, output.error(trial.error), compiled)
    output.console.print(table)
    for decision in decisions:
        best = decision.winner.choices[0]
        gain = output.speedup(best.proof.against_baseline)
        output.console.print(
            f"decided ({decision.state}): {output.configuration(best.configuration)}, {gain}"
        )


def _print_trial(study: StudyEntry, trial: Trial) -> None:
    from autotune.cli import output

    output.console.print(f"study {study.id}, trial {trial.number}: {output.problem(_problem(study))}")
    facts: dict[str, Any] = {
        "configuration": output.configuration(trial.configuration),
        "verdict": trial.verdict,
        "stage": trial.stage,
        "reason": trial.reason or "-",
        "error": output.error(trial.error),
        "memory": output.size(trial.memory_bytes),
        "compile": f"{trial.compile_seconds:.2f} s",
        "measuring": f"{trial.measure_seconds:.2f} s",
        "started": output.moment(trial.started_at),
    }
    for kernel in trial.kernels:
        spilt = f", {kernel.local_bytes} B spilt a thread" if kernel.local_bytes else ""
        shared = f"{output.size(kernel.shared_bytes)} of shared memory"
        needs = f"{kernel.threads} threads, {kernel.registers} registers, {shared}{spilt}"
        facts[f"kernel {kernel.name}"] = needs
    measured = trial.measurement
    if measured:
        facts |= {
            "samples": f"{len(measured.samples_ns)}, {measured.stopped}",
            "timer": f"{measured.timer}, {measured.cache} cache",
            "p50": output.latency(measured.p50_ns),
            "p90": output.latency(measured.p90_ns),
            "p99": output.latency(measured.p99_ns),
            "variation": f"{100 * measured.variation:.1f} %",
            "discarded": measured.discarded,
            "clocks": ", ".join(f"{name} {mhz:.0f} MHz" for name, mhz in measured.clocks.items()) or "-",
        }
    output.console.print(output.facts(facts))


def _problem(study: StudyEntry) -> Any:
    from autotune.space.problem import Problem

    return Problem(study.key.workload, study.dimensions)


def _typed(dimensions: dict[str, str]) -> dict[str, int | str]:
    return {name: int(value) if value.isdigit() else value for name, value in dimensions.items()}


def _verdict(name: str | None) -> Any:
    from autotune.store.records import Verdict

    if name is not None and name not in list(Verdict):
        raise UnknownNameError("verdict", name, Verdict)
    return Verdict(name) if name else None


def _study_and_trial(which: str) -> tuple[int, int | None]:
    study, slash, trial = which.partition("/")
    if not study.isdigit() or (slash and not trial.isdigit()):
        raise UsageError(
            f"{which!r} is not STUDY or STUDY/TRIAL; write e.g. 3 or 3/17 (see 'autotune history')"
        )
    return int(study), int(trial) if slash else None
