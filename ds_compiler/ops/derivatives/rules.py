"""The table of reverse-mode rules.

    @derivative(Transpose)
    def transpose(b: Terms, op: Transpose, g: Value) -> Cotangents:
        return [b.transpose(g, inverse(op.permutation))]

A rule is linear in `g`: the pass transposes what rules emit to get forward mode. It emits only operations that have
rules themselves, so that derivatives of any order exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from ds_compiler.ir import Operation, Value
from ds_compiler.ops.derivatives.terms import Terms

Cotangents: TypeAlias = Sequence[Value | None]
Rule: TypeAlias = Callable[[Terms, Any, Value], Cotangents]

_RULES: dict[type[Operation], Rule] = {}
_Function = TypeVar("_Function", bound=Callable[..., Cotangents])


def derivative(*classes: type[Operation]) -> Callable[[_Function], _Function]:
    """Declare a function to be the rule of operation classes.

    It takes a builder, the operation and the cotangent of its first result (the only one of floating-point type),
    and returns the cotangents of the operands, in order.

    Raises:
        ValueError: a class has a rule already.
    """

    def add(function: _Function) -> _Function:
        for cls in classes:
            if cls in _RULES:
                raise ValueError(f"{cls.__name__} has two derivatives")
            _RULES[cls] = function
        return function

    return add


def rule_of(cls: type[Operation]) -> Rule | None:
    """The rule of an operation class."""
    return _RULES.get(cls)
