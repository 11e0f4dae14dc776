"""The interleaved comparison: which contender is faster, by more than the noise.

Contenders run in rounds, each once per round, in an order drawn anew. Whatever the machine does more slowly
than a round (clocks, heat, neighbours) hits all of them alike and cancels in the paired ratio; what it does
faster hits them by chance. Timing one contender after the other instead lets any drift pass for a difference.

Each pair is judged by a confidence sequence of its log-ratio (`autotune.measure.confidence`), which holds
however often one looks, so the rounds can stop as soon as all is decided. Where the ratio scatters lopsidedly
"faster" has several readings, so an interval here is the hull of three: the confidence sequence, the paired
bootstrap interval of the trimmed mean, and the median. A claim must hold for all of them.

A percentile other than the median is judged once, when the rounds are over: that of each contender by its
order statistics (`percentile_interval`), a ratio of two by the ends of both intervals. That needs hundreds of
rounds, and holds for rounds that are independent of each other; a disturbance that lasts over several rounds
hits all contenders in them. Means are judged once too (`mean_ratio_interval`).

Under a limit on the latency a challenger must also keep it: the upper bound of its 99th percentile is what
counts. A defender gives way to the baseline once its lower bound lies above the limit.

The defender is the incumbent, or the baseline when there is none. All others challenge: a challenger must
beat the defender *and* the baseline by the margin. The baseline itself challenges an incumbent, and takes its
place back from one that has become slower than the framework's own default.
"""

from __future__ import annotations

import math
import time
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from autotune.errors import InternalError
from autotune.measure.confidence import LARGEST_LOG_RATIO, confidence_sequence, rejects_at_most
from autotune.measure.statistics import mean_ratio_interval, paired_bootstrap, percentile_interval
from autotune.store.records import Interval, Proof

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

LOOK_EVERY_ROUND_UNTIL = 20
MEDIAN = 50.0

LOOK_GROWTH = 1.05
"""Later looks come every 5 % more rounds: judging takes time too, and a round more changes little by then."""


class Rules(msgspec.Struct, frozen=True):
    """How a comparison decides.

    Attributes:
        budget_seconds: time cap; at least one round is run.
        margin: by how much a challenger must be faster, e.g. 0.01.
        confidence: that no challenger is found faster that is not, over all challengers and looks.
        round_cap: most rounds.
        percentile: of the latency, which is compared; None for its mean.
        limit_ns: what the 99th percentile of a challenger must not exceed; None for no limit.
        energy: whether samples are nanojoules, taken over windows of calls.
    """

    budget_seconds: float = 10.0
    margin: float = 0.01
    confidence: float = 0.99
    round_cap: int = 1000
    percentile: float | None = MEDIAN
    limit_ns: float | None = None
    energy: bool = False


DISTURBED_SHARE = 0.5
"""Of the time, in which disturbed rounds are left out."""


class Outcome(StrEnum):
    """How a challenger stands against defender and baseline together: the worse of the two."""

    FASTER = "faster"
    TIE = "tie"
    SLOWER = "slower"


