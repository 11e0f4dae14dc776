"""Declarations of search spaces: what may be tried for a workload, from TOML or built in Python.

[dimensions.m]                          # an integer dimension; `choices = [...]` makes it a choice
nearest = true                          # a winner at another m is a good guess
[baseline]                              # what the framework does untuned: a full configuration
implementation = "torch"
threads = "=device.cores"               # "=..." is an expression over dimensions and device facts
[implementations.torch]
requires = "device.kind == 'cpu'"       # offered only where this holds
lossy = "weight_format == 'native'"     # offered only to callers who accept an error where this holds
[implementations.torch.qualifiers]      # change numerics, memory or which kernel runs
compute_dtype = ["bfloat16", "float32"]
[implementations.torch.parameters]      # change only speed; absent where the expression gives []
threads = "=powers_of_two(1, device.cores) if device.kind == 'cpu' else []"
[implementations.torch.constraints]     # named expressions over all of the above
whole_blocks = "k % block_k == 0"

A setting whose expression gives [] is absent there, and constraints that name it do not apply; so is one of
the baseline whose expression gives None.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune import paths
from autotune.errors import SpaceError, UnknownNameError
from autotune.space.expression import Expression
from autotune.space.problem import Dimension, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

Scalar = bool | int | float | str

RESERVED = frozenset({"device", "implementation"})


@dataclass(frozen=True)
class Implementation:
    """One way to compute a workload, as declared.

    Attributes:
        requires: expression over dimensions and device facts; empty means always.
        lossy: whether it is less accurate than the problem's own data, or an expression that says when.
        qualifiers: name to values; settings that change numerics, memory footprint or which kernel runs.
        parameters: name to values; settings that change only speed.
        constraints: name to expression; what a configuration must satisfy.
    """

    summary: str = ""
    requires: str = ""
    lossy: bool | str = False
    qualifiers: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Qualifiers, then kernel parameters."""
        return {**self.qualifiers, **self.parameters}


@dataclass(frozen=True)
class SpaceDeclaration:
    """What may be tried for a workload, on any device and at any problem.

    Args:
        workload: its name.
        dimensions: by name, in the order in which problems are written.
        implementations: by name.
        baseline: a full configuration; text that starts with `=` is an expression.
        where: the file it came from, for messages.

    Raises:
        SpaceError: a name, expression or value in it is wrong; the message gives the place.
    """

    workload: str
    dimensions: Mapping[str, Dimension]
    implementations: Mapping[str, Implementation]
    baseline: Mapping[str, Any]
    summary: str = ""
    where: str = ""

    def __post_init__(self) -> None:
        if not self.implementations:
            raise SpaceError(f"{self._at('implementations')}: none is declared")
        for name, implementation in self.implementations.items():
            self._check_implementation(name, implementation)
        self._check_baseline()

    def problem(self, given: Mapping[str, Any]) -> Problem:
        """The problem that `given` makes.

        Raises:
            ProblemError: a dimension is missing, unknown, of the wrong type or out of range.
        """
        return Problem.of(self.workload, self.dimensions, given)

    def expression(self, text: str, *place: str) -> Expression:
        """The expression at a place of the declaration."""
        return Expression(text.removeprefix("="), self._at(*place))

    def _check_implementation(self, name: str, implementation: Implementation) -> None:
        known = set(self.dimensions)
        for key in ("requires", "lossy"):
            text = getattr(implementation, key)
            if isinstance(text, str) and text:
                self.expression(text, "implementations", name, key).check_names(known)
        twice = set(implementation.qualifiers) & set(implementation.parameters)
        if twice:
            raise SpaceError(
                f"{self._at('implementations', name)}: {min(twice)!r} is a qualifier and a parameter"
            )
        for setting, values in implementation.settings.items():
            place = ("implementations", name, setting)
            if setting in RESERVED or setting in self.dimensions:
                taken = "a dimension" if setting in self.dimensions else "reserved"
                raise SpaceError(f"{self._at(*place)}: the name {setting!r} is {taken}; choose another")
            if isinstance(values, str):
                self.expression(values, *place).check_names(known)
            else:
                check_values(values, self._at(*place))
        known |= set(implementation.settings)
        for constraint, text in implementation.constraints.items():
            self.expression(text, "implementations", name, "constraints", constraint).check_names(known)

    def _check_baseline(self) -> None:
        name = str(self.baseline.get("implementation"))
        if name not in self.implementations:
            raise UnknownNameError("implementation", name, self.implementations, self._at("baseline"))
        expected = {"implementation", *self.implementations[name].settings}
        for key in self.baseline:
            if key not in expected:
                raise UnknownNameError(f"setting of {name}", key, expected, self._at("baseline"))
        for key in sorted(expected - set(self.baseline)):
            raise SpaceError(f"{self._at('baseline')}: {key!r} of implementation {name!r} is missing")
        for key, value in self.baseline.items():
            if isinstance(value, str) and value.startswith("="):
                self.expression(value, "baseline", key).check_names(self.dimensions)

    def _at(self, *place: str) -> str:
        return f"{self.where or self.workload}: {'.'.join(place)}"


