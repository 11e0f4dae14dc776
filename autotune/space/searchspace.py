"""The search space of one problem on one device: its declaration resolved and enumerated."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import SpaceError
from autotune.space.declaration import Implementation, SpaceDeclaration, check_values
from autotune.space.pool import INACTIVE, Parameter, Pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from autotune.space.expression import Expression
    from autotune.space.problem import Problem

    Codes = np.ndarray[Any, np.dtype[np.int32]]

MOST_ROWS = 8_000_000
"""Rows that an enumeration may hold at once: beyond it a declaration needs tighter constraints."""


@dataclass(frozen=True)
class Offer:
    """One implementation of a space, as it stands for a problem on a device.

    Attributes:
        name: of the implementation.
        withheld: why it is not offered here; empty when it is.
        raw: points of the Cartesian product of its values.
        steps: (constraint, points left after it), in the order applied; the last is the valid count.
    """

    name: str
    withheld: str
    raw: int
    steps: tuple[tuple[str, int], ...]

    @property
    def valid(self) -> int:
        """Configurations that satisfy every constraint."""
        if self.withheld:
            return 0
        return self.steps[-1][1] if self.steps else self.raw


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Exactly the valid configurations for a problem on a device.

    Attributes:
        pool: the configurations; the baseline is one of them.
        baseline: what the framework does untuned.
        offers: every declared implementation, offered here or not.
        settings: implementation -> parameter -> values, resolved for this problem and device.
        digest: changes when the values, constraints or baseline do.
    """

    problem: Problem
    pool: Pool
    baseline: dict[str, Any]
    offers: tuple[Offer, ...]
    settings: dict[str, dict[str, tuple[Any, ...]]]
    digest: str

    def __len__(self) -> int:
        return len(self.pool)

    @cached_property
    def baseline_row(self) -> int:
        """The baseline's row in the pool."""
        row = self.pool.find(self.baseline)
        assert row is not None, "build() put the baseline in"
        return row

    @classmethod
    def build(
        cls,
        declaration: SpaceDeclaration,
        problem: Problem,
        device: Mapping[str, Any],
        max_error: float | None = None,
    ) -> SearchSpace:
        """Resolve and enumerate a declaration.

        Args:
            declaration: what may be tried.
            problem: the dimensions.
            device: the facts behind `device.*` in expressions.
            max_error: the relative error that the caller accepts; None keeps lossy implementations out.

        Raises:
            SpaceError: an expression cannot be evaluated here, or the baseline is not a valid configuration.
        """
        resolver = _Resolver(declaration, problem, device, max_error)
        baseline = resolver.baseline()
        offers, tables, settings = [], [], {}
        for name, implementation in declaration.implementations.items():
            withheld = resolver.withheld(name, implementation)
            values = {} if withheld else resolver.values(name, implementation, baseline)
            raw = math.prod(map(len, values.values()))
            if not withheld:
                codes, steps = resolver.enumerate(name, implementation, values)
                if not len(codes):
                    withheld = f"constraint {_emptying(steps)!r} leaves none of its {raw} points"
                else:
                    tables.append((name, values, codes))
                    settings[name] = values
            offers.append(
                Offer(name, withheld, 0 if not values and withheld else raw, () if withheld else steps)
            )
        resolver.check_offered(baseline, offers)
        space = cls(
            problem,
            _merge(tables),
            baseline,
            tuple(offers),
            settings,
            _digest(declaration, settings, baseline),
        )
        if space.pool.find(baseline) is None:
            raise SpaceError(resolver.broken_baseline(baseline))
        return space


