"""The derivative of a composite called attention, as composites: neither keeps the matrix of weights.

    %o = composite(%q, %k, %v)   →   %o, %l = composite(%q, %k, %v)               callee=attention
         callee=attention            %d = sum %g * %o over the head's axis
                                     %dq, %dk, %dv = composite(%q, %k, %v, %g, %l, %d)   callee=attention_backward

%l is the logarithm of each row's sum of exponentials: with it, any tile of the weights is computed again on its own
(Dao 2023). The bodies say what is computed, in primitives that have derivatives themselves.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ds_compiler.ir import Block, Operation, Region, Value
from ds_compiler.ir.dtypes import f32
from ds_compiler.ops.contraction import DotGeneral
from ds_compiler.ops.control import Composite, Yield
from ds_compiler.ops.derivatives.rules import Cotangents, rule_of
from ds_compiler.ops.derivatives.terms import Terms, inverse
from ds_compiler.ops.elementwise import Predicate, Select
from ds_compiler.ops.reduction import Reduce
from ds_compiler.ops.shape import Broadcast, Reshape


@dataclass(frozen=True)
class Attention:
    """The operations of a composite's body, ``product(softmax(scores(first)), v)``.

    Attributes:
        first, product: the products of Q and K, and with V.
        top, total: of each row of the scores, the maximum and the sum of exponentials.
        guarded: weights that are NaN are taken as 0.
        safe: the maximum of a row of -inf counts as 0 and its sum as 1, so that its weights are 0.
    """

    first: DotGeneral
    product: DotGeneral
    top: Reduce
    total: Reduce
    guarded: bool
    safe: bool

    @staticmethod
    def of(block: Block) -> Attention:
        """Of a composite's body, or a kernel's."""
        first, product = (o for o in block if isinstance(o, DotGeneral))
        top, total = (o for o in block if isinstance(o, Reduce))
        weights = product.lhs.defining_op
        while isinstance(weights, Reshape):
            weights = weights.operand.defining_op
        guarded = isinstance(weights, Select) and isinstance(weights.condition.defining_op, Predicate)
        exponential = total.operand.defining_op
        shifted = exponential.operands[0].defining_op if exponential is not None else None
        shift = shifted.operands[1].defining_op if shifted is not None else None
        while isinstance(shift, Broadcast | Reshape):
            shift = shift.operand.defining_op
        return Attention(first, product, top, total, guarded, isinstance(shift, Select))

    @property
    def scores(self) -> Value:
        """The softmax's argument."""
        return self.top.operand

    @property
    def operands(self) -> tuple[Value, Value, Value]:
        """Q, K and V."""
        return self.first.lhs, self.first.rhs, self.product.rhs


def has_derivative(op: Composite, active: Collection[Value]) -> bool:
    """Whether `op` is an attention that `attention_gradient` differentiates by its `active` inputs: Q, K, V alone, read
    as they are (not a mask, and not attention whose sums are results: it is differentiated already)."""
    if op.callee != "attention" or len(op.results) != 1:
        return False
    parts = Attention.of(op.body.block)
    arguments = op.body.block.arguments
    inputs = dict(zip(arguments, op.inputs, strict=True))
    direct = all(value in inputs for value in parts.operands)
    others = [v for a, v in inputs.items() if a not in parts.operands or _reads_beside(a, parts)]
    return direct and not any(v in active for v in others) and all(rule_of(type(o)) for o in _chain(parts))


def _reads_beside(argument: Value, parts: Attention) -> bool:
    """Whether an operand of the products is something else as well."""
    return any(user not in (parts.first, parts.product) for user in argument.users)


def _chain(parts: Attention) -> list[Operation]:
    """The operations from the product of Q and K, without it, to the scores."""
    block = parts.first.parent
    assert block is not None
    behind: dict[Value, None] = {parts.first.result: None}
    for op in block:
        if op is not parts.first and any(v in behind for v in op.operands):
            behind.update(dict.fromkeys(op.results))
    before = _needed_for([parts.scores])
    return [op for op in block if op in before and op is not parts.first and op.results[0] in behind]


def _needed_for(values: Iterable[Value]) -> set[Operation]:
    """The operations that compute `values`."""
    found: set[Operation] = set()
    stack = list(values)
    while stack:
        op = stack.pop().defining_op
        if op is not None and op not in found:
            found.add(op)
            stack.extend(op.operands)
    return found


def with_log_sums(op: Composite) -> Composite:
    """`op`, not inserted, with the logarithm of each row's sum of exponentials, like the scores without their last
    axis, as second result."""
    old = op.body.block
    block = Block([a.type for a in old.arguments], [a.hint for a in old.arguments])
    terms = Terms(block, location=op.location)
    mapping: dict[Value, Value] = dict(zip(old.arguments, block.arguments, strict=True))
    for nested in old:
        if not nested.is_terminator:
            terms.insert(nested.clone(mapping))
    parts = Attention.of(op.body.block)
    total, top = (_wide(terms, mapping[r.result]) for r in (parts.total, parts.top))
    if parts.safe:
        total = terms.where(terms.compare("eq", total, 0), terms.full(total.type, 1), total)
        top = terms.unless(terms.compare("eq", top, -math.inf), top)
    log_sums = terms.add(terms.unary("log", total), top)
    terms.insert(Yield((mapping[parts.product.result], log_sums)))
    return Composite(op.inputs, Region(block), op.callee, op.options, location=op.location)  # type: ignore[call-arg]


