"""The valid configurations of a search space, enumerated: what a sampler chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

INACTIVE = -1
"""Code of a parameter that the row's implementation does not have."""


@dataclass(frozen=True)
class Parameter:
    """One column of a pool.

    Attributes:
        name: `implementation`, a qualifier or a kernel parameter; implementations share a column where they
            share a name.
        values: every value it takes anywhere in the pool, ascending where all are numbers.
    """

    name: str
    values: tuple[Any, ...]

    @property
    def is_ordinal(self) -> bool:
        """Whether the values have an order that may carry meaning: all are numbers and none is a boolean."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)


@dataclass(frozen=True, eq=False)
class Pool:
    """Configurations as rows of small integers.

    Attributes:
        parameters: the columns.
        codes: shape (configurations, parameters), int32: index into the column's values, or `INACTIVE`.
    """

    parameters: tuple[Parameter, ...]
    codes: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.codes)

    def configuration(self, row: int) -> dict[str, Any]:
        """The configuration of one row: only the parameters that are active there."""
        codes = self.codes[row]
        pairs = zip(self.parameters, codes, strict=True)
        return {parameter.name: parameter.values[code] for parameter, code in pairs if code != INACTIVE}

    def find(self, configuration: Mapping[str, Any]) -> int | None:
        """The row of a configuration, or None when the pool does not hold it."""
        codes = []
        for name, index in self._value_codes:
            code = index.get(_identity(configuration[name])) if name in configuration else INACTIVE
            if code is None:
                return None
            codes.append(code)
        if set(configuration) - {parameter.name for parameter in self.parameters}:
            return None
        return self._row_of.get(np.asarray(codes, np.int32).tobytes())

    @cached_property
    def _value_codes(self) -> list[tuple[str, dict[Any, int]]]:
        return [(p.name, {_identity(v): i for i, v in enumerate(p.values)}) for p in self.parameters]

    @cached_property
    def _row_of(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(self.codes, np.int32))}


def _identity(value: Any) -> tuple[bool, Any]:
    """A key under which `True` and `1` differ, as they do in a declaration."""
    return isinstance(value, bool), value
