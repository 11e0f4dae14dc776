"""Keeping the records of a study process, and the one of the trial that was ended before it could end by
itself."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from autotune.daemon import messages
from autotune.errors import AutotuneError, StateError
from autotune.store.parties import INTERRUPTED
from autotune.store.records import Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.daemon.metrics import Metrics
    from autotune.store.history import History
    from autotune.store.records import Choice, Configuration


class InFlight(NamedTuple):
    """The trial that runs."""

    number: int
    configuration: Configuration
    stage: str
    started_at: float


class Keeper(Protocol):
    """What holds the history: the daemon's archive, or a command.

    Attributes:
        history: None while it cannot be opened.
    """

    history: History | None

    def unwritten(self, error: StateError) -> None:
        """A record could not be kept."""

    def catch_up(self) -> None:
        """Publish winners that look-ups do not know."""


class Ledger:
    """Keeps the records of the study processes on one device.

    Args:
        device: its name.
        metrics: that count trials and decisions.
        archive: that holds the history, where they are kept.
        published: called after winners were published.

    Attributes:
        failure: why a record of the present study process could not be kept; empty if all were.
    """

    def __init__(
        self,
        device: str,
        metrics: Metrics,
        archive: Keeper,
        published: Callable[[], None],
    ) -> None:
        self.failure = ""
        self._device = device
        self._metrics = metrics
        self._archive = archive
        self._published = published
        self._study = 0
        self._flying: InFlight | None = None

    def begin(self) -> None:
        """Begin with a new study process."""
        self.failure, self._study, self._flying = "", 0, None

    def progressed(self, now: messages.Progressed) -> None:
        """Note which trial runs."""
        if now.trying is None:
            self._flying = None
        elif self._flying is None or self._flying.number != now.tried:
            self._flying = InFlight(now.tried, now.trying, now.stage, time.time())
        else:
            self._flying = self._flying._replace(stage=now.stage)

    def keep(self, record: messages.Record) -> messages.Kept | messages.NotKept:
        """Keep a record; it is durable when this returns `Kept`."""
        history = self._archive.history
        try:
            if history is None:
                self.failure = "the history is not open"
                return messages.NotKept(self.failure)
            return messages.Kept(self._written(history, record))
        except AutotuneError as error:
            self.failure = str(error)
            if isinstance(error, StateError):
                self._archive.unwritten(error)
            return messages.NotKept(str(error))

    def interrupted(self, why: str) -> None:
        """Record that the study was ended, and its trial with it, which is then tried again later.

        A winner that it had proven and not published is published.
        """
        self._end_study(why)
        self._archive.catch_up()

    def _end_study(self, why: str) -> None:
        history, study, flying = self._archive.history, self._study, self._flying
        self._study, self._flying = 0, None
        if history is None or not study:
            return
        try:
            if flying is not None:
                number, configuration, stage, started_at = flying
                preempted = Verdict.PREEMPTED
                trial = Trial(number, configuration, preempted, stage, why, started_at=started_at)
                history.add_trial(study, trial)
                self._metrics.trial(self._device, preempted)
            history.end_study(study, INTERRUPTED)
        except StateError as error:
            self._archive.unwritten(error)

    def _written(self, history: History, record: messages.Record) -> int:
        """Write a record; returns the number that the study's method returns, if it does."""
        match record:
            case messages.RecordDevice(device):
                history.record_device(device)
            case messages.RecordStack(digest, facts):
                history.record_stack(digest, facts)
            case messages.BeginStudy(key, dimensions, seed, facts):
                self._study = history.begin_study(key, dimensions, seed=seed, space_facts=facts)
                return self._study
            case messages.AddTrial(study, trial):
                number = history.add_trial(study, trial)
                self._flying = None
                self._metrics.trial(self._device, trial.verdict)
                return number
            case messages.EndStudy(study, reason):
                history.end_study(study, reason)
                self._study = 0
            case messages.Promote(study, winner):
                before = history.incumbent(
                    winner.device, winner.stack, winner.workload, winner.problem, winner.objective
                )
                number = history.promote(study, winner)
                kind = decision_kind(before.choices[0] if before else None, winner.choices[0])
                self._metrics.decision(self._device, kind)
                return number
            case messages.Publish(reason):
                number = history.publish(reason)
                self._published()
                return number
        return 0


def decision_kind(before: Choice | None, best: Choice) -> str:
    """What a decision was: `promoted`, `confirmed`, `baseline_kept`, or `withdrawn`, if a winner lost."""
    if before is None or before.is_baseline:
        return "baseline_kept" if best.is_baseline else "promoted"
    if best.is_baseline:
        return "withdrawn"
    return "confirmed" if before.configuration == best.configuration else "promoted"
