"""What a study has tried so far, beside its baseline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from autotune.store.records import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from autotune.search.objective import Objective
    from autotune.store.recorder import Recorder
    from autotune.store.records import Measurement, Trial


class Tried:
    """The trials of one study in their order, those of an earlier run of it first.

    Args:
        history: where they are, and where further ones are recorded.
        study: its id there.
        objective: how they are compared.
        baseline: what the baseline was screened to be.
    """

    def __init__(self, history: Recorder, study: int, objective: Objective, baseline: Measurement) -> None:
        self._history = history
        self._study = study
        self._objective = objective
        self._baseline = baseline
        self._trials = list(history.trials(study))

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def record(self, trial: Trial) -> Trial:
        """Record a trial; returns it with the number that it has there."""
        trial = replace(trial, number=self._history.add_trial(self._study, trial))
        self._trials.append(trial)
        return trial

    def best(self, allowed_error: float, value: Callable[[Measurement], float]) -> float:
        """The least of what the baseline and the trials with at most this error were screened to be."""
        accurate = (m for error, m in self._screened() if error <= allowed_error)
        kept = (measurement for measurement in accurate if self._objective.excess(measurement) <= 0)
        return min(value(measurement) for measurement in (self._baseline, *kept))

    def limit_note(self) -> str:
        """That nothing met the objective's limit, and how close it came; empty where something did."""
        measured = [self._baseline, *(measurement for _, measurement in self._screened())]
        if self._objective.limit_ns is None or any(self._objective.excess(one) <= 0 for one in measured):
            return ""
        limit, least = (ns / 1e6 for ns in (self._objective.limit_ns, min(one.p99_ns for one in measured)))
        return f"nothing met the limit of {limit:g} ms: the least 99th percentile was {least:.3g} ms"

    def _screened(self) -> Iterator[tuple[float, Measurement]]:
        """The error and the measurement of every trial that went well."""
        for trial in self._trials:
            if trial.verdict is Verdict.OK and trial.error is not None and trial.measurement is not None:
                yield trial.error, trial.measurement