class Comparison(msgspec.Struct, frozen=True):
    """What the rounds showed.

    Attributes:
        contenders: their names, the first listed preferred among near-ties.
        baseline: name of the framework's default.
        incumbent: name of the present winner, None if there is none.
        samples_ns: per contender one entry per round; None where it rested.
        proofs: per contender; the baseline's own speed-up over itself is exactly 1.
        rules: how it was decided.
        stopped: `decided`, `time_cap` or `round_cap`.
    """

    contenders: tuple[str, ...]
    baseline: str
    incumbent: str | None
    samples_ns: dict[str, tuple[int | None, ...]]
    proofs: dict[str, Proof]
    rules: Rules
    stopped: str

    @property
    def defender(self) -> str:
        """Who keeps the place when nobody is faster."""
        return self.incumbent or self.baseline

    def rounds_ns(self) -> Floats:
        """The samples as an array, shape (rounds, contenders), NaN where a contender rested."""
        return np.array([self.samples_ns[name] for name in self.contenders], dtype=np.float64).T

    def outcome(self, name: str) -> Outcome:
        """How a challenger stands; the defender is a tie with itself."""
        if name == self.defender:
            return Outcome.TIE
        if name != self.baseline and not self.keeps_limit(name):
            return Outcome.TIE
        proof = self.proofs[name]
        against = [] if name == self.baseline else [proof.against_baseline]
        if proof.against_incumbent is not None:
            against.append(proof.against_incumbent)
        order = (Outcome.SLOWER, Outcome.TIE, Outcome.FASTER)
        return min((_outcome(interval, self.rules.margin) for interval in against), key=order.index)

    def breaks_limit(self, name: str) -> bool:
        """Whether a contender's 99th percentile is surely above the limit."""
        return self.rules.limit_ns is not None and self._tail_ns(name)[0] > self.rules.limit_ns

    def keeps_limit(self, name: str) -> bool:
        """Whether a contender's 99th percentile is surely within the limit, if there is one."""
        return self.rules.limit_ns is None or self._tail_ns(name)[1] <= self.rules.limit_ns

    def _tail_ns(self, name: str) -> tuple[float, float]:
        samples = [sample for sample in self.samples_ns[name] if sample is not None]
        return percentile_interval(samples, 99.0, self.rules.confidence)

    @property
    def winner(self) -> str:
        """`decide` of this comparison."""
        return decide(self)


def decide(comparison: Comparison) -> str:
    """The name to promote or keep: the fastest proven challenger, else the defender.

    Among challengers proven against both baseline and incumbent, the one with the lowest latency wins; of
    those within the margin of the lowest the first listed does, so that near-ties end alike every time.
    """
    proven = [name for name in comparison.contenders if comparison.outcome(name) is Outcome.FASTER]
    if not proven:
        lost = comparison.breaks_limit(comparison.defender)
        return comparison.baseline if lost else comparison.defender
    medians = {name: comparison.proofs[name].latency_ns for name in proven}
    return _first_of_fastest(medians, comparison.rules.margin)


def compare(
    sample: Callable[[int], float],
    contenders: Sequence[str],
    *,
    baseline: str,
    incumbent: str | None = None,
    rules: Rules | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
    disturbed: Callable[[], bool] = lambda: False,
) -> Comparison:
    """Run interleaved rounds until every challenger is decided or a cap is reached.

    A contender rests once nothing depends on it any more: a challenger that cannot beat a reference by the
    margin, or that the leading challenger beats by it; a reference whose pairs are all decided.

    Args:
        sample: takes one sample of the contender at an index, in nanoseconds.
        contenders: distinct names, including baseline and incumbent, in order of preference.
        baseline: name of the framework's default.
        incumbent: name of the present winner, if there is one.
        rules: margin, confidence and caps.
        seed: of the order within rounds and of the bootstrap.
        clock: seconds, for the time cap.
        disturbed: asked after each round whether it is worthless; then it is left out, but not in the second
            half of the time: pairs within a round are as fair as can be had then.

    Raises:
        InternalError: baseline or incumbent is not among the contenders, or a name is there twice.
    """
    rules = rules or Rules()
    names = tuple(contenders)
    if len(set(names)) < len(names) or not {baseline, incumbent or baseline} <= set(names):
        raise InternalError(f"contenders {names} must be distinct and include {baseline!r}, {incumbent!r}")
    rounds = _Rounds(names, baseline, incumbent or baseline, rules, seed)
    order = np.random.default_rng(seed)
    start, look, stopped = clock(), 1, ""
    while not stopped:
        began = clock()
        row = np.full(len(names), math.nan)
        for i in order.permutation([names.index(name) for name in rounds.running]):
            row[i] = sample(int(i))
        now = clock()
        if disturbed() and now - start < DISTURBED_SHARE * rules.budget_seconds:
            continue
        rounds.add(row)
        if rounds.count >= look:
            rounds.judge()
            look = max(look + 1, math.ceil(look * LOOK_GROWTH) if look > LOOK_EVERY_ROUND_UNTIL else 0)
        if not rounds.running:
            stopped = "decided"
        elif rounds.count >= rules.round_cap:
            stopped = "round_cap"
        elif now - start + (now - began) > rules.budget_seconds:
            stopped = "time_cap"
    return rounds.conclude(incumbent, stopped)


