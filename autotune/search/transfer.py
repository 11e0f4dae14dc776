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
"""Studies of a neighbourhood that are looked at, the latest; of imported ones, those of this family first."""

LEAST_SUCCESSES = 3
"""Of a study with fewer, a ranking would be all guess."""

OTHER_DEVICE = 2.0
"""How far a similar device is, in doublings of a size: what is good there is less good here than at twice or
four times the batch."""

OTHER_FAMILY = 3.0
"""How far a GPU of another family is, such as an H100 from an H200: further than a device of this family, and
still near enough to spare evaluations on recorded kernels (`docs/search.md`). CPUs of other families have
other instructions, and so other spaces."""

OTHER_VENDOR = 4.0
"""How far a GPU of another vendor is: it spares less, and on some kernels nothing."""

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
    """The studies that this host's history holds, of this device and those like it.

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
        away = {
            entry.digest: device_distance(self.device, entry.digest, entry.kind, entry.family)
            for entry in self.history.devices()
        }

        def distance(entry: StudyEntry) -> float:
            return (
                size_distance(problem, entry.dimensions)
                + away[entry.key.device]
                + OTHER_STACK * (entry.key.stack != self.stack)
            )

        known = [entry for entry in entries if entry.id != but and math.isfinite(away[entry.key.device])]
        for entry in sorted(known, key=distance):
            study = prior_of(self.history.trials(entry.id), objective)
            if sum(map(math.isfinite, study.values)) >= LEAST_SUCCESSES:
                yield Earlier(distance(entry), study)


@dataclass(frozen=True)
class FromBundles:
    """The studies that bundles brought from other machines, of this device and those like it.

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
            """SELECT id, dimensions, device, kind, family, stack FROM imported_study
                WHERE workload = ? ORDER BY kind = ? AND family = ? DESC, id DESC LIMIT ?""",
            problem.workload,
            self.device.kind,
            self.device.family,
            MOST_READ,
        )
        fixed = {name: value for name, value in problem.dimensions.items() if name not in problem.nearest}
        near = []
        for row in rows:
            dimensions = from_json(row["dimensions"])
            away = device_distance(self.device, row["device"], row["kind"], row["family"])
            if math.isfinite(away) and all(dimensions.get(name) == value for name, value in fixed.items()):
                distance = size_distance(problem, dimensions) + OTHER_STACK * (row["stack"] != self.stack)
                near.append((distance + away, row["id"]))
        for distance, study in sorted(near):
            prior = prior_of(imported_trials(self.history, study), objective)
            if sum(map(math.isfinite, prior.values)) >= LEAST_SUCCESSES:
                yield Earlier(distance, prior)


def device_distance(device: Device, digest: str, kind: str, family: str) -> float:
    """How far another device is from this one, in doublings of a size; infinite where it has nothing to tell.

    Args:
        device: to be tuned on.
        digest: of the other one.
        kind: of the other one: `cpu`, `cuda` or `rocm`.
        family: of the other one.
    """
    if digest == device.digest:
        return 0.0
    if (kind, family) == (device.kind, device.family):
        return OTHER_DEVICE
    if "cpu" in (kind, device.kind):
        return math.inf
    return OTHER_FAMILY if kind == device.kind else OTHER_VENDOR


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
