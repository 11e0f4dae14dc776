"""Imports, as the daemon has them done: by a process that holds the history's lock with it.

A bundle may hold a million trials. Reading and checking it in the main process would keep leases waiting, and
whatever is wrong with it would be wrong there. So a process of its own reads, checks and writes, in one
transaction: a kill, of it or of the daemon, leaves all of an import or nothing. It inherits the lock's
descriptor, so that no other writer comes before both have ended.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from autotune.daemon import control, study_process
from autotune.errors import DatabaseError, StateDirError, StateError, UsageError
from autotune.worker.environment import environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.daemon.archive import Archive
    from autotune.daemon.control_server import Connection
    from autotune.daemon.loop import Loop, Timer

logger = logging.getLogger("autotune.daemon")

LARGEST_FILE = 64 << 20
"""Bytes of what comes along; no bundle has more."""
LONGEST_SECONDS = 900.0
"""After which an import is given up; a million trials take a minute."""
DAMAGED, UNWRITTEN = 3, 4
"""Exit status of the process where the history is damaged, or cannot be written."""


class _Running(NamedTuple):
    """An import under way: its process, which is watched by `end` and ended by `limit`, and who asked."""

    process: subprocess.Popen[bytes]
    end: int
    limit: Timer
    question: control.Intake
    connection: Connection


class Intake:
    """Has imports done, one at a time.

    Args:
        loop: which watches the process.
        archive: whose history is written.
        renewed: called when something was imported or taken back.
    """

    def __init__(self, loop: Loop, archive: Archive, renewed: Callable[[], None]) -> None:
        self._loop = loop
        self._archive = archive
        self._renewed = renewed
        self._running: _Running | None = None

    def begin(self, question: control.Intake, connection: Connection) -> None:
        """Do what is asked, and answer once it is done.

        Raises:
            AutotuneError: it cannot be begun.
        """
        if self._running is not None:
            raise UsageError("another import is under way; ask again when it is done")
        lock = self._archive.require().lock_descriptor
        file = subprocess.DEVNULL
        if not isinstance(question, control.ForgetBundle):
            file = connection.take_file(LARGEST_FILE)
        command = [sys.executable, "-P", "-m", "autotune.daemon.intake_process", str(os.getpid())]
        try:
            process = subprocess.Popen(
                [*command, msgspec.json.encode(question).decode()],
                stdin=file,
                stdout=subprocess.PIPE,
                env=environment(),
                pass_fds=(lock,),
                start_new_session=True,
            )
        except OSError as error:
            raise StateError(f"the import cannot be started: {error.strerror}") from None
        finally:
            if file >= 0:
                os.close(file)
        study_process.started.add(process.pid)
        end = os.pidfd_open(process.pid)
        limit = self._loop.later(LONGEST_SECONDS, process.kill)
        self._running = _Running(process, end, limit, question, connection)
        self._loop.watch(end, self._ended)

    def close(self) -> None:
        """End what runs: the history is to be closed, and its lock let go. Who asked is told."""
        if self._running is not None:
            self._running.process.kill()
            self._conclude(self._running)

    def _ended(self) -> None:
        """The process has ended: tell, and take up what is new."""
        if self._running is not None:
            running = self._running
            answer = self._conclude(running)
            match running.process.returncode:
                case _ if not answer.refusal:
                    self._renewed()
                case status if status == DAMAGED:
                    self._archive.unwritten(DatabaseError(answer.refusal))
                case status if status == UNWRITTEN:
                    self._archive.unwritten(StateDirError(answer.refusal))

    def _conclude(self, running: _Running) -> control.Answer:
        """Answer who asked, once the process has ended; returns the answer."""
        self._running = None
        self._loop.forget(running.end)
        os.close(running.end)
        running.limit.cancel()
        answer = _answer(running.process)
        study_process.started.discard(running.process.pid)
        running.connection.send(answer)
        told = {"what": type(running.question).__name__, "user": running.connection.peer.user}
        if answer.refusal:
            logger.warning("not imported: %s", answer.refusal, extra=told)
        else:
            logger.info("imported", extra={**told, **answer.content})
        return answer


def _answer(process: subprocess.Popen[bytes]) -> control.Answer:
    """What the process says; what its end says, should it have been killed."""
    said = process.communicate()[0]
    try:
        return msgspec.json.decode(said, type=control.Answer)
    except msgspec.DecodeError:
        status = process.returncode
        how = f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        return control.Answer(
            refusal=f"the import was ended {how}: all of it was applied or nothing; 'autotune import list' "
            "says which"
        )
