"""The final of a study: the best few against baseline and incumbent, interleaved, then the winner afresh.

Rank 0 is the fastest configuration as accurate as the baseline. The ranks above are the rest of the Pareto
front over (latency, error, memory), each proven faster than the baseline in rounds of its own.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from msgspec import json
from msgspec.structs import replace

from autotune.errors import TrialError
from autotune.search.objective import LATENCY
from autotune.store.records import Choice, Configuration, Measurement, Proof, Trial, Verdict, Winner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from autotune.measure.comparison import Comparison, Rules
    from autotune.search.objective import Objective
    from autotune.space.pool import Pool
    from autotune.space.problem import Problem
    from autotune.store.records import StudyKey
    from autotune.worker.runner import Runner

T = TypeVar("T", Trial, Choice)

CLEARLY_SLOWER = 1.15
"""A configuration this much slower than the best has lost: its screening stops, and it is no finalist. What
may still win is kept: screening runs one after the other, where drift alone reaches several per cent."""

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
        screened: what screening estimated of the objective; 0 if it was not screened.
    """

    slot: str
    configuration: Configuration
    error: float
    memory_bytes: int
    trial: int | None = None
    screened: float = 0.0

    @classmethod
    def of(cls, trial: Trial, objective: Objective = LATENCY) -> Contender:
        """The contender that a trial makes."""
        error, memory, screened = trial.error or 0.0, trial.memory_bytes or 0, _screened(trial, objective)
        slot = trial_slot(trial.configuration)
        return cls(slot, trial.configuration, error, memory, trial.number, screened)


@dataclass(frozen=True)
class Final:
    """How winners are decided.

    Attributes:
        worker: in which the contenders are built.
        rules: margin and confidence; its time cap is set by the budget.
        accurate: the largest error of a configuration that is as accurate as the baseline.
        seed: of the rounds' order.
    """

    worker: Runner
    rules: Rules
    accurate: float
    seed: int
    objective: Objective = LATENCY

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
        fresh = self.worker.measure(
            winner.slot,
            budget_seconds=seconds * REMEASURE_SHARE,
            min_samples=self.objective.least_samples,
            energy=self.objective.energy,
        )
        choices = [self._choice(winner, comparison.proofs[winner.slot], winner is baseline, fresh)]
        proven = {
            slot: comparison.proofs[slot]
            for slot in contenders
            if slot not in (winner.slot, BASELINE) and comparison.keeps_limit(slot)
        }
        for contender in lossy:
            trial_comparison, alive = self._compare([baseline, contender], None, rounds_seconds)
            if contender.slot in alive and trial_comparison.keeps_limit(contender.slot):
                contenders[contender.slot] = contender
                proven[contender.slot] = trial_comparison.proofs[contender.slot]
        faster = [
            self._choice(contenders[slot], proof)
            for slot, proof in proven.items()
            if proof.against_baseline.low > 1 + self.rules.margin
        ]
        return pareto_front([choices[0], *sorted(faster, key=_cost)])

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
                    rules=self.objective.rules(self.rules, seconds),
                    seed=self.seed,
                )
                return comparison, alive
            except TrialError as failure:
                if failure.slot == BASELINE or failure.slot not in alive:
                    raise
                del alive[failure.slot]

    def incumbent(self, winner: Winner | None, pool: Pool) -> Contender | None:
        """The present winner as it stands today, built anew and its error measured anew.

        None where there is none, or it is the baseline, is not in the pool, fails, or has lost accuracy.
        """
        if winner is None or winner.choices[0].is_baseline:
            return None
        configuration = winner.choices[0].configuration
        if pool.find(configuration) is None:
            return None
        try:
            built = self.worker.build(INCUMBENT, configuration)
            error = self.worker.check(INCUMBENT, self.seed)
        except TrialError:
            return None
        if error > self.accurate:
            return None
        return Contender(INCUMBENT, configuration, error, built.memory_bytes)

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
    baseline: float,
    excluded: Sequence[Configuration] = (),
    objective: Objective = LATENCY,
) -> list[Trial]:
    """The trials that go to the final: the fastest accurate ones, and the front of the less accurate ones.

    Only trials that were checked and keep the objective's limit, and none that is clearly slower than what it
    must beat: the fastest accurate one for those as accurate, the baseline for the others.

    Args:
        trials: of one study.
        accurate: the largest error of a configuration that is as accurate as the baseline.
        baseline: what screening estimated of the baseline.
        excluded: configurations that are in the final anyway.
        objective: by which they are ranked.
    """

    def screened(trial: Trial) -> float:
        return _screened(trial, objective)

    ranked = sorted(
        (
            trial
            for trial in trials
            if trial.verdict is Verdict.OK and trial.measurement and trial.error is not None
            if objective.excess(trial.measurement) <= 0
        ),
        key=screened,
    )
    as_accurate = [trial for trial in ranked if _error(trial) <= accurate]
    limit = CLEARLY_SLOWER * min([baseline, *map(screened, as_accurate[:1])])
    chosen = [t for t in as_accurate if screened(t) <= limit and t.configuration not in excluded]
    chosen = chosen[: objective.most_finalists]
    front: list[Trial] = []
    for trial in ranked:
        better = [*chosen[:1], *front]
        lossy = _error(trial) > accurate and trial.configuration not in excluded
        hopeful = lossy and screened(trial) <= CLEARLY_SLOWER * baseline
        if hopeful and not any(_covers(other, trial, screened) for other in better):
            front.append(trial)
    return chosen + front[: objective.most_finalists]


