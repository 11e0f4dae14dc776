"""What a look-up must know of a workload's declaration: its dimensions, its qualifiers and its baseline.

A workload is known when it ships with autotune (`search_spaces/<name>.toml`, which an operator's file of that
name under `/etc/autotune/search_spaces/` overrides), when `declare` was called for it, or when an installed
package names it in the entry-point group `autotune.workloads` and declares it while it is imported.

A broken file never fails a look-up: the shipped one takes its place, and if that is broken too, any
dimensions are accepted and the baseline is empty. `Declared.faults` says what was wrong.
"""

from __future__ import annotations

import os

from autotune import paths
from autotune.errors import SpaceError, UnknownNameError, UsageError
from autotune.space.problem import LARGEST_DIMENSION, Dimension
from autotune.space.skim import skim_dimensions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    Dimensions = dict[str, Dimension]

OBJECTIVES = ("latency", "tail", "throughput", "energy")
"""What a problem is tuned for: a call's median, its 99th percentile, calls per second, joules per call."""

LIMITABLE = "throughput"
"""The objective that may carry a limit on the 99th percentile of a call, e.g. `throughput:5ms`."""

ENTRY_POINTS = "autotune.workloads"
INCLUDED = {"server": "autotune.server.dimensions"}
"""Workloads of ours whose search spaces are not files of this package, and the module that declares each."""

ARGUMENTS = frozenset({"workload", "objective", "max_error", "qualifiers", "device", "generation", "slo_ms"})
"""Arguments of `get_best_config`, which no dimension may be named like."""


def limited(objective: str, limit_ms: float) -> str:
    """The name of an objective under a limit on the 99th percentile of a call, e.g. `throughput:5ms`.

    Raises:
        UsageError: the objective takes no limit, or the limit is no positive number of milliseconds.
    """
    if objective != LIMITABLE:
        raise UsageError(f"objective {objective!r} takes no limit on the latency; only {LIMITABLE!r} does")
    try:
        name = f"{objective}:{float(limit_ms):g}ms" if type(limit_ms) is not bool else ""
    except (TypeError, ValueError, OverflowError):
        name = ""
    if limit_ns(name) is None:
        raise UsageError(f"a latency limit of {limit_ms!r} ms is not a number greater than 0")
    return name


def limit_ns(objective: str) -> float | None:
    """The limit that an objective's name carries, in nanoseconds; None for one without."""
    base, _, limit = objective.partition(":")
    try:
        milliseconds = float(limit.removesuffix("ms")) if base == LIMITABLE and limit.endswith("ms") else 0.0
    except ValueError:
        return None
    return milliseconds * 1e6 if 0 < milliseconds < 1e9 else None


def check_objective(objective: str) -> None:
    """Refuse what is no objective, or not written as `limited` does.

    Raises:
        UnknownNameError: it is unknown.
    """
    if objective in OBJECTIVES:
        return
    limit = limit_ns(objective) if isinstance(objective, str) else None
    if limit is None or limited(LIMITABLE, limit / 1e6) != objective:
        raise UnknownNameError("objective", objective, (*OBJECTIVES, f"{LIMITABLE}:5ms"))


