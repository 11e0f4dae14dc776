"""Tuning problems one after another on one device: what the command line and the daemon call."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from autotune.errors import TrialError
from autotune.fingerprint import ceilings as known_ceilings
from autotune.fingerprint.stack import stack_digest
from autotune.measure.comparison import Rules
from autotune.measure.energy import meter_for
from autotune.search.composition import starting_configurations
from autotune.search.imported import FromImports
from autotune.search.objective import objective_named
from autotune.search.preparation import Preparations
from autotune.search.study import Budget, Study
from autotune.search.transfer import FromBundles, FromHistory, nearest
from autotune.space.declared import check_objective
from autotune.space.searchspace import SearchSpace
from autotune.store.bundles import candidates
from autotune.store.fleet import fleet_candidates
from autotune.store.records import StudyKey, Verdict
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from autotune.fingerprint import Ceilings, Device
    from autotune.search.shared_study import Sharing
    from autotune.search.study import Progress
    from autotune.search.transfer import Source
    from autotune.space.problem import Problem
    from autotune.store.recorder import Recorder
    from autotune.store.records import Winner
    from autotune.worker.messages import Prepared
    from autotune.worker.worker import Worker

LEAST_STUDY_SECONDS = 10.0
"""What a study of a small space on a CPU needs to prove anything; with less time left none starts."""

MOST_HINTS = 2
"""Winners of neighbouring sizes that are tried first where nothing else is known."""

PREPARATION_SHARE = 0.15
"""Share of a plan's time that making one problem may take. A problem that takes more waits until those that
can be had for less are done, lest it starve them all."""


@dataclass(frozen=True)
class Goal:
    """What a problem is tuned for.

    Attributes:
        objective: `latency`, the median of a call; `tail`, its 99th percentile; `throughput`, calls per
            second, or `throughput:5ms`, the same where the 99th percentile is at most that; `energy`, joules
            per call.
        max_error: relative error that the caller accepts; None means no more than the baseline's.
    """

    objective: str = "latency"
    max_error: float | None = None

    def __post_init__(self) -> None:
        check_objective(self.objective)

    def check_measurable(self, device: str) -> None:
        """Refuse what cannot be measured on a kind of device.

        Raises:
            UsageError: it counts no energy, or does not let this user read it.
        """
        if objective_named(self.objective).energy:
            meter_for(device)


@dataclass(frozen=True)
class Outcome:
    """What became of one problem of a plan.

    Attributes:
        winner: None when the study failed, or another node decides.
        fresh: whether it was decided now; else an earlier study had decided it.
        failure: why the study failed, one line.
        elsewhere: whether another node that searched too decides.
    """

    problem: Problem
    winner: Winner | None = None
    fresh: bool = True
    failure: str = ""
    elsewhere: bool = False


class Tuner:
    """Tunes problems on one device and publishes each winner as soon as it is proven.

    Args:
        history: the record.
        worker: where trials run; owned by the caller.
        device: the device under tuning.
        rules: margin and confidence of the final.
        seed: of inputs, proposals and the final's order.
        sources: of earlier studies beside the history's own and those imported into its folder.
        sharing: how to reach equal nodes that search too; None to search alone.
    """

    def __init__(
        self,
        history: Recorder,
        worker: Worker,
        device: Device,
        rules: Rules | None = None,
        seed: int = 0,
        sources: Sequence[Source] = (),
        sharing: Sharing | None = None,
    ) -> None:
        self.history = history
        self.worker = worker
        self.device = device
        self.rules = rules or Rules()
        self.seed = seed
        self.sharing = sharing
        self._preparations = Preparations()
        # Of the worker's interpreter, which need not be this one.
        facts = worker.stack()
        self.stack = stack_digest(device.kind, facts)
        self.imports = FromImports(history.state.path, device)
        self.sources: tuple[Source, ...] = (
            FromHistory(history, device, self.stack),
            self.imports,
            FromBundles(history, device, self.stack),
            *sources,
        )
        history.record_device(device)
        history.record_stack(self.stack, facts)

    def space(self, problem: Problem, goal: Goal) -> SearchSpace:
        """The configurations that may be tried."""
        return SearchSpace.build(declaration(problem.workload), problem, self.device.facts, goal.max_error)

    def decided(self, problem: Problem, goal: Goal) -> Winner | None:
        """The winner of an ended study of the very same space and goal on this device and stack."""
        space = self.space(problem, goal)
        found = self.history.find_study(self._key(space, goal))
        if found is None:
            return None
        current = self.history.decisions(study=found, state="current", limit=1)
        return current[0].winner if current else None

    def tune(
        self,
        problem: Problem,
        goal: Goal,
        budget: Budget,
        observe: Callable[[Progress], None] = lambda _: None,
    ) -> Winner | None:
        """Search, prove, promote and publish; returns None where another node that searched too decides.

        Raises:
            TrialError: the baseline cannot be built or run; `preempted`: the budget's deadline came first.
            UsageError: the objective cannot be measured on this device.
            KeyboardInterrupt: asked to stop; finished trials are kept.
        """
        goal.check_measurable(self.device.kind)
        space = self.space(problem, goal)
        key = self._key(space, goal)
        prior = nearest(
            self.sources, problem, objective_named(goal.objective), but=self.history.find_study(key)
        )
        # Winners whose studies were lost with an earlier history are all that is known of a neighbour.
        hints = [] if prior else self.history.neighbours(self.device.digest, problem, goal.objective)
        device = self.device
        # What others found for their own kernels of this shape, and what won on a machine like this one, is
        # tried whatever else is known: that proves or refutes it.
        found = [
            starting_configurations(self.history, space, self.device.digest, self.stack),
            self.imports.candidates(space, MOST_HINTS),
            fleet_candidates(self.history, problem, goal.objective, device.digest, self.stack),
            candidates(self.history, problem, goal.objective, device.kind, device.family, device.digest),
            hints,
        ]
        study = Study(
            key,
            space,
            self.worker,
            self.history,
            budget,
            target=device.facts if device.facts.get("compute_capability") else None,
            hints=[*found[0], *(hint for each in found[1:] for hint in each[:MOST_HINTS])],
            prior=prior,
            rules=self.rules,
            limit_ns=self.limit_ns,
            observe=observe,
            seed=self.seed,
            sharing=self.sharing,
        )
        try:
            winner = study.run()
        finally:
            self._preparations.learn(problem, study.making_seconds)
        if winner is not None:
            self.history.publish(f"study {study.id}: {problem}")
        return winner

    def tune_all(
        self,
        problems: Sequence[Problem],
        goal: Goal,
        budget: Budget,
        total_seconds: float,
        *,
        again: bool = False,
        observe: Callable[[Progress], None] = lambda _: None,
    ) -> Iterator[Outcome]:
        """Tune problems in the order given until the time is spent, and end by then.

        What an earlier run decided is passed over, so that a plan that was stopped resumes. Each study gets
        an equal share of the time left, at least `LEAST_STUDY_SECONDS` beside making its problem, and at most
        its own budget. Problems that take long to make come after the others.

        Args:
            problems: most valuable first.
            goal: for all of them.
            budget: the most that one study may spend.
            total_seconds: for all of them.
            again: tune what was decided before too.
            observe: called whenever a study's progress has changed.
        """
        began, deadline = time.time(), time.monotonic() + total_seconds
        waiting = []
        for problem in problems:
            winner = None if again else self.decided(problem, goal)
            if winner:
                yield Outcome(problem, winner, fresh=False)
            else:
                waiting.append(problem)
        first = True
        while waiting:
            left = deadline - time.monotonic()
            next_problem = self._next(waiting, left, total_seconds, first)
            if next_problem is None:
                return
            waiting.remove(next_problem)
            first = False
            # An equal device of this host may have come to it first, and be done.
            winner = self.decided(next_problem, goal) if self.sharing else None
            if winner is not None and winner.decided_at >= began:
                yield Outcome(next_problem, winner)
                continue
            least = LEAST_STUDY_SECONDS + self._preparations.expected_seconds(next_problem)
            share = min(max(left / (len(waiting) + 1), least), left, budget.seconds)
            study_budget = replace(budget, seconds=share, deadline=deadline)
            try:
                decided = self.tune(next_problem, goal, study_budget, observe)
                yield Outcome(next_problem, decided, elsewhere=decided is None)
            except TrialError as error:
                undecided = error.verdict == Verdict.PREEMPTED
                failure = f"undecided: {error.reason}" if undecided else f"the baseline failed: {error}"
                yield Outcome(next_problem, failure=failure)

    def _next(
        self, waiting: Sequence[Problem], left: float, total_seconds: float, first: bool
    ) -> Problem | None:
        """The first problem that is quickly made, else the first for which there is time, if there is one.

        Args:
            waiting: most valuable first.
            left: seconds until the plan's end.
            total_seconds: of the whole plan.
            first: whether none was begun; then one is in any case, to do what can be done.
        """
        share = max(left / len(waiting), LEAST_STUDY_SECONDS, PREPARATION_SHARE * total_seconds)
        making = {problem: self._preparations.expected_seconds(problem) for problem in waiting}
        fitting = [problem for problem in waiting if making[problem] + LEAST_STUDY_SECONDS <= left]
        quick = [problem for problem in fitting if making[problem] <= share]
        return next(iter([*quick, *fitting, *(waiting[:1] if first else [])]), None)

    def ceilings(self) -> Ceilings:
        """The device's limits, measured once per device and stack and kept in the cache folder."""
        found = known_ceilings.load(self.device.digest, self.stack)
        if found is None:
            found = self.worker.ceilings()
            known_ceilings.save(self.device.digest, self.stack, found)
        return found

    def limit_ns(self, prepared: Prepared, reached_ns: float) -> float:
        """The least latency that the device's limits allow a problem (its roofline).

        Limits that a problem was faster than were measured on a busy machine: they are measured again, and
        the better of both figures holds.
        """
        work = (prepared.flops, prepared.bytes, prepared.dtype)
        limits = self.ceilings()
        if 1e9 * limits.least_seconds(*work) > reached_ns:
            limits = limits.raised_by(self.worker.ceilings())
            known_ceilings.save(self.device.digest, self.stack, limits)
        return 1e9 * limits.least_seconds(*work)

    def _key(self, space: SearchSpace, goal: Goal) -> StudyKey:
        return StudyKey(
            workload=space.problem.workload,
            problem=space.problem.key,
            device=self.device.digest,
            stack=self.stack,
            objective=goal.objective,
            space=space.digest,
            max_error=goal.max_error,
        )
