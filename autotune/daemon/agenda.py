"""The agenda: what is to be done on each device, kept ready so that a look costs nothing."""

from __future__ import annotations

import logging
import sys
import time
from typing import TYPE_CHECKING

from autotune.daemon.request_book import DAY, Entry, backoff
from autotune.daemon.work import Item, Outlook
from autotune.errors import AutotuneError, UnknownNameError, UsageError
from autotune.fingerprint.stack import stack_digest
from autotune.space.declared import ENTRY_POINTS, shipped
from autotune.space.plan import most_valuable_first, plan
from autotune.space.problem import Problem
from autotune.space.work import estimated_bytes
from autotune.store.bundles import unproven

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.config import ModelPlan, Settings
    from autotune.daemon.control import Ask, Wanted
    from autotune.daemon.loop import Loop, Timer
    from autotune.daemon.messages import Ended
    from autotune.daemon.request_book import RequestBook
    from autotune.daemon.requests import Wish
    from autotune.daemon.supervisor import Supervisor
    from autotune.store.bundles import Unproven
    from autotune.store.entries import Standing
    from autotune.store.reading import HistoryReader

logger = logging.getLogger("autotune.daemon")

FRESH_SECONDS = 60.0
"""How long a list holds while nothing is known to have changed: weights age slowly."""
RESTED_SECONDS = 3600.0
"""How long what was just done is left alone, whatever the history says: nothing is done over and over."""
TYPICAL_BYTES_PER_S = 50e9
"""Memory bandwidth assumed: only the order of a plan depends on it."""

_Rest = tuple[str, str, str, str, float | None]


class Agenda:
    """What is to be done on each device.

    Args:
        book: the requests.
        loop: for what is due later.
        due: called when something may have become due.
    """

    def __init__(self, book: RequestBook, loop: Loop, due: Callable[[], None]) -> None:
        self._book = book
        self._loop = loop
        self._due = due
        self._supervisors: list[Supervisor] = []
        self._planned: dict[str, list[Problem]] = {}
        self._standing: dict[str, list[Standing]] = {}
        self._imported: dict[str, list[Unproven]] = {}
        self._current: dict[str, set[tuple[str, str, str]]] = {}
        self._items: dict[str, tuple[float, list[Item] | None]] = {}
        self._resting: dict[_Rest, tuple[float, int]] = {}
        self._alarm: Timer | None = None

    def serve(self, settings: Settings, history: HistoryReader, supervisors: Sequence[Supervisor]) -> None:
        """Begin, or begin anew with other settings."""
        self._settings = settings
        self._supervisors = list(supervisors)
        self._resting.clear()
        self._items.clear()
        problems = _planned(settings.daemon.models)
        first = supervisors[0].device.kind if supervisors else ""
        for supervisor in supervisors:
            # The models are for the accelerators of a node that has some, unless its operator says otherwise.
            meant = supervisor.device.kind == first or bool(settings.daemon.devices)
            self._planned[supervisor.name] = problems if meant else []
            supervisor.stack = self._own_stack(supervisor) or supervisor.stack
            if supervisor.stack is not None and not settings.worker.modules:
                # Nothing has to be imported to know their names.
                supervisor.workloads = _known_workloads()
            self.renew(supervisor, history)

    def refresh(self, supervisor: Supervisor, history: HistoryReader) -> None:
        """Read again what is decided for a device."""
        self._standing[supervisor.name] = history.standing(supervisor.device.digest)
        self._know_current(supervisor)

    def renew(self, supervisor: Supervisor, history: HistoryReader) -> None:
        """Read again what is decided for a device, and what was imported from machines like its own."""
        device = supervisor.device
        before = set(map(_claimed, self._imported.get(supervisor.name, ())))
        self._imported[supervisor.name] = unproven(history, device.kind, device.family)
        new = set(map(_claimed, self._imported[supervisor.name])) - before
        # What was just decided is tried again where somebody brings a better way.
        fresh = {(supervisor.name, workload, problem, objective) for workload, problem, objective, _ in new}
        for rest in [rest for rest in self._resting if rest[:4] in fresh]:
            del self._resting[rest]
        self.refresh(supervisor, history)

    def look_again(self) -> None:
        """Notice that the software stack was upgraded, and what has become due."""
        for supervisor in self._supervisors:
            stack = self._own_stack(supervisor)
            if stack is not None and stack != supervisor.stack:
                logger.info(
                    "the software stack has changed", extra={"device": supervisor.name, "stack": stack}
                )
                supervisor.stack = stack
            self._know_current(supervisor)

    def choose(self, supervisor: Supervisor) -> Item | None:
        """The next thing to do on a device; None when there is nothing now."""
        now = time.monotonic()
        for item in self.items(supervisor):
            if self._resting.get(_rest(supervisor, item), (0.0, 0))[0] <= now:
                return item
        self._set_alarm(supervisor)
        return None

    def items(self, supervisor: Supervisor) -> list[Item]:
        """Everything to do on a device, the most valuable first."""
        made_at, items = self._items.get(supervisor.name, (0.0, None))
        now = time.monotonic()
        if items is None or now - made_at > FRESH_SECONDS:
            name = supervisor.name
            equals = frozenset(one.name for one in self._equals(supervisor))
            standing, imported = self._standing[name], self._imported[name]
            outlook = Outlook(equals, supervisor.stack, standing, self._settings, time.time(), imported)
            items = outlook.items(self._book, self._planned[name], supervisor.workloads)
            self._items[name] = (now, items)
        return items

    def note_wish(self, supervisor: Supervisor, wish: Wish) -> bool:
        """Note a request; whether it says anything new.

        Raises:
            UsageError: it can never be tuned here.
        """
        if supervisor.workloads is not None and wish.workload not in supervisor.workloads:
            raise UsageError(f"unknown workload {wish.workload!r}")
        if _least_bytes(wish) > supervisor.device.facts["memory_bytes"]:
            raise UsageError(f"a problem larger than the memory of {supervisor.name}")
        current = self._current[supervisor.name]
        if wish.max_error is None and (wish.workload, wish.key, wish.objective) in current:
            return False
        entry = Entry(
            supervisor.name,
            wish.workload,
            wish.dimensions,
            wish.key,
            wish.objective,
            wish.max_error,
            match=wish.match,
        )
        taken = self._book.note(entry)
        if taken:
            self._make_anew(supervisor)
        return taken

    def note_order(self, supervisor: Supervisor, wanted: Wanted, order: Ask) -> None:
        """Note what an operator wants tuned."""
        entry = Entry(
            supervisor.name,
            wanted.workload,
            wanted.dimensions,
            "",
            order.objective,
            order.max_error,
            operator=True,
            again=order.again,
        )
        self._book.note(entry)
        equals = {one.name for one in self._equals(supervisor)}
        for key in [key for key in self._resting if key[0] in equals and key[1] == wanted.workload]:
            del self._resting[key]
        self._make_anew(supervisor)

    def finished(self, supervisor: Supervisor, item: Item, ended: Ended, retry_seconds: float) -> None:
        """Note what became of something."""
        rest = _rest(supervisor, item)
        failures = self._resting.get(rest, (0.0, 0))[1]
        if ended.failure:
            self._resting[rest] = (time.monotonic() + backoff(failures + 1, retry_seconds), failures + 1)
        elif ended.elsewhere:
            # Should that node's winner never come, this one decides with what all of them have found.
            self._resting[rest] = (time.monotonic() + retry_seconds, 0)
        else:
            wait = DAY if ended.refusal else RESTED_SECONDS
            for equal in self._equals(supervisor):
                self._resting[_rest(equal, item)] = (time.monotonic() + wait, 0)
        if item.request is not None and not ended.elsewhere:
            if ended.failure:
                self._book.fail(item.request, ended.failure, retry_seconds)
            else:
                self._book.settle(item.request)
        self._make_anew(supervisor)

    def _equals(self, supervisor: Supervisor) -> list[Supervisor]:
        """The devices of this host that are equal, itself among them: they work on the same studies."""
        return [one for one in self._supervisors if one.device.digest == supervisor.device.digest]

    def _make_anew(self, supervisor: Supervisor) -> None:
        """Put the lists of a device and its equals together anew when they are asked for."""
        for equal in self._equals(supervisor):
            self._items.pop(equal.name, None)

    def _know_current(self, supervisor: Supervisor) -> None:
        """Keep at hand what is decided under the present stack: each request asks for it."""
        self._current[supervisor.name] = {
            (winner.workload, winner.problem, winner.objective)
            for winner in self._standing[supervisor.name]
            if winner.stack == supervisor.stack
        }
        self._items.pop(supervisor.name, None)

    def _set_alarm(self, supervisor: Supervisor) -> None:
        """Wake up when the next thing is due that must wait now."""
        now, today = time.monotonic(), time.time()
        equals = {one.name for one in self._equals(supervisor)}
        waits = [entry.waits(today) for entry in self._book if entry.device in equals]
        waits += [until - now for until, _ in self._resting.values()]
        waits = [wait for wait in waits if wait > 0]
        if waits and (self._alarm is None or not self._alarm.waiting or self._alarm.due > now + min(waits)):
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm = self._loop.later(min(waits) + 0.1, self._ring)

    def _ring(self) -> None:
        self._items.clear()
        self._due()

    def _own_stack(self, supervisor: Supervisor) -> str | None:
        """The stack's digest, if the worker runs in our own environment; else only a study can tell."""
        if self._settings.worker.interpreter != sys.executable:
            return None
        return stack_digest(supervisor.device.kind)


