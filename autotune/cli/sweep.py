"""`autotune tune --on ray`: a plan spread over the devices of a cluster."""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import autotune
from autotune.errors import AutotuneError, StateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.exports.bundle import Bundle
    from autotune.exports.files import ExportedFile
    from autotune.fleet.sweep import Kind
    from autotune.fleet.sweep_task import Order, Result
    from autotune.search.tuning import Goal
    from autotune.space.problem import Problem
    from autotune.store.history import History

LEAST_SECONDS = 15.0
"""Of a problem's budget: a worker starts, and a study proves something."""


def sweep(
    where: str,
    problems: Sequence[Problem],
    goal: Goal,
    *,
    device: str | None,
    seconds: float | None,
    trials: int | None,
    seed: int,
    modules: Sequence[str],
    export: tuple[str, Path] | None,
    json: bool,
) -> int:
    """Tune problems on every kind of device of a Ray cluster; returns the exit status."""
    from autotune.config import load_settings
    from autotune.fleet.sweep import Cluster
    from autotune.fleet.sweep_task import Order

    settings = load_settings()
    results: list[tuple[Order, Result]] = []
    interrupted = False
    with Cluster(where) as cluster:
        kinds = cluster.kinds(device)
        each = seconds_each(kinds, len(problems), seconds, settings.study.budget_seconds)
        orders = [
            (
                kind,
                Order(
                    autotune.__version__,
                    kind.digest,
                    problem.workload,
                    problem.dimensions,
                    goal.objective,
                    goal.max_error,
                    each,
                    trials or settings.study.trials,
                    seed,
                    settings.measure,
                    tuple(modules),
                ),
            )
            for problem in problems
            for kind in kinds
        ]
        with _Bar(len(orders), sum(kind.count for kind in kinds), not json) as bar:
            try:
                for order, result in cluster.carry_out(orders, bar.at_work):
                    results.append((order, result))
                    bar.finished(order, result)
            except KeyboardInterrupt:
                interrupted = True
    return _concluded(results, len(orders), interrupted, export, json)


