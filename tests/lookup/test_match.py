"""Which of the published choices answers a question."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autotune
from autotune.errors import UnknownNameError, UsageError

CONFIGURATIONS = {name: {"implementation": name} for name in ("a", "b", "c", "d", "e")}


def answer(**call):
    best = autotune.get_best_config("toy", **{"m": 16, "n": 64, **call})
    return best.match, best.get("implementation"), best.tuned_for["m"]


def test_the_closest_kind_of_match_wins(node):
    """Exact before drifted before nearest (this stack before others) before similar before the baseline."""
    relative = (node.other_cpu, "cpu", "", "x86-avx512", "{}", None)
    rows = [
        node.choice(configuration=CONFIGURATIONS["a"]),
        node.choice(configuration=CONFIGURATIONS["b"], stack=node.old_stack),
        node.choice(configuration=CONFIGURATIONS["c"], m=512),
        node.choice(configuration=CONFIGURATIONS["d"], m=17, stack=node.old_stack),
        node.choice(configuration=CONFIGURATIONS["e"], device=node.other_cpu),
    ]
    answers = []
    while rows:
        node.publish(*rows, devices=(relative,))
        autotune.refresh()
        answers.append(answer())
        del rows[0]
    assert answers == [
        ("exact", "a", 16),
        ("drifted", "b", 16),
        ("nearest", "c", 512),
        ("nearest", "d", 17),
        ("similar", "e", 16),
    ]


def test_of_several_stacks_the_latest_decision_counts(node):
    node.publish(
        node.choice(configuration=CONFIGURATIONS["a"], stack="aa" * 8, decided_at=1.0),
        node.choice(configuration=CONFIGURATIONS["b"], stack="bb" * 8, decided_at=3.0),
        node.choice(configuration=CONFIGURATIONS["c"], stack="cc" * 8, decided_at=2.0),
    )
    assert answer() == ("drifted", "b", 16)


@pytest.mark.parametrize(("asked", "tuned"), [(1, 4), (5, 4), (7, 8), (11, 8), (12, 16), (1000, 16), (8, 8)])
def test_nearest_is_measured_in_log_space(node, asked, tuned):
    node.publish(*(node.choice(m=m) for m in (4, 8, 16)))
    assert answer(m=asked)[2] == tuned


def test_of_two_sizes_as_close_the_larger_is_taken(node):
    node.publish(node.choice(m=8), node.choice(m=32))
    assert answer(m=16) == ("nearest", "fast", 32)


def test_other_fixed_dimensions_are_no_neighbours(node):
    node.publish(node.choice(m=16, n=65), node.choice(m=8, n=65))
    assert answer() == ("default", "torch", 16)


def test_similar_devices_are_of_the_same_kind_and_family(node):
    choice = node.choice(device=node.other_cpu)
    for kind, family, match in (
        ("cpu", "x86-avx512", "similar"),
        ("cpu", "arm", "default"),
        ("cuda", "x86-avx512", "default"),
    ):
        node.publish(choice, devices=((node.other_cpu, kind, "", family, "{}", None),))
        autotune.refresh()
        assert answer()[0] == match


@pytest.mark.parametrize(("threads", "match"), [(4, "similar"), (5, "default")])
def test_a_similar_answer_never_uses_more_threads_than_there_are_cores(node, threads, match):
    configuration = {"implementation": "fast", "threads": threads}
    node.publish(
        node.choice(device=node.other_cpu, configuration=configuration),
        devices=((node.other_cpu, "cpu", "", "x86-avx512", "{}", None),),
    )
    assert answer()[0] == match


def front(node):
    """A winner under the default rule, and a front of faster, more accurate and smaller ones."""
    points = [
        (100.0, 1e-3, "a", "bfloat16"),
        (50.0, 1e-2, "b", "int8"),
        (400.0, 1e-6, "c", "float32"),
        (110.0, 2e-3, "d", "bfloat16"),
    ]
    return [
        node.choice(
            rank=rank,
            latency_ns=latency,
            error=error,
            baseline_error=2e-3,
            configuration={"implementation": implementation, "compute_dtype": dtype},
        )
        for rank, (latency, error, implementation, dtype) in enumerate(points)
    ]


@pytest.mark.parametrize(
    ("options", "implementation"),
    [
        ({}, "a"),
        ({"max_error": 1.0}, "b"),
        ({"max_error": float("inf")}, "b"),
        ({"max_error": 1e-2}, "b"),
        ({"max_error": 9e-3}, "a"),
        ({"max_error": 9e-4}, "c"),
        ({"qualifiers": {"compute_dtype": "bfloat16"}}, "a"),
        ({"qualifiers": {"compute_dtype": "float32"}}, "c"),
        ({"qualifiers": {"implementation": "d"}}, "d"),
        ({"qualifiers": {"compute_dtype": "int8"}, "max_error": 0.1}, "b"),
        ({"qualifiers": {}}, "a"),
    ],
)
def test_the_fastest_choice_within_what_the_caller_accepts(node, options, implementation):
    node.publish(*front(node))
    assert answer(**options)[:2] == ("exact", implementation)


@pytest.mark.parametrize(
    "options",
    [
        {"max_error": 0},
        {"max_error": 1e-7},
        {"qualifiers": {"compute_dtype": "int8"}},  # a caller who accepts its error says so
        {"qualifiers": {"compute_dtype": "int8"}, "max_error": 1e-3},
        {"qualifiers": {"implementation": "absent"}},
    ],
)
def test_when_no_choice_is_acceptable_the_baseline_is_the_answer(node, options):
    node.publish(*front(node))
    assert answer(**options) == ("default", "torch", 16)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    points=st.lists(
        st.tuples(st.integers(1, 20), st.sampled_from([0.0, 1e-4, 1e-3, 1e-2])), min_size=1, max_size=6
    ),
    bounds=st.lists(st.sampled_from([0, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 1]), min_size=2, max_size=2),
)
def test_tightening_never_returns_more_error_and_loosening_never_a_slower_choice(node, points, bounds):
    node.publish(
        *(
            node.choice(rank=rank, latency_ns=float(ns), error=error)
            for rank, (ns, error) in enumerate(points)
        )
    )
    autotune.refresh()
    tight, loose = (autotune.get_best_config("toy", m=16, n=64, max_error=bound) for bound in sorted(bounds))
    if loose.match == "default":
        assert tight.match == "default"
    elif tight.match == "exact":
        assert tight.error <= loose.error <= max(bounds)
        assert loose.latency_ns <= tight.latency_ns


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "[1, 2]", "3", '"torch"', "{}", '{"a": ', "\udcff"])
def test_a_row_with_a_broken_configuration_is_passed_over(node, text):
    """The next best kind of match answers, with one warning."""
    broken = {"configuration": text.encode("utf-8", "surrogateescape").decode("latin-1")}
    node.publish(node.choice(**broken), node.choice(stack=node.old_stack), node.choice(m=32, **broken))
    with pytest.warns(autotune.AutotuneWarning, match="damaged configuration") as caught:
        assert answer() == ("drifted", "fast", 16)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer(m=32) == ("nearest", "fast", 16)


@pytest.mark.parametrize(
    "column", ["latency_ns", "p99_ns", "error", "baseline_error", "decided_at", "speedup", "study"]
)
@pytest.mark.parametrize(
    "options", [{}, {"max_error": float("inf")}, {"qualifiers": {"implementation": "fast"}}]
)
def test_a_row_without_a_figure_still_answers(node, column, options):
    node.publish(node.choice(**{column: None}), node.choice(rank=1, **{column: None}))
    best = autotune.get_best_config("toy", m=16, n=64, **options)
    assert best.explain()
    assert repr(best)
    if column != "error" or not options.get("qualifiers"):
        assert best.match == "exact"


def test_under_a_limit_what_was_proven_for_a_tighter_one_counts_the_loosest_first(node):
    limits = {"a": ":2ms", "b": ":4.5ms", "c": ":8ms", "d": ":4.8ms", "e": ""}
    node.publish(
        *(
            node.choice(
                configuration=CONFIGURATIONS[name],
                objective=f"throughput{limit}",
                is_baseline=int(name == "d"),
            )
            for name, limit in limits.items()
        )
    )
    asked = {"objective": "throughput"}
    assert answer(**asked) == ("exact", "e", 16)
    assert answer(**asked, slo_ms=8) == ("exact", "c", 16)
    assert answer(objective="throughput:8ms") == ("exact", "c", 16)
    assert answer(**asked, slo_ms=4.8) == ("exact", "b", 16), "the baseline stayed; `b` is proven to keep it"
    assert answer(**asked, slo_ms=5.0) == ("exact", "b", 16), "that nothing met 4.8 ms says nothing of 5"
    assert answer(**asked, slo_ms=1.0)[0] == "default"
    best = autotune.get_best_config("toy", m=16, n=64, slo_ms=5, objective="throughput")
    assert best.objective == "throughput:4.5ms"
    assert "objective      throughput, where p99 is at most 4.5ms" in best.explain()


def test_an_exact_match_under_a_tighter_limit_comes_before_a_neighbour_under_this_one(node):
    node.publish(
        node.choice(configuration=CONFIGURATIONS["a"], objective="throughput:5ms", m=512),
        node.choice(configuration=CONFIGURATIONS["b"], objective="throughput:2ms"),
    )
    assert answer(objective="throughput", slo_ms=5) == ("exact", "b", 16)


@pytest.mark.parametrize("slo_ms", [0, -1.0, "soon", True, float("nan"), float("inf"), [1], 1e30])
def test_a_limit_that_is_no_positive_number_is_refused(node, slo_ms):
    with pytest.raises(UsageError, match="is not a number greater than 0"):
        answer(objective="throughput", slo_ms=slo_ms)


@pytest.mark.parametrize(
    "name",
    ["throughput:5", "throughput:05ms", "throughput:", "throughput:-1ms", "latency:5ms", "throughput:nanms"],
)
def test_a_limit_has_one_spelling(node, name):
    with pytest.raises(UnknownNameError, match="unknown objective"):
        answer(objective=name)


def test_only_throughput_takes_a_limit(node):
    with pytest.raises(UsageError, match="objective 'tail' takes no limit"):
        answer(objective="tail", slo_ms=5)


def test_what_an_equal_node_proved_is_found_and_told_apart(node):
    node.publish(node.choice(origin="f" * 64), node.choice(m=32, stack=node.old_stack))
    found = autotune.get_best_config("toy", m=16, n=64)
    assert ("fleet", "f" * 64) == (found.match, found.origin)
    assert "another node of the fleet, not here: entry ffffffffffff" in found.explain()
    assert ("drifted", None) == (
        (other := autotune.get_best_config("toy", m=32, n=64)).match,
        other.origin,
    )


def test_a_snapshot_of_the_earlier_format_is_read(node):
    import sqlite3
    from contextlib import closing

    node.publish(node.choice())
    with closing(sqlite3.connect(node.best_db)) as connection:
        connection.executescript("ALTER TABLE choice DROP COLUMN origin; PRAGMA user_version = 1")
    found = autotune.get_best_config("toy", m=16, n=64)
    assert ("exact", None) == (found.match, found.origin)