def check_values(values: Any, where: str) -> tuple[Scalar, ...]:
    """The values of a parameter as a tuple.

    Raises:
        SpaceError: they are no list, empty, of a type a configuration cannot hold, or repeated.
    """
    if not isinstance(values, list | tuple) or not values:
        raise SpaceError(f"{where}: expected a list of values that is not empty, found {values!r}")
    seen = set()
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise SpaceError(f"{where}: {value!r} is not a number, text or boolean")
        if (type(value), value) in seen:
            raise SpaceError(f"{where}: {value!r} stands twice")
        seen.add((type(value), value))
    return tuple(values)


def declaration_names() -> list[str]:
    """Workloads that have a search space in a file."""
    return sorted(paths.data_files("search_spaces", ".toml"))


def load_declaration(workload: str) -> SpaceDeclaration:
    """The declaration of a workload from `search_spaces/<workload>.toml`, the operator's or ours.

    Raises:
        UnknownNameError: no file declares it.
        SpaceError: the file is wrong.
    """
    files = paths.data_files("search_spaces", ".toml")
    if workload not in files:
        raise UnknownNameError("workload", workload, files)
    return read_declaration(files[workload])


def read_declaration(path: str) -> SpaceDeclaration:
    """The declaration in a TOML file; the file's stem is the workload's name.

    Raises:
        SpaceError: it cannot be read, does not parse, or declares what is not allowed.
    """
    workload = os.path.basename(path).removesuffix(".toml")
    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise SpaceError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: is not TOML: {error}") from None
    _check_table(table, {"summary": str, "dimensions": dict, "baseline": dict, "implementations": dict}, path)
    for key in ("dimensions", "baseline", "implementations"):
        if key not in table:
            raise SpaceError(f"{path}: the table [{key}] is missing")
    dimensions = {
        name: _dimension(name, entry, f"{path}: dimensions.{name}")
        for name, entry in table["dimensions"].items()
    }
    implementations = {
        name: _implementation(entry, f"{path}: implementations.{name}")
        for name, entry in table["implementations"].items()
    }
    summary = table.get("summary", "")
    return SpaceDeclaration(workload, dimensions, implementations, table["baseline"], summary, path)


_DIMENSION_KEYS: dict[str, Any] = {
    "summary": str,
    "minimum": int,
    "maximum": int,
    "choices": list,
    "default": (int, str),
    "nearest": bool,
}
_IMPLEMENTATION_KEYS: dict[str, Any] = {
    "summary": str,
    "requires": str,
    "lossy": (bool, str),
    "qualifiers": dict,
    "parameters": dict,
    "constraints": dict,
}


def _dimension(name: str, table: Any, where: str) -> Dimension:
    _check_table(table, _DIMENSION_KEYS, where)
    choices = table.pop("choices", None)
    if choices is not None:
        choices = tuple(str(choice) for choice in check_values(choices, f"{where}.choices"))
        for choice in choices:
            if "," in choice or "=" in choice:
                raise SpaceError(f"{where}.choices: {choice!r} has a ',' or '=', which separate dimensions")
        if table.get("default", choices[0]) not in choices:
            raise SpaceError(f"{where}.default: {table['default']!r} is not one of {', '.join(choices)}")
    return Dimension(name, choices=choices, **table)


def _implementation(table: Any, where: str) -> Implementation:
    _check_table(table, _IMPLEMENTATION_KEYS, where)
    for name, text in table.get("constraints", {}).items():
        if not isinstance(text, str):
            raise SpaceError(
                f"{where}.constraints.{name}: expected an expression in text form, found {text!r}"
            )
    return Implementation(**table)


def _check_table(table: Any, keys: Mapping[str, Any], where: str) -> None:
    if not isinstance(table, dict):
        raise SpaceError(f"{where}: expected a table, found {table!r}")
    for key, value in table.items():
        if key not in keys:
            raise UnknownNameError("key", key, keys, where)
        expected = keys[key] if isinstance(keys[key], tuple) else (keys[key],)
        if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
            names = " or ".join(kind.__name__ for kind in expected)
            raise SpaceError(f"{where}.{key}: expected {names}, found {value!r}")
