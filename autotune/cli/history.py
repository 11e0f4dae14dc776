"""`autotune history` and `autotune show`: what was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from autotune.store.entries import Decision, StudyEntry
    from autotune.store.listing import TrialRow
    from autotune.store.records import Trial

MOST_TRIALS = 200
"""Trials of a study that are shown unless more are asked for."""

STATES = ("running", "ended", "interrupted")

Device = Annotated[
    str | None, typer.Option("--device", help="Only this device: its digest, the start of it, or its name.")
]
Stack = Annotated[str | None, typer.Option("--stack", help="Only this stack: its digest or its start.")]
Objective = Annotated[str | None, typer.Option("--objective", help="Only this objective.")]
State = Annotated[str | None, typer.Option("--state", help="running, ended or interrupted.")]
HistoryOrder = Annotated[
    str, typer.Option("--sort", help="By started, problem, trials, best or duration.", show_default=True)
]
TrialOrder = Annotated[
    str, typer.Option("--sort", help="Trials by number, p50, error, memory, compile or verdict.")
]
Since = Annotated[str | None, typer.Option("--since", help="Started since, e.g. 2026-11-28, 12h or 7d.")]
Until = Annotated[str | None, typer.Option("--until", help="Started before, written alike.")]


def history(
    workload: Annotated[str | None, typer.Argument(help="Only this workload.")] = None,
    problem: options.Dimensions = None,
    device: Device = None,
    stack: Stack = None,
    objective: Objective = None,
    verdict: Annotated[str | None, typer.Option("--verdict", help="With at least one such trial.")] = None,
    state: State = None,
    since: Since = None,
    until: Until = None,
    sort: HistoryOrder = "started",
    reverse: options.Reverse = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many studies at most.")] = 30,
    offset: Annotated[int, typer.Option("--offset", min=0, help="How many to pass over.")] = 0,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """List studies, the latest first unless sorted otherwise."""
    from autotune.cli import output
    from autotune.store import read_history

    if state is not None and state not in STATES:
        raise UnknownNameError("state", state, STATES)
    ended = verdict_named(verdict)
    with read_history() as reader:
        studies = reader.studies(
            workload=workload,
            dimensions=options.dimensions(problem),
            device=options.digest(reader, "device", device),
            stack=options.digest(reader, "stack", stack),
            objective=objective,
            verdict=ended,
            state=state,
            since=options.moment(since, "--since") if since else None,
            until=options.moment(until, "--until") if until else None,
            order=sort,
            descending=reverse,
            limit=limit,
            offset=offset,
        )
    if json:
        output.print_json(studies)
    elif csv:
        output.print_csv([study_row(study) for study in studies])
    else:
        _print_studies(studies)


def show(
    which: Annotated[str, typer.Argument(metavar="STUDY[/TRIAL]", help="A study's number, or 3/17.")],
    verdict: Annotated[str | None, typer.Option("--verdict", help="Only trials that ended so.")] = None,
    sort: TrialOrder = "number",
    reverse: options.Reverse = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many trials.")] = MOST_TRIALS,
    json: options.Json = False,
    csv: options.Csv = False,
) -> None:
    """Show a study with its trials, or one trial with its samples; as CSV the trials, or the samples."""
    from autotune.cli import output
    from autotune.store import read_history
    from autotune.store.listing import trial_rows

    study_id, number = _study_and_trial(which)
    ended = verdict_named(verdict)
    with read_history() as reader:
        study = reader.study(study_id)
        if number is not None:
            trial = reader.trial(study_id, number)
        elif json:
            trials, decisions = reader.trials(study_id, verdict=ended), reader.decisions(study=study_id)
        else:
            rows = trial_rows(reader, study_id, verdict=ended, order=sort, descending=reverse, limit=limit)
            decisions = reader.decisions(study=study_id)
    if number is not None:
        _show_trial(study, trial, json=json, csv=csv)
    elif json:
        output.print_json({"study": study, "trials": trials, "decisions": decisions})
    elif csv:
        output.print_csv(output.as_rows(rows))
    else:
        _print_study(study, rows, decisions)


def study_row(study: StudyEntry) -> dict[str, Any]:
    """A study for programs, flat."""
    return {
        "study": study.id,
        "workload": study.key.workload,
        "problem": study.key.problem,
        "objective": study.key.objective,
        "device": study.key.device,
        "stack": study.key.stack,
        "space": study.key.space,
        "max_error": study.key.max_error,
        "state": study.state,
        "started_at": study.started_at,
        "ended_at": study.ended_at,
        "end_reason": study.end_reason,
        "trials": study.trials,
        "best_ns": study.best_ns,
    }


def problem_of_study(study: StudyEntry) -> Any:
    """The problem that a study is about."""
    from autotune.space.problem import Problem

    return Problem(study.key.workload, study.dimensions)


def verdict_named(name: str | None) -> Any:
    """The verdict of that name; None for None.

    Raises:
        UnknownNameError: there is none.
    """
    from autotune.store.records import Verdict

    if name is not None and name not in list(Verdict):
        raise UnknownNameError("verdict", name, Verdict)
    return Verdict(name) if name else None


def _print_studies(studies: list[StudyEntry]) -> None:
    from autotune.cli import output

    table = output.table(
        "study", "problem", "started", "state", "trials", "best", right=("study", "trials", "best")
    )
    for study in studies:
        ended = study.end_reason or study.state
        best, started = output.latency(study.best_ns), output.moment(study.started_at)
        name = output.problem(problem_of_study(study))
        table.add_row(str(study.id), name, started, ended, str(study.trials), best)
    output.console.print(table)


def _print_study(study: StudyEntry, trials: list[TrialRow], decisions: list[Decision]) -> None:
    from autotune.cli import output

    output.console.print(output.plain(f"study {study.id}: {output.problem(problem_of_study(study))}"))
    facts = {
        "started": output.moment(study.started_at),
        "ended": f"{output.moment(study.ended_at)}, {study.end_reason or study.state}",
        "objective": study.key.objective,
        "device": study.key.device,
        "stack": study.key.stack,
        "space": f"{study.key.space}, {study.space_facts.get('configurations', '?')} configurations",
        "seed": study.seed,
    }
    output.console.print(output.facts(facts))
    columns = ("trial", "configuration", "verdict", "p50", "error", "compile")
    table = output.table(*columns, right=("trial", "p50", "error", "compile"))
    for trial in trials:
        ended = trial.verdict if not trial.reason else f"{trial.verdict}: {trial.reason}"
        table.add_row(
            str(trial.number),
            output.configuration(trial.configuration),
            ended,
            output.latency(trial.p50_ns),
            output.error(trial.error),
            f"{trial.compile_seconds:.1f} s",
        )
    output.console.print(table)
    if len(trials) < study.trials:
        output.console.print(f"{len(trials)} of {study.trials} trials; see --limit, --sort and --verdict")
    for decision in decisions:
        best = decision.winner.choices[0]
        gain = output.speedup(best.proof.against_baseline)
        chosen = output.configuration(best.configuration)
        output.console.print(output.plain(f"decided ({decision.state}): {chosen}, {gain}"))


def _show_trial(study: StudyEntry, trial: Trial, *, json: bool, csv: bool) -> None:
    from autotune.cli import output

    measured = trial.measurement
    if json:
        output.print_json(trial)
    elif csv:
        samples = measured.samples_ns if measured else ()
        output.print_csv([{"sample": number, "ns": taken} for number, taken in enumerate(samples)])
    else:
        _print_trial(study, trial)


def _print_trial(study: StudyEntry, trial: Trial) -> None:
    from autotune.cli import output

    name = output.problem(problem_of_study(study))
    output.console.print(output.plain(f"study {study.id}, trial {trial.number}: {name}"))
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
    if measured and measured.samples_ns:
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
    if measured and measured.load:
        from autotune.cli.load_tables import load_tables

        output.console.print(load_tables(measured.load))


def _study_and_trial(which: str) -> tuple[int, int | None]:
    study, slash, trial = which.partition("/")
    if not _is_number(study) or (slash and not _is_number(trial)):
        raise UsageError(
            f"{which!r} is not STUDY or STUDY/TRIAL; write e.g. 3 or 3/17 (see 'autotune history')"
        )
    return int(study), int(trial) if slash else None


def _is_number(text: str) -> bool:
    """Whether it is a number that SQLite can hold."""
    return text.isascii() and text.isdigit() and len(text) <= 18
