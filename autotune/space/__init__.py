"""Search spaces: problems, declarations, constraints and the enumeration of valid configurations."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autotune.space.declaration import (
        Implementation,
        SpaceDeclaration,
        load_declaration,
        read_declaration,
    )
    from autotune.space.pool import Parameter, Pool
    from autotune.space.problem import Dimension, Problem
    from autotune.space.searchspace import Offer, SearchSpace

__all__ = [
    "Dimension",
    "Implementation",
    "Offer",
    "Parameter",
    "Pool",
    "Problem",
    "SearchSpace",
    "SpaceDeclaration",
    "load_declaration",
    "read_declaration",
]

_HOMES = {
    "Dimension": "problem",
    "Implementation": "declaration",
    "Offer": "searchspace",
    "Parameter": "pool",
    "Pool": "pool",
    "Problem": "problem",
    "SearchSpace": "searchspace",
    "SpaceDeclaration": "declaration",
    "load_declaration": "declaration",
    "read_declaration": "declaration",
}


def __getattr__(name: str) -> object:
    # Look-ups import this package: numpy and tomllib wait until a search space is asked for.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
