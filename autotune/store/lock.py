"""The lock that makes one process at a time the writer of a history."""

from __future__ import annotations

import fcntl
import os
import shlex
import sys

from autotune.errors import HistoryLockedError, StateDirError

LONGEST_COMMAND = 80


class WriterLock:
    """An exclusive lock on a file; it ends with its process, however that ends.

    The file says who holds it. It is never deleted: another process could be waiting on the deleted one.

    Args:
        path: of the lock file.

    Raises:
        HistoryLockedError: another process holds it.
        StateDirError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StateDirError(
                f"{path}: cannot be opened: {error.strerror}; run as the owner of the state folder"
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._file, 4096, 0).decode(errors="replace").strip()
            os.close(self._file)
            raise HistoryLockedError(
                f"{os.path.dirname(path)}: the history is being written by {holder or 'another process'}; "
                "wait until it has ended, or stop it"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"pid {os.getpid()} ({_command()})\n".encode(errors="replace"), 0)

    @property
    def descriptor(self) -> int:
        """Of the file; the lock ends when the last process has closed it."""
        return self._file

    def release(self) -> None:
        """Let another process be the writer."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _command() -> str:
    program, *arguments = sys.argv or ["python"]
    command = " ".join([os.path.basename(program) or "python", *map(shlex.quote, arguments)])
    line = " ".join(command.split())
    return line if len(line) <= LONGEST_COMMAND else line[: LONGEST_COMMAND - 3] + "..."
