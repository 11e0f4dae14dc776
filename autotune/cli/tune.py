"""`autotune tune`: search, prove and publish, for one problem or a whole model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli import options
from autotune.cli.plan import Batches, Context, ExpertParallel, Phases, TensorParallel, planned_problems
from autotune.errors import HistoryLockedError, StateDirError, UsageError

if TYPE_CHECKING:
    from autotune.config import Settings
    from autotune.errors import StateError
    from autotune.fingerprint import Device
    from autotune.search.shared_study import Sharing
    from autotune.search.tuning import Goal, Outcome
    from autotune.space.problem import Problem

EXPORTS = ("vllm-moe", "sglang-moe")

Budget = Annotated[
    str | None, typer.Option("--budget", help="Time for everything, e.g. 90s, 5m; by default per problem.")
]


def tune(
    workload: Annotated[str | None, typer.Argument(help="A workload, with -p; or use --model.")] = None,
    problem: options.Dimensions = None,
    model: Annotated[str | None, typer.Option("--model", help="Tune all problems of a model.")] = None,
    tp: TensorParallel = 1,
    ep: ExpertParallel = 1,
    batch: Batches = "1,16,64",
    context: Context = 4096,
    phase: Phases = "decode",
    budget: Budget = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="Most configurations per problem.")
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective",
            help="What to optimise: latency (the median, and the default), tail (p99), throughput (calls per "
            "second) or energy (joules per call). Of a server: throughput (the largest rate within its "
            "objectives, and the default), latency or tail.",
        ),
    ] = None,
    latency_limit: options.LatencyLimit = None,
    max_error: options.MaxError = None,
    device_name: Annotated[
        str | None,
        typer.Option(
            "--device",
            help="cpu, cuda or cuda:1 of this host; its CPU by default. With --on a kind or digest; all.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ray[://HOST:PORT]",
            help="Tune on all devices of a Ray cluster; see docs/cluster.md.",
        ),
    ] = None,
    export: Annotated[
        tuple[str, Path] | None,
        typer.Option(
            "--export",
            metavar="vllm-moe|sglang-moe FOLDER",
            help="With --on: write the winners as that reads them.",
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Tune what was decided before too.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="Of inputs, proposals and the final's order.")] = 0,
    module: options.Modules = None,
    spec: options.Spec = None,
    variables: options.Variables = None,
    json: options.Json = False,
) -> int:
    """Search for the fastest configurations, prove them on this machine, and publish the winners.

    Ctrl-C stops; what was measured is kept, and what was proven is published. Run again to go on.
    """
    from autotune.cli import output
    from autotune.search.tuning import Goal

    if workload == "server" and model is None:
        from autotune.cli.tune_server import tune_server

        if problem or latency_limit:
            raise UsageError("a server has neither -p nor --latency-limit: its spec says what it must carry")
        if on:
            raise UsageError("a server is tuned where it runs: --on is for --model or a workload")
        return tune_server(
            spec,
            variables,
            budget,
            trials,
            objective or "throughput",
            max_error,
            device_name,
            seed,
            again,
            json,
        )
    if spec or variables:
        raise UsageError("--spec and --set are of a server: autotune tune server --spec FILE.toml")
    objective = objective or "latency"
    options.import_modules(module)
    goal = Goal(options.objective(objective, latency_limit), max_error)
    if (workload is None) == (model is None):
        raise UsageError("give a workload with -p m=16,..., or --model NAME; see 'autotune tune --help'")
    if model is not None:
        planned = planned_problems(model, tp, ep, batch, context, phase)
        problems = [one.problem for one in planned]
    else:
        problems = [options.problem(str(workload), problem)]
    seconds = options.seconds(budget, "--budget") if budget else None
    _check_export(export, on)
    if on is not None:
        from autotune.cli.sweep import sweep

        return sweep(
            on,
            problems,
            goal,
            device=device_name,
            seconds=seconds,
            trials=trials,
            seed=seed,
            modules=module or [],
            export=export,
            json=json,
        )
    device = _host_device(device_name)
    # A kind is meant as all its equal devices, an index as that device.
    together = device_name == device.kind
    goal.check_measurable(options.name_of(device))
    try:
        outcomes, interrupted = _tune(
            problems, device, together, goal, seconds, trials, again, seed, module or [], show=not json
        )
    except (HistoryLockedError, StateDirError) as refused:
        return _ask_daemon(problems, goal, again, refused, json)
    if json:
        output.print_json({"outcomes": outcomes, "planned": len(problems), "interrupted": interrupted})
    else:
        _print(outcomes, len(problems), interrupted)
    if interrupted:
        return 130
    return 1 if outcomes and all(outcome.failure for outcome in outcomes) else 0


def _check_export(export: tuple[str, Path] | None, on: str | None) -> None:
    """Refuse an export that could not be made, before hours are spent.

    Raises:
        UnknownNameError: there is no such export.
        UsageError: nothing is tuned on a cluster, or the folder is a file.
    """
    from autotune.errors import UnknownNameError

    if export is None:
        return
    name, folder = export
    if name not in EXPORTS:
        raise UnknownNameError("export", name, EXPORTS, "--export")
    if on is None:
        raise UsageError(
            f"--export goes with --on; of this host's winners: autotune export {name} --to FOLDER"
        )
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--export {name} {str(folder)!r}: is a file; expected a folder")


def _host_device(name: str | None) -> Device:
    """The device to tune on.

    Raises:
        UsageError: it is a family's, which is not here to be measured.
        UnknownNameError: this host has no such device.
    """
    from autotune.fingerprint import device_named

    device = device_named(name or "cpu")
    if device.index < 0:
        raise UsageError(f"--device {name!r}: is a profile, and no device of this host to measure on")
    return device


def _tune(
    problems: list[Problem],
    device: Device,
    together: bool,
    goal: Goal,
    seconds: float | None,
    trials: int | None,
    again: bool,
    seed: int,
    modules: list[str],
    show: bool,
) -> tuple[list[Outcome], bool]:
    """Tune the problems; returns what was decided, and whether it was interrupted.

    Args:
        together: whether idle devices of this host that are equal take part.
    """
    from autotune.cli.progress import Display
    from autotune.config import load_settings
    from autotune.fingerprint import probe
    from autotune.measure.comparison import Rules
    from autotune.search.study import Budget as StudyBudget
    from autotune.search.tuning import Tuner
    from autotune.store import open_history
    from autotune.worker.configured import configured_worker

    settings = load_settings()
    measure = settings.measure
    host = probe().devices
    study_seconds = settings.study.budget_seconds
    if seconds is not None and len(problems) == 1:
        study_seconds = seconds
    budget = StudyBudget(
        study_seconds, trials or settings.study.trials, measure.screen_seconds, measure.final_share
    )
    rules = Rules(margin=measure.margin, confidence=measure.confidence)
    outcomes: list[Outcome] = []
    total = seconds if seconds is not None else study_seconds * len(problems)
    with open_history() as history, Display(total, len(problems), show) as display:
        for notice in history.notices:
            print(f"autotune: {notice}", file=sys.stderr)
        history.record_devices(host)
        if together and sum(one.digest == device.digest for one in host) > 1:
            from autotune.cli.equal_devices import EqualDevices, idle_equals

            equals = idle_equals(device, host, settings, history.state.path)
            if equals:
                crew = EqualDevices([device, *equals], settings, history, problems, display)
                interrupted = crew.tune(goal, budget, total, again, seed, modules)
                return crew.outcomes, interrupted
        with configured_worker(settings.worker, device, modules) as worker:
            try:
                tuner = Tuner(history, worker, device, rules, seed, sharing=_sharing(settings))
                for outcome in tuner.tune_all(
                    problems, goal, budget, total, again=again, observe=display.update
                ):
                    outcomes.append(outcome)
                    display.finished(outcome)
            except KeyboardInterrupt:
                return outcomes, True
    return outcomes, False


def _sharing(settings: Settings) -> Sharing | None:
    """How equal nodes of the fleet search together with this one; None without a fleet."""
    if not settings.fleet.url:
        return None
    from autotune.fleet.studies import sharing_of

    return sharing_of(settings.fleet, lambda line: print(f"autotune: {line}", file=sys.stderr))


def _ask_daemon(problems: list[Problem], goal: Goal, again: bool, refused: StateError, json: bool) -> int:
    """Have the daemon tune, which holds the history; this user may not even be allowed to write there.

    Raises:
        StateError: `refused`, if no daemon is there to ask.
    """
    from autotune.cli import output
    from autotune.daemon.control import Ask, NoDaemonError, Wanted, ask

    wanted = [Wanted(problem.workload, problem.dimensions) for problem in problems]
    try:
        asked = ask(Ask(wanted, goal.objective, goal.max_error, again))["asked"]
    except NoDaemonError:
        raise refused from None
    if json:
        output.print_json({"asked": asked})
    else:
        output.console.print(
            f"the daemon holds the history: it was asked to tune {asked} problem{'s' * (asked != 1)} before "
            "all others, once the device is idle, with the budget of its own settings; see 'autotune status "
            "--watch'"
        )
    return 0


def _print(outcomes: list[Outcome], planned: int, interrupted: bool) -> None:
    from autotune.cli import output
    from autotune.cli.winners import winners_table

    winners = [outcome.winner for outcome in outcomes if outcome.winner]
    if winners:
        output.console.print(winners_table(winners))
    for outcome in outcomes:
        if outcome.failure:
            output.console.print(f"{output.problem(outcome.problem)}: {outcome.failure}")
        elif outcome.elsewhere:
            output.console.print(f"{output.problem(outcome.problem)}: another node decides")
    decided, fresh = len(winners), sum(outcome.fresh for outcome in outcomes if outcome.winner)
    told = f"{decided} of {planned} problems decided, {fresh} of them now"
    if decided < planned:
        told += "; run the same command again to go on"
    output.console.print(f"{'interrupted: ' if interrupted else ''}{told}")
