"""A database that is stopped, slow, wiped or put back: nodes go on, and agree afterwards."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from autotune.errors import FleetError
from tests.fleet.slow_network import Proxy
from tests.store.factories import ROOT, problem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.fleet.nodes import Node
    from tests.fleet.postgres import Database

    Nodes = Callable[..., Node]

pytestmark = pytest.mark.fleet


def converge(nodes: Sequence[Node]) -> None:
    """Two rounds: what the last one sends in the first, the others read in the second."""
    for _ in range(2):
        for node in nodes:
            node.exchange()


def assert_all_know(nodes: Sequence[Node], sizes: Sequence[int], database: Database) -> None:
    """Nothing lost: each node has a winner for every problem. Nothing twice: one entry for each decision."""
    keys = {problem(m).key for m in sizes}
    for node in nodes:
        assert keys == set(node.winners())
        assert 0 == node.waiting()
    counts = database.sql(
        "SELECT count(*), count(DISTINCT (node, problem)) FROM fleet.entry WHERE kind = 'winner'"
    )
    assert f"{len(sizes)}|{len(sizes)}" == counts


def test_while_the_server_is_stopped_nodes_decide_and_serve_and_all_agree_afterwards(
    nodes: Nodes, database: Database
) -> None:
    fleet = [nodes() for _ in range(3)]
    fleet[0].decide(1)
    converge(fleet)
    database.server.stop()
    try:
        for place, node in enumerate(fleet):
            with pytest.raises(FleetError):
                node.exchange()
            node.decide(10 + place)
            node.try_exchange()
            assert {problem(1).key, problem(10 + place).key} == set(node.winners())
            assert 1 == node.waiting()
    finally:
        database.server.start()
    converge(fleet)
    assert_all_know(fleet, [1, 10, 11, 12], database)


@pytest.mark.slow
def test_a_crash_of_the_server_in_the_middle_of_exchanges_loses_nothing(
    nodes: Nodes, database: Database
) -> None:
    fleet = [nodes() for _ in range(3)]
    sizes = []
    for number in range(3):
        for place, node in enumerate(fleet):
            sizes.append(1 + 10 * number + place)
            node.decide(sizes[-1])
            node.try_exchange()
            if place == number:
                database.server.stop(signal.SIGQUIT)
                node.try_exchange()
                database.server.start()
    converge(fleet)
    assert_all_know(fleet, sizes, database)


def test_a_database_that_is_wiped_is_filled_again_by_what_each_node_knows(
    nodes: Nodes, database: Database
) -> None:
    fleet = [nodes() for _ in range(3)]
    for place, node in enumerate(fleet):
        node.decide(1 + place)
    converge(fleet)
    lost = fleet.pop()  # a node that is gone for good: the others know what it knew
    database.sql(
        "TRUNCATE fleet.entry, fleet.node, fleet.verification; ALTER SEQUENCE fleet.entry_seq RESTART"
    )
    fleet[0].decide(50)
    converge(fleet)
    assert_all_know(fleet, [1, 2, 3, 50], database)
    assert problem(3).key in lost.winners()


class GoingOn:
    """Nodes that decide and exchange, each in a thread of its own, until they are told to end."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = nodes
        self.decided: list[list[int]] = [[] for _ in nodes]
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._go_on, args=[place]) for place in range(len(nodes))]

    def __enter__(self) -> GoingOn:
        for node, thread in zip(self.nodes, self._threads, strict=True):
            node.close()  # a history is used by the thread that opened it
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for node, thread in zip(self.nodes, self._threads, strict=True):
            thread.join()
            node.reopen()

    def wait_for_more(self) -> None:
        """Until each has decided, and tried to tell the fleet, since."""
        before = [len(one) for one in self.decided]
        deadline = time.monotonic() + 120
        while any(len(one) < count + 2 for one, count in zip(self.decided, before, strict=True)):
            assert time.monotonic() < deadline, "a node does not go on"
            time.sleep(0.05)

    def _go_on(self, place: int) -> None:
        node = self.nodes[place]
        node.reopen()
        while not self._over.is_set():
            size = 100 * (1 + place) + len(self.decided[place])
            node.decide(size)
            node.try_exchange()
            self.decided[place].append(size)
        node.close()


def test_a_backup_that_is_restored_while_nodes_go_on_gets_what_was_written_since(
    nodes: Nodes, database: Database, tmp_path: Path
) -> None:
    """With `pg_dump` and `pg_restore`."""
    fleet = [nodes() for _ in range(2)]
    fleet[0].decide(1)
    fleet[1].decide(2)
    converge(fleet)
    backup = database.server.dump(database.name, tmp_path / "fleet.dump")
    with GoingOn(fleet) as going:
        going.wait_for_more()
        assert int(database.sql("SELECT count(*) FROM fleet.entry")) > 2
        database.server.restore(database.name, backup)
        going.wait_for_more()
    converge(fleet)
    assert_all_know(fleet, [1, 2, *itertools.chain(*going.decided)], database)


def test_over_a_slow_network_everything_arrives(nodes: Nodes, database: Database) -> None:
    """200 ms for each round trip."""
    proxy = Proxy(database.server.port, 0.1)
    try:
        far = [nodes(database.settings(port=proxy.port)) for _ in range(2)]
        far[0].decide(1)
        far[1].decide(2)
        converge(far)
        assert_all_know(far, [1, 2], database)
    finally:
        proxy.close()


ONCE = """
import sys
from pathlib import Path
from autotune.config import FleetSettings
from tests.fleet.nodes import Node
node = Node(Path(sys.argv[1]), FleetSettings(url=sys.argv[2], password_file=sys.argv[3]))
node.exchange()
"""


def test_no_lock_is_held_while_an_answer_is_on_its_way(nodes: Nodes, database: Database) -> None:
    """A node with a slow or broken link holds up nobody: its locks end with the server's own work."""
    proxy = Proxy(database.server.port, 0.05)
    far = nodes(database.settings(port=proxy.port))
    far.decide(1)
    far.close()
    arguments = [str(far.folder), far.settings.url, far.settings.password_file]
    process = subprocess.Popen([sys.executable, "-c", ONCE, *arguments], cwd=ROOT)
    waiting = """SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE l.locktype IN ('advisory', 'transactionid') AND a.state LIKE 'idle%'"""
    seen = set()
    while process.poll() is None:
        seen.add(database.sql(waiting))
    proxy.close()
    far.reopen()
    assert (0, {"0"}, 0) == (process.returncode, seen, far.waiting())


KILLED = """
import sys
from pathlib import Path
from autotune.config import FleetSettings
from tests.fleet.nodes import Node
node = Node(Path(sys.argv[1]), FleetSettings(url=sys.argv[2], password_file=sys.argv[3]))
number = int(sys.argv[4])
while True:
    number += 1
    node.decide(number)
    print(number, flush=True)
    node.try_exchange()
"""


@pytest.mark.slow
def test_a_node_that_is_killed_at_any_moment_loses_nothing_that_it_decided(
    nodes: Nodes, database: Database
) -> None:
    victim, other = nodes(), nodes()
    victim.close()
    settings = database.settings()
    last = 0
    for kill in range(4):
        arguments = [str(victim.folder), settings.url, settings.password_file, str(last)]
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(2 + kill % 2):
            last = int(process.stdout.readline() or last)
        process.kill()
        last = max([last, *map(int, process.communicate()[0].split())])
    victim.reopen()
    converge([victim, other])
    assert len(victim.winners()) >= last
    assert_all_know([victim, other], range(1, 1 + len(victim.winners())), database)
