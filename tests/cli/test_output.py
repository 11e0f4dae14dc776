"""How figures are written for people."""

from __future__ import annotations

from autotune.cli.output import speedup
from autotune.store.records import Interval


def test_a_ratio_stands_with_its_interval():
    assert "2.31x [2.28, 2.35]" == speedup(Interval(2.31, 2.28, 2.35))


def test_bounds_that_the_rounds_do_not_support_are_not_shown_as_figures():
    assert "32.51x [?, ?]" == speedup(Interval(32.51, 1e-6, 1e6))
