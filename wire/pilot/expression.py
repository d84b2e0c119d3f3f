"""Expressions of KPIs and exclusions, such as `sum(good) / (sum(good) + sum(bad))`: read, never executed."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from wire.errors import WireError

MAX_CHARACTERS = 300
MAX_PARTS = 100
# word -> what it makes of the values of one input within a period
AGGREGATES = {
    "mean": "time-weighted mean",
    "min": "smallest value",
    "max": "largest value",
    "sum": "sum of the values of all rows",
    "delta": "how far a counter moved; a counter that starts again goes on from 0",
    "share": "share of the time in which a true-or-false field is true",
    "time": "hours in which a true-or-false field is true",
    "median": "value that half of the rows do not exceed",
    "p95": "value that 95 % of the rows do not exceed",
    "rate": "events per hour",
    "count": "number of rows, or of events",
}
SAME_UNIT = ("mean", "min", "max", "sum", "delta", "median", "p95")  # the result has the unit of the input
_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_COMPARED = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}


@dataclass(frozen=True, slots=True)
class Number:
    """A number that the expression has."""

    value: float


@dataclass(frozen=True, slots=True)
class Given:
    """A number that the KPI's `given` has."""

    name: str


@dataclass(frozen=True, slots=True)
class Aggregate:
    """`word(name)`: one input within a period."""

    word: str
    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """Two parts and `+ - * /`, or `< <= > >=` at the top."""

    sign: str
    left: Part
    right: Part


Part = Number | Given | Aggregate | Operation


def is_expression(formula: str) -> bool:
    """Whether a formula is an expression and not a word."""
    return any(each in formula for each in "()<>+*/")


def parse(text: str, *, compares: bool = False) -> Part:
    """The parts of an expression; with `compares` it must compare two sides, else it must not.

    Raises:
        WireError: it is not such an expression; the text says which part is wrong.
    """
    if len(text) > MAX_CHARACTERS:
        raise WireError(f"the expression has {len(text)} characters; {MAX_CHARACTERS} are allowed")
    try:
        top = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WireError(
            f"{text!r} is not an expression such as sum(good) / sum(all): {_reason(error)}"
        ) from error
    if sum(1 for _ in ast.walk(top)) > MAX_PARTS:
        raise WireError(f"the expression has more than {MAX_PARTS} parts")
    if isinstance(top, ast.Compare) is not compares:
        wanted = "must compare, as in share(stop) > 0.5" if compares else "must give a number, not compare"
        raise WireError(f"{text!r} {wanted}")
    if isinstance(top, ast.Compare):
        sign = _COMPARED.get(type(top.ops[0])) if len(top.ops) == 1 else None
        if sign is None:
            raise WireError(f"{text!r} must compare once, with {', '.join(_COMPARED.values())}")
        return Operation(sign, _part(top.left, text), _part(top.comparators[0], text))
    return _part(top, text)


def aggregates(part: Part) -> Iterator[Aggregate]:
    """Every `word(name)` of an expression, from left to right."""
    if isinstance(part, Aggregate):
        yield part
    elif isinstance(part, Operation):
        yield from aggregates(part.left)
        yield from aggregates(part.right)


def names(part: Part) -> set[str]:
    """The `given` numbers that an expression needs."""
    if isinstance(part, Given):
        return {part.name}
    return names(part.left) | names(part.right) if isinstance(part, Operation) else set()


def evaluate(
    part: Part, given: Mapping[str, float], value: Callable[[str, str], float | None]
) -> float | None:
    """The number of an expression; `value(word, name)` gives an aggregate, None where data are missing.

    None where a part is missing or a divisor is 0. A comparison gives 1 or 0.
    """
    if isinstance(part, Number):
        return part.value
    if isinstance(part, Given):
        return given[part.name]
    if isinstance(part, Aggregate):
        return value(part.word, part.name)
    left, right = evaluate(part.left, given, value), evaluate(part.right, given, value)
    if left is None or right is None or (part.sign == "/" and right == 0):
        return None
    return float(_DONE[part.sign](left, right))


_DONE: dict[str, Callable[[float, float], float]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
}


def _part(node: ast.expr, text: str) -> Part:
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return Operation(_SIGNS[type(node.op)], _part(node.left, text), _part(node.right, text))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return Operation("-", Number(0.0), _part(node.operand, text))
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and _is_number(node.value):
        return Number(float(node.value))
    if isinstance(node, ast.Name):
        return Given(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in AGGREGATES:
            raise WireError(f"{node.func.id}() is not known: there is {', '.join(AGGREGATES)}")
        if len(node.args) == 1 and isinstance(node.args[0], ast.Name):
            return Aggregate(node.func.id, node.args[0].id)
        raise WireError(f"{node.func.id}() takes the name of one input")
    shown = ast.get_source_segment(text.strip(), node) or text
    raise WireError(f"{shown[:60]!r} is not allowed: use numbers, + - * / and {', '.join(AGGREGATES)}")


def _is_number(value: float) -> bool:
    return not isinstance(value, bool) and value <= 1e15  # not nan: a literal has none


def _reason(error: BaseException) -> str:
    return error.msg if isinstance(error, SyntaxError) else "it cannot be read"
