"""Scales and shifts around products and convolutions with constant weights, folded into the weights and one bias.

    %1 = conv %0, %w                        %1 = conv %0, %w'       w' = w * scale, for each output channel
    %2 = mul %1, %scale; add %2, %shift  →  %2 = add %1, %shift

After a product, a factor may vary along the axes that the result has from the weights (output channels); in front of
it, along those that both share (input channels). A shift in front becomes a bias where every result sees the
whole of it, which zero padding would break. New weights are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from ds_compiler.ir import Builder, Dim, Module, Operation, TensorType, Value
from ds_compiler.ops import Binary, Broadcast, Constant, Conv, ConvTranspose, DotGeneral, Unary
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant, defined_by
from ds_compiler.passes.rewriter import PatternSet, Rewrite, rewrite

Array: TypeAlias = "np.ndarray[Any, Any]"
Product: TypeAlias = "DotGeneral | Conv | ConvTranspose"
_PRODUCTS = (DotGeneral, Conv, ConvTranspose)

_MOST_IN_FRONT = 1 << 16
"""Weights up to which what stands in front of a product is folded: there it mostly costs nothing, being part of the
kernel that computes the data, while rewriting large weights costs compile time."""

pattern = PatternSet("fold-affine")


@register("fold-affine")
def fold_affine(module: Module) -> None:
    """Fold scales and shifts around products with constant weights into the weights and one bias.

    %1 = conv %0, %w
    %2 = mul %1, %scale          %1 = conv %0, %w'
    %3 = add %2, %shift    →     %3 = add %1, %shift
    """
    while rewrite(module, pattern):  # patterns look further up than the operations whose change calls them again
        eliminate_dead_code(module)


# -- constants that vary along few axes ----------------------------------------------------------
@dataclass(frozen=True)
class _Spread:
    """A constant tensor: element [i…] is ``values[i at axes]`` (float64; axes increasing)."""

    values: Array
    axes: tuple[int, ...]

    def over(self, axes: Sequence[int]) -> Array:
        """The values as a factor of an array whose dimensions are `axes`, which must hold this one's."""
        order = [a for a in axes if a in self.axes]
        moved = self.values.transpose([self.axes.index(a) for a in order])
        sizes = iter(moved.shape)
        return moved.reshape([next(sizes) if a in self.axes else 1 for a in axes])


def _spread(value: Value) -> _Spread | None:
    """`value` if it is a floating-point constant, possibly broadcast."""
    axes: Sequence[int] = range(value.type.rank)
    broadcast = defined_by(value, Broadcast)
    if broadcast is not None:
        value, axes = broadcast.operand, broadcast.axes
    array = constant(value)
    if array is None or value.type.dtype.name not in ("f32", "f64"):
        return None
    kept = [i for i, size in enumerate(array.shape) if size != 1]
    values = array.astype(np.float64).reshape([array.shape[i] for i in kept])
    return _Spread(values, tuple(axes[i] for i in kept))


def _combined(kind: str, a: _Spread, b: _Spread) -> _Spread | None:
    """``a kind b``, unless the result would vary along more axes than either does."""
    wide = a if len(a.axes) >= len(b.axes) else b
    if not {*a.axes, *b.axes} <= {*wide.axes}:
        return None
    x, y = a.over(wide.axes), b.over(wide.axes)
    return _Spread(x + y if kind == "add" else x * y, wide.axes)


def _emit(builder: Builder, spread: _Spread, type_: TensorType) -> Value:
    array = builder.emit(Constant(np.asarray(spread.values.astype(type_.dtype.numpy))))
    return array if array.type == type_ else builder.emit(Broadcast(array, type_.shape, spread.axes))


# -- products ----------------------------------------------------------------------------------
def _product(value: Value) -> Product | None:
    """The product with constant weights that computes `value` for one reader."""
    op = value.defining_op
    if not isinstance(op, _PRODUCTS) or len(value.uses) != 1 or value.type.dtype.name not in ("f32", "f64"):
        return None
    return op if constant(_weights(op)) is not None else None


def _weights(op: Product) -> Value:
    if not isinstance(op, DotGeneral):
        return op.weight
    return op.rhs if constant(op.rhs) is not None else op.lhs


def _with_weights(op: Product, weights: Array, builder: Builder, data: Value | None = None) -> Value | None:
    """`op` on other weights (and data); None if they overflow."""
    old = _weights(op)
    with np.errstate(over="ignore"):
        rounded = weights.astype(old.type.dtype.numpy)
    if not np.isfinite(rounded).all():
        return None
    new = builder.emit(Constant(rounded))
    if not isinstance(op, DotGeneral):
        return builder.emit(op.clone({}, weight=new, input=data or op.input))
    if old is op.rhs:
        return builder.emit(op.clone({}, rhs=new, lhs=data or op.lhs))
    return builder.emit(op.clone({}, lhs=new, rhs=data or op.rhs))


