"""The progress of tuning: a bar with the best so far, trials by verdict and the time left."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from autotune.cli import output

if TYPE_CHECKING:
    from types import TracebackType

    from autotune.search import study
    from autotune.search.tuning import Outcome


class _TimeLeft(ProgressColumn):
    """Minutes and seconds of the budget that are left; it runs on while a long stage reports nothing.

    Args:
        deadline: on the monotonic clock.
    """

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def render(self, task: Task) -> Text:  # noqa: ARG002 - rich's contract
        """The text."""
        minutes, seconds = divmod(max(0, round(self._deadline - time.monotonic())), 60)
        return Text(f"{minutes}:{seconds:02d} left")


class Display:
    """What a person sees while problems are tuned; on standard error, so that results can be piped.

    Without a terminal it prints one line for each finished problem instead of a moving bar.

    Args:
        total_seconds: the budget of everything.
        problems: how many there are.
        show: False to be silent.
    """

    def __init__(self, total_seconds: float, problems: int, show: bool) -> None:
        self._console = Console(stderr=True, markup=False, highlight=False, quiet=not show)
        self._total = total_seconds
        self._problems = problems
        self._finished = 0
        self._searched = ""
        self._started = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[state]}", markup=False),
            _TimeLeft(self._started + total_seconds),
            console=self._console,
            disable=not (show and sys.stderr.isatty()),
            transient=True,
        )
        self._all = self._progress.add_task("starting the worker", total=total_seconds, state="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, now: study.Progress) -> None:
        """Show where the present study stands."""
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(now.verdicts.items()))
        gain = f"best {output.latency(now.best_ns)}" if now.best_ns else ""
        if now.speedup:
            gain += f" ({now.speedup:.2f}x)"
        tried = f"{now.tried}/{now.possible}"
        self._searched = f"{tried} tried, ended: {now.end_reason}"
        state = "  ".join(filter(None, [now.phase, tried, gain, verdicts]))
        self._set(
            description=f"{self._finished}/{self._problems} {output.shorten(now.problem, 40)}", state=state
        )

    def finished(self, outcome: Outcome) -> None:
        """Tell how a problem ended."""
        self._finished += 1
        problem = output.problem(outcome.problem)
        if outcome.winner is None:
            told = "another node decides" if outcome.elsewhere else outcome.failure
            self._console.print(f"{problem}: {told}")
        elif outcome.fresh:
            best = outcome.winner.choices[0]
            gain = "baseline kept" if best.is_baseline else output.speedup(best.proof.against_baseline)
            self._console.print(f"{problem}: {output.latency(best.latency_ns)}, {gain} ({self._searched})")
        self._set(state="")

    def _set(self, **fields: Any) -> None:
        elapsed = min(time.monotonic() - self._started, self._total)
        self._progress.update(self._all, completed=elapsed, **fields)