def _planned(models: Sequence[ModelPlan]) -> list[Problem]:
    """The problems of the configured models, the most valuable first; what cannot be planned is logged."""
    from autotune.space.models import load_model

    found: dict[Problem, None] = {}
    for model in models:
        try:
            planned = plan(
                load_model(model.name),
                tp=model.tp,
                ep=model.ep,
                batches=model.batch,
                context=model.context,
                phases=tuple(model.phase.split(",")),
            )
        except AutotuneError as error:
            logger.error("[[daemon.models]] %s: %s", model.name, error)
            continue
        found.update(dict.fromkeys(one.problem for one in most_valuable_first(planned, TYPICAL_BYTES_PER_S)))
    return list(found)


def _known_workloads() -> frozenset[str]:
    """Names of the workloads of ours and of installed packages; the registry itself would load NumPy."""
    from importlib.metadata import entry_points

    return frozenset({*shipped(), *(point.name for point in entry_points(group=ENTRY_POINTS))})


def _claimed(imported: Unproven) -> tuple[str, str, str, float]:
    return imported.workload, imported.problem, imported.objective, imported.imported_at


def _least_bytes(wish: Wish) -> float:
    """What a stock problem must move at least, and so hold; 0 where that is not known."""
    try:
        return estimated_bytes(Problem(wish.workload, wish.dimensions))
    except (UnknownNameError, LookupError, TypeError):
        return 0.0


def _rest(supervisor: Supervisor, item: Item) -> _Rest:
    work = item.work
    # The request's own text, where only a study knows the problem's key.
    problem = work.key or (item.request.problem if item.request else str(work.dimensions))
    return supervisor.name, work.workload, problem, work.objective, work.max_error
