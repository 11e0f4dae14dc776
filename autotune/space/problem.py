"""A problem: one workload at fixed dimensions, e.g. `linear(m=16, n=7168, k=2048, dtype=bfloat16)`.

Look-ups load this module, so it imports nothing but the standard library, and of that only what is light.
"""

from __future__ import annotations

from autotune.errors import ProblemError, UnknownNameError, suggestion

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

LARGEST_DIMENSION = 2**31 - 1
LONGEST_TEXT = 64
DIGITS = 15
"""Of a whole number where any text is allowed: what JSON keeps exactly."""


class Dimension:
    """One declared dimension of a workload.

    Args:
        name: as used in `-p name=value`.
        choices: the values allowed, or None for an integer dimension.
        minimum: least value of an integer dimension.
        maximum: greatest value of an integer dimension.
        default: value when the caller gives none; None makes the dimension required.
        nearest: whether a winner at another value of this dimension is a good guess (a batch size is, a
            hidden size is not); such dimensions are compared in log space.
        summary: one line for people.
        text: whether it may also hold text that is not known beforehand, and any whole number.
    """

    __slots__ = ("choices", "default", "maximum", "minimum", "name", "nearest", "summary", "text")

    def __init__(
        self,
        name: str,
        *,
        choices: tuple[str, ...] | None = None,
        minimum: int = 1,
        maximum: int = LARGEST_DIMENSION,
        default: int | str | None = None,
        nearest: bool = False,
        summary: str = "",
        text: bool = False,
    ) -> None:
        self.name = name
        self.text = text
        self.choices = choices
        self.minimum = minimum
        self.maximum = maximum
        self.default = default
        self.nearest = nearest
        self.summary = summary

    def accept(self, value: Any, workload: str) -> int | str:
        """`value` in canonical form.

        Raises:
            ProblemError: it is of the wrong type or out of range.
        """
        if self.text:
            return self._text(value, workload)
        if self.choices is not None:
            # torch.bfloat16 prints as "torch.bfloat16": a caller may hand over the dtype itself.
            text = str(value).removeprefix("torch.")
            if text not in self.choices:
                raise ProblemError(f"{workload}: {self.name}={value!r}{suggestion(text, self.choices)}")
            return text
        if isinstance(value, bool) or not isinstance(value, int):
            try:
                number = int(str(value))
            except ValueError:
                message = f"{workload}: {self.name}={value!r} is not a whole number"
                raise ProblemError(message) from None
        else:
            number = value
        if not self.minimum <= number <= self.maximum:
            # Python refuses to print numbers of thousands of digits.
            given = str(number) if number.bit_length() <= 64 else "..."
            raise ProblemError(
                f"{workload}: {self.name}={given} is out of range; expected {self.minimum} to {self.maximum}"
            )
        return number

    def _text(self, value: Any, workload: str) -> int | str:
        """A whole number as such, other text as it is."""
        text = str(value).removeprefix("torch.")
        if text.removeprefix("-").isdecimal() and text.isascii() and len(text) <= DIGITS:
            return int(text)
        # A problem's key has commas between dimensions and equals signs in them.
        if 0 < len(text) <= LONGEST_TEXT and all(c.isalnum() or c in "_.+-" for c in text):
            return text
        raise ProblemError(
            f"{workload}: {self.name}={text[:LONGEST_TEXT]!r} is no word of letters, digits and _.+-"
        )


class Problem:
    """One workload at fixed dimensions, in declared order, defaults filled in; hashable."""

    __slots__ = ("_nearest", "dimensions", "key", "workload")

    def __init__(
        self, workload: str, dimensions: Mapping[str, int | str], nearest: tuple[str, ...] = ()
    ) -> None:
        self.workload = workload
        self.dimensions = dict(dimensions)
        self.key = problem_key(self.dimensions)
        self._nearest = nearest

    @classmethod
    def of(cls, workload: str, declared: Mapping[str, Dimension], given: Mapping[str, Any]) -> Problem:
        """The problem that `given` makes under the `declared` dimensions.

        Raises:
            ProblemError: a dimension is missing, unknown, of the wrong type or out of range.
        """
        for name in given:
            if name not in declared:
                raise UnknownNameError(f"dimension of {workload}", name, declared)
        dimensions: dict[str, int | str] = {}
        for name, dimension in declared.items():
            value = given.get(name, dimension.default)
            if value is None:
                needed = ", ".join(d.name for d in declared.values() if d.default is None)
                raise ProblemError(f"{workload}: dimension {name!r} is missing; needed are {needed}")
            dimensions[name] = dimension.accept(value, workload)
        return cls(workload, dimensions, tuple(d.name for d in declared.values() if d.nearest))

    @property
    def neighbourhood(self) -> str:
        """The key without nearest dimensions: where it agrees, another problem's winner is a good guess."""
        return problem_key({k: v for k, v in self.dimensions.items() if k not in self._nearest})

    @property
    def nearest(self) -> tuple[str, ...]:
        """Names of the dimensions along which neighbours are sought."""
        return self._nearest

    def __getitem__(self, name: str) -> Any:
        return self.dimensions[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.dimensions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and (self.workload, self.key) == (other.workload, other.key)

    def __hash__(self) -> int:
        return hash((self.workload, self.key))

    def __str__(self) -> str:
        return f"{self.workload}({', '.join(f'{k}={v}' for k, v in self.dimensions.items())})"

    def __repr__(self) -> str:
        return str(self)


def problem_key(dimensions: Mapping[str, int | str]) -> str:
    """The text under which a problem is stored: `m=16,n=7168,...` in declared order."""
    return ",".join(f"{name}={value}" for name, value in dimensions.items())
