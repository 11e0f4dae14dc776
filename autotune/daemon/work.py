"""What to tune next, by value.

1. what an operator asked for;
2. requests: how often they were asked, times the seconds that tuning is expected to save a call;
3. the problems of the configured models, the most valuable first;
   before them, what the fleet proved on an equal node, and what was imported from a machine like this one: it
   is verified here, which takes seconds;
4. what was decided under another software stack: the old winner is verified, which takes seconds, not
   minutes;
5. what was decided long ago: measured again, and withdrawn if it no longer wins.

A request or a model's problem that has an old winner is verified first, too: that is nearly as good as a
search, and soon done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from autotune.daemon.messages import Work
from autotune.daemon.request_book import DAY, Key, key_of
from autotune.errors import UnknownNameError
from autotune.space.declared import INCLUDED
from autotune.space.problem import Problem
from autotune.space.work import estimated_work

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from autotune.config import Settings
    from autotune.daemon.request_book import Entry
    from autotune.store.bundles import Unproven
    from autotune.store.entries import Standing

VERIFY_SECONDS = 15.0
"""What verifying an old winner may take."""
VERIFY_TRIALS = 4
"""Configurations that are tried then: the old winner, and those of the nearest sizes."""
IMPORTED_TRIALS = 8
"""The same for an imported winner, which is tried after what other sources name for its problem."""
UNKNOWN_GAIN = 0.3
"""Share of a call's time that tuning is expected to save where nothing similar was ever tuned."""
TYPICAL_BYTES_PER_S = 50e9
"""Memory bandwidth assumed: only the order depends on it."""
UNKNOWN_SECONDS = 1e-3
"""What a call is taken to last where nothing is known of its workload."""


class Item(NamedTuple):
    """One thing to do.

    Attributes:
        value: larger is sooner, within one kind.
        request: the request that it answers, if it does.
    """

    work: Work
    value: float
    request: Key | None = None


