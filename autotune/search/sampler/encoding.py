"""How the surrogate sees a pool: levels, and for each ordinal parameter how far apart its levels are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.space.pool import Parameter, Pool

    Floats = npt.NDArray[np.float64]
    Floats32 = npt.NDArray[np.float32]
    Rows = npt.NDArray[np.intp]


LONG = 5
"""Values from which a list of sizes is long enough to show a pattern of alignment."""


@dataclass(frozen=True, eq=False)
class Axis:
    """One coordinate along which the levels of a parameter are ordered.

    Attributes:
        parameter: the column of the pool.
        squared: shape (levels, levels): squared distance of each two levels; the whole range has length 1.
        coordinate: 0 is the size or position, 1 the exponent of 2 in it, 2 whether it is a power of 2.
    """

    parameter: int
    squared: Floats
    coordinate: int

    @property
    def alignment(self) -> bool:
        """Whether it is a property of the number rather than its size."""
        return self.coordinate > 0


class Encoding:
    """A pool's parameters as levels: level 0 is "inactive", level 1 + i is the parameter's i-th value.

    A covariance that is built of one term per parameter is a table over pairs of levels, so that the terms of
    all parameters between any rows are summed by one product with 0/1 indicators. This is exact, needs no
    coordinates at run time, and treats categories, numbers and inactive parameters alike.

    Args:
        pool: the valid configurations.
    """

    def __init__(self, pool: Pool) -> None:
        self.levels: npt.NDArray[np.int32] = pool.codes + 1
        self.counts = [len(parameter.values) + 1 for parameter in pool.parameters]
        self.varying = [p for p in range(len(self.counts)) if np.ptp(self.levels[:, p]) > 0]
        self.axes = [axis for p in self.varying for axis in _axes(p, pool.parameters[p])]
        self._starts = np.concatenate([[0], np.cumsum([self.counts[p] for p in self.varying])])
        self._by_parameter = np.ascontiguousarray(self.levels.T)

    @property
    def width(self) -> int:
        """Number of indicators of a row."""
        return int(self._starts[-1])

    def indicators(self, rows: Rows) -> Floats32:
        """One-hot levels of the varying parameters.

        Args:
            rows: which rows of the pool.

        Returns:
            Shape (rows, width), zeros and ones.
        """
        indicators = np.zeros((len(rows), self.width), np.float32)
        for start, p in zip(self._starts[:-1], self.varying, strict=True):
            indicators[np.arange(len(rows)), start + self.levels[rows, p]] = 1.0
        return indicators

    def columns(self, tables: dict[int, Floats], rows: Rows) -> Floats32:
        """Tables over pairs of levels, looked up on one side: times `indicators` they give sums of terms.

        Args:
            tables: parameter -> shape (levels, levels), symmetric; an absent parameter adds nothing.
            rows: the rows on the side looked up.

        Returns:
            Shape (rows, width); times the transposed indicators of other rows it has one sum per pair.
        """
        columns = np.zeros((len(rows), self.width), np.float32)
        for start, p in zip(self._starts[:-1], self.varying, strict=True):
            if p in tables:
                columns[:, start : start + self.counts[p]] = tables[p][self.levels[rows, p]]
        return columns

    def pairs(self, parameter: int, rows: Rows) -> Rows:
        """Where a flattened table over pairs of levels has its entry for each two of the given rows.

        Returns:
            Shape (rows * (rows - 1) / 2,), in the order of `scipy.spatial.distance.squareform`.
        """
        levels = self._by_parameter[parameter, rows]
        first, second = np.triu_indices(len(rows), 1)
        places: Rows = levels[first] * np.intp(self.counts[parameter]) + levels[second]
        return places

    def differing(self, row: int) -> npt.NDArray[np.int8]:
        """In how many parameters each row of the pool differs from one of them: shape (configurations,)."""
        count = np.zeros(len(self.levels), np.int8)
        for levels in self._by_parameter:
            count += levels != levels[row]
        return count


def _axes(position: int, parameter: Parameter) -> list[Axis]:
    """The coordinates of an ordinal parameter; two levels have no more to tell than that they differ."""
    if not parameter.is_ordinal or len(parameter.values) < 3:
        return []
    values = np.array([float(value) for value in parameter.values])
    # Sizes act by ratios; a list that starts at 0 (an unrolling factor, a method's number) acts by position.
    coordinates = [np.log2(values) if values[0] > 0 else np.arange(len(values), dtype=np.float64)]
    if values[0] > 0 and (values % 1 == 0).all() and len(values) >= LONG:
        coordinates += _alignment(values.astype(np.int64))
    axes = []
    for number, coordinate in enumerate(coordinates):
        if np.ptp(coordinate) > 0:
            scaled = (coordinate - coordinate.min()) / np.ptp(coordinate)
            # Where the parameter does not exist it stands in the middle: the mismatch tells the rows apart.
            scaled = np.concatenate([[0.5], scaled])
            axes.append(Axis(position, (scaled[:, None] - scaled[None, :]) ** 2, number))
    return axes


def _alignment(values: npt.NDArray[np.int64]) -> list[Floats]:
    """How well sizes divide what hardware is made of: by size 96 is near 112, by what it leaves over near 32.

    Returns:
        The exponent of 2 in each value, and whether it is a power of 2; nothing where all values are, of
        which the size itself says as much.
    """
    two = values & -values
    if (two == values).all():
        return []
    return [np.log2(two), (two == values).astype(np.float64)]


def mismatch(levels: int) -> Floats:
    """The table that is 1 where two levels differ."""
    table: Floats = 1.0 - np.eye(levels)
    return table
