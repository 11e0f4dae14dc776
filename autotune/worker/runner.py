"""What a study asks of whatever runs its trials: a worker's process, or a bench that starts servers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from autotune.measure.comparison import Comparison, Rules
    from autotune.space.problem import Problem
    from autotune.store.records import Configuration, Feasibility, Measurement
    from autotune.worker.messages import Built, Prepared


class Runner(Protocol):
    """Runs trials; `autotune.worker.worker.Worker` says what each call does.

    Every call but `release` and `kill` raises `TrialError` when the trial does not end well; whatever the
    configuration did, the next call works.

    Attributes:
        deadline: moment on the monotonic clock at which a call in progress ends as `preempted`, as do those
            that come later; None for never.
    """

    deadline: float | None

    @property
    def start_seconds(self) -> float:
        """What starting anew took, the last time."""
        ...

    def prepare(self, problem: Problem, seed: int) -> Prepared:
        """Get ready for a problem; forgets all slots."""
        ...

    def compile(
        self, configurations: Sequence[Configuration], target: Mapping[str, Any] | None = None
    ) -> list[Feasibility]:
        """Compile what configurations will need, side by side."""
        ...

    def build(
        self, slot: str, configuration: Configuration, *, slow_call_seconds: float | None = None
    ) -> Built:
        """Make a configuration ready in a slot; does nothing if it is there already."""
        ...

    def check(self, slot: str, seed: int) -> float:
        """Relative error of a slot."""
        ...

    def measure(
        self,
        slot: str,
        *,
        budget_seconds: float,
        clearly_slower_than_ns: float | None = None,
        min_samples: int = 10,
        energy: bool = False,
    ) -> Measurement:
        """Sample a slot until it is known well enough."""
        ...

    def compare(
        self,
        slots: Sequence[str],
        *,
        baseline: str,
        incumbent: str | None = None,
        rules: Rules | None = None,
        seed: int = 0,
    ) -> Comparison:
        """Run slots in interleaved rounds; a `TrialError` says in its `slot` which failed."""
        ...

    def release(self, slot: str) -> None:
        """Drop what a slot holds; one that does not exist is no error."""
        ...

    def kill(self) -> None:
        """Kill what runs, now."""
        ...
