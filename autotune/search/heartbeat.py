"""Says of this node's trials in a shared study that the node lives."""

from __future__ import annotations

import threading
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
        self._seen: set[int] = set()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="autotune-heartbeat", daemon=True)
        if self.interval is not None:
            self._thread.start()

    def watch(self, trial_id: int) -> None:
        """Beat for a trial from now on."""
        if self.interval is None:
            return
        self._beat(trial_id)
        with self._lock:
            self._watched.add(trial_id)
        self._seen.add(trial_id)

    def forget(self, trial_id: int) -> None:
        """Beat for it no more."""
        with self._lock:
            self._watched.discard(trial_id)

    def greet(self, running: Iterable[FrozenTrial]) -> None:
        """Beat once for each trial of others that is seen for the first time.

        A trial without any beat never counts as dead, and its node may have died before the first one. If it
        lives, it goes on beating.
        """
        for trial in running:
            if trial._trial_id not in self._seen:
                self._seen.add(trial._trial_id)
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
