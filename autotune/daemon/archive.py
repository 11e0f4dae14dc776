"""The history as the daemon holds it: opened anew once it was damaged, published once that can be done."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from autotune import paths
from autotune.errors import DatabaseError, StateError
from autotune.store.opening import open_history
from autotune.store.schema import latest_version
from autotune.store.snapshot import is_stale

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.daemon.loop import Loop, Timer
    from autotune.daemon.metrics import Metrics
    from autotune.store.history import History

logger = logging.getLogger("autotune.daemon")

RETRY_SECONDS = 60.0
"""How soon a write that failed, or a history that could not be opened, is tried again."""
LEAST_FREE_BYTES = 1 << 20
"""A disk with less counts as full."""


class Archive:
    """Holds the history.

    Args:
        loop: in which failures are made good.
        metrics: told whether the disk is full.
        failed: told of what went wrong, one line.
        lost: called when the history is damaged, and closed.
        renewed: called when it was opened anew, or published without a study.

    Attributes:
        history: None while it cannot be opened.

    Raises:
        HistoryLockedError: another process is the writer of the history.
        StateError: the state folder cannot be used.
    """

    def __init__(
        self,
        loop: Loop,
        metrics: Metrics,
        failed: Callable[[str], None],
        lost: Callable[[], None],
        renewed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._metrics = metrics
        self._failed = failed
        self._lost = lost
        self._renewed = renewed
        self._behind: Timer | None = None
        self._opened_at = -math.inf
        _migrate_apart()
        self.history: History | None = _opened()

    def close(self) -> None:
        """Let go of the history."""
        if self.history is not None:
            self.history.close()
            self.history = None

    def require(self) -> History:
        """The history.

        Raises:
            StateError: it cannot be opened just now.
        """
        if self.history is None:
            raise StateError("the history cannot be opened just now; see 'autotune status' for the error")
        return self.history

    def unwritten(self, error: StateError) -> None:
        """A record could not be kept; a damaged history is opened anew, which restores it from its backup."""
        self.note_unwritten(error)
        if isinstance(error, DatabaseError) and self.history is not None:
            self.close()
            self._lost()
            # Not over and over, should it be damaged again as soon as it is open.
            since = time.monotonic() - self._opened_at
            self._loop.later(0.0 if since > RETRY_SECONDS else RETRY_SECONDS, self._reopen)
        elif self._behind is None or not self._behind.waiting:
            self._behind = self._loop.later(RETRY_SECONDS, self.catch_up)

    def note_unwritten(self, error: StateError) -> None:
        """A file of the state folder could not be written."""
        self._metrics.disk_full(_is_full(paths.state_dir()))
        self._failed(str(error))

    def catch_up(self) -> None:
        """Publish winners that look-ups do not know: their study ended, or failed, between the two."""
        history = self.history
        if history is None:
            return
        try:
            if not is_stale(history):
                return
            history.publish("decided earlier, and could not be published then")
        except StateError as error:
            self.unwritten(error)
            return
        # Whoever ends a study here is not done with it yet.
        self._loop.post(self._renewed)

    def _reopen(self) -> None:
        self._opened_at = time.monotonic()
        try:
            self.history = _opened()
        except StateError as error:
            self._failed(str(error))
            self._loop.later(RETRY_SECONDS, self._reopen)
            return
        self._renewed()


def _opened() -> History:
    history = open_history()
    for notice in history.notices:
        logger.warning(notice)
    return history


def _migrate_apart() -> None:
    """Make the history, or bring it to the newest schema, in a process of its own.

    What applies the steps imports more than all the rest of the daemon, and is needed once in the life of a
    history. Should it fail, opening the history says why.
    """
    try:
        with open(os.path.join(paths.state_dir(), "history.db"), "rb") as file:
            version = int.from_bytes(file.read(64)[60:64], "big")  # sqlite.org/fileformat.html: user version
    except OSError:
        version = 0
    if version < latest_version():
        script = "from autotune.store import open_history; open_history().close()"
        subprocess.run([sys.executable, "-P", "-c", script], stderr=subprocess.DEVNULL, check=False)


def _is_full(folder: str) -> bool:
    try:
        space = os.statvfs(folder)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < LEAST_FREE_BYTES