def affordable(
    finalists: Sequence[Contender], baseline: float, seconds: float, objective: Objective = LATENCY
) -> Sequence[Contender]:
    """As many finalists, the first at least, as can be proven faster than the baseline in the time."""
    values = [baseline, *(finalist.screened for finalist in finalists)]
    while len(values) > 2 and least_seconds(values, objective) > seconds:
        values.pop()
    return finalists[: len(values) - 1]


def least_seconds(values: Iterable[float], objective: Objective = LATENCY) -> float:
    """The shortest final that can prove anything of contenders that were screened to be so."""
    return objective.least_rounds * sum(map(objective.sample_seconds, values)) / (1 - REMEASURE_SHARE)


def pareto_front(choices: Sequence[Choice]) -> tuple[Choice, ...]:
    """`choices` without those that an earlier one covers in latency, error and memory, ranks renumbered."""
    front: list[Choice] = []
    for choice in choices:
        if not any(_covers(other, choice, _cost) for other in front):
            front.append(choice)
    return tuple(replace(choice, rank=rank) for rank, choice in enumerate(front))


def winner_of(
    key: StudyKey, problem: Problem, baseline_error: float, choices: Sequence[Choice], limit_ns: float | None
) -> Winner:
    """The record of what a study decided.

    Args:
        key: of the study.
        problem: that it tuned.
        baseline_error: relative error of the baseline.
        choices: rank 0 first.
        limit_ns: the least latency that the device's ceilings allow; None if unknown.
    """
    return Winner(
        workload=key.workload,
        problem=problem.key,
        dimensions=problem.dimensions,
        neighbourhood=problem.neighbourhood,
        device=key.device,
        stack=key.stack,
        objective=key.objective,
        space=key.space,
        baseline_error=baseline_error,
        choices=tuple(
            replace(choice, limit_share=limit_ns / choice.latency_ns if limit_ns else None)
            for choice in choices
        ),
        decided_at=time.time(),
    )


def trial_slot(configuration: Configuration) -> str:
    """The worker's name for a trial's configuration.

    Not by the trial's number: the history gives it out once the trial has ended.
    """
    return f"trial-{hashlib.sha256(json.encode(configuration, order='sorted')).hexdigest()[:16]}"


def _cost(choice: Choice) -> float:
    """What the front trades for accuracy and memory, as a share of the baseline's in the same rounds."""
    return 1 / choice.proof.against_baseline.ratio


def _covers(better: T, worse: T, cost: Callable[[T], float]) -> bool:
    """Whether nothing speaks for `worse`: it costs no less, is no more accurate and no smaller."""
    return (
        cost(better) <= cost(worse)
        and _error(better) <= _error(worse) * (1 + ACCURACY_SLACK)
        and (better.memory_bytes or 0) <= (worse.memory_bytes or 0) + MEMORY_SLACK_BYTES
    )


def _screened(trial: Trial, objective: Objective) -> float:
    assert trial.measurement is not None, "only measured trials are ranked"
    return objective.value(trial.measurement)


def _error(of: Trial | Choice) -> float:
    return of.error or 0.0
