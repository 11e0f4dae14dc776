"""The worker process as the study sees it: start it, exchange frames with it, and see it end for certain."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil

from autotune import paths
from autotune.errors import ConfigError, InternalError, TrialError
from autotune.measure.memory import resident_bytes, says_out_of_memory
from autotune.store.records import Verdict
from autotune.worker.environment import environment, inside
from autotune.worker.framing import FrameBuffer, write_frame
from autotune.worker.messages import MARKER

if TYPE_CHECKING:
    from collections.abc import Sequence

WATCH_SECONDS = 0.05
"""How often the memory is looked at while waiting: touching memory takes 0.3 s per GiB or more."""
FAMILY_SECONDS = 1.0
"""How often new children are looked for, which means reading all of /proc."""
END_SECONDS = 3.0
LOG_KEPT = 8192
"""Bytes of the worker's output that are kept, for the reason of a crash."""
LONGEST_LINE = 200

# The interpreter's own autotune comes first, if it has one. Else this one is made importable, and nothing of
# what lies beside it: those packages are of another environment.
IMPORTABLE = """
import importlib.machinery, importlib.util, sys
if importlib.util.find_spec("autotune") is None:
    spec = importlib.machinery.PathFinder.find_spec("autotune", [sys.argv[1]])
    package = sys.modules["autotune"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
"""
BOOTSTRAP = f"""{IMPORTABLE}
from autotune.worker.warden import main
main(sys.argv[2:])
"""


