"""The nightly care of the history: checked and backed up by another process, shortened by this one."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from autotune.daemon import study_process
from autotune.daemon.upkeep import DAMAGED
from autotune.errors import DatabaseError
from autotune.store.retention import retire

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import Settings
    from autotune.daemon.loop import Loop
    from autotune.store.history import History

logger = logging.getLogger("autotune.daemon")

PAUSE_SECONDS = 1.0
"""Between two pieces of shortening: the disk is not only ours."""

MOST_SET_FORWARD_SECONDS = 3600.0
"""By how much the clock may have been set forward since the start for ages by it to be believed."""


class NightlyCare:
    """Looks after the history.

    Args:
        loop: which watches the other process.
        history: what is looked after; None while it cannot be opened.
        settings: how long to keep what.
        failed: told of what went wrong, one line.
        damaged: called where history or snapshot are damaged.
    """

    def __init__(
        self,
        loop: Loop,
        history: Callable[[], History | None],
        settings: Callable[[], Settings],
        failed: Callable[[str], None],
        damaged: Callable[[DatabaseError], None],
    ) -> None:
        self._loop = loop
        self._history = history
        self._settings = settings
        self._failed = failed
        self._damaged = damaged
        self._process: subprocess.Popen[str] | None = None
        self._clock_minus_uptime = _clock_minus_uptime()

    def begin(self) -> None:
        """Check and back up, then shorten; does nothing if the last one is not over."""
        if self._process is not None:
            return
        command = [sys.executable, "-P", "-m", "autotune.daemon.upkeep"]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
            )
        except OSError as error:
            self._failed(f"nightly care does not start: {error.strerror}")
            return
        self._process = process
        study_process.started.add(process.pid)
        end = os.pidfd_open(process.pid)
        self._loop.watch(end, lambda: self._ended(process, end))

    def close(self) -> None:
        """End what runs; a backup that is not finished is no backup."""
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)

    def _ended(self, process: subprocess.Popen[str], end: int) -> None:
        self._loop.forget(end)
        os.close(end)
        # It says a line or two, which a pipe holds.
        told = [line for line in process.communicate()[0].splitlines() if line.strip()]
        study_process.started.discard(process.pid)
        self._process = None
        if process.returncode == DAMAGED and told:
            self._damaged(DatabaseError(told[-1]))
        elif process.returncode:
            self._failed(told[-1] if told else f"nightly care ended with status {process.returncode}")
        else:
            for line in told:
                logger.info(line)
        self._shorten()

    def _shorten(self) -> None:
        """Forget what is too old, a piece at a time; nothing by a clock that jumped, for good."""
        forward = _clock_minus_uptime() - self._clock_minus_uptime
        if forward > MOST_SET_FORWARD_SECONDS:
            self._failed(
                f"the clock was set forward by {forward / 3600:.0f} h since the start, so nothing of the "
                "history is forgotten by it; restart the daemon if the clock is right now"
            )
            return
        history = self._history()
        if history is not None and retire(history, self._settings().retention):
            self._loop.later(PAUSE_SECONDS, self._shorten)


def _clock_minus_uptime() -> float:
    """Seconds since 1970 less seconds since the machine was started, which change when the clock is set."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