class Declared:
    """What a look-up must know of a workload's declaration.

    Attributes:
        name: of the workload.
        dimensions: by name, in declared order; None if no declaration could be read and any are accepted.
        baseline: what the framework does untuned; text that starts with `=` is an expression.
        qualifiers: names whose values a caller may fix; `implementation` is always one.
        faults: one line for each file that could not be used.
    """

    __slots__ = ("baseline", "dimensions", "faults", "name", "qualifiers")

    def __init__(
        self,
        name: str,
        dimensions: Dimensions | None,
        baseline: Mapping[str, Any],
        qualifiers: Iterable[str] = (),
        faults: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.dimensions = dimensions
        self.baseline = dict(baseline)
        self.qualifiers = frozenset({"implementation", *qualifiers})
        self.faults = faults


_registered: dict[str, Declared] = {}
_dimensions: dict[str, Dimensions | None] = {}
_parsed: dict[str, Declared] = {}
_revision = 0


def declare(
    name: str,
    dimensions: Iterable[Dimension],
    baseline: Mapping[str, Any],
    *,
    qualifiers: Iterable[str] = (),
) -> Declared:
    """Make a workload of one's own known to look-ups in this process; declaring it again replaces it.

    Args:
        name: as given to `get_best_config`.
        dimensions: in the order in which problems are written.
        baseline: the full configuration of the framework untuned; text that starts with `=` is an expression
            over the dimensions and `device.<fact>`.
        qualifiers: names of the configuration's values that a caller may fix.

    Raises:
        UsageError: the name is one of a shipped workload.
        SpaceError: there are no dimensions, or one is named like an argument of `get_best_config`.
    """
    global _revision
    if name in shipped():
        raise UsageError(f"workload {name!r} ships with autotune; choose another name for yours")
    by_name = {dimension.name: dimension for dimension in dimensions}
    if not by_name:
        raise SpaceError(f"workload {name!r}: no dimensions are declared")
    for taken in sorted(ARGUMENTS & by_name.keys()):
        raise SpaceError(f"workload {name!r}: a dimension cannot be named {taken!r}; choose another name")
    _registered[name] = Declared(name, by_name, baseline, qualifiers)
    _revision += 1
    return _registered[name]


def revision() -> int:
    """A number that grows whenever `declare` is called."""
    return _revision


def dimensions_of(name: str) -> Dimensions | None:
    """The declared dimensions of a workload; None if any are accepted.

    Those of a shipped workload are skimmed rather than parsed, to spare a look-up the import of a parser.

    Raises:
        UnknownNameError: no such workload is known.
    """
    own = _own(name)
    if own is not None:
        return own.dimensions
    if name not in _dimensions:
        _dimensions[name] = _skimmed(name) or declared(name).dimensions
    return _dimensions[name]


def declared(name: str) -> Declared:
    """The declaration of a workload, as far as look-ups need it.

    Raises:
        UnknownNameError: no such workload is known.
    """
    own = _own(name)
    if own is not None:
        return own
    if name not in _parsed:
        _parsed[name] = _read(name)
    return _parsed[name]


def shipped() -> list[str]:
    """Names of the workloads that have a declaration in a file."""
    return sorted(paths.data_files("search_spaces", ".toml"))


def _own(name: str) -> Declared | None:
    """A workload of the user's; None for one that has a file.

    Raises:
        UnknownNameError: it is neither.
    """
    if not isinstance(name, str):
        raise UnknownNameError("workload", name, [*shipped(), *_registered])
    own = _registered.get(name)
    if own is None and name not in _dimensions and name not in _parsed and not _has_file(name):
        own = _imported(name)
    return own


def _has_file(name: str) -> bool:
    return name.isidentifier() and os.path.isfile(paths.data_file("search_spaces", f"{name}.toml"))


def _imported(name: str) -> Declared:
    """The workload that a module of ours, or an installed package, declares while it is imported."""
    if name in INCLUDED:
        from importlib import import_module

        import_module(INCLUDED[name])
        return _registered[name]
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if name not in points:
        raise UnknownNameError("workload", name, {*shipped(), *_registered, *points})
    try:
        points[name].load()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"workload {name!r}: importing {points[name].value} failed: {reason}") from error
    if name not in _registered:
        remedy = "autotune.register() it with its space"
        raise UsageError(f"workload {name!r}: {points[name].value} does not declare it; {remedy}")
    return _registered[name]


def _files(name: str) -> list[str]:
    """The operator's file if there is one, then the shipped one."""
    filename = f"{name}.toml"
    shipped_file = os.path.join(paths.data_dir("search_spaces"), filename)
    return list(dict.fromkeys((paths.data_file("search_spaces", filename), shipped_file)))


def _skimmed(name: str) -> Dimensions | None:
    path, *others = _files(name)
    if others:
        return None  # only a parser can tell whether all of the operator's file is right
    try:
        with open(path, encoding="utf-8") as file:
            tables = skim_dimensions(file.read())
        return None if tables is None else _to_dimensions(tables)
    except (OSError, ValueError, TypeError):
        return None


def _read(name: str) -> Declared:
    faults: list[str] = []
    for path in _files(name):
        try:
            return _parse(name, path, tuple(faults))
        except (OSError, ValueError, TypeError, AttributeError, LookupError) as error:
            faults.append(f"{path}: cannot be used: {error}")
    return Declared(name, None, {}, (), tuple(faults))


def _parse(name: str, path: str, faults: tuple[str, ...]) -> Declared:
    import tomllib

    with open(path, "rb") as file:
        table = tomllib.load(file)
    qualifiers = {
        qualifier
        for implementation in table.get("implementations", {}).values()
        for qualifier in implementation.get("qualifiers", {})
    }
    return Declared(name, _to_dimensions(table["dimensions"]), table["baseline"], qualifiers, faults)


def _to_dimensions(tables: Mapping[str, Mapping[str, Any]]) -> Dimensions:
    return {name: _to_dimension(name, table) for name, table in tables.items()}


def _to_dimension(name: str, table: Mapping[str, Any]) -> Dimension:
    choices = table.get("choices")
    default = table.get("default")
    if choices is not None:
        choices = tuple(map(str, choices))
        default = None if default is None else str(default)
    bounds = table.get("minimum", 1), table.get("maximum", LARGEST_DIMENSION)
    if not all(isinstance(bound, int) for bound in bounds):
        raise TypeError(f"dimensions.{name}: minimum and maximum must be whole numbers")
    return Dimension(
        name,
        choices=choices,
        minimum=bounds[0],
        maximum=bounds[1],
        default=default,
        nearest=table.get("nearest", False) is True,
        summary=str(table.get("summary", "")),
    )
