"""Search spaces: problems, declarations, constraints and the enumeration of valid configurations."""

from __future__ import annotations

from autotune.lazy import attributes

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

__getattr__ = attributes(__name__, _HOMES)
