"""What is known at import about small tensors: numbers, or sizes that depend on symbols.

Exporters compute shapes with ordinary tensor operators (``Shape``, ``Gather``, ``Mul``, ``Concat`` …). `contents`
evaluates the primitives those become on arrays whose elements are sizes (`Dim`), so that ``Reshape`` and its kin
get symbolic result types. An array of contents is numeric, or of dtype object with a `Dim` (or a `Ratio` of one, in
a floating-point tensor) in each element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.ir import Dim, DType, Expr, Operation
from ds_compiler.ir.dims import ceildiv, floordiv, is_non_negative, maximum, minimum, mod
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Concat,
    Constant,
    Cumulative,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Predicate,
    Reduce,
    Reshape,
    ScatterElements,
    ScatterND,
    Select,
    Size,
    Slice,
    Transpose,
    Unary,
)

Array = np.ndarray[Any, Any]

LIMIT = 4096
"""Largest number of elements that are computed at import."""

SYMBOLIC_LIMIT = 512
"""The same for elements that are size expressions."""

_NUMERIC = (
    ArgReduce, Binary, Bitcast, Broadcast, Cast, Compare, Concat, Constant, Cumulative, Gather, GatherElements,
    GatherND, Iota, Pad, Predicate, Reduce, Reshape, ScatterElements, ScatterND, Select, Size, Slice, Transpose, Unary,
)  # fmt: skip


@dataclass(frozen=True)
class Ratio:
    """A size divided by a positive integer, before it is rounded: ``Cast(h) * 0.5`` is ``Ratio(h, 2)``."""

    dim: Expr
    denominator: int


class Undecided(Exception):
    """The contents depend on the values of symbols in a way that sizes cannot express."""


def contents(operation: Operation, operands: Sequence[Array | None]) -> Array | None:
    """What `operation` computes, if that follows from what is known of its operands."""
    if any(x is None for x in operands) or len(operation.results) != 1 or not isinstance(operation, _NUMERIC):
        return None
    known = [x for x in operands if x is not None]
    type_ = operation.result.type
    elements = type_.elements
    if not isinstance(elements, int) or any(isinstance(d, Expr) for d in type_.shape):  # none, of an open shape
        return None
    symbolic = any(x.dtype == object for x in known) or isinstance(operation, Size)
    is_view = isinstance(operation, Reshape) or (isinstance(operation, Cast) and not symbolic)
    if not is_view and max(elements, *(x.size for x in known), 0) > (SYMBOLIC_LIMIT if symbolic else LIMIT):
        return None
    if not symbolic:
        result = operation.evaluate({}, *known)
        return np.asarray(result)
    try:
        return normalised(_symbolic(operation, known), type_.dtype)
    except Undecided:
        return None


def normalised(array: Array, dtype: DType) -> Array:
    """Numeric when every element is a number."""
    flat = array.reshape(-1)
    if array.dtype == object and not any(isinstance(x, Expr | Ratio) for x in flat):
        return np.array(list(flat), dtype.numpy).reshape(array.shape)
    return array


def as_objects(array: Array) -> Array:
    """The same elements as Python numbers and sizes."""
    result = np.empty(array.shape, object)
    for place in np.ndindex(array.shape):
        value = array[place]
        result[place] = value.item() if isinstance(value, np.generic) else value
    return result


def _symbolic(operation: Operation, known: list[Array]) -> Array:
    match operation:
        case Size():
            return _scalar(operation.dim)
        case Reshape():
            return known[0].reshape([d for d in operation.shape if isinstance(d, int)])
        case Broadcast() | Transpose():
            return np.asarray(operation.evaluate({}, *known))
        case Slice():
            if any(isinstance(d, Expr) for d in (*operation.starts, *operation.sizes)):
                raise Undecided
            return np.asarray(operation.evaluate({}, *known))
        case Concat():
            return np.concatenate([as_objects(x) for x in known], operation.axis)
        case Gather():
            if known[1].dtype == object:
                raise Undecided
            return np.asarray(known[0].take(known[1].astype(np.int64), operation.axis), object)
        case Cast():
            return _each(_CASTS[operation.dtype.kind], known) if operation.dtype.kind in _CASTS else _undecided()
        case Unary() if operation.kind in _UNARY:
            return _each(_UNARY[operation.kind], known)
        case Binary() if operation.kind in _BINARY:
            rule = _BINARY[operation.kind]
            if operation.kind == "div" and operation.result.type.dtype.is_float:
                rule = _true_division
            return _each(rule, known)
        case Compare():
            return _each(_COMPARE[operation.kind], known)
        case Select():
            if known[0].dtype == object:
                raise Undecided
            return _each(lambda c, a, b: a if c else b, known)
        case Reduce() if operation.how in _REDUCE:
            return _reduce(known[0], operation.axes, _REDUCE[operation.how])
    raise Undecided


def _scalar(value: Any) -> Array:
    result = np.empty((), object)
    result[()] = value
    return result


def _undecided() -> Array:
    raise Undecided


def _each(function: Callable[..., Any], operands: list[Array]) -> Array:
    objects = [as_objects(x) for x in operands]
    result = np.empty(objects[0].shape, object)
    for place in np.ndindex(result.shape):
        result[place] = function(*(x[place] for x in objects))
    return result


def _reduce(x: Array, axes: tuple[int, ...], function: Callable[[Any, Any], Any]) -> Array:
    moved = np.moveaxis(as_objects(x), axes, range(len(axes)))
    flat = moved.reshape(-1, *moved.shape[len(axes) :])
    if not len(flat):
        raise Undecided
    total = flat[0:1]
    for row in flat[1:]:
        total = _each(function, [total, row[None]])
    return total.reshape(flat.shape[1:])


# -- one element --------------------------------------------------------------------------------------------------
def _dims(*values: Any) -> None:
    """Only whole sizes take part in what follows."""
    if not all(isinstance(v, int | Expr) for v in values):
        raise Undecided


def _to_integer(a: Any) -> Any:
    if isinstance(a, Ratio):
        return floordiv(a.dim, a.denominator) if is_non_negative(a.dim) else _undecided()
    return int(a) if isinstance(a, bool | float) else a


def _to_bool(a: Any) -> bool:
    return _differs(a, 0)


def _differs(a: Any, b: Any) -> bool:
    _dims(a, b)
    difference = a - b
    if isinstance(difference, int):
        return difference != 0
    if is_non_negative(difference - 1) or is_non_negative(-difference - 1):
        return True
    raise Undecided


def _less(a: Any, b: Any) -> bool:
    _dims(a, b)
    if is_non_negative(b - a - 1):
        return True
    if is_non_negative(a - b):
        return False
    raise Undecided


def _ratio(a: Any) -> tuple[Dim, int]:
    """(numerator, denominator) of an exact value."""
    if isinstance(a, Ratio):
        return a.dim, a.denominator
    if isinstance(a, float):
        numerator, denominator = a.as_integer_ratio()
        if denominator > 1 << 20:
            raise Undecided
        return numerator, denominator
    return a, 1


def _from_ratio(numerator: Dim, denominator: int) -> Any:
    if isinstance(numerator, int):
        return numerator / denominator
    if all(c % denominator == 0 for _, c in numerator.terms):
        return floordiv(numerator, denominator)
    return Ratio(numerator, denominator)


def _add(a: Any, b: Any) -> Any:
    if isinstance(a, int | Expr) and isinstance(b, int | Expr):
        return a + b
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _from_ratio(p * s + r * q, q * s)


def _negative(a: Any) -> Any:
    numerator, denominator = _ratio(a)
    return _from_ratio(-numerator, denominator) if denominator > 1 or isinstance(a, float) else -a


def _multiply(a: Any, b: Any) -> Any:
    if isinstance(a, int | Expr) and isinstance(b, int | Expr):
        return a * b
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _from_ratio(p * r, q * s)


def _true_division(a: Any, b: Any) -> Any:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    if isinstance(r, Expr):
        exact = floordiv(p, r)
        if exact * r != p:
            raise Undecided
        return _from_ratio(exact * s, q)
    if r <= 0:
        raise Undecided
    return _from_ratio(p * s, q * r)


def _divide(a: Any, b: Any) -> Any:
    _dims(a, b)
    if not is_non_negative(a) or not is_non_negative(b) or (isinstance(b, int) and b == 0):
        raise Undecided
    return floordiv(a, b)


def _modulo(a: Any, b: Any) -> Any:
    _dims(a, b)
    if not is_non_negative(a) or not is_non_negative(b) or (isinstance(b, int) and b == 0):
        raise Undecided
    return mod(a, b)


def _larger(a: Any, b: Any) -> Any:
    _dims(a, b)
    return maximum(a, b)


def _smaller(a: Any, b: Any) -> Any:
    _dims(a, b)
    return minimum(a, b)


def _floor(a: Any) -> Any:
    return floordiv(a.dim, a.denominator) if isinstance(a, Ratio) else a if isinstance(a, Expr) else float(np.floor(a))


def _ceil(a: Any) -> Any:
    return ceildiv(a.dim, a.denominator) if isinstance(a, Ratio) else a if isinstance(a, Expr) else float(np.ceil(a))


def _absolute(a: Any) -> Any:
    _dims(a)
    return a if is_non_negative(a) else _undecided()


def _integer_only(a: Any) -> Any:
    return _undecided() if isinstance(a, Ratio) else a


_CASTS: dict[str, Callable[[Any], Any]] = {"i": _to_integer, "u": _to_integer, "b": _to_bool, "f": lambda a: a}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "floor": _floor, "ceil": _ceil, "trunc": _to_integer, "round": _integer_only, "abs": _absolute, "neg": _negative,
}  # fmt: skip
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "add": _add, "sub": lambda a, b: _add(a, _negative(b)), "mul": _multiply, "div": _divide, "mod": _modulo,
    "fmod": _modulo, "max": _larger, "min": _smaller,
}  # fmt: skip
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: not _differs(a, b), "ne": _differs, "lt": _less, "gt": lambda a, b: _less(b, a),
    "le": lambda a, b: not _less(b, a), "ge": lambda a, b: not _less(a, b),
}  # fmt: skip
_REDUCE: dict[str, Callable[[Any, Any], Any]] = {"sum": _add, "prod": _multiply, "max": _larger, "min": _smaller}
