"""Studies that equal devices of this host search together: Optuna's storage in a file of the state folder.

The history is the record. This file only keeps the devices from trying the same, so it is made anew whenever
none of them searches, and nothing in it has to survive the power.
"""

from __future__ import annotations

import fcntl
import logging
import os
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.storages import BaseStorage

    from autotune.search.shared_study import Sharing

logger = logging.getLogger("autotune.search")

FILE, LOCK = "studies.db", "studies.lock"
BEAT_SECONDS = 2
BEATS_MISSED = 4
"""After so many heartbeats that did not come, a device counts as gone and another one takes its trial."""
BUSY_SECONDS = 30.0
"""How long a transaction of the other devices is waited for."""


def forget(state_dir: str) -> None:
    """Remove what earlier searches left; to be called while no device searches."""
    for ending in ("", "-journal"):
        with suppress(OSError):
            os.unlink(os.path.join(state_dir, FILE + ending))


def sharing_here(state_dir: str, device: str, lost: Callable[[str], None] = logger.warning) -> Sharing:
    """How a device of this host takes part in the studies of its equals.

    Args:
        state_dir: the state folder, on a local disk.
        device: its name, e.g. `cuda:1`.
        lost: called with a line for people when a study goes on without the other devices.
    """
    from autotune.search.shared_study import Sharing

    return Sharing(device, lambda: open_local(state_dir), lost, patient=True)


@contextmanager
def open_local(state_dir: str) -> Iterator[BaseStorage]:
    """The storage, for the time of one study.

    Raises:
        OSError: the folder cannot be written.
    """
    storage = _storage(state_dir)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _storage(state_dir: str) -> Any:
    from optuna.storages import RDBStorage
    from sqlalchemy import event

    from autotune.search.shared_study import retry

    descriptor = os.open(os.path.join(state_dir, LOCK), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Two devices that made the tables at once would find each other's half made.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with warnings.catch_warnings():
            # Heartbeats are experimental.
            warnings.simplefilter("ignore")
            storage = RDBStorage(
                f"sqlite:///{os.path.join(os.path.abspath(state_dir), FILE)}",
                {"connect_args": {"timeout": BUSY_SECONDS}},
                heartbeat_interval=BEAT_SECONDS,
                grace_period=BEATS_MISSED * BEAT_SECONDS,
                heartbeat_stale_trial_callback=retry,
            )
    finally:
        os.close(descriptor)
    event.listen(storage.engine, "connect", _hurry)
    storage.remove_session()
    storage.engine.dispose()  # what was connected before would not hurry
    return storage


def _hurry(connection: Any, _: Any) -> None:
    """Do not wait for the disk: a trial would wait longer than it takes."""
    connection.execute("PRAGMA synchronous = OFF")
