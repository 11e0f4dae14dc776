"""The declared baseline of a problem: what the framework does untuned, the answer for want of better."""

from __future__ import annotations

from autotune.errors import AutotuneError
from autotune.lookup.warning import warn_once
from autotune.space.declared import declared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from autotune.lookup.target import Target
    from autotune.space.problem import Problem


def baseline(problem: Problem, target: Target | None) -> dict[str, Any]:
    """The declared baseline for a problem on a device.

    What cannot be read or calculated is left out, with a warning.

    Args:
        problem: the problem.
        target: the device; None if it could not be found out.
    """
    try:
        declaration = declared(problem.workload)
    except AutotuneError as error:  # it was known when the problem was checked: its file has just gone
        warn_once(f"baseline of {problem.workload}", str(error))
        return {}
    for fault in declaration.faults:
        warn_once(fault, fault)
    facts: Mapping[str, Any] | None = None
    configuration: dict[str, Any] = {}
    for name, value in declaration.baseline.items():
        if isinstance(value, str) and value.startswith("="):
            try:
                from autotune.space.scalar import evaluate

                facts = _facts(target) if facts is None else facts
                found = evaluate(value[1:], problem.dimensions, facts)
                if found is not None:  # a setting that the implementation does not have on this device
                    configuration[name] = found
            except Exception as error:
                where = f"baseline of {problem.workload}: {name}"
                warn_once(where, f"{where}: {error}; it is left out")
        else:
            configuration[name] = value
    return configuration


def _facts(target: Target | None) -> Mapping[str, Any]:
    return target.facts() if target else {}
