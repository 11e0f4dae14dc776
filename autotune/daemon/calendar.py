"""What happens by the calendar: maintenance windows, and nightly care of the history.

APScheduler computes the moments and waits for them in a thread of its own; all it ever runs is the posting
of a callback to the loop. So a job of ours is never in the way of its shutdown, which waits for none anyway.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autotune.config import GateSettings, Window
    from autotune.daemon.loop import Callback, Loop

_CLOCK_REALTIME = 0
_TFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
_FAR = 2**62
"""Seconds since the epoch at which the timer that notices a clock set anew would go off."""


class Calendar:
    """Posts callbacks to the loop at moments of the calendar.

    Args:
        loop: which runs them.
        was_set: called after the clock was set.
    """

    def __init__(self, loop: Loop, was_set: Callback) -> None:
        self._loop = loop
        self._was_set = was_set
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            # Runs jobs in the scheduler's own thread: ours take microseconds.
            executors={"default": DebugExecutor()},
            job_defaults={"coalesce": True, "misfire_grace_time": None, "max_instances": 1},
        )
        self._clock = _ClockWatch(loop, self._clock_set)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()
        self._clock.start()

    def close(self) -> None:
        """End; nothing is posted any more."""
        self._clock.close()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def cron(self, name: str, expression: str, zone: str, callback: Callback) -> None:
        """Call back at the moments of a crontab expression; replaces what had the name."""
        trigger = _trigger(expression, zone)
        self._scheduler.add_job(self._loop.post, trigger, args=[callback], id=name, replace_existing=True)

    def drop(self, prefix: str) -> None:
        """Forget everything whose name starts so."""
        for job in self._scheduler.get_jobs():
            if job.id.startswith(prefix):
                job.remove()

    def _clock_set(self) -> None:
        """Wait for the right moments again.

        What the clock was set past is made up for. After it was set back, the scheduler alone would let all
        moments pass until the one that it had planned.
        """
        now = datetime.now(UTC)
        for job in self._scheduler.get_jobs():
            upcoming = job.trigger.get_next_fire_time(None, now)
            if upcoming is not None and job.next_run_time is not None and upcoming < job.next_run_time:
                job.modify(next_run_time=upcoming)
        self._scheduler.wakeup()
        self._was_set()


class Windows:
    """The maintenance windows of the settings.

    Args:
        windows: when they start, and for how many hours they are open; none means always.
        zone: the time zone of the expressions.
    """

    def __init__(self, windows: Sequence[Window] = (), zone: str = "UTC") -> None:
        self._zone = zone
        self._windows = [(window, _trigger(window.start, zone)) for window in windows]

    @classmethod
    def of(cls, settings: GateSettings) -> Windows:
        """Those of the settings."""
        return cls(settings.windows, settings.time_zone)

    @property
    def expressions(self) -> list[str]:
        """When each starts, as crontab expressions."""
        return [window.start for window, _ in self._windows]

    def open(self, now: datetime) -> tuple[bool, str]:
        """Whether one is open, and in words why (not)."""
        if not self._windows:
            return True, "no maintenance window is set: always"
        for window, trigger in self._windows:
            length = timedelta(hours=window.hours)
            started = trigger.get_next_fire_time(None, now - length)
            # A start exactly one length ago is over.
            if started is not None and now - length < started <= now:
                return True, f"within the window {window.start!r} for {window.hours:g} h ({self._zone})"
        starts = [trigger.get_next_fire_time(None, now) for _, trigger in self._windows]
        upcoming = min((start for start in starts if start is not None), default=None)
        told = f"the next opens {upcoming:%Y-%m-%d %H:%M} ({self._zone})" if upcoming else "none will open"
        return False, f"outside the maintenance windows; {told}"


def _trigger(expression: str, zone: str) -> Any:
    return CronTrigger.from_crontab(expression, timezone=ZoneInfo(zone))


class _ClockWatch:
    """Notices that the clock was set, so that the scheduler waits for the right moment again.

    Python 3.13 has `os.timerfd_create`; before, the C library is called.
    """

    def __init__(self, loop: Loop, callback: Callback) -> None:
        self._loop = loop
        self._callback = callback
        self._library = ctypes.CDLL(None, use_errno=True)
        self._timer = -1

    def start(self) -> None:
        """Begin to watch; without a timer of the kind, the clock is not watched."""
        self._timer = self._library.timerfd_create(_CLOCK_REALTIME, _TFD_FLAGS)
        if self._timer >= 0:
            self._arm()
            self._loop.watch(self._timer, self._changed)

    def close(self) -> None:
        """Watch no more."""
        if self._timer >= 0:
            self._loop.forget(self._timer)
            os.close(self._timer)
            self._timer = -1

    def _arm(self) -> None:
        # struct itimerspec: interval and first expiry, each in seconds and nanoseconds.
        moment = (ctypes.c_long * 4)(0, 0, _FAR, 0)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        self._library.timerfd_settime(self._timer, flags, ctypes.byref(moment), None)

    def _changed(self) -> None:
        with suppress(OSError):  # ECANCELED, that the clock was set
            os.read(self._timer, 8)
        self._arm()
        self._callback()
