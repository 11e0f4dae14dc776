"""Studies that equal nodes search together: Optuna's own storage in the fleet's database.

Its tables lie in a schema of their own, since Optuna and the fleet keep their versions under the same name.
"""

from __future__ import annotations

import logging
import socket
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from autotune.errors import ConfigError, FleetError, MissingExtraError
from autotune.fleet.connection import connect, connect_arguments, database_url, told
from autotune.fleet.migrate import OWNER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.storages import BaseStorage, RDBStorage

    from autotune.config import FleetSettings
    from autotune.search.shared_study import Sharing

logger = logging.getLogger("autotune.fleet")

SCHEMA = "studies"
CONNECT_SECONDS = 3
"""A device waits meanwhile, and can go on alone."""
BEATS_MISSED = 4
"""After so many heartbeats that did not come, a node counts as dead and another one takes its trial."""

_RIGHTS = f"""
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {SCHEMA} TO autotune_node;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {SCHEMA} TO autotune_node;
GRANT SELECT ON ALL TABLES IN SCHEMA {SCHEMA} TO autotune_reader;
"""


def make_tables(settings: FleetSettings) -> str:
    """Make Optuna's tables, where there are none, and let nodes use them; returns their version.

    Tables of an older Optuna are not touched: `optuna storage upgrade` does that, while no node searches.

    Args:
        settings: whose user is a member of the role `autotune_owner`.

    Raises:
        FleetError: the database cannot be reached, lacks the schema, the user is not its owner, or the tables
            are of another Optuna.
    """
    with told(settings), _causes():
        storage = _database(settings, role=OWNER, skip_table_creation=False, skip_compatibility_check=True)
        try:
            version: str = storage.get_current_version()
            newest = storage.get_head_version()
        finally:
            _close(storage)
        if version != newest:
            raise FleetError(
                f"the tables of shared studies are Optuna's {version}, this is {newest}; see 'optuna storage "
                "upgrade', and install the same Optuna on every node"
            )
        with connect(settings).begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL ROLE {OWNER}")
            connection.exec_driver_sql(_RIGHTS)
    return version


def sharing_of(
    settings: FleetSettings, lost: Callable[[str], None] = logger.warning, device: str = ""
) -> Sharing | None:
    """How this node takes part in the fleet's studies; None where it does not.

    Args:
        settings: of the fleet.
        lost: called with a line for people when a study goes on without the other nodes.
        device: its name, where several of this host take part, each as a node of its own.
    """
    from autotune.search.shared_study import Sharing

    if not settings.url or not settings.studies:
        return None
    node = "/".join(filter(None, (settings.name or socket.gethostname(), device)))
    return Sharing(node, lambda: open_storage(settings), lost)


def relay(settings: FleetSettings) -> None:
    """Relay other processes of this host to the fleet's studies, until told to end.

    Raises:
        ConfigError: no socket is configured.
        FleetError: the database cannot be reached, or the socket not made.
    """
    from autotune.fleet.relay import CONNECTIONS, RelayedDatabase, serve

    if not settings.relay:
        raise ConfigError("no relay is configured; set [fleet] relay to the path of a socket")
    with told(settings), _causes():
        database = _database(settings, made_by=RelayedDatabase, connections=CONNECTIONS)
    try:
        serve(database, settings.relay)
    finally:
        _close(database)


@contextmanager
def open_storage(settings: FleetSettings) -> Iterator[BaseStorage]:
    """The storage of the fleet's studies, for the time of one study.

    Args:
        settings: whose user is a node's.

    Raises:
        FleetError: the database cannot be reached, refuses this node, or lacks Optuna's tables.
    """
    if settings.relay:
        from autotune.fleet.relay import open_relayed

        with open_relayed(settings.relay, settings.heartbeat_seconds) as relayed:
            yield relayed
        return
    with told(settings), _causes():
        storage = _database(settings)
    try:
        yield storage
    finally:
        _close(storage)


def _database(
    settings: FleetSettings,
    *,
    role: str = "",
    made_by: Callable[..., Any] | None = None,
    connections: int = 2,
    **options: Any,
) -> Any:
    """Optuna's storage, over few connections that stay open as long as the study.

    One connection is the search's, one the heartbeat's.
    """
    try:
        import psycopg  # noqa: F401 - so that its absence is told as what it is
        from optuna.storages import RDBStorage
    except ImportError as error:
        raise MissingExtraError("the fleet", "fleet", str(error.name or "psycopg")) from None
    from autotune.search.shared_study import retry

    session = f"-c search_path={SCHEMA}" + (f" -c role={role}" if role else "")
    arguments = {**connect_arguments(settings), "options": session, "connect_timeout": CONNECT_SECONDS}
    beat = settings.heartbeat_seconds
    with warnings.catch_warnings():
        # Heartbeats are experimental.
        warnings.simplefilter("ignore")
        return (made_by or RDBStorage)(
            database_url(settings).render_as_string(),
            {"connect_args": arguments, "pool_size": connections, "max_overflow": 1, "hide_parameters": True},
            heartbeat_interval=beat,
            grace_period=BEATS_MISSED * beat,
            heartbeat_stale_trial_callback=retry,
            **{"skip_table_creation": True, **options},
        )


def _close(storage: RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def _causes() -> Iterator[None]:
    """Raise what the driver said in place of what Optuna makes of it."""
    from optuna.exceptions import StorageInternalError

    try:
        yield
    except StorageInternalError as error:
        raise error.__cause__ or error from None
