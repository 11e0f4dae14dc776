"""What earlier studies say to a new one: the nearest of them, as the sampler's priors.

The same problem under another stack, or on a similar device, is near; so are other sizes on this device.
Their trials count, not their winners: see "Earlier studies" in `docs/search.md`.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

from autotune.search.objective import LATENCY
from autotune.search.sampler.prior import PriorStudy
from autotune.store.bundles import imported_trials
from autotune.store.encoding import from_json
from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from autotune.fingerprint import Device
    from autotune.search.objective import Objective
    from autotune.space.problem import Problem
    from autotune.store.entries import StudyEntry
    from autotune.store.reading import HistoryReader
    from autotune.store.records import Trial

MOST_STUDIES = 4
"""Studies that a search starts from: the nearest say nearly all, and a model is fitted to each."""

MOST_READ = 200
"""Studies of a neighbourhood that are looked at, the latest ones."""

LEAST_SUCCESSES = 3
"""Of a study with fewer, a ranking would be all guess."""

OTHER_DEVICE = 2.0
"""How far a similar device is, in doublings of a size: what is good there is less good here than at twice or
four times the batch."""

OTHER_STACK = 0.5

SKIPPED = frozenset({Verdict.PREEMPTED, Verdict.INFEASIBLE})
"""Verdicts that say nothing of a configuration."""


class Earlier(NamedTuple):
    """An earlier study, and how far it is: 0 for the same problem, device and stack, 1 for twice the size."""

    distance: float
    study: PriorStudy


class Source(Protocol):
    """Where earlier studies come from: the history, studies shipped with the program, imported ones."""

    def __call__(self, problem: Problem, objective: Objective, but: int | None = None) -> Iterator[Earlier]:
        """Studies of the problem and its neighbours, the nearest first.

        Args:
            problem: what is to be tuned.
            objective: what their trials count by, whatever they were tuned for.
            but: number of a study in the history that is left out, since it is the one to be resumed.
        """
        ...


def nearest(
    sources: Iterable[Source], problem: Problem, objective: Objective = LATENCY, but: int | None = None
) -> list[PriorStudy]:
    """The few studies to start from, the nearest first."""
    found = heapq.merge(
        *(source(problem, objective, but) for source in sources), key=lambda earlier: earlier.distance
    )
    return [earlier.study for earlier in islice(found, MOST_STUDIES)]


@dataclass(frozen=True)
class FromHistory:
    """The studies that this host's history holds, of this device and similar ones.

    Attributes:
        history: read when called.
        device: the device to be tuned on.
        stack: digest of the stack to be tuned under.
    """

    history: HistoryReader
    device: Device
    stack: str

    def __call__(self, problem: Problem, objective: Objective, but: int | None = None) -> Iterator[Earlier]:
        """See `Source`."""
        fixed = {name: value for name, value in problem.dimensions.items() if name not in problem.nearest}
        entries = self.history.studies(workload=problem.workload, dimensions=fixed, limit=MOST_READ)
        similar = {
            entry.digest
            for entry in self.history.devices()
            if (entry.kind, entry.family) == (self.device.kind, self.device.family)
        }
        known = [entry for entry in entries if entry.id != but and entry.key.device in similar]
        for entry in sorted(known, key=lambda entry: self._distance(problem, entry)):
            study = prior_of(self.history.trials(entry.id), objective)
            if sum(map(math.isfinite, study.values)) >= LEAST_SUCCESSES:
                yield Earlier(self._distance(problem, entry), study)

    def _distance(self, problem: Problem, entry: StudyEntry) -> float:
        return (
            size_distance(problem, entry.dimensions)
            + OTHER_DEVICE * (entry.key.device != self.device.digest)
            + OTHER_STACK * (entry.key.stack != self.stack)
        )


@dataclass(frozen=True)
class FromBundles:
    """The studies that bundles brought from other machines with a similar device.

    Attributes:
        history: read when called.
        device: the device to be tuned on.
        stack: digest of the stack to be tuned under.
    """

    history: HistoryReader
    device: Device
    stack: str

    def __call__(
        self,
        problem: Problem,
        objective: Objective,
        but: int | None = None,  # noqa: ARG002 - none of these is the study that is resumed
    ) -> Iterator[Earlier]:
        """See `Source`."""
        rows = self.history.rows(
            """SELECT id, dimensions, device, stack FROM imported_study
                WHERE workload = ? AND kind = ? AND family = ? ORDER BY id DESC LIMIT ?""",
            problem.workload,
            self.device.kind,
            self.device.family,
            MOST_READ,
        )
        fixed = {name: value for name, value in problem.dimensions.items() if name not in problem.nearest}
        near = []
        for row in rows:
            dimensions = from_json(row["dimensions"])
            if all(dimensions.get(name) == value for name, value in fixed.items()):
                distance = size_distance(problem, dimensions) + OTHER_STACK * (row["stack"] != self.stack)
                near.append((distance + OTHER_DEVICE * (row["device"] != self.device.digest), row["id"]))
        for distance, study in sorted(near):
            prior = prior_of(imported_trials(self.history, study), objective)
            if sum(map(math.isfinite, prior.values)) >= LEAST_SUCCESSES:
                yield Earlier(distance, prior)


def size_distance(problem: Problem, dimensions: Mapping[str, int | str]) -> float:
    """How many doublings lie between two sizes, over the dimensions along which neighbours are sought."""
    pairs = [(int(problem[name]), int(dimensions.get(name, 1))) for name in problem.nearest]
    return math.hypot(*(math.log2(max(1, ours) / max(1, theirs)) for ours, theirs in pairs))


def prior_of(trials: Sequence[Trial], objective: Objective = LATENCY) -> PriorStudy:
    """What the trials of a study cost; those that failed as failures, those that were stopped not at all."""
    told = [trial for trial in trials if trial.verdict not in SKIPPED]
    return PriorStudy([trial.configuration for trial in told], [_cost(trial, objective) for trial in told])


def _cost(trial: Trial, objective: Objective) -> float:
    measured = trial.verdict in (Verdict.OK, Verdict.NOISY) and trial.measurement
    return objective.value(measured) if measured else math.nan
