"""When the book of requests is written down."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from autotune.daemon.archive import RETRY_SECONDS
from autotune.errors import StateDirError

if TYPE_CHECKING:
    from autotune.daemon.archive import Archive
    from autotune.daemon.loop import Loop, Timer
    from autotune.daemon.metrics import Metrics
    from autotune.daemon.request_book import RequestBook

logger = logging.getLogger("autotune.daemon")

SAVE_SECONDS = 5.0
"""How long requests may be in memory alone: a crash loses wishes, which are asked again."""


class BookKeeping:
    """Writes the requests down some time after they changed, and again later where that failed.

    Args:
        book: the requests.
        loop: calls back.
        metrics: told how many wait, and of a full disk.
        archive: told of a full disk too.
    """

    def __init__(self, book: RequestBook, loop: Loop, metrics: Metrics, archive: Archive) -> None:
        self._book = book
        self._loop = loop
        self._metrics = metrics
        self._archive = archive
        self._saving: Timer | None = None
        metrics.requests_waiting(len(book))

    def changed(self) -> None:
        """See to it that the requests are written down before long."""
        self._metrics.requests_waiting(len(self._book))
        if self._book.changed and (self._saving is None or not self._saving.waiting):
            self._saving = self._loop.later(SAVE_SECONDS, self._save)

    def save(self) -> None:
        """Write the requests down now.

        Raises:
            StateDirError: they cannot be; it is tried again later.
        """
        self._metrics.requests_waiting(len(self._book))
        if self._saving is not None:
            self._saving.cancel()
        try:
            self._book.save()
            self._metrics.disk_full(False)
        except StateDirError as error:
            self._archive.note_unwritten(error)
            self._saving = self._loop.later(RETRY_SECONDS, self._save)
            raise

    def close(self) -> None:
        """Write the requests down for the last time."""
        try:
            self._book.save()
        except StateDirError as error:
            logger.error(str(error))

    def _save(self) -> None:
        with suppress(StateDirError):  # noted there
            self.save()
