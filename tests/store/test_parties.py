"""Several devices at work on one study: its trials' numbers, and its end."""

from __future__ import annotations

import pytest

from autotune.store import open_history
from autotune.store.parties import DECIDED_ELSEWHERE, INTERRUPTED, Parties
from tests.store.factories import trial
from tests.store.test_history import begin


@pytest.mark.parametrize(
    ("reasons", "ended"),
    [
        (["trials"], "trials"),
        ([DECIDED_ELSEWHERE, "budget"], "budget"),
        (["budget", INTERRUPTED], "budget"),
        ([INTERRUPTED, DECIDED_ELSEWHERE], DECIDED_ELSEWHERE),
    ],
)
def test_a_study_ends_with_the_last_and_why_says_the_one_that_decided(reasons, ended) -> None:
    parties = Parties()
    for _ in reasons:
        parties.join(1)
    assert [None] * (len(reasons) - 1) + [ended] == [parties.leave(1, reason) for reason in reasons]
    parties.join(1)
    assert not parties.are_several(1)


def test_trials_of_several_devices_have_numbers_of_their_own(tmp_path) -> None:
    with open_history(str(tmp_path)) as history:
        study, same = begin(history), begin(history)
        assert study == same
        assert [0, 1, 2] == [history.add_trial(study, trial(number)) for number in (0, 0, 1)]
        history.end_study(study, "decided by another node")
        assert "running" == history.study(study).state
        assert 3 == history.add_trial(study, trial(1))
        history.end_study(study, "trials")
        assert ("ended", "trials") == (history.study(study).state, history.study(study).end_reason)
