"""Waiting until devices hold nothing of ours: our processes have ended, and their memory is free again.

A GPU's driver takes a dead process's memory back in its own time, so its library is asked until it has. That
has a bound, since a driver may never get there, and whoever asks is about to start something.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.daemon.loop import Loop
    from autotune.daemon.supervisor import Supervisor

LOOK_SECONDS = 0.05
"""Between two questions to a driver."""


class Vacancy:
    """Waits, once.

    Args:
        loop: in which it waits.
        supervisors: of the devices.
        told: called with what is still there, by device: nothing, unless the time was up.
        most_seconds: to wait; systemd, whose `ExecStartPre=` waits on this, gives a start 90 s by default.
    """

    def __init__(
        self,
        loop: Loop,
        supervisors: Sequence[Supervisor],
        told: Callable[[dict[str, str]], None],
        most_seconds: float,
    ) -> None:
        self._loop = loop
        self._supervisors = supervisors
        self._told = told
        self._done = False
        self._not_free = len(supervisors)
        self._limit = loop.later(most_seconds, lambda: self._look(last=True))
        for supervisor in supervisors:
            supervisor.when_free(self._freed)
        if not supervisors:
            self._look()

    def _freed(self) -> None:
        self._not_free -= 1
        if self._not_free == 0:
            self._look()

    def _look(self, last: bool = False) -> None:
        if self._done:
            return
        left = {one.name: why for one in self._supervisors if (why := one.leftover())}
        if left and not last:
            self._loop.later(LOOK_SECONDS, self._look)
            return
        self._done = True
        self._limit.cancel()
        self._told(left)
