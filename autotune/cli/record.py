"""`autotune record`: a search space, or a part of it, measured into a file that searches are replayed on."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import options
from autotune.errors import TrialError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.fingerprint import Device
    from autotune.search.landscape_file import LandscapeFile
    from autotune.search.recording import Recorder
    from autotune.space import Problem, SearchSpace, SpaceDeclaration


def record(
    workload: Annotated[str, typer.Argument(help="A workload.")],
    problem: options.Dimensions = None,
    part: Annotated[
        int | None, typer.Option("--part", min=1, help="Configurations to record; by default all.")
    ] = None,
    share: Annotated[
        str | None, typer.Option("--share", help="The same as a share of the space, e.g. 20%.")
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="How often each is measured; the middle one counts.")
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help="*.json or *.json.gz; by default named after problem and device."
        ),
    ] = None,
    declared_in: Annotated[
        Path | None,
        typer.Option(
            "--space", metavar="FILE.toml", help="The workload's space as declared there, not as shipped."
        ),
    ] = None,
    max_error: options.MaxError = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time after which to stop, e.g. 10m; by default none.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of inputs, order, and the part that is drawn.")] = 0,
    on: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda or cuda:1 of this host; its CPU by default."),
    ] = None,
    module: options.Modules = None,
    json: options.Json = False,
) -> int:
    """Measure every configuration of a space, and write a landscape in Kernel Tuner's cache format.

    The file is whole after every configuration. Ctrl-C stops; run the same command again to go on.
    """
    from autotune.cli import output
    from autotune.fingerprint import device_named
    from autotune.space import SearchSpace

    options.import_modules(module)
    device = device_named(on or "cpu")
    if device.index < 0:
        raise UsageError(f"--device {on!r}: is a profile, and no device of this host to measure on")
    declared = _declaration(workload, declared_in)
    wanted = declared.problem(options.dimensions(problem))
    space = SearchSpace.build(declared, wanted, device.facts, max_error)
    count = _count(len(space), part, share)
    seconds = options.seconds(budget, "--budget") if budget else None
    path = out or Path(default_name(wanted, device))
    plan = _Plan(space, device, path, count, rounds, max_error, seed)
    file, visits_left, interrupted = _record(plan, seconds, module or [], show=not json)
    told = _told(file, plan, visits_left, interrupted)
    if json:
        output.print_json(told)
    else:
        _print(told)
    return 130 if interrupted else 0


def _declaration(workload: str, path: Path | None) -> SpaceDeclaration:
    from autotune.space.declaration import read_declaration
    from autotune.workloads.registry import declaration

    known = declaration(workload)
    if path is None:
        return known
    declared = read_declaration(str(path))
    if declared.workload != workload:
        raise UsageError(
            f"--space {str(path)!r}: declares {declared.workload!r}, as its name says; "
            f"expected a file named {workload}.toml"
        )
    return declared


def default_name(problem: Problem, device: Device) -> str:
    """`<workload>_<dimensions>__<device>.json.gz`: one problem's files share what stands before `__`."""
    from autotune.cli import output

    words = output.problem(problem).replace("=", "")
    return "__".join(re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_") for text in (words, device.name)) + (
        ".json.gz"
    )


def _count(configurations: int, part: int | None, share: str | None) -> int:
    """How many configurations are wanted."""
    if share is None:
        return min(part or configurations, configurations)
    if part is not None:
        raise UsageError("--part and --share say the same thing; give one of them")
    try:
        percent = float(share.removesuffix("%")) if share.endswith("%") else 0.0
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise UsageError(f"--share {share!r} is not a share; write e.g. 20%")
    return max(1, round(configurations * percent / 100))


@dataclass(frozen=True)
class _Plan:
    """What is to be recorded where."""

    space: SearchSpace
    device: Device
    path: Path
    part: int
    rounds: int
    max_error: float | None
    seed: int


