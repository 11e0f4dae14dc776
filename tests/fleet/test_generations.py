"""All ranks agree: one generation on every node, whatever each node publishes meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from autotune import client
from autotune.errors import FleetError, UsageError
from autotune.fingerprint.stack import stack_digest
from autotune.fleet.generations import fetch_generation, make_generation, write_generation
from autotune.fleet.here import devices_here
from autotune.workloads.registry import declaration
from tests.fleet.nodes import CELL, anything_goes
from tests.store.factories import (
    ROOT,
    STACK_FACTS,
    choice,
    configuration,
    study_key,
    winner,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from autotune.space.problem import Problem
    from tests.fleet.nodes import Node
    from tests.fleet.postgres import Database

    Nodes = Callable[..., Node]

pytestmark = pytest.mark.fleet

RANKS = 4
"""Processes of each node."""

RANK = """
import json, sys, time, warnings
from autotune.client import get_best_config, refresh
warnings.simplefilter("ignore")
seen = []
for _ in range(20):
    refresh()
    found = [get_best_config("linear", device=sys.argv[1], m=m, n=7168, k=2048) for m in (1, 2, 16, 32)]
    seen.append([[one.match, dict(one)] for one in found])
    time.sleep(0.02)
print(json.dumps(seen))
"""


def here() -> str:
    """The stack that processes of this test look up by."""
    return stack_digest("cpu")


def real(m: int) -> Problem:
    """A problem as look-ups know it."""
    return declaration("linear").problem({"m": m, "n": 7168, "k": 2048})


def decide(node: Node, m: int, settings: int, gain: float) -> None:
    """Have a node prove a configuration under the stack of this test's processes."""
    node.history.record_stack(here(), STACK_FACTS)
    solved = real(m)
    study = node.history.begin_study(study_key(m, stack=here(), problem=solved.key), solved.dimensions)
    best = choice(0, 8e5 / gain, settings=configuration(settings))
    decided = winner(
        m,
        stack=here(),
        choices=(best,),
        decided_at=1_790_000_000.0 + gain,
        problem=solved.key,
        dimensions=solved.dimensions,
        neighbourhood=solved.neighbourhood,
    )
    node.history.promote(study, decided)
    node.history.end_study(study, "trials")
    node.history.publish(f"m={m}")


def start_rank(node: Node, generation: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "AUTOTUNE_STATE_DIR": str(node.folder),
        "AUTOTUNE_GENERATION": generation,
        "AUTOTUNE_REQUEST_SOCKET": str(node.folder / "none.sock"),
    }
    return subprocess.Popen(
        [sys.executable, "-c", RANK, CELL.device],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def cell() -> object:
    return msgspec.structs.replace(CELL, stack=here())


def test_all_ranks_of_all_nodes_find_the_same_while_each_node_publishes(
    nodes: Nodes, database: Database, tmp_path: Path, cell: object
) -> None:
    fleet = [nodes(cells=[cell]) for _ in range(2)]
    for place, node in enumerate(fleet):
        decide(node, 1 + place, settings=place, gain=2.0)
        decide(node, 16, settings=2 + place, gain=2.0 + place)
        node.exchange()
    name = make_generation(database.settings(), [cell], anything_goes)
    named = tmp_path / "generation"
    named.write_text(name + "\n")
    for node in fleet:
        content = fetch_generation(database.settings(), name)
        path = write_generation(content, name, str(node.folder), devices_here())
    # By name, by a file that holds the name, and by the file itself.
    ways = [name, str(named), path]
    ranks = [start_rank(node, ways[number % 3]) for node in fleet for number in range(RANKS)]
    number = 0
    while any(rank.poll() is None for rank in ranks):
        number += 1
        for node in fleet:
            decide(node, 1 + number % 2, settings=4 + number % 8, gain=3.0 + number)
    answers = [json.loads(rank.communicate()[0]) for rank in ranks]
    assert number > 2
    first = answers[0][0]
    assert [[first] * 20] * len(ranks) == answers
    # m=16: the greatest certain gain; m=32: the nearest that the generation has, on every rank alike.
    assert ["fleet", "fleet", "fleet", "nearest"] == [match for match, _ in first]
    assert configuration(3) == first[2][1]


def test_a_generation_is_named_by_its_content(nodes: Nodes, database: Database, cell: object) -> None:
    node = nodes(cells=[cell])
    decide(node, 1, 0, 2.0)
    node.exchange()
    name = make_generation(database.settings(), [cell], anything_goes)
    assert name == make_generation(database.settings(), [cell], anything_goes)
    decide(node, 1, 1, 3.0)
    node.exchange()
    assert name != make_generation(database.settings(), [cell], anything_goes)
    assert "2" == database.sql("SELECT count(*) FROM fleet.generation")
    assert [real(1).key] == [one.problem for one in fetch_generation(database.settings(), name).winners]


def test_a_generation_that_was_changed_is_refused(nodes: Nodes, database: Database, cell: object) -> None:
    node = nodes(cells=[cell])
    decide(node, 1, 0, 2.0)
    node.exchange()
    name = make_generation(database.settings(), [cell], anything_goes)
    database.sql("UPDATE fleet.generation SET body = replace(body, 'torch', 'other')")
    with pytest.raises(FleetError, match="not what its name says"):
        fetch_generation(database.settings(), name)
    with pytest.raises(FleetError, match="has no generation"):
        fetch_generation(database.settings(), "fleet-0123456789abcdef")
    with pytest.raises(UsageError, match="is no generation of the fleet"):
        fetch_generation(database.settings(), "fleet-%' OR 1=1")


@pytest.mark.parametrize("text", ["fleet-", "fleet-xyz", "fleet-0123456789ABCDEF", "12x", "../etc"])
def test_a_name_that_is_none_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(UsageError, match="is not the number of a snapshot, nor a name"):
        client.get_best_config("linear", m=1, n=64, k=64, device="cpu", generation=text)


def test_a_file_that_changes_while_a_process_runs_changes_nothing_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autotune.lookup.snapshots import Snapshots

    named = tmp_path / "generation"
    named.write_text("fleet-0123456789abcdef\n")
    monkeypatch.setenv("AUTOTUNE_GENERATION", str(named))
    snapshots = Snapshots()
    assert "fleet-0123456789abcdef" == snapshots._environments()
    named.write_text("fleet-ffffffffffffffff\n")
    assert "fleet-0123456789abcdef" == snapshots._environments()
    named.unlink()
    assert "fleet-0123456789abcdef" == snapshots._environments()
