"""Workloads: the operations that can be tuned, each with its inputs, reference, implementations and cost.

    kernel = build("linear", best, weight=w)         # `best` as get_best_config gave it
    y = kernel(x)

A module a workload; the others hold what several of them use, or one implementation that is long.
"""

from __future__ import annotations

from autotune.lazy import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotune.workloads.base import Cost, Workload
    from autotune.workloads.registry import build, declaration, register, workload, workload_names
    from autotune.workloads.tunable import tunable

__all__ = [
    "Cost",
    "Workload",
    "build",
    "declaration",
    "register",
    "tunable",
    "workload",
    "workload_names",
]

_HOMES = {
    "Cost": "base",
    "Workload": "base",
    "build": "registry",
    "declaration": "registry",
    "register": "registry",
    "tunable": "tunable",
    "workload": "registry",
    "workload_names": "registry",
}

__getattr__ = attributes(__name__, _HOMES)
