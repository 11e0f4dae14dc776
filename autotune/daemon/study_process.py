"""A study process as the daemon sees it: starting it, hearing it, and killing it so that nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from autotune.daemon import messages
from autotune.daemon.process_tree import children_of
from autotune.errors import InternalError
from autotune.worker.environment import environment
from autotune.worker.framing import FrameBuffer, write_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.daemon.loop import Loop

MOST_READ = 1 << 18
"""Bytes taken from it before other things get their turn."""
PATIENCE_SECONDS = 0.5
"""How long a warden that was told to end its worker may take; it is killed then, and the kernel kills the
worker."""

started: set[int] = set()
"""Children of this process that were started on purpose: any other was left behind by one that died."""


class StudyProcess:
    """One study process, from its start until nothing of it is left.

    Args:
        begin: what it is for.
        loop: which watches it.
        heard: called with each of its messages.
        gone: called once, when it and every process it left behind has ended, whoever ended it.

    Attributes:
        pid: of the process.
        killed: whether `kill` was called.
    """

    def __init__(
        self,
        begin: messages.Begin,
        loop: Loop,
        heard: Callable[[messages.FromStudy], None],
        gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._heard = heard
        self._gone = gone
        self._frames = FrameBuffer()
        self._left: dict[int, int] = {}
        self._told_gone = False
        self.killed = False
        self._socket, theirs = socket.socketpair()
        command = [
            sys.executable,
            "-P",
            "-m",
            "autotune.daemon.study",
            str(theirs.fileno()),
            str(os.getpid()),
        ]
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    env=environment(),
                )
            except OSError:
                self._socket.close()
                raise
        self.pid = self._process.pid
        started.add(self.pid)
        self._end = os.pidfd_open(self.pid)
        self._socket.setblocking(False)
        loop.watch(self._socket.fileno(), self._read)
        loop.watch(self._end, self._ended)
        self.say(begin)

    @property
    def exit_status(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.returncode

    def say(self, message: messages.ToStudy) -> None:
        """Send it a message; one that does not listen is killed."""
        try:
            write_frame(self._socket.fileno(), messages.encode(message))
        except OSError:  # it is dead, or so full that it has not read for long
            self.kill()

    def kill(self) -> None:
        """Kill it and its worker at once.

        The worker is killed directly: on a busy node, each process that had to wake up in order to kill the
        next would cost its turn in the queue for a core. Its warden is told to see to the rest.
        """
        self.killed = True
        if self._process.returncode is not None:
            return
        wardens = children_of(self.pid)
        for worker in (worker for warden in wardens for worker in children_of(warden)):
            with suppress(OSError):
                os.kill(worker, signal.SIGKILL)
        for warden in wardens:
            self._terminate(warden)
        with suppress(OSError):
            signal.pidfd_send_signal(self._end, signal.SIGKILL)

    def drain(self) -> None:
        """Take what it had sent before it died: a record that arrived whole is kept."""
        while self._socket.fileno() >= 0 and self._read():
            pass

    def _read(self) -> bool:
        try:
            data = self._socket.recv(MOST_READ)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return False
        self._frames.feed(data)
        try:
            while (frame := self._frames.take()) is not None:
                self._heard(messages.decode_from_study(frame))
        except (InternalError, msgspec.DecodeError):
            # A kernel under test wrote where it should not have: nothing it says can be trusted any more.
            self._hang_up()
            self.kill()
            return False
        return True

    def _hang_up(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.forget(self._socket.fileno())
            self._socket.close()

    def _ended(self) -> None:
        """It is dead; what it left behind is a child of ours now, since the daemon is a subreaper."""
        self._loop.forget(self._end)
        self.drain()
        self._hang_up()
        self._process.wait()
        started.discard(self.pid)
        os.close(self._end)
        self._end = -1
        self._check_gone()

    def _terminate(self, warden: int) -> None:
        """Tell a warden to end its worker, and wait for its own end."""
        if warden in self._left:
            return
        with suppress(OSError):
            descriptor = os.pidfd_open(warden)
            self._left[warden] = descriptor
            self._loop.watch(descriptor, lambda: self._left_ended(warden))
            self._loop.later(PATIENCE_SECONDS, lambda: self._kill_left(warden))
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)

    def _kill_left(self, pid: int) -> None:
        if pid in self._left:
            with suppress(OSError):
                signal.pidfd_send_signal(self._left[pid], signal.SIGKILL)

    def _left_ended(self, pid: int) -> None:
        descriptor = self._left.pop(pid)
        self._loop.forget(descriptor)
        os.close(descriptor)
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        self._check_gone()

    def _check_gone(self) -> None:
        if self._end >= 0 or self._left or self._told_gone:
            return
        for orphan in set(children_of(os.getpid())) - started:
            self._terminate(orphan)
        if not self._left:
            self._told_gone = True
            self._gone()