def _record(
    plan: _Plan, seconds: float | None, modules: list[str], show: bool
) -> tuple[LandscapeFile, int, bool]:
    """Record what is missing; returns the file, visits that are left, and whether it was interrupted."""
    from autotune.config import load_settings
    from autotune.fingerprint.stack import stack_digest
    from autotune.search.landscape_file import LandscapeFile
    from autotune.search.recording import Recorder
    from autotune.worker.configured import configured_worker

    settings, space, device = load_settings(), plan.space, plan.device
    sample_seconds = settings.measure.screen_seconds
    with configured_worker(settings.worker, device, modules) as worker:
        facts = {
            "workload": space.problem.workload,
            "problem": space.problem.dimensions,
            "device": device.digest,
            "stack": stack_digest(device.kind, worker.stack()),
            "space": space.digest,
            "max_error": plan.max_error,
            "seed": plan.seed,
            "sample_seconds": sample_seconds,
            "baseline": space.baseline,
        }
        file = LandscapeFile(plan.path, space, device.name, facts)
        recorder = Recorder(
            space,
            worker,
            file,
            part=plan.part,
            rounds=plan.rounds,
            max_error=plan.max_error,
            sample_seconds=sample_seconds,
            seed=plan.seed,
        )
        try:
            with _bar(file, recorder, show) as update:
                recorder.run(seconds, update)
        except TrialError as failure:
            raise TrialError(failure.verdict, f"the baseline failed: {failure.reason}") from None
        except KeyboardInterrupt:
            return file, len(recorder.missing), True
    return file, len(recorder.missing), False


@contextmanager
def _bar(file: LandscapeFile, recorder: Recorder, show: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error, if that is a terminal; yields what to call when the file has changed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from autotune.cli import output

    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        # Configurations differ in what they take: a long window steadies the estimate.
        TimeRemainingColumn(),
        console=Console(stderr=True, markup=False, highlight=False),
        disable=not (show and sys.stderr.isatty()),
        transient=True,
        speed_estimate_period=600,
    )
    visits = recorder.visits
    task = progress.add_task(file.path.name, total=visits, completed=visits - len(recorder.missing), state="")

    def update() -> None:
        best = file.measured[:1]
        state = f"best {output.latency(1e6 * best[0]['time'])}" if best else ""
        failed = sum(file.failures.values())
        progress.update(
            task,
            completed=visits - len(recorder.missing),
            state=f"{state}  {failed} failed" if failed else state,
        )

    with progress:
        yield update


def _told(file: LandscapeFile, plan: _Plan, visits_left: int, interrupted: bool) -> dict[str, Any]:
    space = plan.space
    fastest = file.measured[:1]
    return {
        "file": str(file.path),
        "problem": {"workload": space.problem.workload, **space.problem.dimensions},
        "configurations": len(space),
        "part": max(plan.part, len(file)),
        "rounds": plan.rounds,
        "seed": plan.seed,
        "recorded": len(file),
        "failed": dict(file.failures),
        "fastest": file.configuration(fastest[0]) if fastest else None,
        "fastest_ms": fastest[0]["time"] if fastest else None,
        "baseline": space.baseline,
        "baseline_ms": [measured["time"] for measured in file.baseline],
        "drift": file.drift,
        "noise": file.noise,
        "visits_left": visits_left,
        "complete": not visits_left,
        "interrupted": interrupted,
    }


def _print(told: dict[str, Any]) -> None:
    from statistics import median

    from autotune.cli import output

    recorded, part, configurations = told["recorded"], told["part"], told["configurations"]
    drawn = f", drawn at random from {configurations} with seed {told['seed']}"
    failed = ", ".join(f"{count} {verdict}" for verdict, count in sorted(told["failed"].items()))
    lines = {
        "file": told["file"],
        "recorded": f"{recorded} of {part} configurations{drawn if part < configurations else ''}",
        "failed": failed or "none",
    }
    if told["fastest"]:
        fastest = output.configuration(told["fastest"])
        lines["fastest"] = f"{output.latency(1e6 * told['fastest_ms'])}  {fastest}"
    if told["baseline_ms"]:
        lines["baseline"] = f"{output.latency(1e6 * median(told['baseline_ms']))}  " + output.configuration(
            told["baseline"]
        )
    if told["drift"] is not None:
        lines["drift"] = (
            f"{output.share(told['drift'])} between {len(told['baseline_ms'])} measurements of the baseline"
        )
    if told["noise"] is not None:
        lines["noise"] = f"{told['noise']:.1%} between the rounds of a configuration, in the median"
    output.console.print(output.facts(lines))
    if not told["complete"]:
        stopped = "interrupted" if told["interrupted"] else "the budget is spent"
        output.console.print(
            f"{stopped}, {told['visits_left']} measurements are left; run the same command again to go on"
        )