def attention_gradient(
    terms: Terms, op: Composite, inputs: tuple[Value, ...], results: tuple[Value, Value], g: Value
) -> tuple[Value, Value, Value]:
    """The cotangents of Q, K and V, given the result's.

    Args:
        op: an attention, inserted or not.
        inputs: of `op`.
        results: those of `with_log_sums` of `op`.
    """
    parts = Attention.of(op.body.block)
    result, log_sums = results
    along = terms.sum(terms.mul(_wide(terms, g), _wide(terms, result)), (g.type.rank - 1,))
    along = terms.reshape(along, log_sums.type.shape)
    given = (*inputs, g, log_sums, along)
    old = op.body.block
    block = Block([v.type for v in given], [*(a.hint for a in old.arguments), "grad", "log_sums", "along"])
    body = Terms(block, location=terms.location)
    mapping: dict[Value, Value] = dict(zip(old.arguments, block.arguments))
    _derive(body, parts, mapping, block.arguments[-3:])
    composite = Composite(given, Region(block), "attention_backward", op.options)
    gradients = terms.insert(composite).results
    orders = [_rows_last(v, axis) for v, axis in _walked_by_rows(parts)]
    q, k, v = (terms.transpose(r, inverse(order)) for r, order in zip(gradients, orders, strict=True))
    return q, k, v


def _walked_by_rows(parts: Attention) -> list[tuple[Value, int]]:
    """Q, K and V, and the axis along which each has the elements of a query, key or value."""
    axes = (parts.first.lhs_contract[0], parts.first.rhs_contract[0], parts.product.rhs_free[0])
    return list(zip(parts.operands, axes, strict=True))


def _rows_last(value: Value, axis: int) -> tuple[int, ...]:
    """The permutation that makes `axis` the last."""
    return (*(a for a in range(value.type.rank) if a != axis), axis)


def _derive(b: Terms, parts: Attention, mapping: dict[Value, Value], given: Iterable[Value]) -> None:
    """The body of the backward composite."""
    g, log_sums, along = given
    needed = _needed_for([parts.scores])
    assert parts.first.parent is not None
    for op in parts.first.parent:
        if op in needed:
            b.insert(op.clone(mapping))
    scores = mapping[parts.scores]
    shape = scores.type.shape
    last = (len(shape) - 1,)
    weights = b.unary("exp", b.sub(_wide(b, scores), b.spread(log_sums, shape, last)))
    if parts.guarded:
        weights = b.unless(b.emit(Predicate(weights, "isnan")), weights)
    product = parts.product
    outer = DotGeneral(
        b.reshape(b.cast(weights, scores.type.dtype), product.lhs.type.shape), mapping[product.rhs],
        product.lhs_batch, product.rhs_batch, product.lhs_contract, product.rhs_contract,
    )  # fmt: skip
    of_weights, of_v = _of_product(b, outer, g)
    outer.drop()
    centred = b.sub(b.reshape(_wide(b, of_weights), shape), b.spread(along, shape, last))
    cotangents: dict[Value, Value] = {parts.scores: b.cast(b.mul(weights, centred), scores.type.dtype)}
    chain = _chain(parts)
    inside = {parts.first.result, *(op.results[0] for op in chain)}
    for op in reversed(chain):
        copy = mapping[op.results[0]].defining_op
        assert copy is not None
        for operand, cotangent in zip(op.operands, _cotangents(b, copy, cotangents[op.results[0]]), strict=True):
            if operand in inside and cotangent is not None:
                before = cotangents.get(operand)
                cotangents[operand] = cotangent if before is None else b.add(before, cotangent)
    first = mapping[parts.first.result].defining_op
    assert isinstance(first, DotGeneral)
    of_q, of_k = _of_product(b, first, cotangents[parts.first.result])
    orders = [_rows_last(v, axis) for v, axis in _walked_by_rows(parts)]
    gradients = zip((of_q, of_k, of_v), orders, strict=True)
    b.insert(Yield(tuple(b.transpose(x, order) for x, order in gradients)))
    _drop_unread(b)


def _wide(b: Terms, value: Value) -> Value:
    """`value` in f32 if its type is narrower: logarithms of sums must not be rounded to eight bits."""
    dtype = value.type.dtype
    return b.cast(value, f32) if dtype.is_float and dtype.bits < 32 else value


def _cotangents(b: Terms, op: Operation, g: Value) -> Cotangents:
    rule = rule_of(type(op))
    assert rule is not None
    return rule(b, op, g)


def _of_product(b: Terms, op: DotGeneral, g: Value) -> list[Value]:
    return [c for c in _cotangents(b, op, g) if c is not None]


def _drop_unread(b: Terms) -> None:
    """Cotangents that rules gave and nobody wanted."""
    for op in reversed(b.block):
        if not op.is_terminator and not any(r.uses for r in op.results):
            op.drop()
