"""Tuning problems one after another on one device: what the command line and the daemon call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.errors import UnknownNameError
from autotune.fingerprint import ceilings as known_ceilings
from autotune.fingerprint.digest import digest
from autotune.measure.roofline import limit_seconds
from autotune.search.study import Budget, Study
from autotune.space.declared import OBJECTIVES
from autotune.space.searchspace import SearchSpace
from autotune.store import snapshot
from autotune.store.records import StudyKey
from autotune.workloads.registry import declaration

if TYPE_CHECKING:
    from collections.abc import Callable

    from autotune.fingerprint import Ceilings, Device
    from autotune.search.study import Progress
    from autotune.space.problem import Problem
    from autotune.store.history import History
    from autotune.store.records import Configuration, Winner
    from autotune.worker.worker import Worker


@dataclass(frozen=True)
class Goal:
    """What a problem is tuned for.

    Attributes:
        objective: `latency`, the median of one call.
        max_error: relative error that the caller accepts; None means no more than the baseline's.
    """

    objective: str = "latency"
    max_error: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise UnknownNameError("objective", self.objective, OBJECTIVES)


class Tuner:
    """Tunes problems on one device and publishes each winner as soon as it is proven.

    Args:
        history: the record; this process is its writer.
        worker: where trials run; owned by the caller.
        device: the device under tuning.
        stack: the facts of the software that the worker runs, which need not be this process's.
    """

    def __init__(self, history: History, worker: Worker, device: Device) -> None:
        self.history = history
        self.worker = worker
        self.device = device
        self.stack = worker.stack()
        self.stack_digest = digest(self.stack)
        history.record_device(device)
        history.record_stack(self.stack_digest, self.stack)

    def space(self, problem: Problem, goal: Goal) -> SearchSpace:
        """The configurations that may be tried."""
        return SearchSpace.build(declaration(problem.workload), problem, self.device.facts, goal.max_error)

    def key(self, space: SearchSpace, goal: Goal) -> StudyKey:
        """What identifies the study of a space on this device and stack."""
        return StudyKey(
            workload=space.problem.workload,
            problem=space.problem.key,
            device=self.device.digest,
            stack=self.stack_digest,
            objective=goal.objective,
            space=space.digest,
            max_error=goal.max_error,
        )

    def decided(self, problem: Problem, goal: Goal) -> Winner | None:
        """The winner of an earlier study of the very same space and goal on this device and stack."""
        winner = self.history.incumbent(
            self.device.digest, self.stack_digest, problem.workload, problem.key, goal.objective
        )
        same = winner is not None and winner.space == self.space(problem, goal).digest
        return winner if same else None

    def tune(
        self,
        problem: Problem,
        goal: Goal,
        budget: Budget,
        *,
        observe: Callable[[Progress], None] = lambda _: None,
        seed: int = 0,
    ) -> Winner:
        """Search, prove, promote and publish.

        Raises:
            TrialError: the baseline cannot be built or run.
            KeyboardInterrupt: asked to stop; finished trials are kept.
        """
        space = self.space(problem, goal)
        study = Study(
            self.key(space, goal),
            space,
            self.worker,
            self.history,
            budget,
            hints=self._neighbours(problem, goal),
            ceilings=self.ceilings,
            observe=observe,
            seed=seed,
        )
        winner = study.run()
        snapshot.publish(self.history, reason=f"study {study.id}: {problem}")
        return winner

    @property
    def ceilings(self) -> Ceilings:
        """The device's measured limits, measured once per device and stack."""
        found = known_ceilings.load(self.device.digest, self.stack_digest)
        if found is None:
            found = self.worker.ceilings()
            known_ceilings.save(self.device.digest, self.stack_digest, found)
        return found

    def _neighbours(self, problem: Problem, goal: Goal) -> list[Configuration]:
        """Winners of the same problem at other sizes on this device, nearest first: good first guesses."""
        return self.history.neighbours(self.device.digest, problem, goal.objective)