class _Rounds:
    """The rounds of one comparison, and who is still in the running."""

    def __init__(self, names: tuple[str, ...], baseline: str, defender: str, rules: Rules, seed: int) -> None:
        self._names = names
        self._baseline = baseline
        self._defender = defender
        self._rules = rules
        self._seed = seed
        self._margin = math.log1p(rules.margin)
        # Any of the challengers could be promoted in error: they share the error probability (Bonferroni).
        self._alpha = (1 - rules.confidence) / max(1, len(names) - 1)
        self._logs = np.full((rules.round_cap, len(names)), math.nan)
        self.count = 0
        self._challengers = [name for name in names if name != defender]
        self._won: set[tuple[str, str]] = set()
        self.running: list[str] = list(names)

    def add(self, row: Floats) -> None:
        """Note one round: nanoseconds per contender, NaN where it rested."""
        self._logs[self.count] = np.log(np.maximum(row, 1.0))
        self.count += 1

    def judge(self) -> None:
        """Drop challengers that are beaten, note pairs that are won, and say who runs the next round."""
        if self._rules.percentile != MEDIAN:  # its intervals may be looked at once only
            return
        for name in tuple(self._challengers):
            open_to = [other for other in self._references(name) if (name, other) not in self._won]
            if any(self._cannot_beat(name, other) for other in open_to):
                self._challengers.remove(name)
            else:
                self._won |= {(name, other) for other in open_to if self._beats(name, other)}
        self._judge_leader()
        unproven = {
            other
            for name in self._challengers
            for other in self._references(name)
            if (name, other) not in self._won
        }
        contested = self._challengers if unproven or len(self._challengers) > 1 else []
        self.running = [name for name in self._names if name in unproven or name in contested]

    def conclude(self, incumbent: str | None, stopped: str) -> Comparison:
        """The record of the rounds."""
        samples = {
            name: tuple(
                None if math.isnan(log) else round(math.exp(log)) for log in self._column(name).tolist()
            )
            for name in self._names
        }
        proofs = {name: self._proof(name, incumbent, stopped) for name in self._names}
        return Comparison(self._names, self._baseline, incumbent, samples, proofs, self._rules, stopped)

    def _references(self, name: str) -> list[str]:
        return [other for other in dict.fromkeys((self._defender, self._baseline)) if other != name]

    def _judge_leader(self) -> None:
        """Drop challengers that the leading one beats or, once it is proven, that cannot beat it."""
        if len(self._challengers) < 2:
            return
        leader = _first_of_fastest(
            {name: self._median_ns(name) for name in self._challengers}, self._rules.margin
        )
        proven = all((leader, other) in self._won for other in self._references(leader))
        for name in tuple(self._challengers):
            if name != leader and (self._beats(leader, name) or (proven and self._cannot_beat(name, leader))):
                self._challengers.remove(name)

    def _beats(self, name: str, other: str) -> bool:
        """Whether `name` is proven faster than `other` by the margin."""
        differences = self._log_ratios(name, other)
        return (
            rejects_at_most(differences, self._margin, self._alpha / 2)
            and float(np.median(differences)) > self._margin
            and paired_bootstrap(differences, self._rules.confidence, seed=self._seed)[0] > self._margin
        )

    def _cannot_beat(self, name: str, other: str) -> bool:
        """Whether it is proven that `name` is not faster than `other` by the margin."""
        return rejects_at_most(-self._log_ratios(name, other), -self._margin, self._alpha / 2)

    def _column(self, name: str) -> Floats:
        """Log of the nanoseconds, one per round."""
        return self._logs[: self.count, self._names.index(name)]

    def _median_ns(self, name: str, among: npt.NDArray[np.bool_] | slice = slice(None)) -> float:
        return math.exp(float(np.nanmedian(self._column(name)[among])))

    def _latency_ns(self, name: str, among: npt.NDArray[np.bool_] | slice = slice(None)) -> float:
        """The percentile, or the mean, that is compared."""
        logs = self._column(name)[among]
        if self._rules.percentile is None:
            return float(np.nanmean(np.exp(logs)))
        return math.exp(float(np.nanpercentile(logs, self._rules.percentile)))

    def _mean_ratio(self, name: str, other: str) -> Interval:
        """`other / name` of the means, over the rounds in which both ran."""
        these, others = np.exp(self._column(name)), np.exp(self._column(other))
        together = ~np.isnan(these + others)
        low, high = mean_ratio_interval(others[together], these[together], 1 - self._alpha, seed=self._seed)
        return Interval(float(others[together].mean() / these[together].mean()), low, high)

    def _percentile_ratio(self, name: str, other: str, percentile: float) -> Interval:
        """`other / name` of the percentiles; each interval errs half as often as the ratio may."""
        (low, high), (other_low, other_high) = (
            percentile_interval(np.exp(self._column(one)), percentile, 1 - self._alpha / 2)
            for one in (name, other)
        )
        bound = math.exp(LARGEST_LOG_RATIO)
        return Interval(
            self._latency_ns(other) / self._latency_ns(name),
            max(other_low / high, 1 / bound),
            min(other_high / low if low else bound, bound),
        )

    def _log_ratios(self, name: str, other: str) -> Floats:
        """`log(other / name)` of the rounds in which both ran: above 0, `name` is faster."""
        ratios: Floats = self._column(other) - self._column(name)
        return ratios[~np.isnan(ratios)]

    def _interval(self, name: str, other: str) -> Interval:
        if name == other:
            return Interval(1.0, 1.0, 1.0)
        if self._rules.percentile is None:
            return self._mean_ratio(name, other)
        if self._rules.percentile != MEDIAN:
            return self._percentile_ratio(name, other, self._rules.percentile)
        differences = self._log_ratios(name, other)
        median = float(np.median(differences))
        readings = [
            *confidence_sequence(differences, self._alpha),
            *paired_bootstrap(differences, self._rules.confidence, seed=self._seed),
            median,
        ]
        return Interval(math.exp(median), math.exp(min(readings)), math.exp(max(readings)))

    def _proof(self, name: str, incumbent: str | None, stopped: str) -> Proof:
        together = ~np.isnan(self._column(name) + self._column(self._baseline))
        return Proof(
            rounds=int(np.sum(together)),
            confidence=self._rules.confidence,
            margin=self._rules.margin,
            latency_ns=self._latency_ns(name),
            baseline_ns=self._latency_ns(self._baseline, together),
            against_baseline=self._interval(name, self._baseline),
            against_incumbent=None if incumbent is None else self._interval(name, incumbent),
            stopped=stopped,
        )


def _outcome(interval: Interval, margin: float) -> Outcome:
    if interval.low > 1 + margin:
        return Outcome.FASTER
    # A slowdown by the margin: other / this below 1 / (1 + margin).
    return Outcome.SLOWER if interval.high < 1 / (1 + margin) else Outcome.TIE


def _first_of_fastest(medians: dict[str, float], margin: float) -> str:
    """The first listed of those within the margin of the lowest median."""
    limit = min(medians.values()) * (1 + margin)
    return next(name for name, median in medians.items() if median <= limit)
