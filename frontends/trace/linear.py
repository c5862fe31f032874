"""Products of arrays (array API standard, "Linear Algebra Functions"), and `einsum`."""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, together, wrap
from ds_compiler.frontends.trace.axes import axis_of
from ds_compiler.frontends.trace.dtypes import name_of
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import Dim, Value
from ds_compiler.ops import DotGeneral


def dot_general(
    a: Value, b: Value, batch: tuple[Sequence[int], Sequence[int]], contract: tuple[Sequence[int], Sequence[int]]
) -> Value:
    """`DotGeneral` after a check of the sizes that meet."""
    for x, y in zip(contract[0], contract[1]):
        m, n = a.type.shape[x], b.type.shape[y]
        if isinstance(m, int) and isinstance(n, int) and m != n:
            raise located(
                f"axis {x} of {compose.shown(a.type.shape)} has size {m}, axis {y} of {compose.shown(b.type.shape)} "
                f"has size {n}: they must be equal to be summed over"
            )
    return current().emit(DotGeneral(a, b, tuple(batch[0]), tuple(batch[1]), tuple(contract[0]), tuple(contract[1])))


def _factors(name: str, x1: ArrayLike, x2: ArrayLike) -> list[Value]:
    values = together(x1, x2)
    if values[0].type.dtype.kind not in "fiu":
        raise located(f"{name}: needs numeric arrays, got {name_of(values[0].type.dtype)}")
    return values


@public
def matmul(x1: ArrayLike, x2: ArrayLike, /) -> TracedArray:
    """The matrix product over the last two axes; other axes broadcast, and a vector is a row (x1) or a column (x2)."""
    a, b = _factors("matmul", x1, x2)
    if not a.type.rank or not b.type.rank:
        raise located("matmul: takes no scalars", help="use * to scale an array")
    row, column = a.type.rank == 1, b.type.rank == 1
    if column:
        last = a.type.rank - 1
        return wrap(dot_general(a, b, ((), ()), ((last,), (0,))))
    if row:
        lead = b.type.rank - 2
        return wrap(dot_general(a, b, ((), ()), ((0,), (lead,))))
    if b.type.rank == 2:  # no axes to share: one product, however many axes x1 has
        return wrap(dot_general(a, b, ((), ()), ((a.type.rank - 1,), (0,))))
    shape = compose.common_shape([a.type.shape[:-2], b.type.shape[:-2]])
    a = compose.broadcast_to(a, (*shape, *a.type.shape[-2:]))
    b = compose.broadcast_to(b, (*shape, *b.type.shape[-2:]))
    batch = range(len(shape))
    return wrap(dot_general(a, b, (batch, batch), ((len(shape) + 1,), (len(shape),))))


@public
def matrix_transpose(x: TracedArray, /) -> TracedArray:
    """The last two axes swapped."""
    (value,) = together(x)
    return wrap(value).mT


@public
def tensordot(x1: ArrayLike, x2: ArrayLike, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> TracedArray:
    """The sum over the last `axes` axes of x1 and the first of x2, or over the given pairs of axes."""
    a, b = _factors("tensordot", x1, x2)
    if isinstance(axes, int):
        left: Sequence[int] = range(a.type.rank - axes, a.type.rank)
        right: Sequence[int] = range(axes)
        if axes < 0 or axes > min(a.type.rank, b.type.rank):
            raise located(f"tensordot: {axes} axes of arrays of {a.type.rank} and {b.type.rank} axes")
    else:
        left = [axis_of(i, a.type.rank) for i in axes[0]]
        right = [axis_of(i, b.type.rank) for i in axes[1]]
    return wrap(dot_general(a, b, ((), ()), (left, right)))


@public
def vecdot(x1: ArrayLike, x2: ArrayLike, /, *, axis: int = -1) -> TracedArray:
    """The scalar product along one axis; others broadcast."""
    a, b = _factors("vecdot", x1, x2)
    rank = min(a.type.rank, b.type.rank)
    if not -rank <= axis < 0:
        raise located(f"vecdot: axis {axis} is not one of the last {rank}, counted from the end")
    m, n = a.type.shape[axis], b.type.shape[axis]
    if isinstance(m, int) and isinstance(n, int) and m != n:
        raise located(f"vecdot: the axis has size {m} in one array and {n} in the other")
    a, b = compose.aligned(a, b)
    return wrap(compose.reduce(compose.binary("mul", a, b), [axis_of(axis, a.type.rank)], "sum"))


@public
def outer(x1: ArrayLike, x2: ArrayLike, /) -> TracedArray:
    """The products of all pairs of elements of two vectors."""
    a, b = _factors("outer", x1, x2)
    if a.type.rank != 1 or b.type.rank != 1:
        raise located("outer: takes vectors")
    return wrap(dot_general(a, b, ((), ()), ((), ())))


@public
def einsum(subscripts: str, /, *operands: ArrayLike) -> TracedArray:
    """Einstein's summation, as in NumPy (letters only; two operands at a time, from the left)."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in subscripts or not left.replace(",", "").isalpha():
        raise located(f"einsum: {subscripts!r} holds more than letters", help="name every axis with a letter")
    if len(terms) != len(operands):
        raise located(f"einsum: {len(terms)} terms for {len(operands)} arrays")
    if not arrow:
        letters = left.replace(",", "")
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    values = together(*operands)
    for term, value in zip(terms, values):
        if len(set(term)) != len(term):
            raise located(f"einsum: {term!r} names an axis twice", help="take the diagonal before")
        if len(term) != value.type.rank:
            raise located(f"einsum: {term!r} names {len(term)} axes, the array has {value.type.rank}")
    term, value = terms[0], values[0]
    for index in range(1, len(values)):
        kept = set(right).union(*terms[index + 1 :])
        term, value = _pair(term, value, terms[index], values[index], kept)
    if unknown := sorted(set(right) - set(term)):
        raise located(f"einsum: no array has the axis {unknown[0]!r}")
    value = compose.reduce(value, [i for i, c in enumerate(term) if c not in right], "sum")
    term = "".join(c for c in term if c in right)
    return wrap(compose.transpose(value, [term.index(c) for c in right]))


def _pair(s: str, a: Value, t: str, b: Value, kept: set[str]) -> tuple[str, Value]:
    """Two factors multiplied, and summed over what nobody asks for afterwards."""
    a = compose.reduce(a, [i for i, c in enumerate(s) if c not in t and c not in kept], "sum")
    s = "".join(c for c in s if c in t or c in kept)
    b = compose.reduce(b, [i for i, c in enumerate(t) if c not in s and c not in kept], "sum")
    t = "".join(c for c in t if c in s or c in kept)
    batch = [c for c in s if c in t and c in kept]
    contract = [c for c in s if c in t and c not in kept]
    sizes: dict[str, Dim] = dict(zip(s, a.type.shape))
    for c, n in zip(t, b.type.shape):
        m = sizes.get(c, n)
        if isinstance(m, int) and isinstance(n, int) and m != n:
            raise located(f"einsum: axis {c!r} has the sizes {m} and {n}")
    value = current().emit(
        DotGeneral(
            a,
            b,
            tuple(s.index(c) for c in batch),
            tuple(t.index(c) for c in batch),
            tuple(s.index(c) for c in contract),
            tuple(t.index(c) for c in contract),
        )
    )
    free = [c for c in s if c not in t] + [c for c in t if c not in s]
    return "".join(batch + free), value
