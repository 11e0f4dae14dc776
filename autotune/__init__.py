"""Hardware-aware autotuning for inference nodes: look up what was proven fastest on this machine, and use it.

    best = autotune.get_best_config("linear", m=16, n=7168, k=2048)
    kernel = autotune.build("linear", best, weight=weight)

Importing this package imports nothing else: each name below brings its module along when it is first used.
"""

from __future__ import annotations

from autotune.lazy import attributes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotune.client import get_best_config, refresh
    from autotune.errors import AutotuneError, ProblemError, UnknownNameError
    from autotune.lookup.best_config import BestConfig
    from autotune.lookup.listening import listen
    from autotune.lookup.tuned import tuned
    from autotune.lookup.warning import AutotuneWarning
    from autotune.space.declaration import Implementation, SpaceDeclaration
    from autotune.space.declared import declare
    from autotune.space.decode_step import decode_step
    from autotune.space.problem import Dimension, Problem
    from autotune.space.searchspace import SearchSpace
    from autotune.workloads.base import Workload
    from autotune.workloads.registry import build, register
    from autotune.workloads.tunable import tunable

__version__ = "0.1.0"

__all__ = [
    "AutotuneError",
    "AutotuneWarning",
    "BestConfig",
    "Dimension",
    "Implementation",
    "Problem",
    "ProblemError",
    "SearchSpace",
    "SpaceDeclaration",
    "UnknownNameError",
    "Workload",
    "build",
    "declare",
    "decode_step",
    "get_best_config",
    "listen",
    "refresh",
    "register",
    "tunable",
    "tuned",
]

_HOMES = {
    "AutotuneError": "errors",
    "AutotuneWarning": "lookup.warning",
    "BestConfig": "lookup.best_config",
    "Dimension": "space.problem",
    "Problem": "space.problem",
    "ProblemError": "errors",
    "Implementation": "space.declaration",
    "SearchSpace": "space.searchspace",
    "SpaceDeclaration": "space.declaration",
    "UnknownNameError": "errors",
    "Workload": "workloads.base",
    "build": "workloads.registry",
    "declare": "space.declared",
    "decode_step": "space.decode_step",
    "get_best_config": "client",
    "listen": "lookup.listening",
    "refresh": "client",
    "register": "workloads.registry",
    "tunable": "workloads.tunable",
    "tuned": "lookup.tuned",
}

__getattr__ = attributes(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
