"""Where a search without any knowledge starts: rows far from each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.search.sampler.encoding import Encoding

    Rows = npt.NDArray[np.intp]

CROWD = 2_000
"""Rows compared per choice: enough to find a distant one, few enough to differ from seed to seed."""

MISMATCH = 0.25
"""Squared distance that two different levels have besides that along their axis, whose whole range is 1."""


def distant_row(encoding: Encoding, taken: Rows, free: Rows, random: np.random.Generator) -> int:
    """The row, of a random crowd, whose nearest taken row is the farthest (maximin).

    Args:
        encoding: of the pool.
        taken: rows tried or pending; when there is none, any free row will do.
        free: rows to choose from, at least one.
        random: source of the crowd.
    """
    if not len(taken):
        return int(random.choice(free))
    crowd = random.choice(free, min(CROWD, len(free)), replace=False)
    tables = {p: MISMATCH * (1 - np.eye(encoding.counts[p])) for p in encoding.varying}
    for axis in encoding.axes:
        tables[axis.parameter] = tables[axis.parameter] + axis.squared
    distances = encoding.columns(tables, taken) @ encoding.indicators(crowd).T
    return int(crowd[np.argmax(distances.min(axis=0))])
