"""One device under the daemon's care: its state, its gate, and the study process that works on it.

`step` is called whenever anything has changed, and moves to the state that follows from what is so; there is
no other way from one state to another. `states` draws which may follow which.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from autotune.daemon import messages
from autotune.daemon.ledger import Ledger
from autotune.daemon.request_book import backoff
from autotune.daemon.states import NEXT, TOLD, State
from autotune.daemon.study_process import StudyProcess
from autotune.errors import AutotuneError, DatabaseError, InternalError, StateDirError

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import Settings
    from autotune.daemon.archive import Archive
    from autotune.daemon.calendar import Windows
    from autotune.daemon.gate import Gate
    from autotune.daemon.lease import Leases
    from autotune.daemon.loop import Loop, Timer
    from autotune.daemon.metrics import Metrics
    from autotune.daemon.work import Item
    from autotune.fingerprint import Device

logger = logging.getLogger("autotune.daemon")

FINISH_SECONDS = 5.0
"""How long a study process may take to end after its last work."""
START_TIMES = 2.0
"""How many times what its worker may take to start a study process may take until it is ready."""
DISK_SECONDS = 60.0
"""How soon it is tried again after a record could not be kept."""


class Office(NamedTuple):
    """What all devices share; the daemon's service provides it.

    Attributes:
        archive: that holds the history.
        begin: what a study process for a device is told first.
        choose: the next thing to do on a device; None when there is nothing.
        finished: called with what became of it.
        known: called when a study process has told its stack and workloads.
        decided: called after a winner was promoted.
        told: called when there is something new to tell.
    """

    loop: Loop
    leases: Leases
    metrics: Metrics
    archive: Archive
    begin: Callable[[Supervisor], messages.Begin]
    choose: Callable[[Supervisor], Item | None]
    finished: Callable[[Supervisor, Item, messages.Ended], None]
    known: Callable[[Supervisor], None]
    decided: Callable[[Supervisor], None]
    told: Callable[[], None]


class Supervisor:
    """Cares for one device.

    Args:
        name: of the device, e.g. `cpu` or `cuda:0`.
        device: its fingerprint.
        gate: that says whether it is idle.
        settings: how often to look, and how long to wait after a failure.
        office: what all devices share.

    Attributes:
        state: what it is doing.
        since: since when, in seconds since the epoch.
        progress: of the study that runs.
        failure: why the last study process broke.
    """

    def __init__(self, name: str, device: Device, gate: Gate, settings: Settings, office: Office) -> None:
        self.name = name
        self.device = device
        self.gate = gate
        self._settings = settings
        self.state = State.IDLE
        self.since = time.time()
        self.stack: str | None = None
        self.workloads: frozenset[str] | None = None
        self.progress: messages.Progressed | None = None
        self.failure = ""
        self.item: Item | None = None
        self._office = office
        self._study: StudyProcess | None = None
        self._ledger = Ledger(name, office.metrics, office.archive, lambda: office.decided(self))
        self._broken: messages.Broken | None = None
        self._finishing = False
        self._failures = 0
        self._retry_at = 0.0
        self._look: Timer | None = None
        self._limit: Timer | None = None
        self._killed_at = 0.0
        self._cause = ""
        self._work_began = 0.0
        self._closing = False
        self._waiting: list[Callable[[], None]] = []
        office.metrics.device_state(name, self.state)

    @property
    def study_pid(self) -> int | None:
        """The study process; None if there is none."""
        return self._study.pid if self._study else None

    @property
    def free(self) -> bool:
        """Whether nothing of ours is on the device."""
        return self._study is None

    @property
    def reason(self) -> str:
        """Why it is in its state, for people."""
        obstacle = self.gate.obstacle
        match self.state:
            case State.IDLE:
                return "nothing to do"
            case State.WATCHING:
                return f"idle for {self.gate.held} of {self.gate.needed} looks"
            case State.BUSY:
                return f"{obstacle.name}: {obstacle.told}" if obstacle else "is being looked at"
            case State.PAUSED:
                held = self._office.leases.on(self.name)
                return "; ".join(f"lease {lease.id} {lease.reason}".strip() for lease in held)
            case State.FAILED:
                left = max(0.0, self._retry_at - time.monotonic())
                return f"{self.failure}; tried again in {left:.0f} s"
            case State.YIELDING:
                return f"making room ({self._cause})"
        return str(self.progress.problem if self.progress else "starting the worker")

    def step(self) -> None:
        """Do what follows from what is so."""
        if self._study is not None:
            if self.state is State.TUNING and (cause := self._reason_to_yield()):
                self._yield(cause)
        elif self._closing:
            self._become(State.IDLE)
        elif self._office.leases.on(self.name):
            self.gate.close()
            self._become(State.PAUSED)
        elif time.monotonic() < self._retry_at:
            self._become(State.FAILED)
            self._look_in(self._retry_at - time.monotonic())
        elif self._office.archive.history is None or self._office.choose(self) is None:
            self.gate.close()
            self._become(State.IDLE)
        elif self.gate.open:
            self._start()
        elif not self.gate.window().holds:
            # The calendar says when a window opens: until then there is nothing to look for.
            self.gate.look()
            self._become(State.BUSY)
        else:
            self._become(State.BUSY if self.gate.obstacle else State.WATCHING)
            self._look_in(self._settings.gate.look_seconds)

    def when_free(self, callback: Callable[[], None]) -> None:
        """Call back once nothing of ours is on the device: at once, if so already."""
        if self.free:
            callback()
        else:
            self._waiting.append(callback)

    def leftover(self) -> str:
        """What of ours is on the device, memory that its driver still holds included; empty if nothing."""
        return "its study process has not ended" if self._study else self.gate.leftover()

    def adopt(self, settings: Settings, windows: Windows) -> None:
        """Go on under other settings; what runs is let run."""
        self._settings = settings
        self.gate.adopt(settings.gate, windows)
        self.forgive()

    def close(self) -> None:
        """Make room for good: the daemon ends."""
        self._closing = True
        self._stop_looking()
        if self._study is not None and self.state is not State.YIELDING:
            self._yield("stop")

    def make_room(self, cause: str) -> None:
        """End what runs, whatever it is; `step` begins again."""
        if self._study is not None and self.state is not State.YIELDING:
            self._yield(cause)

    def forgive(self) -> None:
        """Try again now what failed before: an operator asked, or the settings are new."""
        self._failures, self._retry_at = 0, 0.0
        if self.state is State.FAILED:
            self._stop_looking()  # else the next look would still wait for the retry

    def status(self) -> str:
        """One line for the service manager."""
        if self.state is not State.TUNING or self.progress is None:
            return f"{self.name}: {self.state}"
        now = self.progress
        gain = f", {now.speedup:.2f}x" if now.speedup else ""
        return f"{self.name}: tuning {now.problem} {now.tried}/{now.possible}{gain}"

    def _become(self, state: State) -> None:
        if state is self.state:
            return
        if state not in NEXT[self.state]:
            raise InternalError(f"{self.name}: {self.state} cannot become {state}")
        self.state, self.since = state, time.time()
        self._office.metrics.device_state(self.name, state)
        if state in (State.IDLE, State.PAUSED, State.YIELDING):
            self._stop_looking()
        level = logging.INFO if state in TOLD else logging.DEBUG
        self._office.told()
        logger.log(level, state, extra={"device": self.name, "reason": self.reason})

    def _reason_to_yield(self) -> str:
        if self._office.leases.on(self.name):
            return "lease"
        obstacle = self.gate.obstacle
        return obstacle.cause if obstacle else ""

    def _look_in(self, seconds: float) -> None:
        if self._look is None or not self._look.waiting:
            self._look = self._office.loop.later(seconds, self._looked)

    def _stop_looking(self) -> None:
        if self._look is not None:
            self._look.cancel()

    def _looked(self) -> None:
        tuning = self.state is State.TUNING
        if tuning or time.monotonic() >= self._retry_at:
            self.gate.look(tuning)
        self.step()
        if self.state is State.TUNING:
            self._look_in(self._settings.gate.watch_seconds)

    def _start(self) -> None:
        self._become(State.TUNING)
        self.gate.occupy()
        self._ledger.begin()
        self._broken = None
        self._finishing = False
        self.progress, self.item = None, None
        try:
            self._study = StudyProcess(
                self._office.begin(self), self._office.loop, self._heard, self._study_gone
            )
        except (OSError, AutotuneError) as error:
            self.gate.close()
            self._fail(f"the study process does not start: {error}")
            self.step()
            return
        self._limit = self._office.loop.later(
            START_TIMES * self._settings.worker.limits.start, self._give_up_start
        )
        self._stop_looking()
        self._look_in(self._settings.gate.watch_seconds)

    def _give_up_start(self) -> None:
        """It hangs in an import or in a driver."""
        if self._study is not None:
            seconds = START_TIMES * self._settings.worker.limits.start
            self._broken = messages.Broken(f"the study process was not ready within {seconds:g} s")
            self._study.kill()

    def _lift_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _heard(self, message: messages.FromStudy) -> None:
        match message:
            case messages.Progressed():
                self._ledger.progressed(message)
                self.progress = message
                self._office.told()
            case messages.Ready():
                self._lift_limit()
                self.stack, self.workloads = message.stack, frozenset(message.workloads)
                self._office.known(self)
                self._next_work()
            case messages.Ended():
                self._work_ended(message)
            case messages.Broken():
                self._broken = message
            case _:
                reply = self._ledger.keep(message)
                if self._study is not None and not self._study.killed:
                    self._study.say(reply)

    def _next_work(self) -> None:
        """Give the study process more to do, or let it go."""
        assert self._study is not None, "only called while there is one"
        self.progress = None
        self.item = self._office.choose(self)
        if self.state is not State.TUNING:
            return
        if self.item is None:
            self._study.say(messages.Finish())
            self._finishing = True
            self._limit = self._office.loop.later(FINISH_SECONDS, self._study.kill)
            return
        self._work_began = time.monotonic()
        work = self.item.work
        logger.info("study begins", extra={"device": self.name, "why": work.kind, "problem": _problem(work)})
        self._study.say(work)

    def _work_ended(self, ended: messages.Ended) -> None:
        item = self.item
        if item is None:
            return
        ending = "failed" if ended.failure or ended.refusal else "elsewhere" if ended.elsewhere else "decided"
        self._study_ended(ending)
        extra = {"device": self.name, "problem": _problem(item.work)}
        if ended.failure or ended.refusal:
            logger.warning("study failed: %s", ended.failure or ended.refusal, extra=extra)
        elif ended.elsewhere:
            logger.info("study ended: another node decides", extra=extra)
        else:
            gain = "the baseline stays" if ended.is_baseline else f"{ended.speedup:.2f}x"
            logger.info("study decided: %s", gain, extra=extra)
            self.gate.trust()
        self._failures = 0
        self._office.finished(self, item, ended)
        self._next_work()

    def _study_ended(self, ending: str) -> None:
        if self._work_began:
            self._office.metrics.study(self.name, ending, time.monotonic() - self._work_began)
            self._work_began = 0.0

    def _yield(self, cause: str) -> None:
        assert self._study is not None, "only called while there is one"
        self._cause, self._killed_at = cause, time.monotonic()
        self._study.kill()
        self._become(State.YIELDING)

    def _study_gone(self) -> None:
        """Nothing of the study process is left."""
        assert self._study is not None, "told once"
        status, self._study = self._study.exit_status, None
        self._lift_limit()
        yielded = self.state is State.YIELDING
        self._ledger.interrupted(f"ended for: {self._cause}" if yielded else "the study process ended")
        self.gate.close()
        if yielded:
            self._study_ended("preempted")
            if self._cause == "foreign":
                self.gate.grow_wary()
            self._office.metrics.yielded(self.name, self._cause, time.monotonic() - self._killed_at)
        elif self.item is not None or (status != 0 and not self._finishing):
            self._study_ended("failed")
            broken = self._broken or messages.Broken("")
            if broken.unreadable and not self._ledger.failure:
                # It reads more of the history than we do.
                self._ledger.failure = broken.reason
                error = DatabaseError(broken.reason) if broken.damaged else StateDirError(broken.reason)
                self._office.archive.unwritten(error)
            told = self._ledger.failure or broken.reason
            reason = told or f"the study process ended with status {status}"
            if self.item is not None and not told:
                # Perhaps it is this problem that ends it: others get their turn first.
                self._office.finished(self, self.item, messages.Ended(failure=reason))
            self._fail(reason)
        self.item, self.progress = None, None
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
        self.step()

    def _fail(self, reason: str) -> None:
        self._failures += 1
        wait = backoff(self._failures, self._settings.daemon.retry_seconds)
        if self._ledger.failure:
            wait = DISK_SECONDS
        self._retry_at = time.monotonic() + wait
        self.failure = reason
        self._office.metrics.error(f"{self.name}: {reason}")
        logger.error("study process failed: %s", reason, extra={"device": self.name})
        self._become(State.FAILED)


def _problem(work: messages.Work) -> str:
    inside = ", ".join(f"{name}={value}" for name, value in work.dimensions.items())
    return f"{work.workload}({inside})"
