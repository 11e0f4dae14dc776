"""A confidence sequence: an interval for paired differences that may be looked at after every round.

An ordinary interval holds when it is looked at once. Looked at after every round until it says what one hopes
for, it is wrong far more often than it claims. What is needed is an interval that is right at *all* rounds at
once with the stated confidence; then any rule may stop the rounds.

**The bet.** A gambler starts with capital 1 and bets, round after round, that the next difference lies above
`centre`. Each round's difference is turned into a score between -1 and 1, and the capital is multiplied by
`1 + bet * score`. If the differences scatter symmetrically about `centre`, every bet is fair, whatever the
scatter's shape: the capital is a non-negative martingale, and the probability that it *ever* reaches
`1 / alpha` is at most `alpha` (Ville 1939). So a `centre` that lets the capital reach `1 / alpha` is
rejected, and the centres not rejected are the interval. The capital is split evenly over several sizes of
bet, since the best one depends on the unknown difference. (Waudby-Smith & Ramdas, "Estimating means of
bounded random variables by betting", JRSS B 2024; Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021.)

**Why symmetric.** Within a round the contenders run in random order. If two contenders differ by a constant
factor only, then given the two moments at which they ran and whatever noise, drift, step or outlier the
machine had there, a fair coin decided which of them had which moment: the log-ratio is symmetric about the
log of that factor *by design*, independently of all earlier rounds. No assumption about the noise is needed.

**Heavy tails.** Scores are clipped at a few times the scatter seen in *earlier* rounds (never the present
one, which would unfair the bet): an outlier counts as one clear vote and no more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

BETS = np.geomspace(0.05, 0.95, 8)
"""Sizes of bet. In simulations of normal, outlier-ridden and t(2) noise, six to ten of them, from 0.02 or
from 0.08, needed the same number of rounds within 10 %."""
CLIP = 1.5
"""Scores saturate at this many standard deviations: 1 to 2 did equally well, 3 needed up to 40 % more."""
FIRST_SCATTER = 4
"""Rounds before scatter is estimated; until then a score is the mere sign."""
LARGEST_LOG_RATIO = math.log(1e6)
"""Bounds that the rounds do not support lie here, a factor of a million, so that every interval is finite."""
_SIGMA_OVER_MAD = 1.4826


def rejects_at_most(differences: Floats, centre: float, alpha: float) -> bool:
    """Whether the rounds refute that the differences lie about `centre` or lower.

    Args:
        differences: one per round in the order taken, shape (n,).
        centre: the value to refute.
        alpha: probability of a wrong refutation at any round up to now.
    """
    return _peak_log_capital(differences - centre, _clips(differences)) >= -math.log(alpha)


def lower_bound(differences: Floats, alpha: float) -> float:
    """The lower confidence bound: the greatest centre that is refuted, valid at all rounds at once."""
    clips = _clips(differences)
    low, high = -LARGEST_LOG_RATIO, LARGEST_LOG_RATIO
    # The capital falls as the centre rises, so the refuted centres are a half-line: bisect its end.
    if _peak_log_capital(differences - low, clips) < -math.log(alpha):
        return low
    while high - low > 1e-7:
        middle = (low + high) / 2
        if _peak_log_capital(differences - middle, clips) >= -math.log(alpha):
            low = middle
        else:
            high = middle
    return low


def confidence_sequence(differences: Floats, alpha: float) -> tuple[float, float]:
    """The interval of the centre of the differences; it errs, at any round, with probability at most `alpha`.

    Args:
        differences: one per round in the order taken, shape (n,).
        alpha: one minus the two-sided confidence.
    """
    return lower_bound(differences, alpha / 2), -lower_bound(-differences, alpha / 2)


def _clips(differences: Floats) -> Floats:
    """For each round, where its score saturates, from earlier rounds alone; 0 stands for the mere sign.

    The estimate is renewed when the number of rounds has doubled.
    """
    clips = np.zeros(len(differences))
    known = FIRST_SCATTER
    while known < len(differences):
        past = differences[:known]
        deviation = float(np.median(np.abs(past - np.median(past))))
        clips[known : 2 * known] = CLIP * _SIGMA_OVER_MAD * deviation
        known *= 2
    return clips


def _peak_log_capital(excess: Floats, clips: Floats) -> float:
    """Log of the greatest capital that the bets on positive excess ever held."""
    scores = np.sign(excess)
    scaled = clips > 0
    scores[scaled] = np.clip(excess[scaled] / clips[scaled], -1.0, 1.0)
    log_capital = np.cumsum(np.log1p(BETS[:, None] * scores), axis=1)
    return float(np.max(np.logaddexp.reduce(log_capital, axis=0))) - math.log(len(BETS))
