"""What the tests of the fleet share: one server, and a database for each test that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fleet.postgres import PostgresServer, find_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fleet.postgres import Database


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server of PostgreSQL; the test is skipped, by name, where it is not installed."""
    if find_program("postgres") is None or find_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: initdb and postgres are not found")
    running = PostgresServer()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def empty(server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A database with the fleet's tables, to be copied; nobody may connect to it meanwhile."""
    return server.create(tmp_path_factory.mktemp("secret"))


@pytest.fixture
def database(server: PostgresServer, empty: Database, tmp_path: Path) -> Iterator[Database]:
    """A database with the fleet's tables and nothing in them."""
    made = server.create(tmp_path, template=empty.name)
    # A copy has the content of the original, and not what was said of the database itself.
    server._psql(["-q", "-f", "db/fleet/roles.sql"], made.name)
    yield made
    server.drop(made.name)