def _channel(op: Conv | ConvTranspose) -> int:
    return 1 if op.layout == "nchw" else op.result.type.rank - 1


def _along_groups(vector: Array, groups: int, other: int) -> Array:
    """[groups*n] as a factor of [groups*other, n]: row i belongs to group ``i // other``."""
    return np.repeat(vector.reshape(groups, -1), other, axis=0)


def _behind(op: Product, factor: _Spread) -> Array | None:
    """What the weights are multiplied by when the result is multiplied by `factor`."""
    if isinstance(op, DotGeneral):
        return _of_dot(op, factor, _result_axes(op))
    if any(a != _channel(op) for a in factor.axes):
        return None
    if not factor.axes:
        return factor.values
    spatial = (1,) * op.spatial_rank
    if isinstance(op, Conv):
        return factor.values.reshape(-1, 1, *spatial)
    rows = op.weight.type.shape[0]
    assert isinstance(rows, int)
    vectors = _along_groups(factor.values, op.groups, rows // op.groups)
    return vectors.reshape(*vectors.shape, *spatial)


def _before(op: Product, factor: _Spread) -> Array | None:
    """What the weights are multiplied by when the data is multiplied by `factor`."""
    if isinstance(op, DotGeneral):
        return _of_dot(op, factor, _data_axes(op))
    if any(a != _channel(op) for a in factor.axes):
        return None
    if not factor.axes:
        return factor.values
    spatial = (1,) * op.spatial_rank
    if isinstance(op, ConvTranspose):
        return factor.values.reshape(-1, 1, *spatial)
    rows = op.weight.type.shape[0]
    assert isinstance(rows, int)
    vectors = _along_groups(factor.values, op.groups, rows // op.groups)
    return vectors.reshape(*vectors.shape, *spatial)


def _of_dot(op: DotGeneral, factor: _Spread, where: dict[int, int]) -> Array | None:
    """`factor` as one of the weights; `where`: the weights' axis for each axis along which it may vary."""
    if any(a not in where for a in factor.axes):
        return None
    back = {w: a for a, w in where.items()}
    rank = _weights(op).type.rank
    return factor.over([back.get(w, -1 - w) for w in range(rank)])


def _result_axes(op: DotGeneral) -> dict[int, int]:
    """The weights' axis for each result axis that comes from them."""
    right = _weights(op) is op.rhs
    batch, free = (op.rhs_batch, op.rhs_free) if right else (op.lhs_batch, op.lhs_free)
    first = len(batch) + (len(op.lhs_free) if right else 0)
    return {**dict(enumerate(batch)), **{first + n: axis for n, axis in enumerate(free)}}


def _data_axes(op: DotGeneral) -> dict[int, int]:
    """The weights' axis for each axis of the data that both have."""
    lhs, rhs = (*op.lhs_batch, *op.lhs_contract), (*op.rhs_batch, *op.rhs_contract)
    return dict(zip(lhs, rhs, strict=True)) if _weights(op) is op.rhs else dict(zip(rhs, lhs, strict=True))


# -- behind a product --------------------------------------------------------------------------
def _factor(op: Operation | None) -> tuple[Value, _Spread] | None:
    """(x, factor) for ``x * factor``."""
    if isinstance(op, Unary):
        return (op.operand, _Spread(np.asarray(-1.0), ())) if op.kind == "neg" else None
    if not isinstance(op, Binary):
        return None
    sides = {"mul": ((op.lhs, op.rhs), (op.rhs, op.lhs)), "div": ((op.lhs, op.rhs),)}.get(op.kind, ())
    for x, other in sides:
        spread = _spread(other)
        if spread is not None and op.kind == "mul":
            return x, spread
        if spread is not None and spread.values.all():
            return x, _Spread(1 / spread.values, spread.axes)
    return None


def _shift(op: Operation | None) -> tuple[Value, _Spread] | None:
    """(x, shift) for ``x + shift``."""
    if not isinstance(op, Binary) or op.kind not in ("add", "sub"):
        return None
    spread = _spread(op.rhs)
    if spread is not None:
        return op.lhs, spread if op.kind == "add" else _Spread(-spread.values, spread.axes)
    spread = _spread(op.lhs) if op.kind == "add" else None
    return None if spread is None else (op.rhs, spread)


@pattern(Binary, Unary)
def factor_behind_product(op: Operation, builder: Builder) -> Rewrite:
    """``(x·W) * s`` → ``x·(W*s)``."""
    found = _factor(op)
    product = None if found is None else _product(found[0])
    if found is None or product is None:
        return None
    factor = _behind(product, found[1])
    return None if factor is None else _scaled(product, factor, builder)


def _scaled(product: Product, factor: Array, builder: Builder, data: Value | None = None) -> Value | None:
    weights = constant(_weights(product))
    assert weights is not None
    return _with_weights(product, weights.astype(np.float64) * factor, builder, data)


@pattern(Binary, Unary)
def factor_behind_bias(op: Operation, builder: Builder) -> Rewrite:
    """``(x·W + b) * s`` → ``(x·W) * s + b*s``, where the factor then goes into the weights."""
    found = _factor(op)
    inner = None if found is None else found[0].defining_op
    biased = _shift(inner)
    if found is None or inner is None or biased is None or len(inner.result.uses) != 1:
        return None
    value, bias = biased
    factor = found[1]
    product = _product(value)
    shift = _combined("mul", bias, factor)
    if product is None or shift is None or _behind(product, factor) is None:
        return None
    type_ = op.result.type
    scaled = builder.emit(Binary(value, _emit(builder, factor, type_), "mul"))
    return builder.emit(Binary(scaled, _emit(builder, shift, type_), "add"))


@pattern(Binary)
def two_shifts(op: Binary, builder: Builder) -> Rewrite:
    """``(x·W + b) + c`` → ``x·W + (b+c)``."""
    outer = _shift(op)
    inner = None if outer is None else _shift(outer[0].defining_op)
    if outer is None or inner is None or len(outer[0].uses) != 1 or _product(inner[0]) is None:
        return None
    shift = _combined("add", inner[1], outer[1])
    if shift is None:
        return None
    return builder.emit(Binary(inner[0], _emit(builder, shift, op.result.type), "add"))


@pattern(Binary)
def product_taken_from_constant(op: Binary, builder: Builder) -> Rewrite:
    """``c - x·W`` → ``x·(-W) + c``."""
    if op.kind != "sub" or _spread(op.lhs) is None:
        return None
    biased = _shift(op.rhs.defining_op)
    if _product(op.rhs if biased is None or len(op.rhs.uses) != 1 else biased[0]) is None:
        return None
    return builder.emit(Binary(builder.emit(Unary(op.rhs, "neg")), op.lhs, "add"))


# -- in front of a product ---------------------------------------------------------------------
def _data(op: Product) -> Value:
    if not isinstance(op, DotGeneral):
        return op.input
    return op.lhs if _weights(op) is op.rhs else op.rhs


@pattern(*_PRODUCTS)
def factor_before_product(op: Operation, builder: Builder) -> Rewrite:
    """``(x*s)·W`` → ``x·(s*W)``, when nobody else reads ``x*s`` and W is small."""
    assert isinstance(op, _PRODUCTS)
    data = _data(op)
    found = _factor(data.defining_op)
    if found is None or not _foldable(op, data):
        return None
    factor = _before(op, found[1])
    return None if factor is None else _scaled(op, factor, builder, found[0])


@pattern(*_PRODUCTS)
def shift_before_product(op: Operation, builder: Builder) -> Rewrite:
    """``(x+b)·W`` → ``x·W + b·W``, when nobody else reads ``x+b`` and no zeros are padded around it."""
    assert isinstance(op, _PRODUCTS)
    data = _data(op)
    found = _shift(data.defining_op)
    if found is None or not _foldable(op, data) or not _sees_all(op):
        return None
    factor = _before(op, found[1])
    weights = constant(_weights(op))
    if factor is None or weights is None:
        return None
    terms = weights.astype(np.float64) * factor
    bias = _summed(op, terms)
    moved = _with_weights(op, weights, builder, found[0])
    assert moved is not None
    return builder.emit(Binary(moved, _emit(builder, bias, moved.type), "add"))


def _foldable(op: Product, data: Value) -> bool:
    weights = constant(_weights(op))
    if weights is None or weights.size > _MOST_IN_FRONT or op.result.type.dtype.name not in ("f32", "f64"):
        return False
    return len(data.uses) == 1 and bool(np.isfinite(weights).all())


def _sees_all(op: Product) -> bool:
    """Every element of the result sums over the whole window."""
    if isinstance(op, ConvTranspose):
        return False
    return isinstance(op, DotGeneral) or all(_is_zero(p) for p in (*op.low, *op.high))


def _is_zero(dim: Dim) -> bool:
    return isinstance(dim, int) and dim == 0


def _summed(op: Product, terms: Array) -> _Spread:
    """The product of the weights with constant data, `terms` being weights times data."""
    if isinstance(op, Conv):
        return _Spread(terms.sum(axis=tuple(range(1, terms.ndim))), (_channel(op),))
    assert isinstance(op, DotGeneral)
    contract = op.rhs_contract if _weights(op) is op.rhs else op.lhs_contract
    where = {w: a for a, w in _result_axes(op).items()}
    kept = [w for w in range(terms.ndim) if w not in contract]
    return _ordered(terms.sum(axis=contract), [where[w] for w in kept])


def _ordered(values: Array, axes: Iterable[int]) -> _Spread:
    named = list(axes)
    order = sorted(range(len(named)), key=lambda i: named[i])
    return _Spread(values.transpose(order), tuple(named[i] for i in order))