@dataclass(frozen=True)
class _Resolver:
    """One declaration at one problem on one device."""

    declaration: SpaceDeclaration
    problem: Problem
    device: Mapping[str, Any]
    max_error: float | None

    def baseline(self) -> dict[str, Any]:
        resolved = {}
        for key, value in self.declaration.baseline.items():
            if isinstance(value, str) and value.startswith("="):
                found = self._scalar(self.declaration.expression(value, "baseline", key))
                if found is not None:
                    resolved[key] = found
            else:
                resolved[key] = value
        return resolved

    def withheld(self, name: str, implementation: Implementation) -> str:
        """Why an implementation is not offered here; empty when it is."""
        place = ("implementations", name)
        if implementation.requires:
            requires = self.declaration.expression(implementation.requires, *place, "requires")
            if not self._scalar(requires):
                return f"requires {implementation.requires}"
        lossy = implementation.lossy
        if isinstance(lossy, str):
            lossy = bool(lossy) and bool(self._scalar(self.declaration.expression(lossy, *place, "lossy")))
        return "loses accuracy; offered with max_error" if lossy and self.max_error is None else ""

    def values(
        self, name: str, implementation: Implementation, baseline: Mapping[str, Any]
    ) -> dict[str, tuple[Any, ...]]:
        """The values of every setting that the implementation has here.

        One whose expression gives no value is a setting of other devices, such as the threads of a CPU.
        """
        resolved = {}
        for setting, declared in implementation.settings.items():
            values = declared
            expression = (
                self.declaration.expression(declared, name, setting) if isinstance(declared, str) else None
            )
            if expression:
                values = self._scalar(expression)
                if values == []:
                    continue
            values = check_values(
                values, f"{self.declaration.where or self.declaration.workload}: {name}.{setting}"
            )
            # Powers of two lack the 6 of a device with 6 cores: the baseline is always a point.
            stays = expression and baseline["implementation"] == name and setting in baseline
            if stays and baseline[setting] not in values:
                values = (*values, baseline[setting])
            numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            resolved[setting] = tuple(sorted(values)) if numeric else tuple(values)
        return resolved

    def enumerate(
        self, name: str, implementation: Implementation, values: Mapping[str, tuple[Any, ...]]
    ) -> tuple[Codes, tuple[tuple[str, int], ...]]:
        """Expand parameter by parameter, applying each constraint as soon as all its names are bound.

        Returns:
            Codes of shape (valid, parameters), and after each constraint how many points of the whole product
            were left: rows times the product of what is not yet expanded.
        """
        waiting = self._constraints(name, implementation, values)
        order = list(values)
        codes: Codes = np.zeros((1, 0), np.int32)
        steps: list[tuple[str, int]] = []
        for depth in range(len(order) + 1):
            ready = [c for c, e in waiting.items() if e.names & set(values) <= set(order[:depth])]
            rest = math.prod(len(values[setting]) for setting in order[depth:])
            for constraint in ready:
                codes = codes[self._holds(waiting.pop(constraint), codes, order[:depth], values)]
                steps.append((constraint, len(codes) * rest))
            if depth < len(order):
                codes = self._expand(name, codes, len(values[order[depth]]))
        return codes, tuple(steps)

    def _constraints(
        self, name: str, implementation: Implementation, values: Mapping[str, Any]
    ) -> dict[str, Expression]:
        """The constraints by name, but for those on settings that the implementation does not have here."""
        parsed = {
            constraint: self.declaration.expression(text, "implementations", name, "constraints", constraint)
            for constraint, text in implementation.constraints.items()
        }
        absent = set(implementation.settings) - set(values)
        return {constraint: each for constraint, each in parsed.items() if not each.names & absent}

    def check_offered(self, baseline: Mapping[str, Any], offers: list[Offer]) -> None:
        for offer in offers:
            if offer.name == baseline["implementation"] and offer.withheld:
                raise SpaceError(
                    f"{self._place}: the baseline's implementation {offer.name!r} is not offered "
                    f"for {self.problem}: {offer.withheld}"
                )

    def broken_baseline(self, baseline: Mapping[str, Any]) -> str:
        """The message about a baseline that is not a point of the space."""
        name = baseline["implementation"]
        implementation = self.declaration.implementations[name]
        names = {**self.problem.dimensions, **baseline}
        for constraint, expression in self._constraints(name, implementation, baseline).items():
            if not expression.evaluate(names, self.device):
                broken = f"{constraint!r} ({expression.text})"
                return f"{self._place}: the baseline breaks {broken} for {self.problem}"
        here = self.values(name, implementation, baseline)
        for setting in sorted(set(here) ^ (set(baseline) - {"implementation"})):
            found = "gives none" if setting in here else "gives one, but the setting is absent there"
            return f"{self._place}: baseline.{setting} {found} on this {self.device.get('kind')} device"
        for setting, value in baseline.items():
            declared = implementation.settings.get(setting, [name])
            if not isinstance(declared, str) and value not in declared:
                return f"{self._place}: baseline.{setting} is {value!r}, which is not among {list(declared)}"
        return f"{self._place}: the baseline is not a valid configuration for {self.problem}"

    def _expand(self, name: str, codes: Codes, count: int) -> Codes:
        if len(codes) * count > MOST_ROWS:
            raise SpaceError(
                f"{self._place}: implementation {name!r} expands to more than {MOST_ROWS:,} rows; "
                "constrain its first parameters, or declare fewer values"
            )
        column = np.tile(np.arange(count, dtype=np.int32), len(codes))
        return np.column_stack([np.repeat(codes, count, axis=0), column])

    def _holds(
        self, constraint: Expression, codes: Codes, order: list[str], values: Mapping[str, tuple[Any, ...]]
    ) -> np.ndarray[Any, Any]:
        columns = {
            setting: np.array(values[setting])[codes[:, position]]
            for position, setting in enumerate(order)
            if setting in constraint.names
        }
        return constraint.truth({**self.problem.dimensions, **columns}, self.device, len(codes))

    def _scalar(self, expression: Expression) -> Any:
        return expression.evaluate(self.problem.dimensions, self.device)

    @property
    def _place(self) -> str:
        return self.declaration.where or self.declaration.workload


def _merge(tables: list[tuple[str, dict[str, tuple[Any, ...]], Codes]]) -> Pool:
    """One pool of all implementations; those that share a parameter's name share its column."""
    union: dict[str, dict[tuple[type, Any], Any]] = {}
    for _, values, _ in tables:
        for setting, candidates in values.items():
            union.setdefault(setting, {}).update({(type(value), value): value for value in candidates})
    parameters = [Parameter("implementation", tuple(name for name, _, _ in tables))]
    for setting, entries in union.items():
        parameter = Parameter(setting, tuple(entries.values()))
        parameters.append(
            Parameter(setting, tuple(sorted(parameter.values))) if parameter.is_ordinal else parameter
        )
    blocks = []
    for number, (_, values, codes) in enumerate(tables):
        block = np.full((len(codes), len(parameters)), INACTIVE, np.int32)
        block[:, 0] = number
        for position, (setting, candidates) in enumerate(values.items()):
            column = 1 + list(union).index(setting)
            lookup = {(type(v), v): i for i, v in enumerate(parameters[column].values)}
            recode = np.array([lookup[type(v), v] for v in candidates], np.int32)
            block[:, column] = recode[codes[:, position]]
        blocks.append(block)
    return Pool(tuple(parameters), np.concatenate(blocks) if blocks else np.zeros((0, 1), np.int32))


def _emptying(steps: tuple[tuple[str, int], ...]) -> str:
    return next(constraint for constraint, left in steps if not left)


def _digest(declaration: SpaceDeclaration, settings: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    """16 hexadecimal digits over what decides which configurations there are."""
    content = {
        "workload": declaration.workload,
        "baseline": dict(baseline),
        "settings": settings,
        "constraints": {name: dict(declaration.implementations[name].constraints) for name in settings},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
