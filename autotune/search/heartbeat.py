"""Says of this node's trials in a shared study that the node lives."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

END_SECONDS = 1.0


class Heartbeat:
    """Beats for the trials that it watches, in a thread of its own.

    Optuna beats within `Study.optimize` alone, which runs one trial at a time, and its thread ends with a
    traceback when the storage is gone.

    Args:
        storage: one without heartbeats gets none.

    Attributes:
        interval: seconds between two beats; None where there are none.
    """

    def __init__(self, storage: BaseStorage) -> None:
        self._beat: Callable[[int], None] = getattr(storage, "record_heartbeat", lambda _: None)
        self.interval: float | None = getattr(storage, "get_heartbeat_interval", lambda: None)()
        self._watched: set[int] = set()
        self._seen: dict[int, float] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autotune-heartbeat", daemon=True)
        if self.interval is not None:
            self._thread.start()

    def watch(self, trial_id: int) -> None:
        """Beat for a trial from now on, first within an interval: one that is shorter needs no beat."""
        with self._lock:
            self._watched.add(trial_id)

    def forget(self, trial_id: int) -> None:
        """Beat for it no more."""
        with self._lock:
            self._watched.discard(trial_id)

    def greet(self, running: Iterable[FrozenTrial]) -> None:
        """Beat once for each trial of others that has been seen running for an interval.

        A trial without any beat never counts as dead, and its node may have died before the first one. If it
        lives, it goes on beating. Most have ended by then, so that a trial costs no more with many nodes.
        """
        if self.interval is None:
            return
        now = time.monotonic()
        for trial in running:
            first = self._seen.setdefault(trial._trial_id, now)
            if now - first > self.interval and trial._trial_id not in self._watched:
                self._seen[trial._trial_id] = float("inf")
                self._beat(trial._trial_id)

    def end(self) -> None:
        """Beat no more."""
        self._end.set()
        if self._thread.is_alive():
            # It may wait for a storage that is gone; it ends with that, or with the process.
            self._thread.join(timeout=END_SECONDS)

    def _run(self) -> None:
        while not self._end.wait(self.interval):
            with self._lock:
                watched = sorted(self._watched)
            for trial_id in watched:
                try:
                    self._beat(trial_id)
                except Exception:
                    # The search finds out by itself that the storage is gone, and others that we are.
                    break
