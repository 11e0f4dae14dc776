"""The idle gate: whether a device may be tuned on now, and if not, what holds it back.

A probe looks at the device and answers with conditions, each with its reason in words. The gate opens when
all conditions have held for several looks in a row, and closes at the first that does not. Whatever fails,
raises or does not answer reads as busy.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from autotune.config import GateSettings
    from autotune.daemon.calendar import Windows


MOST_WARY = 16
"""Times the looks that are needed at most, where others use the device again and again."""


class Condition(NamedTuple):
    """One thing that must hold before a device is tuned on.

    Attributes:
        name: e.g. `other processes`, `memory`, `temperature`.
        holds: whether it does.
        told: what was found, and what was expected.
        cause: what a running study is ended for when it does not hold: `foreign`, or `window`.
    """

    name: str
    holds: bool
    told: str
    cause: str = "foreign"


class Probe(Protocol):
    """What looks at one device. Errors may be raised; the gate reads them as busy."""

    def look(self, tuning: bool) -> Sequence[Condition]:
        """The conditions now.

        Args:
            tuning: whether we use the device ourselves; conditions that our own load breaks are then left
            out.
        """

    def occupy(self) -> None:
        """We use the device from now on: what the last look found there is not ours."""

    def leftover(self) -> str:
        """What is still there of us, for people, after our processes have ended; empty once nothing is."""

    def adopt(self, settings: GateSettings) -> None:
        """Judge by other limits from the next look on."""


class Gate:
    """The gate of one device.

    Args:
        probe: that looks at the device.
        windows: when tuning is allowed.
        looks: how many in a row must hold.
        now: the present moment.

    Attributes:
        needed: looks in a row that must hold now: more than at first after the device was given up.
        conditions: what the last look found.
        held: looks in a row that held, up to now.
    """

    def __init__(
        self,
        probe: Probe,
        windows: Windows,
        looks: int,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.probe = probe
        self.windows = windows
        self.looks = looks
        self.needed = looks
        self.conditions: tuple[Condition, ...] = ()
        self.held = 0
        self._now = now

    @property
    def open(self) -> bool:
        """Whether enough looks in a row have held."""
        return self.held >= self.needed

    @property
    def obstacle(self) -> Condition | None:
        """The first condition that does not hold."""
        return next((condition for condition in self.conditions if not condition.holds), None)

    def look(self, tuning: bool = False) -> None:
        """Look once.

        Args:
            tuning: whether we use the device ourselves.
        """
        window = self.window()
        # Outside the windows nothing else matters, and nobody's device is bothered with questions.
        found = (window, *self._probed(tuning)) if window.holds else (window,)
        self.conditions = found
        self.held = self.held + 1 if all(condition.holds for condition in found) else 0

    def close(self) -> None:
        """Forget what was found: as many looks are needed again."""
        self.held = 0

    def grow_wary(self) -> None:
        """Need twice as many looks: somebody came as soon as the device was in use."""
        self.held = 0
        self.needed = min(2 * self.needed, MOST_WARY * self.looks)

    def trust(self) -> None:
        """Need as many looks as at first: a study came to its end."""
        self.needed = self.looks

    def occupy(self) -> None:
        """We use the device from now on."""
        self.probe.occupy()

    def leftover(self) -> str:
        """What is still there of us, for people; empty once nothing is."""
        try:
            return self.probe.leftover()
        except Exception as error:
            return f"cannot be told: {_in_one_line(error)}"

    def adopt(self, settings: GateSettings, windows: Windows) -> None:
        """Judge by other limits from the next look on."""
        self.probe.adopt(settings)
        self.windows = windows
        self.looks = self.needed = settings.looks

    def window(self) -> Condition:
        """The condition that a maintenance window is open."""
        is_open, told = self.windows.open(self._now())
        return Condition("maintenance window", is_open, told, "window")

    def _probed(self, tuning: bool) -> Sequence[Condition]:
        try:
            return self.probe.look(tuning)
        except Exception as error:
            return (Condition("probe", False, f"failed, which counts as busy: {_in_one_line(error)}"),)


def _in_one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no reason given'}"
