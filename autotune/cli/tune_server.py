"""`autotune tune server --spec FILE`: a server's settings, searched, and proven by interleaved restarts."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from autotune.cli import options
from autotune.errors import HistoryLockedError, TrialError, UsageError

if TYPE_CHECKING:
    from autotune.fingerprint import Device
    from autotune.server.spec import ServerSpec
    from autotune.store.records import Winner

DEFAULT_BUDGET = "1h"


def tune_server(
    name: str | None,
    variables: list[str] | None,
    budget: str | None,
    trials: int | None,
    objective: str,
    max_error: float | None,
    on: str | None,
    seed: int,
    again: bool,
    json: bool,
) -> int:
    """Tune a server; the arguments are those of `autotune tune`.

    Raises:
        UsageError: there is no spec, or something in it is wrong.
        HistoryLockedError: the daemon runs; it tunes no servers.
    """
    from autotune.cli import output
    from autotune.search.server_tuning import check_served_objective
    from autotune.server.spec import load_spec, shipped_specs

    if name is None:
        known = ", ".join(sorted(shipped_specs()))
        raise UsageError(f"give --spec FILE.toml, or one of {known}; see docs/serving.md")
    spec = load_spec(name, options.variables(variables))
    check_served_objective(spec, objective)
    device = _device(on)
    seconds = options.seconds(budget or DEFAULT_BUDGET, "--budget")
    try:
        winner, fresh = _tune(spec, device, seconds, trials, objective, max_error, seed, again, show=not json)
    except HistoryLockedError as error:
        raise HistoryLockedError(
            f"{error}; the daemon tunes no servers, so stop it meanwhile: systemctl stop autotuned"
        ) from None
    except KeyboardInterrupt:
        print("autotune: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except TrialError as failure:
        undecided = failure.verdict == "preempted"
        told = "undecided" if undecided else "the untuned server failed"
        print(f"autotune: {spec.path}: {told}: {failure}", file=sys.stderr)
        return 1
    if json:
        output.print_json({"winner": winner, "fresh": fresh, "command": _command(spec, winner)})
    else:
        _print(spec, winner, fresh)
    return 0


def _device(name: str | None) -> Device:
    """The device that the server runs on: the first accelerator, where there is one.

    Raises:
        UsageError: it is a family's, which is not here.
        UnknownNameError: this host has no such device.
    """
    from autotune.fingerprint import device_named, probe

    if name is None:
        devices = probe().devices
        return next((device for device in devices if device.kind != "cpu"), devices[0])
    device = device_named(name)
    if device.index < 0:
        raise UsageError(f"--device {name!r}: is a profile, and no device of this host to measure on")
    return device


def _tune(
    spec: ServerSpec,
    device: Device,
    seconds: float,
    trials: int | None,
    objective: str,
    max_error: float | None,
    seed: int,
    again: bool,
    show: bool,
) -> tuple[Winner, bool]:
    """The winner, and whether it was decided now."""
    from autotune.cli.progress import Display
    from autotune.config import load_settings
    from autotune.measure.comparison import Rules
    from autotune.search import server_tuning
    from autotune.search.tuning import Outcome
    from autotune.store import open_history

    measure = load_settings().measure
    with open_history() as history:
        for notice in history.notices:
            print(f"autotune: {notice}", file=sys.stderr)
        decided = None if again else server_tuning.decided(history, spec, device, objective, max_error)
        if decided is not None:
            return decided, False
        with Display(seconds, 1, show) as display:
            winner = server_tuning.tune_server(
                history,
                spec,
                device,
                server_tuning.budget_of(seconds, trials, measure.final_share),
                objective=objective,
                max_error=max_error,
                rules=Rules(margin=measure.margin, confidence=measure.confidence),
                seed=seed,
                observe=display.update,
                tell=lambda line: print(f"autotune: {line}", file=sys.stderr),
            )
            display.finished(Outcome(spec.problem, winner))
    return winner, True


def _command(spec: ServerSpec, winner: Winner) -> list[str]:
    """How the winner is started, on a port of the reader's choice."""
    return spec.command(winner.choices[0].configuration, spec.sections.port or 8000)


def _print(spec: ServerSpec, winner: Winner, fresh: bool) -> None:
    import shlex

    from autotune.cli import output
    from autotune.cli.load_tables import load_table
    from autotune.cli.winners import winners_table
    from autotune.search.objective import SERVED

    best = winner.choices[0]
    output.console.print(winners_table([winner]))
    load = best.measurement.load if best.measurement else None
    if load:
        output.console.print(load_table([load]))
        for doubt in load["doubts"]:
            output.console.print(doubt, soft_wrap=True)
    if not fresh:
        output.console.print("decided earlier; --again tunes it anew")
    if best.is_baseline:
        output.console.print("nothing was proven better than the server untuned, which stays")
        if best.proof.stopped == "time_cap":
            output.console.print(
                f"the time was over after {best.proof.rounds} rounds of restarts; a proof takes at least "
                f"{SERVED.least_rounds} at 99 % confidence: give more with --budget",
                soft_wrap=True,
            )
    else:
        output.console.print(shlex.join(_command(spec, winner)), soft_wrap=True)
        output.console.print(
            f"write it down for the server with: autotune export server --spec {spec.path} --to FOLDER",
            soft_wrap=True,
        )
