"""Expressions of search-space declarations: Python syntax, a whitelisted tree, never `eval`.

An expression is evaluated over scalars (a `requires`, a list of values) or over whole columns of candidate
configurations at once (a constraint); `and`, `or` and `a if c else b` look only at the rows that need them,
so `split > 1 and k % split == 0` is safe where `split` is 0.
"""

from __future__ import annotations

import ast
import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import SpaceError, UnknownNameError, suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

LONGEST_EXPRESSION = 1_000
LARGEST_EXPONENT = 64
LONGEST_LIST = 100_000

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def powers_of_two(low: int, high: int) -> list[int]:
    """Every power of two from `low` to `high`, both included when they are powers of two."""
    return [2**e for e in range(math.ceil(math.log2(max(low, 1))), high.bit_length()) if 2**e <= high]


def divisors(number: int) -> list[int]:
    """Every divisor of `number`, ascending."""
    if not 1 <= number <= LONGEST_LIST**2:
        raise ValueError(f"divisors({number}) is out of range")
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def _range(*bounds: int) -> list[int]:
    values = range(*bounds)
    if len(values) > LONGEST_LIST:
        raise ValueError(f"range{bounds} is longer than {LONGEST_LIST}")
    return list(values)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil_div": lambda a, b: -(-a // b),
    "divisors": divisors,
    "len": len,
    "log2": np.log2,
    "max": lambda *values: _fold(np.maximum, values),
    "min": lambda *values: _fold(np.minimum, values),
    "powers_of_two": powers_of_two,
    "range": _range,
}


