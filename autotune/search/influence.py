"""Which settings of a winner matter: what it costs to do without each of them, as far as was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_ABSENT = object()


class Influence(msgspec.Struct, frozen=True):
    """What one setting of a configuration is worth.

    Attributes:
        name: of the qualifier or parameter, or `implementation`.
        value: that the configuration has.
        other: the best other value that was measured; None when none was.
        cost: screened median of the best trial with another value over that of the best with this one;
            above 1 the value is right. None when no other value was measured.
        tried: how many trials measured another value.
    """

    name: str
    value: Any
    other: Any
    cost: float | None
    tried: int


def influences(
    configuration: Mapping[str, Any], measured: Iterable[tuple[Mapping[str, Any], float]]
) -> list[Influence]:
    """What each setting is worth, the most decisive first, those without an alternative last.

    All other settings may differ between the two trials that are compared: it is asked how well one can do
    without a value, not what changing it alone does. Settings are compared within the implementation.

    Args:
        configuration: the winner's.
        measured: configurations with their medians in nanoseconds, of trials that ended well.
    """
    trials = list(measured)
    own = [pair for pair in trials if pair[0].get("implementation") == configuration.get("implementation")]
    found = [
        _influence(name, value, trials if name == "implementation" else own)
        for name, value in configuration.items()
    ]
    return sorted(found, key=lambda one: -(one.cost or 0.0))


def _influence(name: str, value: Any, trials: list[tuple[Mapping[str, Any], float]]) -> Influence:
    with_it = [median for settings, median in trials if settings.get(name, _ABSENT) == value]
    without = [
        (median, settings.get(name)) for settings, median in trials if settings.get(name, _ABSENT) != value
    ]
    if not with_it or not without:
        return Influence(name, value, None, None, len(without))
    best, other = min(without, key=lambda pair: pair[0])
    return Influence(name, value, other, best / min(with_it), len(without))
