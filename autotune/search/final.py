"""The final of a study: the best few against baseline and incumbent, interleaved, then the winner afresh.

Rank 0 is the fastest configuration as accurate as the baseline. The ranks above are the rest of the Pareto
front over (latency, error, memory), each proven faster than the baseline in rounds of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from msgspec.structs import replace

from autotune.errors import TrialError
from autotune.store.records import Choice, Configuration, Measurement, Proof, Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autotune.measure.comparison import Comparison, Rules
    from autotune.worker.worker import Worker

T = TypeVar("T", Trial, Choice)

CLEARLY_SLOWER = 1.15
"""A configuration this much slower than the best has lost: its screening stops, and it is no finalist. What
may still win is kept: screening runs one after the other, where drift alone reaches several per cent."""

LEAST_ROUNDS = 14
"""Rounds that the final has time for, where possible: with fewer the confidence sequence proves nothing,
however large the difference, and a slow baseline would stay for want of time."""

MOST_FINALISTS = 4
"""Accurate configurations in the final, and as many less accurate ones. Screening ranks within a few per
cent; more finalists take rounds from each other."""

ACCURACY_SLACK = 0.01
"""Errors within this share of each other count as equal: the order of summation alone moves them by less."""

MEMORY_SLACK_BYTES = 1 << 20
"""Less memory than this saved is no point of the front: allocators round by as much."""

REMEASURE_SHARE = 0.15
"""Share of the final's time for the winner's fresh measurement."""

BASELINE = "baseline"
INCUMBENT = "incumbent"


@dataclass(frozen=True)
class Contender:
    """A configuration in the final.

    Attributes:
        slot: its name in the worker.
        trial: number of its trial; None for baseline and incumbent.
        screened_ns: its median in screening; 0 if it was not screened.
    """

    slot: str
    configuration: Configuration
    error: float
    memory_bytes: int
    trial: int | None = None
    screened_ns: float = 0.0

    @classmethod
    def of(cls, trial: Trial) -> Contender:
        """The contender that a trial makes."""
        error, memory, screened = trial.error or 0.0, trial.memory_bytes or 0, _screened_ns(trial)
        return cls(trial_slot(trial.number), trial.configuration, error, memory, trial.number, screened)


@dataclass(frozen=True)
class Final:
    """How winners are decided.

    Attributes:
        worker: in which the contenders are built.
        rules: margin and confidence; its time cap is set by the budget.
        accurate: the largest error of a configuration that is as accurate as the baseline.
        seed: of the rounds' order.
    """

    worker: Worker
    rules: Rules
    accurate: float
    seed: int

    def decide(
        self,
        baseline: Contender,
        incumbent: Contender | None,
        finalists: Sequence[Contender],
        seconds: float,
    ) -> tuple[Choice, ...]:
        """The choices to publish, rank 0 first.

        Args:
            baseline: what the framework does.
            incumbent: the present winner; None when there is none or it is the baseline.
            finalists: the best few that were screened, fastest first.
            seconds: for all rounds and the re-measurement.

        Raises:
            TrialError: the baseline itself no longer runs.
        """
        accurate = [c for c in finalists if c.error <= self.accurate]
        lossy = [c for c in finalists if c.error > self.accurate]
        rounds_seconds = seconds * (1 - REMEASURE_SHARE) / (1 + len(lossy))
        defenders = [baseline, *([incumbent] if incumbent else [])]
        comparison, contenders = self._compare([*defenders, *accurate], incumbent, rounds_seconds)
        winner = contenders[comparison.winner]
        fresh = self.worker.measure(winner.slot, budget_seconds=seconds * REMEASURE_SHARE)
        choices = [self._choice(winner, comparison.proofs[winner.slot], winner is baseline, fresh)]
        proven = {slot: comparison.proofs[slot] for slot in contenders if slot not in (winner.slot, BASELINE)}
        for contender in lossy:
            trial_comparison, alive = self._compare([baseline, contender], None, rounds_seconds)
            if contender.slot in alive:
                contenders[contender.slot] = contender
                proven[contender.slot] = trial_comparison.proofs[contender.slot]
        faster = [
            self._choice(contenders[slot], proof)
            for slot, proof in proven.items()
            if proof.against_baseline.low > 1 + self.rules.margin
        ]
        return pareto_front([choices[0], *sorted(faster, key=lambda choice: choice.latency_ns)])

    def _compare(
        self, contenders: Sequence[Contender], incumbent: Contender | None, seconds: float
    ) -> tuple[Comparison, dict[str, Contender]]:
        """Interleaved rounds; a contender that fails by now is left out, and the rounds run again."""
        alive = {contender.slot: contender for contender in self.ready(contenders)}
        while True:
            try:
                comparison = self.worker.compare(
                    list(alive),
                    baseline=BASELINE,
                    incumbent=incumbent.slot if incumbent and incumbent.slot in alive else None,
                    rules=replace(self.rules, budget_seconds=seconds),
                    seed=self.seed,
                )
                return comparison, alive
            except TrialError as failure:
                if failure.slot == BASELINE or failure.slot not in alive:
                    raise
                del alive[failure.slot]

    def ready(self, contenders: Sequence[Contender]) -> list[Contender]:
        """Those of the contenders that are built, anew where the process that held them has died.

        Raises:
            TrialError: the baseline does not build any more.
        """
        built = []
        for contender in contenders:
            try:
                self.worker.build(contender.slot, contender.configuration)
                built.append(contender)
            except TrialError:
                if contender.slot == BASELINE:
                    raise
        return built

    def _choice(
        self,
        contender: Contender,
        proof: Proof,
        is_baseline: bool = False,
        fresh: Measurement | None = None,
    ) -> Choice:
        latency_ns = fresh.p50_ns if fresh else proof.latency_ns
        return Choice(
            rank=0,
            configuration=contender.configuration,
            latency_ns=latency_ns,
            error=contender.error,
            memory_bytes=contender.memory_bytes,
            proof=proof,
            trial=contender.trial,
            is_baseline=is_baseline,
            measurement=fresh,
        )


def select_finalists(
    trials: Iterable[Trial],
    accurate: float,
    baseline_ns: float,
    excluded: Sequence[Configuration] = (),
) -> list[Trial]:
    """The trials that go to the final: the fastest accurate ones, and the front of the less accurate ones.

    Only trials that were checked, and none that is clearly slower than what it must beat: the fastest
    accurate one for those as accurate, the baseline for the others.

    Args:
        trials: of one study.
        accurate: the largest error of a configuration that is as accurate as the baseline.
        baseline_ns: the baseline's screened median.
        excluded: configurations that are in the final anyway.
    """
    ranked = sorted(
        (t for t in trials if t.verdict is Verdict.OK and t.measurement and t.error is not None),
        key=_screened_ns,
    )
    as_accurate = [trial for trial in ranked if _error(trial) <= accurate]
    limit_ns = CLEARLY_SLOWER * min([baseline_ns, *map(_screened_ns, as_accurate[:1])])
    chosen = [t for t in as_accurate if _screened_ns(t) <= limit_ns and t.configuration not in excluded]
    chosen = chosen[:MOST_FINALISTS]
    front: list[Trial] = []
    for trial in ranked:
        better = [*chosen[:1], *front]
        lossy = _error(trial) > accurate and trial.configuration not in excluded
        hopeful = lossy and _screened_ns(trial) <= CLEARLY_SLOWER * baseline_ns
        if hopeful and not any(_covers(other, trial, _screened_ns) for other in better):
            front.append(trial)
    return chosen + front[:MOST_FINALISTS]


def affordable(finalists: Sequence[Contender], baseline_ns: float, seconds: float) -> Sequence[Contender]:
    """As many finalists, the first at least, as can be proven faster than the baseline in the time."""
    latencies = [baseline_ns, *(finalist.screened_ns for finalist in finalists)]
    while len(latencies) > 2 and least_seconds(latencies) > seconds:
        latencies.pop()
    return finalists[: len(latencies) - 1]


def least_seconds(latencies_ns: Iterable[float]) -> float:
    """The shortest final that can prove anything of contenders with these latencies."""
    return LEAST_ROUNDS * sum(latencies_ns) / 1e9 / (1 - REMEASURE_SHARE)


def pareto_front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """`choices` without those that an earlier one covers in latency, error and memory, ranks renumbered."""
    front: list[Choice] = []
    for choice in choices:
        if not any(_covers(other, choice, lambda c: c.latency_ns) for other in front):
            front.append(choice)
    return tuple(replace(choice, rank=rank) for rank, choice in enumerate(front))


def trial_slot(number: int) -> str:
    """The worker's name for a trial's configuration."""
    return f"trial-{number}"


def _covers(better: T, worse: T, latency_ns: Callable[[T], float]) -> bool:
    """Whether nothing speaks for `worse`: it is no faster, no more accurate and no smaller."""
    return (
        latency_ns(better) <= latency_ns(worse)
        and _error(better) <= _error(worse) * (1 + ACCURACY_SLACK)
        and (better.memory_bytes or 0) <= (worse.memory_bytes or 0) + MEMORY_SLACK_BYTES
    )


def _screened_ns(trial: Trial) -> float:
    assert trial.measurement is not None, "only measured trials are ranked"
    return trial.measurement.p50_ns


def _error(of: Trial | Choice) -> float:
    return of.error or 0.0
