"""Control flow whose course data decides: `cond`, `while_loop`, `fori_loop`, `scan`; and `dynamic_slice`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ds_compiler.frontends.trace import compose, tree
from ds_compiler.frontends.trace.array import TracedArray, is_array, is_number, read, wrap
from ds_compiler.frontends.trace.axes import shape_of
from ds_compiler.frontends.trace.dtypes import weak_type
from ds_compiler.frontends.trace.frame import current, located, nested_block
from ds_compiler.frontends.trace.public import public
from ds_compiler.frontends.trace.tree import Structure
from ds_compiler.ir import Block, Dim, Expr, Region, TensorType, Value
from ds_compiler.ir.dtypes import bool_, i64
from ds_compiler.ops import DynamicSlice, If, Scan, While, Yield


def _values(what: str, leaves: Sequence[Any], types: Sequence[TensorType] | None = None) -> list[Value]:
    """Leaves as values; Python numbers take the types that are expected."""
    values = []
    for index, leaf in enumerate(leaves):
        if not is_array(leaf) and not is_number(leaf):
            raise located(f"{what}: holds a {type(leaf).__name__}, expected arrays and numbers")
        wanted = types[index].dtype if types is not None and index < len(types) and not is_array(leaf) else None
        try:
            values.append(read(leaf, wanted))
        except TypeError:
            values.append(read(leaf))
    return values


def _matching(what: str, paths: Sequence[str], found: Sequence[Value], wanted: Sequence[TensorType]) -> None:
    for path, value, type_ in zip(paths, found, wanted):
        if value.type != type_:
            place = f" at {path}" if path else ""
            raise located(f"{what}: {value.type}{place}, expected {type_}", help="both must agree in shape and dtype")


def _same_form(what: str, found: Structure, wanted: Structure) -> None:
    if found != wanted:
        raise located(f"{what}: has the form {found}, expected {wanted}")


@public
def cond(condition: Any, on_true: Callable[..., Any], on_false: Callable[..., Any], /, *operands: Any) -> Any:
    """``on_true(*operands)`` if the scalar bool `condition` holds, else ``on_false(*operands)``; only one of them runs.

    Both return the same structure of arrays of equal shapes and element types.

    Raises:
        TraceError: the condition is no scalar bool, or the branches' results differ.
    """
    if isinstance(condition, bool):
        return on_true(*operands) if condition else on_false(*operands)
    test = read(condition)
    if test.type != TensorType((), bool_):
        raise located(f"cond: the condition is {test.type}, expected a scalar bool", help="compare, or use ds.where")
    blocks: list[Block] = []
    forms: list[Structure] = []
    types: list[list[TensorType]] = []
    for branch in (on_true, on_false):
        with nested_block([]) as (block, _):
            leaves, form = tree.flatten(branch(*operands))
            values = _values("cond: a branch's result", leaves, types[0] if types else None)
            current().insert(Yield(tuple(values)))
        blocks.append(block)
        forms.append(form)
        types.append([v.type for v in values])
        if len(forms) == 2:
            _same_form("cond: the second branch's result", form, forms[0])
            _matching("cond: the second branch gives", list(form.paths()), values, types[0])
    results = current().insert(If(test, Region(blocks[0]), Region(blocks[1])))
    return tree.unflatten(forms[0], [wrap(v) for v in results])


@public
def while_loop(condition: Callable[[Any], Any], body: Callable[[Any], Any], init: Any, /) -> Any:
    """``state = init; while condition(state): state = body(state)``.

    The state is a structure of arrays; `body` returns one of the same form, shapes and element types.

    Raises:
        TraceError: the body's result differs from the state, or the condition is no scalar bool.
    """
    leaves, form = tree.flatten(init)
    inits = _values("while_loop: the initial state", leaves)
    types = [v.type for v in inits]
    with nested_block(types) as (test, _):
        goes_on = read(condition(tree.unflatten(form, [wrap(a) for a in test.arguments])))
        if goes_on.type != TensorType((), bool_):
            raise located(f"while_loop: the condition gives {goes_on.type}, expected a scalar bool")
        current().insert(Yield((goes_on,)))
    with nested_block(types) as (block, _):
        _next_state("while_loop", body(tree.unflatten(form, [wrap(a) for a in block.arguments])), form, types, ())
    results = current().insert(While(tuple(inits), Region(test), Region(block)))
    return tree.unflatten(form, [wrap(v) for v in results])


def _next_state(what: str, state: Any, form: Structure, types: Sequence[TensorType], stacked: Sequence[Value]) -> None:
    leaves, found = tree.flatten(state)
    _same_form(f"{what}: the body's state", found, form)
    values = _values(f"{what}: the body's state", leaves, types)
    _matching(f"{what}: the body makes the state", list(form.paths()), values, types)
    current().insert(Yield((*values, *stacked)))


@public
def fori_loop(lower: Any, upper: Any, body: Callable[[Any, Any], Any], init: Any, /) -> Any:
    """``for i in range(lower, upper): state = body(i, state)``; the bounds may be traced, `i` is an int64 scalar.

    With bounds that are known (sizes too) it can be differentiated.
    """
    if isinstance(lower, int | Expr) and isinstance(upper, int | Expr):
        length: Dim = upper - lower
        if isinstance(length, int):
            length = max(length, 0)
        from ds_compiler.frontends.trace.creation import iota

        numbers = iota((length,), 0, i64)
        if lower != 0:
            numbers = compose.binary("add", numbers, compose.size(lower, i64))
        return scan(lambda state, i: (body(i, state), None), init, wrap(numbers))[0]
    first, last = (compose.cast(read(b), i64) for b in (lower, upper))
    state = while_loop(lambda s: s[0] < wrap(last), lambda s: (s[0] + 1, body(s[0], s[1])), (wrap(first), init))
    return state[1]


@public
def scan(
    body: Callable[[Any, Any], Any], init: Any, xs: Any = None, /, *, length: Dim | None = None, reverse: bool = False
) -> Any:
    """``(last state, stacked outputs)`` of ``state, output = body(state, x)`` over the slices of `xs` along axis 0.

    Args:
        xs: a structure of arrays with equally long first axes, or None with a `length`.
        reverse: run from the end; outputs still stand at their slices' places.

    Raises:
        TraceError: lengths differ, or the body's state differs from `init` in form, shape or element type.
    """
    leaves, form = tree.flatten(init)
    inits = _values("scan: the initial state", leaves)
    types = [v.type for v in inits]
    slices, xs_form = tree.flatten(xs)
    scanned = _values("scan: the scanned arrays", slices)
    for value in scanned:
        if not value.type.rank:
            raise located("scan: a scanned array is a scalar, which has no axis to run over")
        extent = value.type.shape[0]
        if length is not None and isinstance(length, int) and isinstance(extent, int) and length != extent:
            raise located(f"scan: a scanned array has {extent} slices, others {length}")
        length = extent if length is None or isinstance(extent, int) else length
    if length is None:
        raise located("scan: no arrays to run over and no length")
    each = [v.type.with_shape(v.type.shape[1:]) for v in scanned]
    with nested_block([*types, *each]) as (block, _):
        arguments = [wrap(a) for a in block.arguments]
        state = tree.unflatten(form, arguments[: len(inits)])
        result = body(state, tree.unflatten(xs_form, arguments[len(inits) :]))
        if not isinstance(result, tuple) or len(result) != 2:
            raise located("scan: the body returns (state, output)", help="an output may be None")
        outputs, out_form = tree.flatten(result[1])
        stacked = _values("scan: the body's output", outputs)
        _next_state("scan", result[0], form, types, stacked)
    results = [wrap(v) for v in current().insert(Scan(tuple(inits), tuple(scanned), length, Region(block), reverse))]
    return tree.unflatten(form, results[: len(inits)]), tree.unflatten(out_form, results[len(inits) :])


def scan_sum(body: Callable[[Any, Any], Any], init: Any, xs: Any, /) -> Any:
    """``(last state, sum of the outputs)`` of ``state, output = body(state, x)`` over the slices of `xs` along axis 0,
    which all have the same known number of them. Only inside of a traced function."""
    leaves, form = tree.flatten(init)
    inits = _values("the initial state", leaves)
    types = [v.type for v in inits]
    slices, xs_form = tree.flatten(xs)
    scanned = _values("the scanned arrays", slices)
    with nested_block([*types, *(v.type.with_shape(v.type.shape[1:]) for v in scanned)]) as (block, _):
        arguments = [wrap(a) for a in block.arguments]
        state = tree.unflatten(form, arguments[: len(inits)])
        state, output = body(state, tree.unflatten(xs_form, arguments[len(inits) :]))
        outputs, out_form = tree.flatten(output)
        addends = _values("the body's output", outputs)
        totals = [block.insert_argument(len(inits) + i, v.type) for i, v in enumerate(addends)]
        sums = [compose.binary("add", total, v) for total, v in zip(totals, addends)]
        _next_state("the loop", state, form, types, sums)
    zeros = [compose.full(0, v.type.shape, v.type.dtype) for v in addends]
    length = scanned[0].type.shape[0]
    operation = Scan((*inits, *zeros), tuple(scanned), length, Region(block), False)
    results = [wrap(v) for v in current().insert(operation)]
    return tree.unflatten(form, results[: len(inits)]), tree.unflatten(out_form, results[len(inits) :])


@public
def dynamic_slice(x: Any, starts: Sequence[Any], sizes: Sequence[Any], /) -> TracedArray:
    """The window of known `sizes` at corner `starts` (traced integers), moved inside if it leaves the array."""
    value = read(x)
    corner = [compose.cast(read(s, weak_type(0, i64)), i64) for s in starts]
    if not len(corner) == len(sizes) == value.type.rank:
        raise located(f"dynamic_slice: {len(corner)} starts, {len(sizes)} sizes for {value.type.rank} axes")
    return wrap(current().emit(DynamicSlice(value, tuple(corner), shape_of(tuple(sizes)))))