class Outlook:
    """What there is to do on one device.

    Args:
        devices: its name, and those of its equals on this host: any of them answers what was asked of one.
        stack: digest of the stack that is tuned under; None while only a study could tell.
        standing: the winners of the device, under any stack.
        settings: budgets, and the age of re-verification.
        now: seconds since the epoch.
        imported: winners of other machines of the device's kind and family.
    """

    def __init__(
        self,
        devices: frozenset[str],
        stack: str | None,
        standing: Iterable[Standing],
        settings: Settings,
        now: float,
        imported: Iterable[Unproven] = (),
    ) -> None:
        self._devices = devices
        self._settings = settings
        self._now = now
        self._current: dict[tuple[str, str, str], Standing] = {}
        self._old: dict[tuple[str, str, str], Standing] = {}
        self._unverified: dict[tuple[str, str, str], Standing] = {}
        gains: dict[str, list[float]] = {}
        decided: dict[tuple[str, str, str], float] = {}
        for winner in standing:
            if winner.workload in INCLUDED:
                continue  # a server's winner: what its spec says is not known here
            found = self._current if winner.stack == stack else self._old
            if winner.stack == stack and winner.origin is not None:
                found = self._unverified
            key = (winner.workload, winner.problem, winner.objective)
            if key not in found or found[key].decided_at < winner.decided_at:
                found[key] = winner
            gains.setdefault(winner.workload, []).append(1 - 1 / max(1.0, winner.speedup))
            if winner.origin is None:
                decided[key] = max(winner.decided_at, decided.get(key, 0.0))
        self._gains = {name: sum(shares) / len(shares) for name, shares in gains.items()}
        # What was decided here since has been tried by that, and was proven or refuted.
        self._imported = [
            one
            for one in imported
            if one.workload not in INCLUDED
            and decided.get((one.workload, one.problem, one.objective), 0.0) < one.imported_at
        ]

    def items(
        self, requests: Iterable[Entry], planned: Sequence[Problem], workloads: frozenset[str] | None = None
    ) -> list[Item]:
        """Everything to do, the most valuable first.

        Args:
            requests: that wait.
            planned: the problems of the configured models, the most valuable first.
            workloads: all that can be tuned; None while that is not known.
        """
        ours = [
            entry
            for entry in requests
            if entry.device in self._devices and entry.workload not in INCLUDED and not entry.waits(self._now)
        ]
        asked = [self._requested(e) for e in ours if workloads is None or e.workload in workloads]
        models = [self._planned(problem, -place) for place, problem in enumerate(planned)]
        known = [one for one in self._imported if workloads is None or one.workload in workloads]
        found = [
            *asked,
            *self._to_verify(),
            *map(self._to_prove, known),
            *filter(None, models),
            *self._drifted(),
            *self._to_recheck(),
        ]
        unique: dict[tuple[str, str, str, float | None], Item] = {}
        for item in sorted(found, key=_order):
            work = item.work
            unique.setdefault(
                (work.workload, work.key or str(work.dimensions), work.objective, work.max_error), item
            )
        return list(unique.values())

    def _requested(self, entry: Entry) -> Item:
        kind = "asked" if entry.operator else "request"
        work = self._search(kind, entry.workload, entry.dimensions, entry.key, entry.objective)
        work = replace(work, max_error=entry.max_error, again=entry.again)
        saved = self._seconds(entry.workload, entry.dimensions) * self._gain(entry.workload)
        weight = entry.aged(self._now, self._settings.requests.half_life_days)
        return Item(work, weight * saved, key_of(entry))

    def _planned(self, problem: Problem, value: float) -> Item | None:
        key = (problem.workload, problem.key, "latency")
        if key in self._current or key in self._unverified:
            return None
        return Item(
            self._search("model", problem.workload, problem.dimensions, problem.key, "latency"), value
        )

    def _to_verify(self) -> Iterable[Item]:
        for winner in self._unverified.values():
            work = self._search("fleet", winner.workload, winner.dimensions, winner.problem, winner.objective)
            yield Item(replace(work, again=True), winner.speedup)

    def _to_prove(self, imported: Unproven) -> Item:
        seconds = min(self._settings.study.budget_seconds, VERIFY_SECONDS)
        work = Work(
            "imported",
            imported.workload,
            imported.dimensions,
            imported.problem,
            imported.objective,
            seconds=seconds,
            trials=IMPORTED_TRIALS,
            again=True,
        )
        return Item(work, imported.speedup)

    def _drifted(self) -> Iterable[Item]:
        for key, winner in self._old.items():
            # A baseline that stayed the best under another stack is no winner that could be lost.
            if key not in self._current and key not in self._unverified and not winner.is_baseline:
                work = self._search(
                    "drifted", winner.workload, winner.dimensions, winner.problem, winner.objective
                )
                yield Item(work, winner.speedup)

    def _to_recheck(self) -> Iterable[Item]:
        days = self._settings.daemon.recheck_days
        for winner in self._current.values():
            age = self._now - winner.decided_at
            if days and age > days * DAY and not winner.is_baseline:
                work = self._search(
                    "recheck", winner.workload, winner.dimensions, winner.problem, winner.objective
                )
                yield Item(replace(work, again=True), age)

    def _search(
        self, kind: str, workload: str, dimensions: dict[str, int | str], key: str, objective: str
    ) -> Work:
        """A study; a short one if an old winner only has to be verified."""
        budget = self._settings.study.budget_seconds
        old = self._unverified.get((workload, key, objective)) or self._old.get((workload, key, objective))
        if old is not None and not old.is_baseline and (workload, key, objective) not in self._current:
            seconds = min(budget, VERIFY_SECONDS)
            return Work(kind, workload, dimensions, key, objective, seconds=seconds, trials=VERIFY_TRIALS)
        return Work(kind, workload, dimensions, key, objective, seconds=budget)

    def _gain(self, workload: str) -> float:
        # Never nothing: what was tuned in vain so far may have been the wrong sizes.
        return max(0.02, self._gains.get(workload, UNKNOWN_GAIN))

    @staticmethod
    def _seconds(workload: str, dimensions: dict[str, int | str]) -> float:
        """About how long a call takes."""
        try:
            return estimated_work(Problem(workload, dimensions)).seconds(TYPICAL_BYTES_PER_S)
        except (UnknownNameError, LookupError, TypeError):
            return UNKNOWN_SECONDS


_KINDS = ("asked", "request", "fleet", "imported", "model", "drifted", "recheck")


def _order(item: Item) -> tuple[int, float]:
    return _KINDS.index(item.work.kind), -item.value
