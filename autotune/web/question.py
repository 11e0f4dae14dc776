"""What a request asks for: the parameters of its address, checked, and the addresses of related questions."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from autotune.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PER_PAGE = 100
"""Rows of a page."""
MOST_EXPORTED = 10_000
"""Rows that one CSV or JSON file holds; the next ones are on its next page."""
LARGEST_NUMBER = 2**53


class Question:
    """A request's path and parameters.

    Args:
        path: without parameters.
        parameters: as given.
        numbers: those of the path, such as a study's.
    """

    def __init__(
        self, path: str, parameters: Mapping[str, str], numbers: Mapping[str, int] | None = None
    ) -> None:
        self.path = path
        self.parameters = {name: value for name, value in parameters.items() if value}
        self.numbers = dict(numbers or {})

    def text(self, name: str) -> str | None:
        """A parameter; None if it is missing."""
        return self.parameters.get(name)

    def choice(self, name: str, valid: Collection[str], default: str) -> str:
        """A parameter that is one of some names.

        Raises:
            UnknownNameError: it is none of them.
        """
        given = self.parameters.get(name, default)
        if given not in valid:
            raise UnknownNameError(name, given, valid)
        return given

    def number(self, name: str, default: int) -> int:
        """A parameter that is a whole number from 1.

        Raises:
            UsageError: it is not.
        """
        given = self.parameters.get(name)
        if given is None:
            return default
        if not (given.isascii() and given.isdigit() and 0 < len(given) <= 16) or int(given) < 1:
            raise UsageError(f"{name}={given[:40]!r} is not a whole number from 1")
        return int(given)

    def real(self, name: str) -> float | None:
        """A parameter that is a number from 0; None if it is missing.

        Raises:
            UsageError: it is not.
        """
        given = self.parameters.get(name)
        if given is None:
            return None
        try:
            value = float(given)
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            raise UsageError(f"{name}={given[:40]!r} is not a number from 0")
        return value

    @property
    def descending(self) -> bool:
        """Whether the order is to be turned round."""
        return self.parameters.get("reverse") == "1"

    @property
    def exported(self) -> str:
        """`csv` or `json` where a file is asked for instead of a page, else empty."""
        return self.choice("format", ("csv", "json"), "csv") if "format" in self.parameters else ""

    @property
    def limit(self) -> int:
        """How many rows a list has at most."""
        return MOST_EXPORTED if self.exported else PER_PAGE

    @property
    def offset(self) -> int:
        """How many rows are passed over."""
        return (min(self.number("page", 1), LARGEST_NUMBER) - 1) * self.limit

    def address(self, **changes: str | int | None) -> str:
        """The address of this page with some parameters changed, or dropped where None."""
        changed = {**self.parameters, **changes}
        kept = {name: str(value) for name, value in changed.items() if value is not None}
        return f"{self.path}?{urlencode(kept)}" if kept else self.path


def address(path: str, **parameters: str | int | None) -> str:
    """An address with parameters; those that are None are left out."""
    return Question(path, {}).address(**parameters)
