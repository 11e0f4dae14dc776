"""The history of everything tried, its one writer, and the snapshots that look-ups read.

with open_history() as history:                  # this process is the writer now
    study = history.begin_study(key, dimensions)
    history.add_trial(study, trial)
    history.promote(study, winner)               # durable when it returns
    snapshot.publish(history, "why")             # what look-ups see

with read_history() as history:                  # beside a writer, or without one
    history.studies(workload="linear")
"""

from __future__ import annotations

from autotune.lazy import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotune.store.history import History
    from autotune.store.opening import open_history, read_history, restore_history
    from autotune.store.reading import HistoryReader

__all__ = ["History", "HistoryReader", "open_history", "read_history", "restore_history"]

_HOMES = {
    "History": "history",
    "HistoryReader": "reading",
    "open_history": "opening",
    "read_history": "opening",
    "restore_history": "opening",
}

__getattr__ = attributes(__name__, _HOMES)
