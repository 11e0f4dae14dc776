"""Few connections to the fleet's studies for many processes of a host: Optuna's gRPC proxy on a Unix socket.

Optuna's proxy knows no heartbeats: they go through it as attributes that the server does not store, and the
server takes note of dead nodes for its clients. It has no TLS either, so it listens to this host alone, and
only to those who may write to its socket.
"""

from __future__ import annotations

import os
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import GrpcStorageProxy, RDBStorage, get_storage, run_grpc_proxy_server
from optuna.storages._heartbeat import BaseHeartbeat

from autotune.errors import FleetError
from autotune.search.shared_study import fail_dead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.storages import BaseStorage

BEAT = "autotune:beat"
DEAD = "autotune:dead"
CONNECTIONS = 10
"""Of the server, one for each of its threads."""
READY_SECONDS = 3.0


class RelayedDatabase(RDBStorage):
    """The server's side: attributes that are messages are done in place of being stored."""

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store an attribute, or take a heartbeat."""
        if key == BEAT:
            self.record_heartbeat(trial_id)
        else:
            super().set_trial_system_attr(trial_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        """Store an attribute, or have dead nodes' trials tried again."""
        if key == DEAD:
            name = self.get_study_name_from_id(study_id)
            fail_dead(optuna.load_study(study_name=name, storage=self))
        else:
            super().set_study_system_attr(study_id, key, value)


class RelayedStorage(GrpcStorageProxy, BaseHeartbeat):
    """A client's side: Optuna's proxy with heartbeats.

    Args:
        path: of the socket.
        interval: seconds between two heartbeats.
    """

    def __init__(self, path: str, interval: int) -> None:
        self._interval = interval
        # gRPC's name of a Unix socket is `unix:PATH`, as Optuna puts the two together.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is experimental
            super().__init__(host="unix", port=path)  # type: ignore[arg-type]  # the path, as told above

    def record_heartbeat(self, trial_id: int) -> None:
        """See `BaseHeartbeat`."""
        self.set_trial_system_attr(trial_id, BEAT, None)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """None are left when the server has seen to them."""
        self.set_study_system_attr(study_id, DEAD, None)
        return []

    def get_heartbeat_interval(self) -> int:
        """See `BaseHeartbeat`."""
        return self._interval

    def get_heartbeat_stale_trial_callback(self) -> Callable[..., None] | None:
        """None: the server has it."""
        return None


@contextmanager
def open_relayed(path: str, interval: int) -> Iterator[BaseStorage]:
    """The storage behind a relay, for the time of one study.

    Raises:
        FleetError: none listens there.
    """
    storage = RelayedStorage(path, interval)
    try:
        try:
            storage.wait_server_ready(READY_SECONDS)
        except ConnectionError:
            raise FleetError(f"{path}: no relay listens; start one with 'autotune fleet relay'") from None
        yield storage
    finally:
        storage.close()


def serve(database: RelayedDatabase, path: str) -> None:
    """Relay until the process is told to end.

    Raises:
        FleetError: the socket cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.exists(path):
            os.unlink(path)
    except OSError as error:
        raise FleetError(f"{path}: cannot be made: {error.strerror}") from None
    os.umask(0o007)
    warnings.simplefilter("ignore", ExperimentalWarning)
    try:
        run_grpc_proxy_server(get_storage(database), host="unix", port=path)  # type: ignore[arg-type]  # as above
    except RuntimeError as error:
        raise FleetError(f"{path}: cannot be made: {error}") from None
