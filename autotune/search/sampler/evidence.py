"""Whether earlier studies help: how well trials are foretold with them, against how well without."""

from __future__ import annotations

import math
from typing import NamedTuple

MOST_NATS = 5.0
"""What one trial may say either way: a model that is sure and wrong once is not wrong for good."""

EARNED = 4.0
"""Nats by which predictions with earlier studies must be the better ones for these to be heeded."""


class Prediction(NamedTuple):
    """A normal distribution of what a trial will cost, on the scale on which costs are compared."""

    mean: float
    deviation: float

    def log_density(self, cost: float) -> float:
        """Natural logarithm of the density, up to a constant."""
        return -0.5 * ((cost - self.mean) / self.deviation) ** 2 - math.log(self.deviation)


class Evidence:
    """Adds up, trial by trial, by how much the one of two models foretold better (Dawid 1984).

    Attributes:
        nats: the sum so far; what is positive speaks for earlier studies.
        trials: that it is over.
    """

    def __init__(self) -> None:
        self.nats = 0.0
        self.trials = 0
        self._foretold: dict[int, tuple[Prediction, Prediction]] = {}

    @property
    def doubtful(self) -> bool:
        """Whether trials have been foretold, and earlier studies did not help enough."""
        return self.trials > 0 and self.nats < EARNED

    def foretell(self, row: int, informed: Prediction | None, sceptical: Prediction | None) -> None:
        """Note what the models predict of a row before it is tried; nothing if one of them does not."""
        if informed and sceptical:
            self._foretold[row] = informed, sceptical

    def settle(self, row: int, cost: float | None) -> None:
        """Compare what was foretold of a row with what it cost; None for a failure, which says nothing."""
        foretold = self._foretold.pop(row, None)
        if foretold is None or cost is None:
            return
        informed, sceptical = (prediction.log_density(cost) for prediction in foretold)
        self.nats += min(max(informed - sceptical, -MOST_NATS), MOST_NATS)
        self.trials += 1
