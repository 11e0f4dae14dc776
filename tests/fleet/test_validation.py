"""Whoever may write to the fleet may write anything: what is not right is not used."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from autotune.daemon.fleet_messages import Cell
from autotune.fingerprint import device_named
from autotune.fingerprint.stack import stack_digest
from autotune.fleet.validation import Validator
from autotune.space.searchspace import SearchSpace
from autotune.store.fleet import Entry, request_entry, sealed, winner_entry
from autotune.workloads.registry import declaration
from tests.store.factories import choice, measurement, winner

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.store.records import Winner
    from tests.fleet.nodes import Node
    from tests.fleet.postgres import Database

NODE = "0f0e0d0c-0b0a-4908-8706-050403020100"
DEVICE = device_named("cpu")
CELL = Cell(DEVICE.digest, stack_digest("cpu"), "cpu", DEVICE.name, DEVICE.family, dict(DEVICE.facts))
PROBLEM = declaration("linear").problem({"m": 16, "n": 64, "k": 64})
SPACE = SearchSpace.build(declaration("linear"), PROBLEM, DEVICE.facts)


def honest(settings: dict[str, Any] | None = None, **changes: Any) -> Winner:
    """A winner for this very host, of a configuration that it could find itself."""
    found = next(SPACE.pool.configuration(row) for row in range(len(SPACE)) if row != SPACE.baseline_row)
    fields = {
        "problem": PROBLEM.key,
        "dimensions": PROBLEM.dimensions,
        "neighbourhood": PROBLEM.neighbourhood,
        "device": CELL.device,
        "stack": CELL.stack,
        "choices": (choice(0, settings=settings or found, measurement=measurement(4e5)),),
    }
    return winner(16, **{**fields, **changes})


def fault_of(entry: Entry) -> str:
    return Validator([CELL]).fault(entry)


def test_what_a_node_could_have_found_itself_is_right() -> None:
    assert "" == fault_of(winner_entry(NODE, honest()))
    wish = request_entry(
        CELL.device, CELL.stack, "linear", dict(PROBLEM.dimensions), PROBLEM.key, "latency", None
    )
    assert "" == fault_of(sealed(msgspec.structs.replace(wish, node=NODE)))


HOSTILE_WINNERS: dict[str, dict[str, Any]] = {
    "a path": {"settings": {"implementation": "../../../bin/sh"}},
    "markup": {"settings": {"implementation": "<script>alert(1)</script>"}},
    "not in the space": {"settings": {"implementation": "torch", "threads": 999_999}},
    "another's setting": {"settings": {"implementation": "torch", "exec": "rm -rf"}},
    "lossy": {"settings": {"implementation": "int4_weight_only"}},
    "another problem": {"problem": "m=1"},
    "no such dimensions": {"dimensions": {"m": -1}, "problem": "m=-1"},
    "a huge problem": {"dimensions": {**PROBLEM.dimensions, "n": 2**60}},
    "an unknown workload": {"workload": "os.system"},
    "an objective": {"objective": "latency'; DROP TABLE winner; --"},
    "not a number": {"baseline_error": math.inf},
    "a neighbourhood": {"neighbourhood": "everything"},
    "another device": {"device": "ffffffffffffffff"},
    "no choice": {"choices": ()},
    "a gain beyond all bounds": {"choices": (choice(0, settings={}, latency_ns=-1.0),)},
}


@pytest.mark.parametrize("changes", HOSTILE_WINNERS.values(), ids=HOSTILE_WINNERS)
def test_a_hostile_winner_is_not_used(changes: dict[str, Any]) -> None:
    try:
        entry = winner_entry(NODE, honest(**changes))
    except IndexError:
        entry = msgspec.structs.replace(
            winner_entry(NODE, honest()), body=msgspec.json.encode(honest(**changes)).decode()
        )
    told = fault_of(sealed(entry))
    assert told
    assert "\n" not in told


@pytest.mark.parametrize(
    "changes",
    [
        {"body": "{}"},
        {"body": "[" * 100_000},
        {"body": '{"' + "a" * 60_000},
        {"body": "\x00"},
        {"kind": "code"},
        {"kind": "refutation", "body": '{"outcome":"holds"}'},
        {"kind": "refutation", "body": '{"outcome":"refuted","more":1}', "subject": "0" * 64},
        {"kind": "request", "body": '{"dimensions":{"m":"' + "x" * 50_000 + '"}}'},
        {"node": "not-a-node"},
        {"device": "another"},
        {"latency_ns": math.nan},
        {"latency_ns": 1.0},
        {"made_at": -1.0},
        {"workload": "attention"},
    ],
)
def test_a_hostile_entry_is_not_used(changes: dict[str, Any]) -> None:
    entry = msgspec.structs.replace(winner_entry(NODE, honest()), **changes)
    assert fault_of(sealed(entry))


def test_what_is_not_what_its_digest_says_is_not_used() -> None:
    entry = winner_entry(NODE, honest())
    assert "its digest or its node is not what it says" == fault_of(
        msgspec.structs.replace(entry, digest="0" * 64)
    )


@pytest.mark.fleet
def test_hostile_rows_are_passed_over_and_the_right_ones_behind_them_arrive(
    nodes: Callable[..., Node], database: Database
) -> None:
    """Written as a node may, past everything that an honest one would do."""
    from autotune.fleet.connection import connect
    from autotune.fleet.exchange import _sent_row
    from autotune.fleet.schema import ENTRY

    hostile = [sealed(winner_entry(NODE, honest(**HOSTILE_WINNERS[name]))) for name in ("markup", "a path")]
    right = winner_entry(NODE, honest())
    with connect(database.settings(), autocommit=True).connect() as connection:
        for entry in (*hostile, right):
            connection.execute(ENTRY.insert().values(_sent_row(entry)))
    victim = nodes(fault=fault_of, cells=[CELL])
    victim.history.record_device(DEVICE)
    victim.history.record_stack(CELL.stack, {})
    ended = victim.exchange()
    assert (3, 2) == (ended.received, ended.rejected)
    assert {PROBLEM.key} == victim.unverified()
    assert honest().choices[0].configuration == victim.winners()[PROBLEM.key].choices[0].configuration
    # They are not asked for again.
    assert 0 == victim.exchange().received
