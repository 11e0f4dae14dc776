"""What trials say of earlier studies: whether knowing these makes trials more foreseeable."""

import math

import pytest

from autotune.search.sampler.evidence import EARNED, MOST_NATS, Evidence, Prediction

GOOD, VAGUE = Prediction(1.0, 0.1), Prediction(1.5, 1.0)


def test_a_density_is_that_of_a_normal_distribution_up_to_a_constant():
    twice_as_wide = Prediction(0.0, 2.0).log_density(0.0) - Prediction(0.0, 1.0).log_density(0.0)
    assert twice_as_wide == pytest.approx(-math.log(2))
    assert Prediction(0.0, 2.0).log_density(4.0) - Prediction(0.0, 2.0).log_density(0.0) == pytest.approx(
        -2.0
    )


def test_what_foretells_better_gains_what_the_densities_say():
    evidence = Evidence()
    evidence.foretell(3, GOOD, VAGUE)
    evidence.settle(3, 1.0)
    assert evidence.nats == pytest.approx(math.log(10) + 0.125)
    assert 1 == evidence.trials


def test_one_trial_never_decides():
    evidence = Evidence()
    evidence.foretell(3, Prediction(1.0, 0.001), VAGUE)
    evidence.settle(3, 1.5)
    assert -MOST_NATS == evidence.nats


def test_failures_and_rows_that_nobody_foretold_say_nothing():
    evidence = Evidence()
    evidence.foretell(1, GOOD, VAGUE)
    evidence.foretell(2, None, VAGUE)
    evidence.settle(1, None)
    evidence.settle(2, 1.0)
    evidence.settle(3, 1.0)
    assert (0.0, 0) == (evidence.nats, evidence.trials)
    assert not evidence.doubtful


def test_studies_that_help_are_heeded_once_they_have_earned_it():
    evidence = Evidence()
    doubts = []
    while evidence.nats < EARNED:
        evidence.foretell(0, GOOD, VAGUE)
        evidence.settle(0, 1.0)
        doubts.append(evidence.doubtful)
    assert [True] * (len(doubts) - 1) + [False] == doubts
