"""Which symbolic sizes an operation mentions."""

from __future__ import annotations

from typing import Any

from ds_compiler.ir.dims import Expr, symbols_of
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.types import TensorType


def mentioned_symbols(op: Operation) -> set[str]:
    """Symbolic sizes in the operation's attributes and result types (nested operations not included)."""
    names: set[str] = set()
    for result in op.results:
        names |= result.type.symbols
    for value in op.attributes.values():
        names |= symbols_in(value)
    return names


def symbols_in(value: Any) -> frozenset[str]:
    """Symbolic sizes in an attribute's value."""
    match value:
        case Expr():
            return symbols_of(value)
        case TensorType():
            return value.symbols
        case tuple() | list():
            return frozenset[str]().union(*(symbols_in(item) for item in value))
    return frozenset()
