"""Expressions of a declared baseline, over single values and without numpy.

A look-up evaluates them in serving environments that have the standard library alone. The language is that of
`autotune.space.expression`, which evaluates whole columns of configurations and is what the tuner uses.
"""

from __future__ import annotations

import ast
import math
import operator
from itertools import pairwise

from autotune.errors import SpaceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

LARGEST_EXPONENT = 64

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil_div": lambda a, b: -(-a // b),
    "len": len,
    "log2": math.log2,
    "max": max,
    "min": min,
    "powers_of_two": lambda low, high: [2**e for e in range(high.bit_length()) if low <= 2**e <= high],
}


def evaluate(text: str, names: Mapping[str, Any], device: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Args:
        text: the expression, without its leading `=`.
        names: values of the problem's dimensions.
        device: facts behind `device.<fact>`.

    Raises:
        SpaceError: it does not parse, names what is not there, or cannot be calculated.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body, names, device)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        raise SpaceError(f"{text!r} cannot be evaluated here: {detail}") from None


def _value(node: ast.expr, names: Mapping[str, Any], device: Mapping[str, Any]) -> Any:
    def value(child: ast.expr) -> Any:
        return _value(child, names, device)

    match node:
        case ast.Constant(value=constant):
            return constant
        case ast.Name(id=name):
            return names[name]
        case ast.Attribute(value=ast.Name(id="device"), attr=fact):
            return device[fact]
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]):
            return _FUNCTIONS[function](*map(value, arguments))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = value(left), value(right)
            if abs(exponent) > LARGEST_EXPONENT:
                raise ValueError(f"the exponent {exponent} is above {LARGEST_EXPONENT}")
            return base**exponent
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](value(left), value(right))
        case ast.UnaryOp(op=op, operand=operand):
            return _OPERATORS[type(op)](value(operand))
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [value(element) for element in elements]
        case ast.BoolOp(op=ast.And(), values=operands):
            return all(value(operand) for operand in operands)
        case ast.BoolOp(values=operands):
            return any(value(operand) for operand in operands)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return value(body if value(test) else orelse)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            sides = [value(side) for side in (left, *comparators)]
            return all(_OPERATORS[type(op)](*pair) for op, pair in zip(ops, pairwise(sides), strict=True))
    raise ValueError(f"{ast.unparse(node)!r} is not allowed")
