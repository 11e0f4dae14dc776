"""What the tests of the fleet share: one server, and a database for each test that asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fleet.nodes import Node
from tests.fleet.postgres import PostgresServer, find_program

TABLES = ("entry", "verification", "node", "device", "generation")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from autotune.config import FleetSettings
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
    """A database with the fleet's roles and tables."""
    return server.create(tmp_path_factory.mktemp("secret"))


@pytest.fixture
def database(empty: Database) -> Database:
    """The same database, with nothing in it any more."""
    empty.sql(f"TRUNCATE {', '.join(f'fleet.{name}' for name in TABLES)}")
    return empty


@pytest.fixture
def nodes(database: Database, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes of a fleet, and closes them in the end."""
    made: list[Node] = []

    def node(settings: FleetSettings | None = None, **arguments: object) -> Node:
        folder = tmp_path / f"node{len(made)}"
        made.append(Node(folder, settings or database.settings(), **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield node
    for one in made:
        one.close()
