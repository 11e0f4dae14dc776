"""Proposals: each configuration once, hints first, nothing that failed before."""

from __future__ import annotations

import pytest

from autotune.search.proposals import Proposals
from autotune.space import Dimension, Implementation, SearchSpace, SpaceDeclaration
from autotune.store.records import Measurement, Trial, Verdict


@pytest.fixture
def space() -> SearchSpace:
    declaration = SpaceDeclaration(
        "toy",
        {"n": Dimension("n")},
        {
            "plain": Implementation(parameters={"threads": [1, 2]}),
            "blocked": Implementation(parameters={"block": [16, 32, 64], "threads": [1, 2]}),
        },
        {"implementation": "plain", "threads": 1},
    )
    return SearchSpace.build(declaration, declaration.problem({"n": 1}), {"kind": "cpu"})


def drain(proposals: Proposals) -> list[dict]:
    proposed = []
    while (configuration := proposals.ask()) is not None:
        proposed.append(configuration)
        proposals.learn(configuration, 100.0 + len(proposed))
    return proposed


def test_each_configuration_is_proposed_once(space) -> None:
    proposed = drain(Proposals(space.pool, seed=0))
    assert len(space) == len({tuple(sorted(one.items())) for one in proposed}) == len(proposed)


def test_what_is_known_is_not_proposed(space) -> None:
    proposals = Proposals(space.pool, seed=0)
    failed = {"implementation": "blocked", "block": 32, "threads": 2}
    proposals.learn(space.baseline, 100.0)
    proposals.learn(failed, None)
    proposals.learn({"implementation": "gone"}, 1.0)
    proposed = drain(proposals)
    assert space.baseline not in proposed
    assert failed not in proposed
    assert len(space) - 2 == len(proposed)


def test_hints_come_first_and_those_outside_the_space_are_passed_over(space) -> None:
    proposals = Proposals(space.pool, seed=0)
    hint = {"implementation": "blocked", "block": 64, "threads": 1}
    proposals.first([{"implementation": "gone"}, hint, hint])
    proposed = drain(proposals)
    assert hint == proposed[0]
    assert len(space) == len(proposed)


def test_a_preempted_trial_may_be_tried_again(space) -> None:
    proposals = Proposals(space.pool, seed=0)
    measurement = Measurement((5,), "converged", "monotonic")
    tried = {"implementation": "plain", "threads": 2}
    proposals.learn_trial(Trial(0, space.baseline, Verdict.PREEMPTED, "screening"))
    proposals.learn_trial(Trial(1, tried, Verdict.OK, "screening", measurement=measurement))
    proposed = drain(proposals)
    assert space.baseline in proposed
    assert tried not in proposed
