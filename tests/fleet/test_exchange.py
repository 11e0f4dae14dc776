from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from autotune.store.fleet import request_entry, thinned
from tests.store.factories import (
    CPU,
    SPACE,
    STACK,
    choice,
    configuration,
    measurement,
    problem,
    study_key,
    winner,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.fleet.nodes import Node
    from tests.fleet.postgres import Database

    Nodes = Callable[..., Node]

pytestmark = pytest.mark.fleet


def decide_here(
    node: Node, m: int, settings: int, *, is_baseline: bool = False, compared: bool = True
) -> None:
    """Decide a problem of which a winner of the fleet stands, in favour of a configuration of its own."""
    study = node.history.begin_study(study_key(m), problem(m).dimensions)
    best = choice(0, settings=configuration(settings), is_baseline=is_baseline)
    if not compared:
        best = msgspec.structs.replace(
            best, proof=msgspec.structs.replace(best.proof, against_incumbent=None)
        )
    node.history.promote(study, winner(m, choices=(best,), decided_at=1_800_000_000.0))
    node.history.end_study(study, "trials")


def test_a_node_starts_warm_with_what_its_equal_proved(nodes: Nodes) -> None:
    one, other = nodes(), nodes()
    one.decide(16)
    assert one.exchange().sent == 1
    assert other.exchange().received == 1
    assert {problem(16).key} == other.unverified()
    assert one.winners()[problem(16).key].choices[0].configuration == (
        other.winners()[problem(16).key].choices[0].configuration
    )


def test_only_the_winner_stands_in_and_no_choice_that_trades_accuracy(nodes: Nodes) -> None:
    one, other = nodes(), nodes()
    one.decide(16)
    assert len(one.winners()[problem(16).key].choices) == 2
    one.exchange(), other.exchange()
    assert [0] == [choice.rank for choice in other.winners()[problem(16).key].choices]


def test_what_a_node_decided_itself_is_not_replaced(nodes: Nodes) -> None:
    one, other = nodes(), nodes()
    one.decide(16, latency_ns=2e5)
    other.decide(16, latency_ns=4e5)
    one.exchange(), other.exchange(), one.exchange()
    assert set() == one.unverified() | other.unverified()
    assert 4e5 == other.winners()[problem(16).key].choices[0].latency_ns


def test_of_several_winners_the_one_with_the_greatest_certain_gain_stands_in(nodes: Nodes) -> None:
    slow, fast, newcomer = nodes(), nodes(), nodes()
    slow.decide(16, latency_ns=4e5)
    slow.exchange()
    newcomer.exchange()
    fast.decide(16, latency_ns=2e5)
    fast.exchange(), newcomer.exchange()
    assert 2e5 == newcomer.winners()[problem(16).key].choices[0].latency_ns


def test_that_nothing_beats_the_baseline_keeps_no_other_node_from_searching(nodes: Nodes) -> None:
    one, other = nodes(), nodes()
    one.decide(32)
    decide_here(one, 16, 0, is_baseline=True)
    one.exchange(), other.exchange()
    assert {problem(32).key} == other.unverified()


def test_doing_it_again_changes_nothing(nodes: Nodes, database: Database) -> None:
    one, other = nodes(), nodes()
    one.decide(16)
    for _ in range(3):
        one.exchange(), other.exchange()
    assert "1" == database.sql("SELECT count(*) FROM fleet.entry")
    assert (0, 0) == (one.exchange().sent, other.exchange().received)
    assert 1 == len(other.history.decisions())


def test_a_winner_that_holds_is_told_and_then_the_nodes_own(nodes: Nodes, database: Database) -> None:
    one, other = nodes(), nodes()
    one.decide(16)
    one.exchange(), other.exchange()
    decide_here(other, 16, 0)
    assert set() == other.unverified()
    other.exchange()
    assert "holds" == database.sql("SELECT outcome FROM fleet.verification")
    # It found nothing of its own: no second entry for the same configuration.
    assert "1" == database.sql("SELECT count(*) FROM fleet.entry")


def test_a_winner_that_a_third_beat_is_told_and_the_third_is_shared(nodes: Nodes, database: Database) -> None:
    one, other = nodes(), nodes()
    one.decide(16)
    one.exchange(), other.exchange()
    decide_here(other, 16, 3)
    other.exchange()
    assert "beaten" == database.sql("SELECT outcome FROM fleet.verification")
    assert "2" == database.sql("SELECT count(*) FROM fleet.entry WHERE kind = 'winner'")


@pytest.mark.parametrize(("settings", "is_baseline"), [(5, True), (3, False)])
def test_a_winner_that_does_not_hold_is_told_and_never_stands_in_again(
    nodes: Nodes, database: Database, settings: int, is_baseline: bool
) -> None:
    one, other = nodes(), nodes()
    one.decide(16)
    one.exchange(), other.exchange()
    decide_here(other, 16, settings, is_baseline=is_baseline, compared=False)
    other.exchange()
    assert "1" == database.sql("SELECT count(*) FROM fleet.entry WHERE kind = 'refutation'")
    other.exchange()
    assert set() == other.unverified()


def test_what_two_nodes_refuted_no_third_starts_from(nodes: Nodes) -> None:
    one, *doubters, early, late = (nodes() for _ in range(5))
    one.decide(16)
    one.exchange(), early.exchange()
    assert {problem(16).key} == early.unverified()
    for doubter in doubters:
        doubter.exchange()
        decide_here(doubter, 16, 5, is_baseline=True, compared=False)
        doubter.exchange()
    early.exchange(), late.exchange()
    assert set() == late.unverified()


def test_requests_reach_the_others_once(nodes: Nodes) -> None:
    from autotune.store.fleet import prepare

    one, other = nodes(), nodes()
    wish = request_entry(CPU, STACK, "linear", dict(problem(8).dimensions), problem(8).key, "latency", None)
    prepare(one.history, [wish])
    one.exchange(), other.exchange()
    prepare(other.history, [wish])
    other.exchange(), one.exchange()
    rows = other.history.rows("SELECT problem FROM fleet_entry WHERE kind = 'request'")
    assert [problem(8).key] == [row["problem"] for row in rows]


def test_percentiles_travel_and_not_every_sample() -> None:
    full = winner(choices=(choice(0, measurement=measurement(samples=3000)),))
    before, after = full.choices[0].measurement, thinned(full).choices[0].measurement
    assert before is not None
    assert after is not None
    assert 101 == len(after.samples_ns)
    for q in (0, 1, 50, 90, 99, 100):
        assert round(before.percentile_ns(q)) == round(after.percentile_ns(q))


def test_another_device_or_stack_hears_nothing(nodes: Nodes) -> None:
    from tests.fleet.nodes import CELL
    from tests.store.factories import OTHER_STACK

    one = nodes()
    other = nodes(cells=[msgspec.structs.replace(CELL, stack=OTHER_STACK)])
    one.decide(16)
    one.exchange()
    assert 0 == other.exchange().received


def test_entries_of_a_device_and_stack_become_visible_in_the_order_of_their_numbers(
    nodes: Nodes, database: Database
) -> None:
    """A reader that goes on from the highest number misses nothing, however many write at once."""
    writers = [nodes() for _ in range(6)]
    for place, node in enumerate(writers):
        for m in range(1, 6):
            node.decide(1 + place * 100 + m)
        node.history.close()

    def write(node: Node) -> None:
        node.reopen()
        node.exchange()
        node.history.close()

    reader = nodes()
    threads = [threading.Thread(target=write, args=(node,)) for node in writers]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        reader.exchange()
    reader.exchange()
    for node in writers:
        node.reopen()
    assert 30 == len(reader.unverified())
    assert "30" == database.sql("SELECT count(DISTINCT digest) FROM fleet.entry")
    assert SPACE == reader.winners()[problem(2).key].space