class Process:
    """A running worker with its warden, in a session of their own: no terminal's signal reaches them.

    Args:
        python: the interpreter.
        device: `cpu`, or e.g. `cuda:1`, the host's number of it.
        modules: imported first; they register workloads.
        memory_bytes: what trials may hold beyond the idle worker.

    Raises:
        ConfigError: the interpreter cannot be run.
    """

    def __init__(self, python: str, device: str, modules: Sequence[str], memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._killed = False
        self._marked = 0
        self._frames = FrameBuffer()
        self._log = bytearray()
        self._family: list[int] = []
        self._family_known_at = -FAMILY_SECONDS
        self._idle_bytes = 0
        self._oom_kills = oom_kills()
        self._marker = os.memfd_create("autotune-marker")
        os.truncate(self._marker, MARKER.size)
        theirs_requests, self._requests = os.pipe()
        self._replies, theirs_replies = os.pipe()
        self._output, theirs_output = os.pipe()
        descriptors = (theirs_requests, theirs_replies, self._marker)
        command = [python, "-P", "-c", BOOTSTRAP, os.path.dirname(paths.PACKAGE_DIR)]
        command += [*map(str, descriptors), inside(device), str(memory_bytes), *modules]
        try:
            self._warden = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=theirs_output,
                stderr=theirs_output,
                pass_fds=descriptors,
                start_new_session=True,
                env=environment(device),
            )
        except OSError as error:
            for descriptor in (self._requests, self._replies, self._output, self._marker):
                os.close(descriptor)
            message = f"worker: cannot run {python!r}: {error.strerror}; expected a Python interpreter"
            raise ConfigError(message) from None
        finally:
            for descriptor in (theirs_requests, theirs_replies, theirs_output):
                os.close(descriptor)
        self._end = os.pidfd_open(self._warden.pid)
        self._poll = select.poll()
        for descriptor in (self._replies, self._output, self._end):
            self._poll.register(descriptor, select.POLLIN)

    @property
    def warden_pid(self) -> int:
        """Leader of the worker's session."""
        return self._warden.pid

    @property
    def alive(self) -> bool:
        """Whether the worker may still answer."""
        return not self._killed and self._warden.poll() is None

    @property
    def marked(self) -> int:
        """What the worker last wrote to the marker: the index of the contender that ran."""
        if self._end >= 0:
            self._marked = MARKER.unpack(os.pread(self._marker, MARKER.size, 0))[0]
        return self._marked

    def started(self, idle_bytes: int) -> None:
        """Note what the worker holds before the first trial."""
        self._idle_bytes = idle_bytes

    def exchange(self, payload: bytes, stage: str, seconds: float) -> bytes:
        """Send a request and wait for its reply.

        Raises:
            TrialError: as `receive`.
        """
        with suppress(BrokenPipeError):  # it died since: waiting for the reply finds out of what
            write_frame(self._requests, payload)
        return self.receive(stage, seconds)

    def receive(self, stage: str, seconds: float) -> bytes:
        """Wait for the next frame.

        Args:
            stage: what the worker is busy with, for the reason.
            seconds: after which it counts as hung.

        Raises:
            TrialError: `hung`, `out_of_memory`, `crashed`, or `preempted` after `kill`; it is dead by then.
        """
        deadline = time.monotonic() + seconds
        watch_at = time.monotonic() + WATCH_SECONDS
        while (frame := self._take(stage)) is None:
            ready = {descriptor for descriptor, _ in self._poll.poll(WATCH_SECONDS * 1e3)}
            if self._output in ready:
                self._read_output()
            if self._replies in ready and self._read_reply():
                continue
            if self._end in ready:
                raise self._death(stage)
            if time.monotonic() >= watch_at:
                self._watch_memory(stage)
                watch_at = time.monotonic() + WATCH_SECONDS
            if time.monotonic() >= deadline:
                self.end()
                raise TrialError(Verdict.HUNG, f"{stage}: no end within {seconds:g} s{self._last_words()}")
        return frame

    def kill(self) -> None:
        """Kill everything at once; may be called from any thread or signal handler."""
        self._killed = True
        with suppress(OSError):
            signal.pidfd_send_signal(self._end, signal.SIGTERM)
            waiting = select.poll()
            waiting.register(self._end, select.POLLIN)
            if not waiting.poll(END_SECONDS * 1e3):
                self._kill_sessions()

    def end(self) -> None:
        """Kill everything and let go of it; the process cannot be used any more."""
        if self._end < 0:
            return
        self.kill()
        with suppress(subprocess.TimeoutExpired):
            # Only a process inside an uninterruptible system call outlasts this.
            self._warden.wait(END_SECONDS)
        self._read_output()
        self._marked = self.marked
        for descriptor in (self._requests, self._replies, self._output, self._end, self._marker):
            os.close(descriptor)
        self._end = -1

    def _kill_sessions(self) -> None:
        """The warden does not act (it may be stopped): kill it and all that is known to be below it."""
        with suppress(psutil.Error):
            for process in psutil.Process(self._warden.pid).children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
        signal.pidfd_send_signal(self._end, signal.SIGKILL)

    def _read_output(self) -> None:
        os.set_blocking(self._output, False)
        with suppress(BlockingIOError):
            self._log += self._read(self._output)
            del self._log[:-LOG_KEPT]

    def _take(self, stage: str) -> bytes | None:
        try:
            return self._frames.take()
        except InternalError as error:
            self.end()
            raise TrialError(Verdict.CRASHED, f"{stage}: wrote to the worker's own pipe: {error}") from None

    def _read_reply(self) -> bool:
        data = self._read(self._replies)
        self._frames.feed(data)
        return bool(data)

    def _read(self, descriptor: int) -> bytes:
        """What has arrived; a pipe at its end is not polled any more, since it would always be ready."""
        data = os.read(descriptor, 1 << 16)
        if not data:
            with suppress(KeyError):
                self._poll.unregister(descriptor)
        return data

    def _watch_memory(self, stage: str) -> None:
        now = time.monotonic()
        if now - self._family_known_at >= FAMILY_SECONDS:
            self._family_known_at = now
            with suppress(psutil.Error):
                self._family = [p.pid for p in psutil.Process(self._warden.pid).children(recursive=True)]
        held = sum(map(resident_bytes, self._family)) - self._idle_bytes
        if held > self._memory_bytes:
            self.end()
            allowed = f"{held / 2**30:.2f} GiB held, {self._memory_bytes / 2**30:.2f} GiB allowed"
            raise TrialError(Verdict.OUT_OF_MEMORY, f"{stage}: {allowed}")

    def _death(self, stage: str) -> TrialError:
        """Why the worker is dead."""
        killed = self._killed
        self.end()
        if killed:
            return TrialError(Verdict.PREEMPTED, f"{stage}: killed on request")
        code = self._warden.returncode
        number = -code if code < 0 else code - 128
        last_words = self._last_words()
        if number == signal.SIGKILL and oom_kills() > self._oom_kills:
            return TrialError(Verdict.OUT_OF_MEMORY, f"{stage}: killed by the kernel for lack of memory")
        try:
            how = f"killed by {signal.Signals(number).name}"
        except ValueError:
            how = f"exited with status {code}"
        verdict = Verdict.OUT_OF_MEMORY if says_out_of_memory(last_words) else Verdict.CRASHED
        return TrialError(verdict, f"{stage}: {how}{last_words}")

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._log.decode(errors="replace").splitlines() if line.strip()]
        return f"; last output: {lines[-1][:LONGEST_LINE]}" if lines else ""


def oom_kills() -> int:
    """Processes that the kernel has killed for lack of memory since it started."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