def seconds_each(kinds: Sequence[Kind], problems: int, seconds: float | None, usual: float) -> float:
    """The budget of each problem, so that all of them end in time.

    Args:
        kinds: of devices, each of which tunes every problem.
        problems: how many there are.
        seconds: for everything; None for the usual budget of each.
        usual: the budget of one problem where nothing is said.
    """
    if seconds is None:
        return usual
    turns = max(-(-problems // kind.count) for kind in kinds)
    return max(seconds / turns, LEAST_SECONDS)


def _concluded(
    results: Sequence[tuple[Order, Result]],
    planned: int,
    interrupted: bool,
    export: tuple[str, Path] | None,
    json: bool,
) -> int:
    """Keep what was found, export it, and tell."""
    from autotune.cli import output
    from autotune.cli.winners import winners_table
    from autotune.fleet.collection import merged, record
    from autotune.store import open_history

    bundle = merged(result for _, result in results)
    failures = [
        f"{output.problem_text(order.workload, order.dimensions)}: {result.failure}"
        for order, result in results
        if result.failure
    ]
    told: dict[str, Any] = {"planned": planned, "interrupted": interrupted, "failures": failures}
    unwritten: UsageError | None = None
    told["winners"] = bundle.winners if bundle else []
    if bundle is not None:
        told["kept"] = _kept(bundle)
        with tempfile.TemporaryDirectory(prefix="autotune-sweep-") as state, open_history(state) as history:
            record(history, [result for _, result in results])
            told["fleet"] = _told_fleet(history, [result for _, result in results])
            if export is not None:
                try:
                    told["files"] = [str(path) for path in _exported(history, results, export)]
                except UsageError as error:  # told last, since hours were spent on the rest
                    unwritten = error
    if json:
        output.print_json(told)
    else:
        if bundle is not None:
            output.console.print(winners_table(bundle.winners))
        for line in [
            *failures,
            told.get("kept", ""),
            told.get("fleet", ""),
            *told.get("files", ()),
        ]:
            if line:
                output.console.print(line, soft_wrap=True)
        decided = f"{len(told['winners'])} of {planned} problems decided"
        output.console.print(f"{'interrupted: ' if interrupted else ''}{decided}")
    if unwritten is not None and not interrupted:
        raise unwritten
    if interrupted:
        return 130
    return 0 if bundle is not None else 1


def _kept(bundle: Bundle) -> str:
    """Take the winners into the history as candidates; in a file, where another process holds the history."""
    from autotune.cli.bundle import take_here_or_by_daemon
    from autotune.exports import bundle as bundles

    data = bundles.write(bundle)
    _, digest = bundles.read(data, "the sweep's bundle")
    try:
        number = take_here_or_by_daemon(bundle, data, digest)
    except (StateError, UsageError) as refused:
        path = Path(f"sweep-{int(time.time())}.bundle").resolve()
        try:
            path.write_bytes(data)
        except OSError as error:
            raise UsageError(f"{path}: cannot be written: {error.strerror}; and {refused}") from None
        return f"{path}: all winners; take them with 'autotune import bundle' ({refused})"
    return f"kept as bundle {number}: candidates here, which are tried first when their problems are tuned"


def _told_fleet(history: History, results: Sequence[Result]) -> str:
    """Tell the fleet, where one is configured; what cannot be told is no reason to lose the rest."""
    from autotune.config import load_settings
    from autotune.fleet.collection import tell_fleet

    settings = load_settings().fleet
    if not settings.url:
        return ""
    try:
        return f"{tell_fleet(history, results, settings)} entries went to the fleet"
    except AutotuneError as error:
        return f"the fleet was not told: {error}"


def _exported(
    history: History, results: Sequence[tuple[Order, Result]], export: tuple[str, Path]
) -> list[Path]:
    """Write what the cluster proved as another system reads it, every kind of device into one folder."""
    from autotune.exports import moe
    from autotune.exports.files import write_files
    from autotune.exports.winners import current_winners

    name, folder = export
    made = {"vllm-moe": moe.vllm_files, "sglang-moe": moe.sglang_files}[name]
    orders = {order.device: order.objective for order, result in results if result.bundle}
    files: list[ExportedFile] = []
    for device, objective in orders.items():
        with suppress(UsageError):  # this kind of device decided nothing of this workload
            winners = current_winners(history, moe.WORKLOAD, {}, objective=objective, device=device)
            files.extend(made(history, winners))
    if not files:
        raise UsageError(f"--export {name}: no winner of {moe.WORKLOAD} was decided; nothing was written")
    return write_files(folder, files, force=False)


class _Bar:
    """One bar for the whole sweep, on standard error; without a terminal a line for each problem."""

    def __init__(self, orders: int, devices: int, show: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(stderr=True, markup=False, highlight=False, quiet=not show)
        self._orders, self._devices, self._done = orders, devices, 0
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=40),
            TimeElapsedColumn(),
            console=self._console,
            disable=not (show and sys.stderr.isatty()),
            transient=True,
        )
        self._task = self._progress.add_task("", total=orders)
        self.at_work(0)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def at_work(self, devices: int) -> None:
        """Show how many devices are at work."""
        told = f"{self._done}/{self._orders} problems, {devices} of {self._devices} devices at work"
        self._progress.update(self._task, description=told, completed=self._done)

    def finished(self, order: Order, result: Result) -> None:
        """Tell how a problem ended."""
        from autotune.cli import output

        self._done += 1
        where = f"{result.node} {order.device[:8]}".strip()
        ended = result.failure or "decided"
        problem = output.problem_text(order.workload, order.dimensions)
        self._console.print(f"{problem} on {where}: {ended}")
        self._progress.update(self._task, completed=self._done)
