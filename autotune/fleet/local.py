"""A history as the store of an exchange, where no daemon holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.store.fleet import forget_received, prepare, standpoint, take
from autotune.store.snapshot import is_stale

if TYPE_CHECKING:
    from autotune.daemon.fleet_messages import Cell
    from autotune.store.fleet import Cursor, Entry, Standpoint
    from autotune.store.history import History


class HistoryStore:
    """Keeps what is exchanged in a history; see `exchange.Store`.

    Args:
        history: to be written.
        cells: the devices and stacks of this node.
        serve: whether look-ups find what is not verified here.
    """

    def __init__(self, history: History, cells: list[Cell], *, serve: bool = True) -> None:
        self.history = history
        self.cells = cells
        self._serve = serve

    def prepare(self) -> tuple[Standpoint, list[Cell]]:
        """See `exchange.Store`."""
        return prepare(self.history, serve=self._serve), self.cells

    def take(self, entries: list[Entry], cursors: list[Cursor], sent: list[str], mark: str) -> Standpoint:
        """See `exchange.Store`."""
        take(self.history, entries, cursors, sent, mark)
        return standpoint(self.history)

    def forget(self) -> Standpoint:
        """See `exchange.Store`."""
        forget_received(self.history)
        return standpoint(self.history)

    def publish(self) -> None:
        """Have look-ups find what was taken."""
        if is_stale(self.history):
            self.history.publish("what the fleet proved")
