"""Expressions over parameters, such as `depth * rate <= 3`, parsed once and evaluated without `eval`.

Only arithmetic, comparison, logic and a few functions exist: no attribute, index or call reaches
Python. A dotted name is a parameter's whole name: `flavors.xgboost.max_depth * 2 <= 16`.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from raymill.errors import SpecError, nearest

Evaluate = Callable[[Mapping[str, Any]], Any]

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_UNARY: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_,
}  # fmt: skip
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le,
    ast.Gt: operator.gt, ast.GtE: operator.ge, ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}  # fmt: skip
FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "abs": abs, "ceil": math.ceil, "exp": math.exp, "floor": math.floor, "len": len, "log": math.log,
    "log10": math.log10, "log2": math.log2, "max": max, "min": min, "round": round, "sqrt": math.sqrt,
    "sum": sum,
}  # fmt: skip


class Expression:
    """A parsed expression: `names` are the parameters it reads."""

    def __init__(self, text: str) -> None:
        """Parse `text`.

        Raises:
            SpecError: it is no expression, or uses a construct that expressions do not have.
        """
        self.text = text
        self._names: set[str] = set()
        try:
            tree = ast.parse(text.strip(), mode="eval")
            self._evaluate = self._compile(tree.body)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise SpecError(
                f"expression {text!r} cannot be read: {error}; example: depth * rate <= 3"
            ) from error
        self.names = frozenset(self._names)

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Return the value where parameters have `values`; every name must be in them."""
        return self._evaluate(values)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether the expression is true; one that has no value there (1 / 0, log(-1)) is not.

        Raises:
            SpecError: it compares or combines values of types that do not go together.
        """
        try:
            return bool(self._evaluate(values))
        except (ArithmeticError, ValueError):
            return False
        except TypeError as error:
            given = {name: values[name] for name in sorted(self.names)}
            raise SpecError(f"expression {self.text!r} fails on {given}: {error}") from error

    def _compile(self, node: ast.expr) -> Evaluate:
        compile_node = getattr(self, f"_compile_{type(node).__name__.lower()}", None)
        if compile_node is None:
            raise SpecError(
                f"expression {self.text!r}: {ast.unparse(node)!r} is not allowed; there are numbers, text, "
                f"parameters, + - * / // % **, comparisons, and, or, not, if-else, and {', '.join(FUNCTIONS)}"
            )
        return compile_node(node)  # type: ignore[no-any-return]

    def _compile_constant(self, node: ast.Constant) -> Evaluate:
        value = node.value
        if not isinstance(value, bool | int | float | str | None):
            raise SpecError(f"expression {self.text!r}: {value!r} is neither number nor text")
        return lambda values: value

    def _compile_name(self, node: ast.Name) -> Evaluate:
        return self._parameter(node.id)

    def _compile_attribute(self, node: ast.Attribute) -> Evaluate:
        parts: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            raise SpecError(f"expression {self.text!r}: {ast.unparse(node)!r} is no parameter's name")
        return self._parameter(".".join([inner.id, *reversed(parts)]))

    def _parameter(self, name: str) -> Evaluate:
        self._names.add(name)
        return lambda values: values[name]

    def _compile_binop(self, node: ast.BinOp) -> Evaluate:
        left, right = self._compile(node.left), self._compile(node.right)
        if isinstance(node.op, ast.Pow):  # of floats: a tower of integers would never end
            return lambda values: float(left(values)) ** float(right(values))
        apply = _BINARY.get(type(node.op))
        if apply is None:
            raise SpecError(f"expression {self.text!r}: the operator of {ast.unparse(node)!r} is not allowed")
        if isinstance(node.op, ast.Mult | ast.Mod):  # "ab" * 10**9 and "%999999d" % x are no arithmetic
            return lambda values: apply(_number(left(values)), _number(right(values)))
        return lambda values: apply(left(values), right(values))

    def _compile_unaryop(self, node: ast.UnaryOp) -> Evaluate:
        operand, apply = self._compile(node.operand), _UNARY.get(type(node.op))
        if apply is None:
            raise SpecError(f"expression {self.text!r}: the operator of {ast.unparse(node)!r} is not allowed")
        return lambda values: apply(operand(values))

    def _compile_boolop(self, node: ast.BoolOp) -> Evaluate:
        parts = [self._compile(value) for value in node.values]
        decide = all if isinstance(node.op, ast.And) else any
        return lambda values: decide(bool(part(values)) for part in parts)

    def _compile_compare(self, node: ast.Compare) -> Evaluate:
        terms = [self._compile(term) for term in (node.left, *node.comparators)]
        if not all(type(op) in _COMPARE for op in node.ops):
            raise SpecError(f"expression {self.text!r}: `is` is not allowed; use ==")
        compares = [_COMPARE[type(op)] for op in node.ops]

        def evaluate(values: Mapping[str, Any]) -> bool:
            found = [term(values) for term in terms]
            return all(compare(found[at], found[at + 1]) for at, compare in enumerate(compares))

        return evaluate

    def _compile_ifexp(self, node: ast.IfExp) -> Evaluate:
        test, body, other = (self._compile(part) for part in (node.test, node.body, node.orelse))
        return lambda values: body(values) if test(values) else other(values)

    def _compile_list(self, node: ast.List | ast.Tuple) -> Evaluate:
        items = [self._compile(item) for item in node.elts]
        return lambda values: [item(values) for item in items]

    _compile_tuple = _compile_list

    def _compile_call(self, node: ast.Call) -> Evaluate:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        function = FUNCTIONS.get(name)
        if function is None or node.keywords:
            raise SpecError(
                f"expression {self.text!r}: no function {name!r}; have: {', '.join(FUNCTIONS)}."
                f"{nearest(name, FUNCTIONS)}"
            )
        arguments = [self._compile(argument) for argument in node.args]
        return lambda values: function(*(argument(values) for argument in arguments))


def _number(value: Any) -> Any:
    if not isinstance(value, bool | int | float):
        raise TypeError(f"{value!r} is no number")
    return value
