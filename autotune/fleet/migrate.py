"""Bringing the fleet's tables to the newest version, as their owner."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune.errors import FleetError
from autotune.fleet.connection import connect, told
from autotune.fleet.schema import SCHEMA

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection

    from autotune.config import FleetSettings

OWNER = "autotune_owner"
_LOCK = 20261
"""Advisory lock, so that two owners do not migrate at once."""


def migrate(settings: FleetSettings) -> str:
    """Make the tables, or upgrade them; returns their version.

    Args:
        settings: whose user is a member of the role `autotune_owner`.

    Raises:
        FleetError: the database cannot be reached, lacks its roles, or the user is not their owner.
    """
    from alembic import command

    with told(settings), connect(settings).begin() as connection:
        _become_owner(connection)
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        # What holds for nodes may be too short for an upgrade.
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        command.upgrade(_config(connection), "head")
        return version(connection)


def version(connection: Connection) -> str:
    """The version of the tables; empty if there are none."""
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
    return context.get_current_revision() or ""


def newest_version() -> str:
    """The version that this autotune makes."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(_folder()).get_current_head() or ""


def _become_owner(connection: Connection) -> None:
    roles = "('autotune_owner', 'autotune_node', 'autotune_reader')"
    known = connection.exec_driver_sql(f"SELECT count(*) FROM pg_roles WHERE rolname IN {roles}").scalar_one()
    if known != 3:
        raise FleetError("the server lacks the roles; 'autotune fleet roles | psql DATABASE' makes them")
    member = connection.exec_driver_sql(f"SELECT pg_has_role(current_user, '{OWNER}', 'MEMBER')").scalar_one()
    if not member:
        raise FleetError(f"this user is no member of {OWNER}, who alone may change the tables")
    connection.exec_driver_sql(f"SET LOCAL ROLE {OWNER}")


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _folder())
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _folder() -> str:
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "migrations")
