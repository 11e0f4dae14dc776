"""What each role may do, and above all what it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from autotune.errors import FleetError
from autotune.fleet.connection import connect, told
from autotune.fleet.migrate import migrate, newest_version, version

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fleet.nodes import Node
    from tests.fleet.postgres import Database

pytestmark = pytest.mark.fleet

FORBIDDEN_TO_NODES = [
    "UPDATE fleet.entry SET body = '{}'",
    "DELETE FROM fleet.entry",
    "TRUNCATE fleet.entry",
    "UPDATE fleet.verification SET outcome = 'beaten'",
    "DELETE FROM fleet.verification",
    "DELETE FROM fleet.node",
    "UPDATE fleet.device SET name = 'mine'",
    "DELETE FROM fleet.generation",
    "UPDATE fleet.generation SET body = ''",
    "ALTER TABLE fleet.entry ADD COLUMN mine text",
    "ALTER TABLE fleet.node DISABLE ROW LEVEL SECURITY",
    "DROP TABLE fleet.entry",
    "DROP TRIGGER entry_append ON fleet.entry",
    "CREATE TABLE fleet.mine(x int)",
    "CREATE TABLE public.mine(x int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION fleet.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT fleet.append()",
    "SELECT nextval('fleet.entry_seq')",
    "SET ROLE autotune_owner",
    "CREATE ROLE mine",
    "SELECT * FROM pg_authid",
    "COPY fleet.entry TO PROGRAM 'cat'",
    "SELECT pg_read_file('/etc/passwd')",
    "INSERT INTO fleet.node(id, name, version, cells, mark, written_by) "
    "VALUES (gen_random_uuid(), 'x', '1', '[]', '', 'other_node')",
]
FORBIDDEN_TO_READERS = [
    "INSERT INTO fleet.device(digest, kind, name, family) VALUES ('00000000', 'cpu', 'x', 'y')",
    "UPDATE fleet.node SET name = 'mine'",
    "DELETE FROM fleet.entry",
]


def run(database: Database, login: str, statement: str) -> int:
    """How many rows a statement touched."""
    settings = database.settings(login)
    with told(settings), connect(settings).begin() as connection:
        return connection.exec_driver_sql(statement).rowcount


@pytest.mark.parametrize("statement", FORBIDDEN_TO_NODES)
def test_a_node_may_not(database: Database, statement: str) -> None:
    with pytest.raises(FleetError, match=r"permission denied|must be (owner|superuser)"):
        run(database, "node", statement)


@pytest.mark.parametrize("statement", FORBIDDEN_TO_READERS)
def test_a_reader_may_not(database: Database, statement: str) -> None:
    with pytest.raises(FleetError, match="permission denied"):
        run(database, "reader", statement)


def test_a_node_cannot_choose_the_order_of_its_rows_nor_who_wrote_them(
    nodes: Callable[..., Node], database: Database
) -> None:
    for column in ("seq", "chain", "arrived_at", "written_by"):
        with pytest.raises(FleetError, match="permission denied"):
            run(database, "node", f"INSERT INTO fleet.entry({column}) VALUES (NULL)")
    one = nodes()
    one.decide(1)
    one.exchange()
    assert "node" == database.sql("SELECT written_by FROM fleet.entry")


def test_a_node_changes_its_own_row_and_no_others(nodes: Callable[..., Node], database: Database) -> None:
    nodes().exchange()
    nodes(database.settings("other_node")).exchange()
    assert 1 == run(database, "other_node", "UPDATE fleet.node SET name = 'changed'")
    assert "changed|other_node\nnode0|node" == database.sql(
        "SELECT name, written_by FROM fleet.node ORDER BY 1"
    )


def test_a_reader_reads(nodes: Callable[..., Node], database: Database) -> None:
    one = nodes()
    one.decide(1)
    one.exchange()
    assert 1 == run(database, "reader", "SELECT * FROM fleet.entry")


def test_only_the_owner_migrates_and_doing_it_again_changes_nothing(database: Database) -> None:
    with pytest.raises(FleetError, match="no member of autotune_owner"):
        migrate(database.settings("node"))
    assert newest_version() == migrate(database.settings("admin"))
    settings = database.settings("reader")
    with connect(settings).connect() as connection:
        assert newest_version() == version(connection)


def test_the_tables_are_what_the_program_takes_them_for(database: Database) -> None:
    from autotune.fleet.schema import metadata

    rows = database.sql(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'fleet' "
        "AND table_name != 'alembic_version'"
    )
    there = {tuple(row.split("|")) for row in rows.splitlines()}
    ours = {(table.name, column.name) for table in metadata.tables.values() for column in table.columns}
    assert ours == there
