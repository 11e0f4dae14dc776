"""A server's process: started in a session of its own, waited for, watched, and ended for certain."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil

from autotune import paths
from autotune.errors import TrialError
from autotune.measure.memory import resident_bytes, says_out_of_memory
from autotune.store.records import Verdict
from autotune.worker.process import IMPORTABLE, oom_kills

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

LOOK_SECONDS = 0.05
"""Between two looks at whether the server is ready: it adds that much at most to a start."""
ANSWER_SECONDS = 5.0
"""What the readiness URL may take to answer."""
KILL_SECONDS = 5.0
LOG_KEPT = 16384
LONGEST_LINE = 200

_KEEPER = f"{IMPORTABLE}\nfrom autotune.server.keeper import main\nmain(sys.argv[2:])\n"


class ServerProcess:
    """A server that runs, with its keeper.

    Args:
        command: program and arguments.
        environment: all of its environment.
        stop_seconds: between SIGTERM and SIGKILL.
        accelerator_bytes: tells what processes of these numbers hold on accelerators.

    Attributes:
        peak_bytes: most resident memory that its processes were seen to hold together.
        peak_device_bytes: the same of accelerators; None while nothing was told.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        stop_seconds: float,
        accelerator_bytes: Callable[[frozenset[int]], int | None] = lambda _: None,
    ) -> None:
        self.peak_bytes = 0
        self.peak_device_bytes: int | None = None
        self._accelerator_bytes = accelerator_bytes
        self._stop_seconds = stop_seconds
        self._log = tempfile.TemporaryFile(prefix="autotune-server-")  # noqa: SIM115 - closed by `stop`
        self._oom_kills = oom_kills()
        theirs, self._control = os.pipe()
        self._ended = ""
        try:
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-c", _KEEPER, os.path.dirname(paths.PACKAGE_DIR)),
                    *(str(theirs), str(stop_seconds), *command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs,),
                start_new_session=True,
                env=dict(environment),
            )
        except BaseException:
            os.close(self._control)
            self._log.close()
            raise
        finally:
            os.close(theirs)

    @property
    def alive(self) -> bool:
        """Whether the server runs."""
        return self._control >= 0 and self._keeper.poll() is None

    def wait_until_ready(self, url: str, seconds: float, preempted: Callable[[], bool]) -> None:
        """Wait until a URL answers with success.

        Args:
            url: that answers 2xx once the server can serve.
            seconds: after which it counts as hung.
            preempted: asked while waiting; true gives it up.

        Raises:
            TrialError: `crashed` or `out_of_memory`: it ended; `hung`; `preempted`. It is dead by then.
        """
        deadline = time.monotonic() + seconds
        while not _answers(url):
            if not self.alive:
                raise self.death("start")
            if preempted():
                self.kill()
                raise TrialError(Verdict.PREEMPTED, "start: no time was left")
            if time.monotonic() >= deadline:
                words = self._last_words()
                self.kill()
                raise TrialError(
                    Verdict.HUNG, f"start: {url} did not answer with success within {seconds:g} s{words}"
                )
            time.sleep(LOOK_SECONDS)
            self.look()
        self.look()

    def look(self) -> bool:
        """Note what memory it holds; returns whether it runs."""
        pids = self._pids()
        self.peak_bytes = max(self.peak_bytes, sum(map(resident_bytes, pids)))
        held = self._accelerator_bytes(frozenset(pids))
        if held is not None:
            self.peak_device_bytes = max(self.peak_device_bytes or 0, held)
        return self.alive

    def stop(self) -> str:
        """End it with SIGTERM, and kill what is left after some seconds; returns how it ended, in words."""
        if self._control >= 0:
            began = time.monotonic()
            was_alive = self.alive
            os.close(self._control)
            self._control = -1
            self._reap(self._stop_seconds + KILL_SECONDS)
            took = time.monotonic() - began
            self._ended = self._how()
            if was_alive and self._keeper.returncode == 128 + signal.SIGKILL:
                self._ended = f"did not end within {self._stop_seconds:g} s of SIGTERM, and was killed"
            elif was_alive:
                self._ended = f"{self._ended} {took:.1f} s after SIGTERM"
            self._log.close()
        return self._ended

    def kill(self) -> None:
        """Kill everything now."""
        if self._control >= 0:
            with suppress(OSError):
                os.write(self._control, b"k")
            self.stop()

    def death(self, stage: str) -> TrialError:
        """Why it is dead; lets go of it.

        Args:
            stage: what it was busy with.
        """
        words = self._last_words()
        self.stop()
        killed = self._keeper.returncode == 128 + signal.SIGKILL and oom_kills() > self._oom_kills
        verdict = Verdict.OUT_OF_MEMORY if killed or says_out_of_memory(words) else Verdict.CRASHED
        return TrialError(verdict, f"{stage}: the server {self._how()}{words}")

    def _pids(self) -> list[int]:
        with suppress(psutil.Error):
            return [process.pid for process in psutil.Process(self._keeper.pid).children(recursive=True)]
        return []

    def _reap(self, seconds: float) -> None:
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            # The keeper was stopped, or waits for a process in an uninterruptible system call.
            for pid in (*self._pids(), self._keeper.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._keeper.wait(KILL_SECONDS)

    def _how(self) -> str:
        code = self._keeper.returncode
        if code is None:
            return "does not end, not even when killed"
        number = -code if code < 0 else code - 128
        try:
            return f"was ended by {signal.Signals(number).name}"
        except ValueError:
            return f"exited with status {code}"

    def _last_words(self) -> str:
        """The last line of its output that says something."""
        if self._log.closed:
            return ""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(size - LOG_KEPT, 0))
        lines = [line.strip() for line in self._log.read().decode(errors="replace").splitlines()]
        told = [line for line in lines if line]
        return f"; last output: {told[-1][:LONGEST_LINE]}" if told else ""


def free_port(host: str) -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def port_is_free(host: str, port: int) -> bool:
    """Whether something could listen on a port; connections that are being forgotten do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _answers(url: str) -> bool:
    """Whether a URL answers with success."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", parts.path or "/")
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
