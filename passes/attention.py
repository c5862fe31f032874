"""Attention written in primitives, found and outlined as one `composite`, which a backend computes without the score
matrix in memory.

    %3 = dot_general %q, %k            scores: [batch…, queries, keys]
    %4 = mul %3, 0.125; add %4, %mask  any elementwise function of a score (scale, mask, soft cap, select)
    %5 = softmax %4                    as max, sub, exp, sum, div                →   composite(%q, %k, %v, %mask)
    %6 = dot_general %5, %v                                                              callee=attention { … }

The composite's inputs are what Q, K, V and the mask are *views* of: transposes, slices, regrouped or repeated heads
move into the body, where a kernel reads through them. Scalar factors of Q and K become one factor of the scores.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from ds_compiler.ir import Block, Builder, CompileError, Module, Operation, Region, Value
from ds_compiler.ops import (
    Binary,
    Broadcast,
    Cast,
    Compare,
    Composite,
    Constant,
    DotGeneral,
    Fusion,
    Iota,
    Predicate,
    Reduce,
    Reshape,
    Select,
    Size,
    Transpose,
    Unary,
    Yield,
)
from ds_compiler.passes import remarks
from ds_compiler.passes.attention_operands import View, scaled_by, unscaled, view_of
from ds_compiler.passes.attention_views import with_views
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.fusion.kernels import inline
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import ELEMENTWISE, defined_by, full, is_splat

# What a row without finite scores has, and what may stand for it, so that its weights are 0.
_OF_NOTHING = {"max": (-math.inf, 0.0), "sum": (0.0, 1.0)}
_MOST_SEARCHED = 64  # values looked at between the softmax and the product of Q and K


@register("attention")
def outline_attention(module: Module, *, narrow: bool = False) -> None:
    """Turn softmax(f(Q·Kᵀ))·V into a composite called attention; near misses are remarks. `narrow`: of the element
    types that GPUs multiply (f32, f16, bf16), instead of f32 and f64. Composites of other types become what they mean.

    %3 = dot_general %q, %k
    %4 = softmax %3                →    %5 = composite(%q, %k, %v) callee=attention { … }
    %5 = dot_general %4, %v
    """
    for function in module.functions.values():
        outline_in(function.block, narrow=narrow)
    eliminate_dead_code(module)


def outline_in(block: Block, *, views: bool = True, narrow: bool = False) -> None:
    """Outline what is attention in a block and the blocks inside of it.

    Args:
        views: read through transposes, slices and regroupings of Q, K and V; otherwise they are the composite's inputs.
        narrow: see `outline_attention`.
    """
    for op in list(block):
        if isinstance(op, DotGeneral):
            _try(op, views, narrow)
        elif isinstance(op, Composite):
            if op.callee in ("attention", "attention_backward"):
                if op.results[0].type.dtype.name not in _types(narrow):
                    op.replace_with(*inline(op, Builder(before=op).insert, {}))
                elif views:
                    with_views(op)
        elif not isinstance(op, Fusion):
            for region in op.regions:
                outline_in(region.block, views=views, narrow=narrow)


class _NoMatch(Exception):
    """Why something that began like attention is not."""


def _try(product: DotGeneral, views: bool, narrow: bool) -> None:
    if _softmax(product.rhs) is not None and _softmax(product.lhs) is None:
        remarks.missed("attention", "the softmax is the product's right operand", product.location)
        return
    if _softmax(product.lhs) is None:
        if _softmax(_undropped(product.lhs)) is not None:
            remarks.missed("attention", "there is a dropout between the softmax and the product", product.location)
        return
    product = _with_regrouping_behind(product)
    softmax = _softmax(product.lhs)
    assert softmax is not None
    try:
        attention = _match(product, softmax, views, narrow)
    except _NoMatch as why:
        remarks.missed("attention", str(why), product.location)
        return
    product.replace_with(attention.outlined().result)
    remarks.count("attention.outlined")


def _with_regrouping_behind(product: DotGeneral) -> DotGeneral:
    """The product over the weights' own leading axes, when those are regrouped in front of it.

    The result is regrouped instead, where a reshape that undoes it often follows.
    """
    reshape = defined_by(product.lhs, Reshape)
    batch = tuple(range(product.lhs.type.rank - 2))
    leading = product.lhs_batch == batch == product.rhs_batch
    if reshape is None or not _keeps_last_two(reshape) or not leading or product.lhs_contract != (len(batch) + 1,):
        return product
    builder = Builder(before=product, location=product.location)
    weights = reshape.operand
    values = builder.emit(Reshape(product.rhs, (*weights.type.shape[:-2], *product.rhs.type.shape[-2:])))
    axes = tuple(range(weights.type.rank - 2))
    moved = tuple(a - len(batch) + len(axes) for a in product.rhs_contract)
    regrouped = builder.insert(DotGeneral(weights, values, axes, axes, (len(axes) + 1,), moved))
    product.replace_with(builder.emit(Reshape(regrouped.result, product.result.type.shape)))
    if not reshape.result.uses:
        reshape.erase()
    return regrouped


# -- softmax -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Softmax:
    """`scores` are normalised along their last axis by `ops`."""

    scores: Value
    ops: frozenset[Operation]


def _softmax(value: Value) -> _Softmax | None:
    """The softmax over the last axis that `value` is, possibly with NaN rows set to zero and leading axes regrouped."""
    ops: set[Operation] = set()

    def enter(op: Operation | None) -> None:
        if op is not None:
            ops.add(op)

    while True:
        guarded = _without_nan_guard(value)
        reshape = defined_by(value, Reshape)
        if guarded is not None:
            select = value.defining_op
            enter(select)
            enter(select.operands[0].defining_op if select is not None else None)
            value = guarded
        elif reshape is not None and _keeps_last_two(reshape):
            enter(reshape)
            value = reshape.operand
        else:
            break
    quotient = defined_by(value, Binary)
    if quotient is None or quotient.kind not in ("div", "mul"):
        return None
    weights = defined_by(quotient.lhs, Unary)
    total = _spread(quotient.rhs, weights.result if weights is not None else None, "sum", quotient.kind == "mul")
    if weights is None or weights.kind != "exp" or total is None:
        return None
    shifted = defined_by(weights.operand, Binary)
    if shifted is None or shifted.kind != "sub":
        return None
    top = _spread(shifted.rhs, shifted.lhs, "max", False)
    if top is None:
        return None
    return _Softmax(shifted.lhs, frozenset({*ops, quotient, weights, shifted, *total, *top}))


def _without_nan_guard(value: Value) -> Value | None:
    """p, for ``isnan(p) ? 0 : p``."""
    select = defined_by(value, Select)
    if select is None:
        return None
    test = defined_by(select.condition, Predicate)
    if test is None or test.kind != "isnan" or test.operand is not select.on_false or not is_splat(select.on_true, 0):
        return None
    return test.operand


def _spread(value: Value, of: Value | None, how: str, inverted: bool) -> list[Operation] | None:
    """The operations of a broadcast of the reduction of `of` along its last axis (or of its reciprocal)."""
    broadcast = defined_by(value, Broadcast)
    if broadcast is None or of is None:
        return None
    last = of.type.rank - 1
    ops: list[Operation] = [broadcast]
    inner = broadcast.operand
    while True:
        op = inner.defining_op
        if isinstance(op, Reshape) and _only_units(op):
            inner = op.operand
        elif inverted and isinstance(op, Unary) and op.kind == "reciprocal":
            inner, inverted = op.operand, False
        elif isinstance(op, Select) and _replaces(op, *_OF_NOTHING[how]):
            inner = op.on_false
            ops += [o for o in (op.condition.defining_op,) if o is not None]
        else:
            break
        ops.append(op)
    reduce = defined_by(inner, Reduce)
    if inverted or reduce is None or reduce.operand is not of or reduce.how != how or reduce.axes != (last,):
        return None
    moved = [a for i, a in enumerate(broadcast.axes) if broadcast.operand.type.shape[i] != 1]
    if broadcast.shape != of.type.shape or moved != [a for a in range(last) if of.type.shape[a] != 1]:
        return None
    return [*ops, reduce]


def _undropped(value: Value) -> Value:
    """x, for ``kept ? x / (1 - p) : 0``."""
    select = defined_by(value, Select)
    if select is None or not is_splat(select.on_false, 0):
        return value
    op = select.on_true.defining_op
    return op.operands[0] if scaled_by(op) is not None and op is not None else select.on_true


def _replaces(op: Select, number: float, by: float) -> bool:
    """``x == number ? by : x``."""
    test = defined_by(op.condition, Compare)
    same = test is not None and test.kind == "eq" and test.lhs is op.on_false and is_splat(test.rhs, number)
    return same and is_splat(op.on_true, by)


def _only_units(op: Reshape) -> bool:
    return [d for d in op.shape if d != 1] == [d for d in op.operand.type.shape if d != 1]


def _keeps_last_two(op: Reshape) -> bool:
    """Regroups leading axes only."""
    return len(op.shape) >= 2 and op.operand.type.rank >= 2 and op.shape[-2:] == op.operand.type.shape[-2:]


# -- scores ------------------------------------------------------------------------------------
def _chain(value: Value, seen: set[Value]) -> list[Operation] | None:
    """Operations from the product of Q and K (first) to `value`, one operand of each leading back to the product."""
    op = value.defining_op
    if isinstance(op, DotGeneral):
        return [op]
    if value in seen or len(seen) > _MOST_SEARCHED:
        return None
    seen.add(value)
    operands: tuple[Value, ...] = ()
    match op:
        case Unary() | Binary():
            operands = op.operands
        case Select():
            operands = (op.on_true, op.on_false)
        case Reshape() if _keeps_last_two(op):
            operands = op.operands
    for operand in operands:
        found = _chain(operand, seen)
        if found is not None and op is not None:
            return [*found, op]
    return None


# -- the whole ---------------------------------------------------------------------------------
@dataclass
class _Attention:
    """What to outline: everything between `sources` and the result of `product`.

    Attributes:
        first, product: the products of Q and K, and with V.
        factor: of the scores, taken out of Q and K.
        aliases: values read instead of others (the scaled ones).
    """

    first: DotGeneral
    product: DotGeneral
    sources: dict[Value, None]
    factor: float
    aliases: dict[Value, Value] = field(default_factory=dict)

    def outlined(self) -> Composite:
        """The composite, inserted in front of the product."""
        body = Block([v.type for v in self.sources], [v.hint for v in self.sources])
        mapping: dict[Value, Value] = dict(zip(self.sources, body.arguments, strict=True))
        inner = Builder(body, location=self.product.location)
        inner.insert(Yield((self._copied(self.product.result, mapping, inner),)))
        builder = Builder(before=self.product, location=self.product.location)
        return builder.insert(Composite(tuple(self.sources), Region(body), "attention"))

    def _copied(self, value: Value, mapping: dict[Value, Value], builder: Builder) -> Value:
        if value in mapping:
            return mapping[value]
        if value in self.aliases:
            mapping[value] = self._copied(self.aliases[value], mapping, builder)
            return mapping[value]
        op = value.defining_op
        if op is None:
            raise CompileError("attention reads a value that is not among its inputs", location=self.product.location)
        for operand in op.operands:
            self._copied(operand, mapping, builder)
        builder.insert(op.clone(mapping))
        if op is self.first and self.factor != 1.0:
            scores = mapping[value]
            mapping[value] = builder.emit(Binary(scores, full(builder, scores.type, self.factor), "mul"))
        return mapping[value]


def _match(product: DotGeneral, softmax: _Softmax, views: bool, narrow: bool) -> _Attention:
    """The attention that ends in `product`. Raises `_NoMatch`."""
    chain = _chain(softmax.scores, set())
    if chain is None:
        raise _NoMatch("the softmax's argument does not come from one product")
    first = chain[0]
    assert isinstance(first, DotGeneral)
    _check_products(first, product, narrow)
    outlined = {*chain, *softmax.ops, product}
    for op in outlined - {product}:
        if any(user not in outlined for r in op.results for user in r.users):
            raise _NoMatch(f"the result of {op.mnemonic} is also read elsewhere")
        if op.parent is not product.parent:
            raise _NoMatch("it spans several blocks")
    aliases: dict[Value, Value] = {}
    if views:
        v = view_of(product.rhs, (*product.rhs_free, *product.rhs_contract), None)
        q = view_of(first.lhs, (*first.lhs_free, *first.lhs_contract), aliases, v.source)
        k = view_of(first.rhs, (*first.rhs_free, *first.rhs_contract), aliases, v.source)
    else:
        v, q, k = View(product.rhs), unscaled(first.lhs, aliases), unscaled(first.rhs, aliases)
    sources = dict.fromkeys((q.source, k.source, v.source))
    inside = {r for op in (*chain, *softmax.ops) for r in op.results}
    for op in (*chain[1:], *softmax.ops):
        for operand in op.operands:
            if operand not in inside:
                _side_inputs(operand, inside.__contains__, sources)
    return _Attention(first, product, sources, q.factor * k.factor, aliases)


def _types(narrow: bool) -> tuple[str, ...]:
    """Element types that kernels of attention take."""
    return ("f32", "f16", "bf16") if narrow else ("f32", "f64")


def _check_products(first: DotGeneral, product: DotGeneral, narrow: bool) -> None:
    """One query axis, one key axis (the last), one depth, one value axis, the rest batch. Raises `_NoMatch`."""
    if first.result.type.dtype.name not in _types(narrow):
        raise _NoMatch(f"its element type is {first.result.type.dtype}")
    if len(first.lhs_free) != 1 or len(first.rhs_free) != 1 or len(first.lhs_contract) != 1:
        raise _NoMatch("the first product has several query, key or depth axes")
    weights = product.lhs.type.rank
    if product.lhs_contract != (weights - 1,) or len(product.rhs_free) != 1:
        raise _NoMatch("the second product does not sum over the softmax's axis alone")
    if len(product.lhs_batch) != weights - 2 or sorted(product.lhs_batch) != list(range(weights - 2)):
        raise _NoMatch("the second product has several query axes")
    depth, width = first.lhs.type.shape[first.lhs_contract[0]], product.rhs.type.shape[product.rhs_free[0]]
    if not isinstance(depth, int) or not isinstance(width, int):
        raise _NoMatch(f"the head sizes {depth} and {width} are not both known")


def _side_inputs(value: Value, inside: Callable[[Value], bool], sources: dict[Value, None]) -> None:
    """Masks, biases and constants: what is cheap to compute for each score is left to the body."""
    op = value.defining_op
    match op:
        case _ if inside(value) or value in sources:
            return
        case Constant() if op.value.size == 1 and op.value.ndim == 0:
            return
        case Iota() | Size():
            return
        case Broadcast() | Transpose():
            _side_inputs(op.operands[0], inside, sources)
        case Reshape() if _only_units(op):
            _side_inputs(op.operands[0], inside, sources)
        case _ if isinstance(op, ELEMENTWISE) and _depends_on_place(op):
            for operand in op.operands:
                _side_inputs(operand, inside, sources)
        case _:
            sources[value] = None


def _depends_on_place(op: Operation | None) -> bool:
    """Whether a value is computed from positions and numbers alone, as causal masks are."""
    match op:
        case Iota() | Size():
            return True
        case Constant():
            return bool(op.value.ndim == 0)
        case Unary() | Binary() | Compare() | Predicate() | Select() | Cast() | Broadcast() | Transpose() | Reshape():
            return all(_depends_on_place(v.defining_op) for v in op.operands)
    return False
