"""What a caller asks, checked and in canonical form."""

from __future__ import annotations

from collections.abc import Mapping

from autotune.errors import UnknownNameError, UsageError
from autotune.space.declared import check_objective, declared, dimensions_of, limited
from autotune.space.problem import Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

FAR = 2**63
"""Beyond the range of any dimension."""


class Question:
    """What a caller asks.

    Args:
        workload: name of the workload.
        objective: one of `OBJECTIVES`, or one under a limit (`throughput:5ms`).
        slo_ms: such a limit on the 99th percentile of a call, given apart; None for none.
        max_error: greatest relative error that the caller accepts; None for that of the baseline.
        qualifiers: qualifiers whose values the caller has fixed.
        given: dimensions of the problem.

    Raises:
        UnknownNameError: the workload, objective, a dimension or a qualifier is unknown.
        ProblemError: the dimensions do not make a problem.
        UsageError: `max_error` is not a number that is at least 0, `qualifiers` is no mapping, `slo_ms` is no
            positive number, or the objective takes no limit.
    """

    __slots__ = ("max_error", "objective", "problem", "qualifiers")

    def __init__(
        self,
        workload: str,
        given: Mapping[str, Any],
        *,
        objective: str = "latency",
        max_error: float | None = None,
        qualifiers: Mapping[str, Any] | None = None,
        slo_ms: float | None = None,
    ) -> None:
        dimensions = dimensions_of(workload)
        plain = {name: _plain(value) for name, value in given.items()}
        if dimensions is None:
            self.problem = Problem(workload, plain)
        else:
            self.problem = Problem.of(workload, dimensions, plain)
        check_objective(objective)
        self.objective = objective if slo_ms is None else limited(objective, slo_ms)
        self.max_error = None if max_error is None else _accepted_error(max_error)
        self.qualifiers = _known_qualifiers(workload, qualifiers) if qualifiers else {}


def _plain(value: Any) -> Any:
    """What equals a whole number is that number, be it 16.0, True or numpy's.

    Values that are equal share one place in the table of answers, so they must mean the same.
    """
    if isinstance(value, int):
        # Python refuses to print numbers of thousands of digits, and the message about a bad one prints it.
        return max(-FAR, min(int(value), FAR))
    if isinstance(value, str):
        return str.__str__(value)
    try:
        whole = int(value)
        return whole if whole == value else value
    except Exception:
        return value


def _accepted_error(max_error: Any) -> float:
    try:
        if not isinstance(max_error, str | bytes | bool) and (number := float(max_error)) >= 0:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"max_error={max_error!r} is not a number that is at least 0")


def _known_qualifiers(workload: str, qualifiers: Any) -> dict[str, Any]:
    if not isinstance(qualifiers, Mapping):
        raise UsageError(f"qualifiers={qualifiers!r} is not a mapping of qualifiers to values")
    declaration = declared(workload)
    for name in qualifiers:
        if declaration.dimensions is not None and name not in declaration.qualifiers:
            raise UnknownNameError(f"qualifier of {workload}", str(name), declaration.qualifiers)
    return dict(qualifiers)
