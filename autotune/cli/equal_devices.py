"""Tuning on equal devices of this host at once: a study process for each, and this one as their writer."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

from msgspec.structs import replace

from autotune.daemon import messages
from autotune.daemon.calendar import Windows
from autotune.daemon.gate import Gate
from autotune.daemon.lease import Leases
from autotune.daemon.ledger import Ledger
from autotune.daemon.loop import Loop
from autotune.daemon.metrics import Metrics
from autotune.daemon.study_process import StudyProcess
from autotune.daemon.watched import name_of, probe_of
from autotune.errors import AutotuneError, ConfigError
from autotune.search.budget import Budget, Progress
from autotune.search.local_storage import forget
from autotune.search.tuning import Outcome
from autotune.store.snapshot import is_stale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.cli.progress import Display
    from autotune.config import Settings
    from autotune.daemon.messages import FromStudy
    from autotune.errors import StateError
    from autotune.fingerprint import Device
    from autotune.search.tuning import Goal
    from autotune.space.problem import Problem
    from autotune.store.history import History

LOOKS = 5
"""At a device, until one has an answer: the first has to wait for the library to open."""
_PR_SET_CHILD_SUBREAPER = 36


def idle_equals(
    device: Device, devices: Sequence[Device], settings: Settings, state_dir: str
) -> list[Device]:
    """The equals of a device on this host that nobody uses, for whoever tunes on all of them.

    Args:
        device: that is tuned on in any case.
        devices: of this host.
        settings: what counts as idle; hours do not, since a person asked.
        state_dir: where leases are kept.
    """
    equals = [one for one in devices if one.digest == device.digest and one.index != device.index]
    if not equals or device.kind == "cpu":
        return []
    loop = Loop(lambda error: _say(str(error)))
    try:
        leases = Leases(os.path.join(state_dir, "leases.json"), loop, lambda: None)
        held = {one.index for one in equals if leases.on(name_of(one))}
    finally:
        loop.close()
    found = []
    for one in equals:
        gate = _gate(one, settings)
        for _ in range(LOOKS):
            gate.look()
            if gate.open:
                break
        if one.index in held or not gate.open:
            why = "a lease claims it" if one.index in held else gate.obstacle and gate.obstacle.told
            _say(f"{name_of(one)} is left out: {why}")
        else:
            found.append(one)
    return found


class EqualDevices:
    """A plan that equal devices work through together.

    Args:
        devices: the first is tuned on in any case; the others are let go when somebody uses them.
        settings: of workers, measurement and fleet.
        history: open for writing.
        problems: the most valuable first.
        display: told of progress.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        settings: Settings,
        history: History,
        problems: Sequence[Problem],
        display: Display,
    ) -> None:
        self.history: History | None = history
        self._devices = {name_of(device): device for device in devices}
        self._settings = settings
        self._problems = problems
        self._display = display
        self._outcomes: dict[int, Outcome] = {}
        self._interrupted = False
        self._broken = ""
        self._progress: dict[str, Progress] = {}
        self._stacks: dict[str, str] = {}
        self._running: dict[str, StudyProcess] = {}

    def tune(
        self, goal: Goal, budget: Budget, total_seconds: float, again: bool, seed: int, modules: Sequence[str]
    ) -> bool:
        """Work through the plan; returns whether it was interrupted. `outcomes` tells what came of it.

        Args:
            goal: for all problems.
            budget: the most that one study may spend.
            total_seconds: for all problems.
            again: tune what was decided before too.
            seed: of inputs, proposals and the final's order.
            modules: that register workloads.

        Raises:
            ConfigError: no study process could work.
        """
        self._goal = goal
        problems = tuple(messages.Planned(one.workload, dict(one.dimensions)) for one in self._problems)
        self._plan = messages.Plan(
            problems,
            goal.objective,
            goal.max_error,
            budget.seconds,
            total_seconds,
            budget.trials,
            again,
        )
        # What a study process leaves behind becomes ours, so that it can be ended.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        before = signal.getsignal(signal.SIGINT)
        self._loop = Loop(self._failed)
        self._loop.on_signal(signal.SIGINT, self._interrupt)
        try:
            for name in self._devices:
                self._start(name, seed, modules)
            self._loop.run()
        finally:
            signal.signal(signal.SIGINT, before)
            self._loop.close()
        if self._broken and not self._outcomes and not self._interrupted:
            raise ConfigError(self._broken)
        return self._interrupted

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of the problems, in the plan's order."""
        return [self._outcomes[place] for place in sorted(self._outcomes)]

    def _start(self, name: str, seed: int, modules: Sequence[str]) -> None:
        assert self.history is not None, "open while tuning"
        settings = self._settings
        worker = replace(settings.worker, modules=(*settings.worker.modules, *map(_path, modules)))
        state_dir = self.history.state.path
        if not self._running:
            forget(state_dir)
        begin = messages.Begin(
            name, state_dir, worker, settings.measure, settings.study, settings.fleet, True, seed
        )
        ledger = Ledger(name, Metrics(), self, lambda: None)
        self._running[name] = StudyProcess(
            begin,
            self._loop,
            lambda message: self._heard(name, ledger, message),
            lambda: self._gone(name, ledger),
        )
        if len(self._running) > 1:
            gate = _gate(self._devices[name], settings)
            self._loop.later(settings.gate.watch_seconds, lambda: self._watch(name, gate))

    def _watch(self, name: str, gate: Gate) -> None:
        """Let go of a device that somebody has come to use."""
        study = self._running.get(name)
        if study is None or study.killed:
            return
        gate.look(tuning=True)
        if gate.obstacle is not None:
            _say(f"{name} is let go: {gate.obstacle.told}")
            study.kill()
            return
        self._loop.later(self._settings.gate.watch_seconds, lambda: self._watch(name, gate))

    def _heard(self, name: str, ledger: Ledger, message: FromStudy) -> None:
        match message:
            case messages.Progressed():
                ledger.progressed(message)
                self._show(name, message)
            case messages.Ready():
                self._stacks[name] = message.stack
                self._running[name].say(self._plan)
            case messages.Ended():
                self._note(name, message)
            case messages.Broken():
                self._broken = message.reason
            case _:
                if isinstance(message, messages.EndStudy) and name in self._progress:
                    self._progress[name].end_reason = message.reason
                    self._display.update(self._progress[name])
                reply = ledger.keep(message)
                study = self._running.get(name)
                if study is not None and not study.killed:
                    study.say(reply)

    def _show(self, name: str, now: messages.Progressed) -> None:
        progress = self._progress.get(name)
        if progress is None or progress.problem != now.problem:
            progress = self._progress[name] = Progress(now.problem, 0.0, now.possible)
        progress.phase, progress.tried, progress.best_ns = f"{name} {now.phase}", now.tried, now.best_ns
        self._display.update(progress)

    def _note(self, name: str, ended: messages.Ended) -> None:
        """Note what became of a problem on one device: of several, what the one says that decided it."""
        problem, before = self._problems[ended.place], self._outcomes.get(ended.place)
        if before is not None and before.winner is not None:
            return
        winner = None
        if self.history is not None and not (ended.failure or ended.elsewhere):
            device = self._devices[name].digest
            key = (device, self._stacks[name], problem.workload, problem.key, self._goal.objective)
            winner = self.history.incumbent(*key)
        outcome = Outcome(problem, winner, ended.fresh, ended.failure, ended.elsewhere)
        self._outcomes[ended.place] = outcome
        if not outcome.elsewhere:
            self._display.finished(outcome)

    def _gone(self, name: str, ledger: Ledger) -> None:
        """Nothing of a study process is left."""
        study = self._running.pop(name)
        ledger.interrupted("interrupted" if self._interrupted else "the study process ended")
        if study.exit_status and not study.killed and not self._broken:
            self._broken = f"the study process on {name} ended with status {study.exit_status}"
            _say(self._broken)
        if not self._running:
            self._loop.stop()

    def _interrupt(self) -> None:
        self._interrupted = True
        for study in list(self._running.values()):
            study.kill()

    def _failed(self, error: Exception) -> None:
        _say(f"{type(error).__name__}: {error}")

    # What a ledger asks of the daemon's archive.

    def unwritten(self, error: StateError) -> None:
        """A record could not be kept; the study process ends with that."""
        self._broken = str(error)

    def catch_up(self) -> None:
        """Publish what was promoted by a process that ended before it was published."""
        try:
            if self.history is not None and is_stale(self.history):
                self.history.publish("decided by a study process that has ended")
        except AutotuneError as error:
            self._broken = str(error)


def _gate(device: Device, settings: Settings) -> Gate:
    """At any hour: a person asked."""
    return Gate(probe_of(device, settings.gate), Windows.of(replace(settings.gate, windows=())), looks=1)


def _path(module: str) -> str:
    return os.path.abspath(module) if module.endswith(".py") else module


def _say(line: str) -> None:
    print(f"autotune: {line}", file=sys.stderr)