class Expression:
    """A parsed expression.

    Args:
        text: the expression.
        where: the file and place it stands in, for messages.

    Attributes:
        names: the free names it uses, `device` and functions apart.
        device_facts: the facts it reads as `device.<fact>`.

    Raises:
        SpaceError: it does not parse, or uses what is not allowed.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text = text
        self.where = where
        if len(text) > LONGEST_EXPRESSION:
            raise SpaceError(f"{where}: the expression is longer than {LONGEST_EXPRESSION} characters")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            detail = error.msg if isinstance(error, SyntaxError) else str(error)
            raise SpaceError(f"{where}: {text!r} does not parse: {detail}") from None
        self.names: set[str] = set()
        self.device_facts: set[str] = set()
        self._collect(self._tree)

    def check_names(self, known: Iterable[str]) -> None:
        """Require that every free name is one of `known`.

        Raises:
            UnknownNameError: naming the closest known one.
        """
        known = set(known)
        for name in sorted(self.names - known):
            raise UnknownNameError("name in expression", name, known, f"{self.where}: {self.text!r}")

    def evaluate(self, names: Mapping[str, Any], device: Mapping[str, Any], rows: int | None = None) -> Any:
        """The value over scalars, or over columns of `rows` entries each (scalars broadcast).

        Raises:
            SpaceError: a device fact is not known, types do not fit, or a number is divided by zero.
        """
        try:
            with np.errstate(divide="raise", invalid="raise", over="raise"):
                return self._value(self._tree, names, device, rows)
        except SpaceError:
            raise
        except Exception as error:
            raise SpaceError(f"{self.where}: {self.text!r} cannot be evaluated: {error}") from None

    def truth(self, names: Mapping[str, Any], device: Mapping[str, Any], rows: int) -> np.ndarray[Any, Any]:
        """The boolean of every row, shape (rows,)."""
        value = self.evaluate(names, device, rows)
        return np.broadcast_to(np.asarray(value, dtype=bool), (rows,))

    def _collect(self, node: ast.expr) -> None:
        """Reject what is not whitelisted, and note the names used."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() | None):
                pass
            case ast.Name(id=name):
                self.names.add(name)
            case ast.Attribute(value=ast.Name(id="device"), attr=fact):
                self.device_facts.add(fact)
            case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
                if function not in _FUNCTIONS:
                    raise UnknownNameError("function", function, _FUNCTIONS, f"{self.where}: {self.text!r}")
                self._collect_all(arguments)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self._collect_all([left, right])
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
                self._collect(operand)
            case ast.BoolOp(values=values) | ast.List(elts=values) | ast.Tuple(elts=values):
                self._collect_all(values)
            case ast.Compare(left=left, ops=ops, comparators=comparators) if all(
                type(op) in _COMPARISONS or isinstance(op, ast.In | ast.NotIn) for op in ops
            ):
                self._collect_all([left, *comparators])
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._collect_all([test, body, orelse])
            case _:
                what = ast.unparse(node)
                allowed = f"numbers, text, lists, names, device.<fact>, operators and {', '.join(_FUNCTIONS)}"
                raise SpaceError(
                    f"{self.where}: {what!r} is not allowed in {self.text!r}; allowed are {allowed}"
                )

    def _collect_all(self, nodes: list[ast.expr]) -> None:
        for node in nodes:
            self._collect(node)

    def _value(
        self, node: ast.expr, names: Mapping[str, Any], device: Mapping[str, Any], rows: int | None
    ) -> Any:
        def value(child: ast.expr) -> Any:
            return self._value(child, names, device, rows)

        match node:
            case ast.Constant(value=constant):
                return constant
            case ast.Name(id=name):
                return names[name]
            case ast.Attribute(attr=fact):
                return self._fact(fact, device)
            case ast.Call(func=ast.Name(id=function), args=arguments):
                return _FUNCTIONS[function](*map(value, arguments))
            case ast.BinOp(left=left, op=op, right=right):
                return _apply(op, value(left), value(right))
            case ast.UnaryOp(op=op, operand=operand):
                inner = value(operand)
                if isinstance(op, ast.Not):
                    return np.logical_not(inner) if _is_column(inner) else not inner
                return -inner if isinstance(op, ast.USub) else inner
            case ast.List(elts=values) | ast.Tuple(elts=values):
                return [value(child) for child in values]
            case ast.BoolOp(op=op, values=values):
                return self._connect(isinstance(op, ast.And), values, names, device, rows)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                return self._compare(value(left), ops, [value(child) for child in comparators])
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._choose(test, body, orelse, names, device, rows)
        raise AssertionError(f"{ast.dump(node)} passed the whitelist")

    def _fact(self, fact: str, device: Mapping[str, Any]) -> Any:
        if fact not in device:
            kind = device.get("kind", "unknown")
            message = (
                f"{self.where}: device.{fact} is not a fact of this {kind} device{suggestion(fact, device)}"
            )
            raise SpaceError(message)
        return device[fact]

    @staticmethod
    def _compare(left: Any, ops: list[ast.cmpop], rights: list[Any]) -> Any:
        result: Any = True
        for op, right in zip(ops, rights, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                held = _contains(left, right)
                held = np.logical_not(held) if isinstance(op, ast.NotIn) else held
            else:
                held = _COMPARISONS[type(op)](left, right)
            result = (
                np.logical_and(result, held) if _is_column(held) or _is_column(result) else result and held
            )
            left = right
        return result

    def _connect(
        self,
        every: bool,
        nodes: list[ast.expr],
        names: Mapping[str, Any],
        device: Mapping[str, Any],
        rows: int | None,
    ) -> Any:
        """`and` (every) or `or`, each further operand evaluated only where the result is still open."""
        if rows is None:
            for node in nodes:
                if bool(self._value(node, names, device, None)) is not every:
                    return not every
            return every
        result = np.full(rows, every)
        open_rows = np.arange(rows)
        for node in nodes:
            if not len(open_rows):
                break
            held = self._rows_value(node, names, device, open_rows).astype(bool)
            result[open_rows] = held
            open_rows = open_rows[held == every]
        return result

    def _choose(
        self,
        test: ast.expr,
        body: ast.expr,
        orelse: ast.expr,
        names: Mapping[str, Any],
        device: Mapping[str, Any],
        rows: int | None,
    ) -> Any:
        condition = self._value(test, names, device, rows)
        if not _is_column(condition):
            return self._value(body if condition else orelse, names, device, rows)
        chosen = np.empty(len(condition), dtype=object)
        for branch, where in ((body, condition), (orelse, np.logical_not(condition))):
            indices = np.flatnonzero(where)
            if len(indices):
                chosen[indices] = self._rows_value(branch, names, device, indices)
        return np.array(chosen.tolist())

    def _rows_value(
        self,
        node: ast.expr,
        names: Mapping[str, Any],
        device: Mapping[str, Any],
        indices: np.ndarray[Any, Any],
    ) -> np.ndarray[Any, Any]:
        subset = {name: value[indices] if _is_column(value) else value for name, value in names.items()}
        value = self._value(node, subset, device, len(indices))
        return value if _is_column(value) else np.full(len(indices), value)


def _is_column(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1


def _apply(op: ast.operator, left: Any, right: Any) -> Any:
    if isinstance(op, ast.Pow) and np.any(np.abs(right) > LARGEST_EXPONENT):
        raise ValueError(f"an exponent is above {LARGEST_EXPONENT}")
    if isinstance(op, ast.Mult | ast.Add) and any(isinstance(side, str | list) for side in (left, right)):
        raise TypeError("text and lists cannot be calculated with")
    return _ARITHMETIC[type(op)](left, right)


def _contains(left: Any, right: Any) -> Any:
    if not isinstance(right, list | tuple):
        raise TypeError("'in' needs a list on its right")
    if not _is_column(left):
        return left in right
    return np.logical_or.reduce([left == element for element in right], axis=0) if right else left != left


def _fold(function: Any, values: tuple[Any, ...]) -> Any:
    items = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    result = items[0]
    for item in items[1:]:
        result = function(result, item)
    return result.item() if isinstance(result, np.generic) else result
