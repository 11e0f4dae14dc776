"""The daemon's main process: it owns the history, watches devices, and has study processes search.

It imports neither torch nor triton nor optuna, so that it costs a node next to nothing while there is
nothing to do. Everything happens in one thread, in callbacks of the loop; see `supervisor` for what happens
on a device.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from autotune import paths
from autotune.daemon import control, logs, messages, requests
from autotune.daemon.agenda import Agenda
from autotune.daemon.archive import Archive
from autotune.daemon.book_keeping import BookKeeping
from autotune.daemon.calendar import Calendar, Windows
from autotune.daemon.care import NightlyCare
from autotune.daemon.companion import Site
from autotune.daemon.control_server import ControlServer
from autotune.daemon.exposition import Health
from autotune.daemon.fleet_link import FleetLink
from autotune.daemon.intake import Intake
from autotune.daemon.lease import Leases
from autotune.daemon.loop import Loop
from autotune.daemon.metrics import Metrics
from autotune.daemon.notify import Notifier
from autotune.daemon.questions import Questions
from autotune.daemon.request_book import RequestBook
from autotune.daemon.states import State
from autotune.daemon.supervisor import Office, Supervisor
from autotune.daemon.watched import watched_devices
from autotune.errors import AutotuneError, StateError, UsageError
from autotune.lookup.request import SOCKET_NAME as REQUEST_SOCKET
from autotune.search.local_storage import forget
from autotune.store.fleet import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import Settings
    from autotune.daemon.work import Item
    from autotune.store.fleet import Entry
    from autotune.store.history import History

logger = logging.getLogger("autotune.daemon")

ROUND_SECONDS = 3600.0
"""How often it is noticed what has become due by itself."""
STOP_SECONDS = 1.5
"""After which the daemon ends, whatever has not ended yet: the service manager would wait no longer."""
LIVE_SECONDS = 2.0
"""Within which the loop must answer to count as alive."""
_PR_SET_CHILD_SUBREAPER = 36


class Service:
    """The daemon.

    Args:
        settings: what the operator decided.
        load: reads the settings anew.

    Attributes:
        supervisors: by device.
        leases: that are held.
        last_error: the last thing that went wrong, one line; empty if nothing did.

    Raises:
        HistoryLockedError: another process is the writer of the history.
        StateError: the state folder or a socket cannot be used.
    """

    def __init__(self, settings: Settings, load: Callable[[], Settings]) -> None:
        self.settings = settings
        self._started = time.monotonic()
        self.last_error = ""
        self._load = load
        self._stopping = False
        # What a study process leaves behind becomes ours, so that we can end it and see it end.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.loop = Loop(self._callback_failed)
        self.metrics = Metrics()
        self.archive = Archive(
            self.loop, self.metrics, self.note_error, self._history_lost, self.history_renewed
        )
        try:
            self._begin(self.archive.require())
        except BaseException:
            self.archive.close()
            raise

    def _begin(self, history: History) -> None:
        settings, state = self.settings, history.state
        self.calendar = Calendar(self.loop, self._step_all)
        self.notifier = Notifier()
        self.supervisors: dict[str, Supervisor] = {}
        self.leases = Leases(os.path.join(state.path, "leases.json"), self.loop, self._leases_changed)
        self.book = RequestBook(os.path.join(state.path, "requests.json"), settings.requests)
        for notice in filter(None, (self.leases.notice, self.book.notice)):
            logger.warning(notice)
        self.book_keeping = BookKeeping(self.book, self.loop, self.metrics, self.archive)
        self.agenda = Agenda(self.book, self.loop, self._step_all)
        folder = paths.runtime_dir()
        self.control = ControlServer(
            os.path.join(folder, control.SOCKET_NAME),
            settings.daemon.group,
            self.loop,
            Questions(self).handle,
        )
        self.requests = requests.RequestSocket(
            os.path.join(folder, REQUEST_SOCKET),
            settings.requests,
            self.loop,
            self._wished,
            self.metrics.request,
        )
        office = Office(
            loop=self.loop,
            leases=self.leases,
            metrics=self.metrics,
            archive=self.archive,
            begin=self._begin_of,
            choose=self._choose,
            finished=self._finished,
            known=self._refresh,
            decided=self._refresh,
            told=self._tell,
        )
        self.care = NightlyCare(
            self.loop,
            lambda: self.archive.history,
            lambda: self.settings,
            self.note_error,
            self.archive.unwritten,
        )
        self.intake = Intake(self.loop, self.archive, self.history_renewed)
        self.site = Site(self.loop, self.note_error)
        self.fleet = FleetLink(
            self.loop,
            self.metrics.fleet,
            self.archive,
            self.book,
            lambda: list(self.supervisors.values()),
            self._wished_elsewhere,
            self._step_all,
            self.note_error,
        )
        self._devices, found = watched_devices(settings, office)
        history.record_devices(self._devices)
        self.supervisors.update({one.name: one for one in found})
        self.agenda.serve(settings, history, list(self.supervisors.values()))
        self._set_calendar()
        self.metrics.leases(len(self.leases))

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        self.loop.on_signal(signal.SIGTERM, self.stop)
        self.loop.on_signal(signal.SIGINT, self.stop)
        self.loop.on_signal(signal.SIGHUP, self.reload)
        self.calendar.start()
        self.metrics.start(self.settings.metrics, self._health)
        self.site.serve(self.settings.web)
        self._feed_watchdog()
        self.fleet.adopt(self.settings)
        self.loop.later(ROUND_SECONDS, self._round)
        names = ", ".join(self.supervisors) or "no device"
        logger.info("started", extra={"devices": names, "history": paths.state_dir()})
        self._step_all()
        self.notifier.ready(self.status_line())
        self.loop.run()
        self._end()

    def stop(self) -> None:
        """Make room on all devices, and end, within `STOP_SECONDS` however often it is asked."""
        if self._stopping:
            return
        self._stopping = True
        self.notifier.stopping("ending")
        logger.info("ending")
        self.loop.later(STOP_SECONDS, self.loop.stop)
        for supervisor in self.supervisors.values():
            supervisor.close()
            supervisor.when_free(self._stop_if_free)
        self._stop_if_free()

    def reload(self) -> None:
        """Read the settings again; a mistake in them leaves the present ones in force."""
        if self._stopping:
            return
        self.notifier.reloading()
        try:
            settings = self._load()
            windows = Windows.of(settings.gate)
        except AutotuneError as error:
            self.note_error(f"settings are kept as they were: {error}")
        else:
            self._apply(settings, windows)
            logger.info("settings read again")
        self.notifier.ready(self.status_line())

    @property
    def uptime_seconds(self) -> float:
        """For how long it has run, however the clock was set."""
        return time.monotonic() - self._started

    def status_line(self) -> str:
        """One line for the service manager."""
        states = "; ".join(supervisor.status() for supervisor in self.supervisors.values())
        return states or "no device to tune on"

    def note_error(self, message: str) -> None:
        """Log an error, and remember it for `autotune status`."""
        self.last_error = message
        self.metrics.error(message)
        logger.error(message)

    def _apply(self, settings: Settings, windows: Windows) -> None:
        before, self.settings = self.settings, settings
        logging.getLogger("autotune").setLevel(settings.daemon.log_level.upper())
        if settings.daemon.devices != before.daemon.devices:
            logger.warning("[daemon] devices: the new list holds from the next start on")
        self.book.settings = self.requests.rates.settings = settings.requests
        if settings.daemon.group != before.daemon.group:
            self.control.let_in(settings.daemon.group)
        for supervisor in self.supervisors.values():
            supervisor.adopt(settings, windows)
        if self.archive.history is not None:
            self.agenda.serve(settings, self.archive.history, list(self.supervisors.values()))
        self.fleet.adopt(settings)
        if settings.metrics != before.metrics:
            self.metrics.start(settings.metrics, self._health)
        self.site.serve(settings.web)
        self._set_calendar()
        self._step_all()

    def _set_calendar(self) -> None:
        """A look at what is due whenever a window opens; nightly care of the history."""
        self.calendar.drop("window")
        gate = self.settings.gate
        for place, window in enumerate(gate.windows):
            self.calendar.cron(f"window {place}", window.start, gate.time_zone, self._step_all)
        self.calendar.cron("nightly", self.settings.retention.nightly, gate.time_zone, self.care.begin)

    def _round(self) -> None:
        """Notice an upgraded stack and what is due for re-verification."""
        self.loop.later(ROUND_SECONDS, self._round)
        self.agenda.look_again()
        self._step_all()

    def _step_all(self) -> None:
        for supervisor in self.supervisors.values():
            supervisor.step()

    def _tell(self) -> None:
        if not self._stopping:
            self.notifier.status(self.status_line())

    def _begin_of(self, supervisor: Supervisor) -> messages.Begin:
        settings = self.settings
        if all(one.free for one in self.supervisors.values()):
            forget(paths.state_dir())
        return messages.Begin(
            supervisor.name,
            paths.state_dir(),
            settings.worker,
            settings.measure,
            settings.study,
            settings.fleet,
            together=len(self._equals(supervisor)) > 1,
        )

    def _choose(self, supervisor: Supervisor) -> Item | None:
        """The next thing to do; nothing before the fleet could say what it knows."""
        return None if self.fleet.warming else self.agenda.choose(supervisor)

    def _finished(self, supervisor: Supervisor, item: Item, ended: messages.Ended) -> None:
        self.agenda.finished(supervisor, item, ended, self.settings.daemon.retry_seconds)
        self.fleet.hurry()
        self.book_keeping.changed()

    def _refresh(self, supervisor: Supervisor) -> None:
        """A winner was promoted, or the stack is known now."""
        self.metrics.disk_full(False)
        if self.archive.history is not None:
            for equal in self._equals(supervisor):
                self.agenda.refresh(equal, self.archive.history)

    def _leases_changed(self) -> None:
        self.metrics.leases(len(self.leases))
        self._step_all()

    def _wished(self, wish: requests.Wish) -> bool:
        """Take a wish, if it concerns a device of ours."""
        supervisor = self.device_of(wish.device)
        if supervisor is None:
            return False
        try:
            new = self.agenda.note_wish(supervisor, wish)
        except UsageError:
            return False
        if new:
            self.book_keeping.changed()
            self.wake(supervisor)
        return True

    def wake(self, supervisor: Supervisor) -> None:
        """A device and its equals may have something to do."""
        for one in self._equals(supervisor):
            if one.state is State.IDLE:
                one.step()

    def _equals(self, supervisor: Supervisor) -> list[Supervisor]:
        """The devices under care that are equal, itself among them."""
        digest = supervisor.device.digest
        return [one for one in self.supervisors.values() if one.device.digest == digest]

    def _wished_elsewhere(self, supervisor: Supervisor, entry: Entry) -> None:
        """Take a wish that another node passed on."""
        body = msgspec.json.decode(entry.body, type=Request)
        wish = requests.Wish(
            entry.workload, body.dimensions, entry.problem, entry.objective, body.max_error, None, "default"
        )
        with suppress(UsageError):
            if self.agenda.note_wish(supervisor, wish):
                self.book_keeping.changed()
                self.wake(supervisor)

    def device_of(self, name: str | None) -> Supervisor | None:
        """The device that a request is about: by name or digest; without either, the default one."""
        if name is None:
            return next(iter(self.supervisors.values()), None)
        found = (one for one in self.supervisors.values() if name in (one.name, one.device.digest))
        return self.supervisors.get("cuda:0" if name == "cuda" else name) or next(found, None)

    def _history_lost(self) -> None:
        """The history is damaged: what runs could record nothing more."""
        self.intake.close()
        for supervisor in self.supervisors.values():
            supervisor.make_room("history")

    def history_renewed(self) -> None:
        """Read again what is decided: the history was opened anew, or published without a study."""
        history = self.archive.history
        if history is None:
            return
        self.metrics.disk_full(False)
        history.record_devices(self._devices)
        for supervisor in self.supervisors.values():
            self.agenda.renew(supervisor, history)
        self._step_all()

    def _callback_failed(self, error: Exception) -> None:
        if isinstance(error, StateError):
            self.archive.unwritten(error)
            return
        message = f"{type(error).__name__}: {error}"
        self.last_error = message
        self.metrics.error(message)
        logger.error(message, exc_info=error)

    def _health(self) -> Health:
        """How the daemon is; called from another thread, so the loop itself is asked."""
        turned = threading.Event()
        self.loop.post(turned.set)
        live = turned.wait(LIVE_SECONDS)
        if not live:
            return Health(False, False, "the main loop does not turn")
        if self._stopping or self.archive.history is None:
            return Health(True, False, "ending" if self._stopping else "the history cannot be opened")
        return Health(True, True, self.status_line())

    def _feed_watchdog(self) -> None:
        seconds = self.notifier.watchdog_seconds
        if seconds is not None:
            self.notifier.watchdog()
            self.loop.later(seconds, self._feed_watchdog)

    def _stop_if_free(self) -> None:
        if all(supervisor.free for supervisor in self.supervisors.values()):
            self.loop.stop()

    def _end(self) -> None:
        self.fleet.close()
        self.care.close()
        self.intake.close()
        self.site.close()
        self.requests.close()
        self.control.close()
        self.calendar.close()
        self.book_keeping.close()
        self.archive.close()
        self.metrics.stop()
        self.loop.close()
        logger.info("ended")


def serve(log_format: str = "") -> None:
    """Run the daemon until it is told to end.

    Args:
        log_format: `journal`, `text` or `json`; by default what suits where standard error leads.

    Raises:
        ConfigError: the settings are wrong.
        HistoryLockedError: another process is the writer of the history.
        StateError: the state folder or a socket cannot be used.
    """
    from autotune.config import load_settings

    settings = load_settings()
    logs.configure(log_format, settings.daemon.log_level)
    Service(settings, load_settings).run()
