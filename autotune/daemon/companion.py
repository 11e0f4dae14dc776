"""A process beside the daemon, for what must not hold up the main process: started anew whenever it ends.

The daemon neither hears it nor waits for it. It dies with the daemon, however that ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from autotune.daemon.study_process import started
from autotune.worker.environment import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.config import WebSettings
    from autotune.daemon.loop import Loop, Timer

FIRST_WAIT_SECONDS = 1.0
"""Before it is started anew; doubled each time until it has run for `SOUND_SECONDS`."""
LONGEST_WAIT_SECONDS = 600.0
SOUND_SECONDS = 60.0
PATIENCE_SECONDS = 2.0
"""How long one that was told to end may take; it is killed then."""
_PR_SET_PDEATHSIG = 1


def die_with(daemon: int) -> bool:
    """Have the kernel kill this process when its parent ends; False if that has ended already.

    Args:
        daemon: process id of the parent.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == daemon


class Companion:
    """A process that runs while it is wanted.

    Args:
        name: what it is, for messages.
        loop: of the daemon.
        failed: called with one line when it ended unasked.
    """

    def __init__(self, name: str, loop: Loop, failed: Callable[[str], None]) -> None:
        self._name = name
        self._loop = loop
        self._failed = failed
        self._wanted: tuple[str, ...] = ()
        self._running: tuple[str, ...] = ()
        self._process: subprocess.Popen[bytes] | None = None
        self._end = -1
        self._began = 0.0
        self._wait = FIRST_WAIT_SECONDS
        self._again: Timer | None = None

    @property
    def pid(self) -> int | None:
        """Its process; None while there is none."""
        return self._process.pid if self._process else None

    def want(self, module: str, *arguments: str) -> None:
        """Have `python -m module DAEMON arguments...` run, in place of what runs."""
        self._change((module, *arguments))

    def close(self) -> None:
        """Have it run no more."""
        self._change(())

    def _change(self, wanted: tuple[str, ...]) -> None:
        if wanted == self._wanted:
            return
        self._wanted, self._wait = wanted, FIRST_WAIT_SECONDS
        if self._again is not None:
            self._again.cancel()
        if self._process is None:
            self._start()
        else:
            process = self._process
            process.terminate()
            # Of a process that has ended by then, `kill` knows that it has.
            self._loop.later(PATIENCE_SECONDS, process.kill)

    def _start(self) -> None:
        if not self._wanted:
            return
        module, *arguments = self._wanted
        command = [sys.executable, "-P", "-m", module, str(os.getpid()), *arguments]
        self._running, self._began = self._wanted, time.monotonic()
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sys.stderr, env=environment()
            )
        except OSError as error:
            self._start_later(f"cannot be started: {error.strerror}")
            return
        started.add(self._process.pid)
        self._end = os.pidfd_open(self._process.pid)
        self._loop.watch(self._end, self._ended)

    def _ended(self) -> None:
        assert self._process is not None, "it is watched while it runs"
        self._loop.forget(self._end)
        os.close(self._end)
        started.discard(self._process.pid)
        status, self._process = self._process.wait(), None
        if self._running == self._wanted:
            self._start_later(f"ended with status {status}")
        else:
            self._start()

    def _start_later(self, why: str) -> None:
        if time.monotonic() - self._began > SOUND_SECONDS:
            self._wait = FIRST_WAIT_SECONDS
        self._failed(f"{self._name} {why}; it is started again in {self._wait:.0f} s")
        self._again = self._loop.later(self._wait, self._start)
        self._wait = min(2 * self._wait, LONGEST_WAIT_SECONDS)


class Site(Companion):
    """The site over the history.

    Args:
        loop: of the daemon.
        failed: called with one line when it ended unasked.
    """

    def __init__(self, loop: Loop, failed: Callable[[str], None]) -> None:
        super().__init__("the site", loop, failed)

    def serve(self, settings: WebSettings) -> None:
        """Serve where the settings say so, or nowhere."""
        if settings.address:
            self.want("autotune.web.beside", settings.address)
        else:
            self.close()
