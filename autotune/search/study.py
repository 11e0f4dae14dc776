"""A study: one search over a space, from the baseline's measurement to the proven winner.

    begin -> baseline -> trials until the budget, the trial limit or the space is spent -> interleaved final
    -> fresh re-measurement of the winner -> promotion

Every trial is in the history before the next one starts, so a study that is killed resumes where it was.

Where equal nodes search together, each records its own trials. One of them decides: it tries what others
found to be good itself, so that nothing is proven by hearsay.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from autotune.errors import TrialError
from autotune.measure.comparison import Rules
from autotune.search.budget import Budget, Progress
from autotune.search.final import (
    ACCURACY_SLACK,
    BASELINE,
    Contender,
    Final,
    affordable,
    least_seconds,
    pareto_front,
    select_finalists,
    trial_slot,
    winner_of,
)
from autotune.search.objective import objective_named
from autotune.search.proposals import Proposals
from autotune.search.reserve import Reserve
from autotune.search.shared_proposals import SharedProposals
from autotune.search.stages import Stages
from autotune.search.tried import Tried
from autotune.store.parties import DECIDED_ELSEWHERE, INTERRUPTED
from autotune.store.records import Feasibility, Trial, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from autotune.search.objective import Objective
    from autotune.search.sampler.prior import PriorStudy
    from autotune.search.shared_study import Sharing
    from autotune.space.searchspace import SearchSpace
    from autotune.store.recorder import Recorder
    from autotune.store.records import Configuration, StudyKey, Winner
    from autotune.worker.messages import Prepared
    from autotune.worker.runner import Runner

__all__ = ["Budget", "Progress", "Study"]

LEAST_TRIALS = 3
"""Tried however short the budget is: a decision without a challenger would be none."""

MOST_AHEAD = 8
"""Configurations chosen together, to be compiled side by side: each is chosen without what the others of its
batch will have shown."""


class Study:
    """One search.

    Args:
        key: what makes it this study; an earlier one with the same key is resumed.
        space: the configurations.
        worker: where trials run; owned by the caller.
        history: where trials are recorded.
        budget: what it may spend.
        target: facts of the GPU that kernels are compiled for ahead of their trials, which rules out what
            cannot run there; None where trials tell, as on a CPU.
        hints: configurations to try first, e.g. winners of neighbouring sizes; those outside the space are
            passed over.
        prior: what earlier studies of this problem's neighbourhood found; the search starts from it.
        rules: margin and confidence of the final.
        objective: how configurations are compared, where it is not as the key's objective says.
        limit_ns: the least latency that the device's ceilings allow the prepared problem, given what was
            reached; None if unknown.
        observe: called whenever the progress has changed.
        seed: of inputs, proposals and the final's order.
        sharing: how to reach equal nodes that search too; None to search alone.
    """

    def __init__(
        self,
        key: StudyKey,
        space: SearchSpace,
        worker: Runner,
        history: Recorder,
        budget: Budget,
        *,
        target: Mapping[str, Any] | None = None,
        hints: Sequence[Configuration] = (),
        prior: Sequence[PriorStudy] = (),
        rules: Rules | None = None,
        objective: Objective | None = None,
        limit_ns: Callable[[Prepared, float], float | None] = lambda *_: None,
        observe: Callable[[Progress], None] = lambda _: None,
        seed: int = 0,
        sharing: Sharing | None = None,
    ) -> None:
        self.key = key
        self.space = space
        self.worker = worker
        self.history = history
        self.budget = budget
        self.target = target
        self.hints = hints
        self.prior = prior
        self.rules = rules or Rules()
        self.objective = objective or objective_named(key.objective, key.workload)
        self.seed = seed
        self._sharing = sharing
        self.progress = Progress(str(space.problem), budget.seconds, len(space))
        self._limit_ns = limit_ns
        self._observe = observe
        self.prepared: Prepared | None = None
        self._reserve = Reserve(budget, worker, self._least_final_seconds)
        self._compiles_ahead = True
        self._proposals: Proposals | None = None
        self._resident: list[Trial] = []

    def run(self) -> Winner | None:
        """Search, decide and promote; returns None where another node that searched too decides.

        Raises:
            TrialError: the baseline itself cannot be built or run; there is nothing to compare with. Its
                verdict is `preempted` where the deadline came first.
            KeyboardInterrupt: asked to stop; every finished trial is in the history.
        """
        began = time.time()
        facts = {"configurations": len(self.space), "offers": [asdict(offer) for offer in self.space.offers]}
        dimensions = self.space.problem.dimensions
        self.id = self.history.begin_study(self.key, dimensions, seed=self.seed, space_facts=facts)
        reason = INTERRUPTED
        try:
            self._start()
            self._proposals = self._begin_proposals()
            incumbent = self._current_winner() if self._sharing else None
            # By an equal device of this host, while this one prepared.
            decided = incumbent is not None and incumbent.decided_at >= began
            if not decided:
                reason = self.progress.end_reason = self._search()
            if decided or not self._proposals.claim():
                reason = self.progress.end_reason = DECIDED_ELSEWHERE
                self._report(phase="done")
                return None
            self._confirm()
            winner = self._decide()
            self.history.promote(self.id, winner)
            self._proposals.settle(self.baseline_value / winner.choices[0].proof.against_baseline.ratio)
            reason = self.progress.end_reason = "; ".join(filter(None, [reason, self._tried.limit_note()]))
        except TrialError as error:
            preempted = error.verdict == Verdict.PREEMPTED
            reason = (
                f"undecided: {error.reason}" if preempted else f"baseline {error.verdict}: {error.reason}"
            )
            raise
        finally:
            if self._proposals is not None:
                self._proposals.leave()
            self.worker.deadline = None
            self._reserve.making_seconds = self.making_seconds or self.progress.elapsed_seconds
            self.history.end_study(self.id, reason)
        self._report(phase="done")
        return winner

    @property
    def making_seconds(self) -> float:
        """What making the problem and its baseline took, or the whole study where that failed."""
        return self._reserve.making_seconds

    @property
    def accurate(self) -> float:
        """The largest error of a configuration that is as accurate as the baseline."""
        return self.baseline.error * (1 + ACCURACY_SLACK)

    @property
    def allowed_error(self) -> float:
        """The largest relative error that a trial may have."""
        return max(self.accurate, self.key.max_error or 0.0)

    def _start(self) -> None:
        """Prepare the worker, measure the baseline, and take up what an earlier run of this study left."""
        self._report()
        with self._reserve.making(self.progress.started):
            self.prepared = self.worker.prepare(self.space.problem, self.seed)
            built = self.worker.build(BASELINE, self.space.baseline)
            error = self.worker.check(BASELINE, self.seed)
        self._reserve.made(self.prepared.seconds + built.compile_seconds)
        self.baseline = Contender(BASELINE, self.space.baseline, error, built.memory_bytes)
        self._baseline_screened = self.worker.measure(
            BASELINE,
            budget_seconds=self.budget.screen_seconds,
            min_samples=self.objective.least_samples,
            energy=self.objective.energy,
        )
        self.baseline_value = self.objective.value(self._baseline_screened)
        self._tried = Tried(self.history, self.id, self.objective, self._baseline_screened)
        self.progress.begin(self.baseline_value, self._tried)
        self._stages = Stages(
            self.worker,
            self.objective,
            self.seed,
            self.budget.seconds,
            self.budget.screen_seconds,
            self.allowed_error,
            best_ns=lambda error: self._tried.best(max(error, self.accurate), self.objective.latency_ns),
            enter=self._enter,
        )

    def _begin_proposals(self) -> Proposals:
        """Where configurations come from, told what is known."""
        known = (self.space.pool, self.seed, self.prior, self.objective, self.allowed_error)
        value, excess = self.baseline_value, self.objective.excess(self._baseline_screened)
        shared = self._sharing and SharedProposals(*known, self._sharing, self.key, value)
        proposals = shared or Proposals(*known)
        proposals.learn(self.space.baseline, value, excess=excess)
        for trial in self._tried:
            proposals.learn_trial(trial)
        for quarantined in self._quarantined():
            proposals.learn(quarantined, None)
        proposals.first(self.hints)
        return proposals

    def _search(self) -> str:
        """Try configurations until something is spent; returns what was."""
        proposals = self._proposals
        assert proposals is not None, "begun before"
        fresh = ruled_out = 0
        waiting: deque[tuple[Configuration, Feasibility]] = deque()
        while True:
            spent = self.progress.elapsed_seconds > self.budget.seconds * (1 - self.budget.final_share)
            enough = spent and fresh + ruled_out >= LEAST_TRIALS
            if enough or self.budget.seconds_left < self._reserve.final_seconds:
                return "budget"
            tried = fresh + proposals.tried_elsewhere
            if self.budget.trials is not None and tried >= self.budget.trials:
                return "trials"
            self._report(phase="searching")
            if not waiting:
                most = math.inf if self.budget.trials is None else self.budget.trials - tried
                waiting.extend(self._compiled_ahead(proposals, most))
            if proposals.closed:
                return "closed"
            if not waiting:
                return "exhausted"
            if proposals.are_improbable and fresh >= LEAST_TRIALS:
                return "improbable"
            configuration, feasibility = waiting.popleft()
            if feasibility.infeasible:
                proposals.learn_trial(self._rule_out(configuration, feasibility))
                ruled_out += 1
                continue
            trial = self._try(configuration, feasibility)
            proposals.learn_trial(trial)
            fresh += 1
            if trial.verdict is Verdict.PREEMPTED and self._reserve.must_decide_if_rebuilt:
                return "budget"

    def _compiled_ahead(self, proposals: Proposals, most: float) -> list[tuple[Configuration, Feasibility]]:
        """The next configurations, each with what compiling it showed.

        On a CPU the compiler and the kernels share the cores, so a batch is compiled on all of them while
        nothing is timed, and tried afterwards. For a GPU even a single one is compiled before it is tried:
        the device is not touched for what cannot run on it.
        """
        assert self.prepared is not None, "searched after preparation"
        size = int(min(most, self.prepared.compilers, MOST_AHEAD)) if self._compiles_ahead else 1
        asked = [proposals.ask() for _ in range(max(size, 1))]
        batch = [configuration for configuration in asked if configuration is not None]
        found = [Feasibility()] * len(batch)
        if len(batch) > 1 or (batch and self.target is not None and self._compiles_ahead):
            with self._reserve.trial():
                try:
                    found = self.worker.compile(batch, self.target)
                except TrialError:
                    # Whose fault it was shows when each is built on its own.
                    self._compiles_ahead = False
        return list(zip(batch, found, strict=True))

    def _rule_out(self, configuration: Configuration, feasibility: Feasibility) -> Trial:
        """Record a configuration that cannot run on the device; it is not tried."""
        trial = Trial(
            len(self._tried),
            configuration,
            Verdict.INFEASIBLE,
            "feasibility",
            feasibility.infeasible,
            compile_seconds=feasibility.seconds,
            started_at=time.time(),
            kernels=feasibility.kernels,
        )
        return self._record(trial)

    def _quarantined(self) -> list[Configuration]:
        """Configurations that did harm on this device and stack before."""
        key = self.key
        return self.history.quarantined(
            key.device, key.stack, key.workload, key.problem, allowed_error=self.allowed_error
        )

    def _try(self, configuration: Configuration, feasibility: Feasibility) -> Trial:
        """Run one configuration through the stages and record how it ended."""
        number = len(self._tried)
        outcome: dict[str, Any] = {"stage": self._enter("compile", configuration)}
        started_at, started = time.time(), time.monotonic()
        try:
            with self._reserve.trial():
                verdict, reason = self._stages.run(trial_slot(configuration), configuration, outcome)
        except TrialError as failure:
            verdict, reason = Verdict(failure.verdict), failure.reason
        except KeyboardInterrupt:
            self.worker.kill()
            self._record(Trial(number, configuration, Verdict.PREEMPTED, outcome["stage"], "interrupted"))
            raise
        measure_seconds = time.monotonic() - started - outcome.get("compile_seconds", 0.0)
        outcome["compile_seconds"] = outcome.get("compile_seconds", 0.0) + feasibility.seconds
        trial = Trial(
            number,
            configuration,
            verdict,
            reason=reason,
            measure_seconds=measure_seconds,
            started_at=started_at,
            kernels=feasibility.kernels,
            **outcome,
        )
        trial = self._record(trial)
        self._keep_best_resident(trial)
        return trial

    def _enter(self, stage: str, configuration: Configuration) -> str:
        """Tell which stage the trial comes to, before it does."""
        self.progress.trying, self.progress.stage = configuration, stage
        self._report()
        return stage

    def _record(self, trial: Trial) -> Trial:
        """Record a trial; returns it with the number that it has there."""
        trial = self._tried.record(trial)
        self.progress.ended(trial, self.objective)
        self._report()
        return trial

    def _keep_best_resident(self, trial: Trial) -> None:
        """Leave the likely finalists built in the worker, so that the final need not build them again."""
        self._resident.append(trial)
        likely = select_finalists(
            self._resident, self.accurate, self.baseline_value, objective=self.objective
        )
        for dropped in self._resident:
            if dropped not in likely:
                self.worker.release(trial_slot(dropped.configuration))
        self._resident = likely

    def _confirm(self) -> None:
        """Try the best of what others tried: what wins here has been checked and screened here."""
        assert self._proposals is not None, "begun before"
        known = [self.space.baseline, *(t.configuration for t in self._tried if t.verdict != "preempted")]
        for configuration in self._proposals.best()[: self.objective.most_finalists]:
            valid = self.space.pool.find(configuration) is not None
            if valid and configuration not in known and not self._reserve.must_decide_if_rebuilt:
                known.append(configuration)
                self._try(configuration, Feasibility())

    def _decide(self) -> Winner:
        """The interleaved final, and the record of what it decided."""
        self._report(phase="deciding")
        if len(self.space) > 1 and all(trial.verdict is Verdict.PREEMPTED for trial in self._tried):
            # Else the baseline would pass for the best of all.
            raise TrialError(Verdict.PREEMPTED, "no time was left for a trial")
        with self._reserve.final():
            final = Final(self.worker, self.rules, self.accurate, self.seed, self.objective)
            final.ready([self.baseline])
            before = self._current_winner()
            incumbent = final.incumbent(before, self.space.pool)
            excluded = [self.space.baseline, *([incumbent.configuration] if incumbent else [])]
            tried = list(self._tried)
            chosen = select_finalists(tried, self.accurate, self.baseline_value, excluded, self.objective)
            finalists = final.ready([Contender.of(trial, self.objective) for trial in chosen])
            remaining = self.budget.seconds - self.progress.elapsed_seconds
            seconds = min(max(remaining, self._reserve.final_seconds), self.budget.seconds_left)
            proven = affordable(finalists, self.baseline_value, seconds, self.objective)
            choices = final.decide(self.baseline, incumbent, proven, max(seconds, 0.0))
        if self.key.max_error is None and before is not None:
            # This study tried nothing that loses accuracy: what another one proved of such still holds.
            choices = pareto_front([*choices, *(c for c in before.choices if c.error > self.accurate)])
        assert self.prepared is not None, "decided after preparation"
        limit_ns = self._limit_ns(self.prepared, choices[0].latency_ns)
        return winner_of(self.key, self.space.problem, self.baseline.error, choices, limit_ns)

    def _least_final_seconds(self) -> float:
        """The least that a final takes which proves anything of the best so far."""
        best = self._tried.best(self.accurate, self.objective.value)
        return least_seconds([self.baseline_value, best], self.objective)

    def _current_winner(self) -> Winner | None:
        key = self.key
        return self.history.incumbent(key.device, key.stack, key.workload, key.problem, key.objective)

    def _report(self, phase: str | None = None) -> None:
        self.progress.phase = phase or self.progress.phase
        self._observe(self.progress)
