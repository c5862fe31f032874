"""Arrays in another form (array API standard, "Manipulation Functions")."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, dtype_of, read, together, wrap
from ds_compiler.frontends.trace.axes import axes_of, axis_of, shape_of, whole
from ds_compiler.frontends.trace.dtypes import element_type, promote
from ds_compiler.frontends.trace.frame import current, located
from ds_compiler.frontends.trace.public import public
from ds_compiler.ir import Dim, Expr, Value
from ds_compiler.ir.dims import floordiv, mod, product
from ds_compiler.ops import Gather, Pad, Slice


@public
def reshape(x: ArrayLike, /, shape: Any, *, copy: bool | None = None) -> TracedArray:
    """The same elements in row-major order under another shape; one size may be -1."""
    value = read(x)
    wanted: list[Dim] = [
        d if isinstance(d, Expr) else whole(d, "a size") for d in (shape if isinstance(shape, Sequence) else (shape,))
    ]
    open_ = [i for i, d in enumerate(wanted) if isinstance(d, int) and d == -1]
    if len(open_) > 1 or any(isinstance(d, int) and d < -1 for d in wanted):
        raise located(f"reshape: {compose.shown(wanted)} is no shape", help="one size may be -1, the rest are >= 0")
    total = value.type.elements
    if open_:
        rest = product(tuple(d for i, d in enumerate(wanted) if i != open_[0]))
        if rest == 0:
            raise located(f"reshape: the size -1 in {compose.shown(wanted)} could be anything")
        wanted[open_[0]] = floordiv(total, rest)
    after = product(tuple(wanted))
    if isinstance(total, int) and isinstance(after, int) and total != after:
        raise located(
            f"reshape: {compose.shown(value.type.shape)} has {total} elements, {compose.shown(wanted)} has {after}"
        )
    return wrap(compose.reshape(value, wanted))


@public
def permute_dims(x: ArrayLike, /, axes: Sequence[int]) -> TracedArray:
    """Axis i of the result is axis ``axes[i]`` of `x`."""
    value = read(x)
    order = [axis_of(a, value.type.rank) for a in axes]
    if sorted(order) != list(range(value.type.rank)):
        raise located(f"permute_dims: {tuple(axes)} does not permute {value.type.rank} axes")
    return wrap(compose.transpose(value, order))


@public
def swapaxes(x: ArrayLike, axis1: int, axis2: int, /) -> TracedArray:
    """Two axes swapped."""
    value = read(x)
    order = list(range(value.type.rank))
    a, b = axis_of(axis1, len(order)), axis_of(axis2, len(order))
    order[a], order[b] = order[b], order[a]
    return wrap(compose.transpose(value, order))


@public
def moveaxis(x: ArrayLike, source: int | Sequence[int], destination: int | Sequence[int], /) -> TracedArray:
    """Axes moved to other places, the rest in order."""
    value = read(x)
    rank = value.type.rank
    sources = [axis_of(a, rank) for a in (source if isinstance(source, Sequence) else (source,))]
    places = [axis_of(a, rank) for a in (destination if isinstance(destination, Sequence) else (destination,))]
    if len(sources) != len(places) or len(set(sources)) != len(sources) or len(set(places)) != len(places):
        raise located(f"moveaxis: {source} does not go to {destination}")
    order = [a for a in range(rank) if a not in sources]
    for place, axis in sorted(zip(places, sources)):
        order.insert(place, axis)
    return wrap(compose.transpose(value, order))


@public
def expand_dims(x: ArrayLike, /, axis: int | Sequence[int] = 0) -> TracedArray:
    """New axes of size 1."""
    value = read(x)
    count = len(axis) if isinstance(axis, Sequence) else 1
    places = axes_of(axis, value.type.rank + count)
    shape = list(value.type.shape)
    for place in places:
        shape.insert(place, 1)
    return wrap(compose.reshape(value, shape))


@public
def squeeze(x: ArrayLike, /, axis: int | Sequence[int]) -> TracedArray:
    """Without the given axes, which have size 1."""
    value = read(x)
    axes = axes_of(axis, value.type.rank)
    for a in axes:
        if value.type.shape[a] != 1:
            raise located(f"squeeze: axis {a} of {compose.shown(value.type.shape)} has not size 1")
    return wrap(compose.reshape(value, [d for a, d in enumerate(value.type.shape) if a not in axes]))


@public
def broadcast_to(x: ArrayLike, /, shape: Any) -> TracedArray:
    """`x` repeated to `shape`."""
    return wrap(compose.broadcast_to(read(x), shape_of(shape)))


@public
def broadcast_arrays(*arrays: ArrayLike) -> list[TracedArray]:
    """All arrays in their common shape."""
    return [wrap(v) for v in compose.aligned(*map(read, arrays))]


@public
def concat(arrays: Sequence[ArrayLike], /, *, axis: int | None = 0) -> TracedArray:
    """Arrays joined along an axis; None flattens them first."""
    if not arrays:
        raise located("concat: no arrays are given")
    values = together(*arrays)
    if axis is None:
        values, axis = [compose.reshape(v, (v.type.elements,)) for v in values], 0
    place = axis_of(axis, values[0].type.rank)
    _check_joined("concat", values, place)
    return wrap(compose.concat(values, place))


def _check_joined(name: str, values: Sequence[Value], axis: int | None) -> None:
    first = values[0].type
    for index, value in enumerate(values):
        sizes = zip(value.type.shape, first.shape)
        if value.type.rank != first.rank or any(
            a != axis and isinstance(m, int) and isinstance(n, int) and m != n for a, (m, n) in enumerate(sizes)
        ):
            shape = compose.shown(value.type.shape)
            raise located(f"{name}: array {index} has shape {shape}, array 0 {compose.shown(first.shape)}")


@public
def stack(arrays: Sequence[ArrayLike], /, *, axis: int = 0) -> TracedArray:
    """Arrays of one shape joined along a new axis."""
    if not arrays:
        raise located("stack: no arrays are given")
    values = together(*arrays)
    _check_joined("stack", values, None)
    place = axis_of(axis, values[0].type.rank + 1)
    rows = [compose.reshape(v, (*v.type.shape[:place], 1, *v.type.shape[place:])) for v in values]
    return wrap(compose.concat(rows, place))


@public
def unstack(x: ArrayLike, /, *, axis: int = 0) -> tuple[TracedArray, ...]:
    """The slices along an axis of known size."""
    value = read(x)
    place = axis_of(axis, value.type.rank)
    extent = value.type.shape[place]
    if not isinstance(extent, int):
        raise located(f"unstack: the size {extent} is symbolic", help="use ds.scan or ds.vmap")
    shape = [d for a, d in enumerate(value.type.shape) if a != place]
    return tuple(wrap(compose.reshape(compose.sliced(value, place, i, i + 1), shape)) for i in range(extent))


@public
def split(x: ArrayLike, indices_or_sections: int | Sequence[int], /, *, axis: int = 0) -> list[TracedArray]:
    """As ``numpy.split``: equal parts, or parts between positions."""
    value = read(x)
    place = axis_of(axis, value.type.rank)
    extent = value.type.shape[place]
    if isinstance(indices_or_sections, Expr | TracedArray):
        raise located("split: the number of parts is not known while the function is traced", help="give an integer")
    if isinstance(indices_or_sections, int):
        part = floordiv(extent, indices_or_sections)
        if isinstance(extent, int) and extent % indices_or_sections:
            raise located(f"split: {extent} does not divide into {indices_or_sections} equal parts")
        compose.assume(part * indices_or_sections, extent)
        bounds: list[Dim] = [part * i for i in range(indices_or_sections + 1)]
    else:
        bounds = [0, *indices_or_sections, extent]
    return [wrap(compose.sliced(value, place, a, b)) for a, b in pairwise(bounds)]


@public
def flip(x: ArrayLike, /, *, axis: int | Sequence[int] | None = None) -> TracedArray:
    """The order of elements reversed along axes."""
    value = read(x)
    axes = axes_of(axis, value.type.rank)
    if not axes:
        return wrap(value)
    shape = value.type.shape
    starts = tuple(d - 1 if a in axes and d != 0 else 0 for a, d in enumerate(shape))
    steps = tuple(-1 if a in axes else 1 for a in range(len(shape)))
    return wrap(current().emit(Slice(value, starts, shape, steps)))


@public
def roll(x: ArrayLike, /, shift: int | Sequence[int], *, axis: int | Sequence[int] | None = None) -> TracedArray:
    """Elements moved along axes, those pushed out entering at the other end; None rolls the flattened array."""
    value = read(x)
    if axis is None:
        flat = compose.reshape(value, (value.type.elements,))
        return wrap(compose.reshape(_rolled(flat, 0, sum(_pair(shift))), value.type.shape))
    axes = _pair(axis)
    shifts = _pair(shift)
    if len(shifts) == 1:
        shifts = shifts * len(axes)
    if len(shifts) != len(axes):
        raise located(f"roll: {len(shifts)} shifts for {len(axes)} axes")
    for s, a in zip(shifts, axes):
        value = _rolled(value, axis_of(a, value.type.rank), s)
    return wrap(value)


def _pair(x: int | Sequence[int]) -> list[int]:
    return list(x) if isinstance(x, Sequence) else [x]


def _rolled(value: Value, axis: int, shift: int) -> Value:
    extent = value.type.shape[axis]
    if extent == 0:
        return value
    cut = mod(-shift, extent)
    if cut == 0:
        return value
    return compose.concat([compose.sliced(value, axis, cut, extent), compose.sliced(value, axis, 0, cut)], axis)


@public
def repeat(x: ArrayLike, repeats: int | np.ndarray[Any, Any], /, *, axis: int | None = None) -> TracedArray:
    """Each element `repeats` times in a row; a known array has a count for each."""
    value = read(x)
    if isinstance(repeats, TracedArray):
        raise located(
            "repeat: the size of the result depends on counts that are traced",
            help="give an integer, or counts that are known while the function is traced (NumPy's array)",
        )
    if axis is None:
        value, axis = compose.reshape(value, (value.type.elements,)), 0
    place, shape = axis_of(axis, value.type.rank), value.type.shape
    counts = np.asarray(repeats)
    if counts.dtype.kind not in "iu" or counts.ndim > 1 or (counts < 0).any():
        raise located("repeat: counts are integers that are not negative, one for all or one for each")
    if counts.size != 1:
        if isinstance(shape[place], Expr) or shape[place] != counts.size:
            raise located(f"repeat: {counts.size} counts for an axis of size {shape[place]}")
        places = current().constant(np.repeat(np.arange(counts.size), counts))
        return wrap(current().emit(Gather(value, places, place)))
    repeats = int(counts.reshape(()))
    value = compose.reshape(value, (*shape[: place + 1], 1, *shape[place + 1 :]))
    value = compose.broadcast_to(value, (*shape[: place + 1], repeats, *shape[place + 1 :]))
    return wrap(compose.reshape(value, (*shape[:place], shape[place] * repeats, *shape[place + 1 :])))


@public
def tile(x: ArrayLike, repetitions: Sequence[int], /) -> TracedArray:
    """The whole array repeated along each axis."""
    value = read(x)
    rank = max(len(repetitions), value.type.rank)
    shape = (*[1] * (rank - value.type.rank), *value.type.shape)
    counts = (*[1] * (rank - len(repetitions)), *map(int, repetitions))
    value = compose.reshape(value, [d for pair in zip([1] * rank, shape) for d in pair])
    value = compose.broadcast_to(value, [d for pair in zip(counts, shape) for d in pair])
    return wrap(compose.reshape(value, [n * d for n, d in zip(counts, shape)]))


@public
def pad(x: ArrayLike, pad_width: Any, /, *, constant_values: bool | int | float = 0) -> TracedArray:
    """`constant_values` around `x`; widths as in ``numpy.pad`` (an extension of the standard)."""
    value = read(x)
    widths = np.broadcast_to(np.asarray(pad_width), (value.type.rank, 2)).tolist()
    fill = compose.scalar(constant_values, value.type.dtype)
    return wrap(current().emit(Pad(value, fill, tuple(a for a, _ in widths), tuple(b for _, b in widths))))


@public
def take(x: ArrayLike, indices: ArrayLike, /, *, axis: int | None = None) -> TracedArray:
    """Slices of `x` at positions along an axis."""
    value, where = read(x), read(indices)
    if axis is None and value.type.rank != 1:
        raise located("take: give the axis of an array of several axes")
    place = axis_of(0 if axis is None else axis, value.type.rank)
    compose.check_indices(where, value.type.shape[place], place, "take")
    return wrap(current().emit(Gather(value, where, place)))


@public
def astype(x: TracedArray, dtype: Any, /, *, copy: bool = True, device: Any = None) -> TracedArray:
    """Each element converted."""
    return wrap(compose.cast(read(x), element_type(dtype)))


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The element type in which arrays, element types and Python numbers meet."""
    found = [dtype_of(x) if dtype_of(x) is not None else None for x in arrays_and_dtypes]
    dtypes = []
    numbers = []
    for x, known in zip(arrays_and_dtypes, found):
        if known is not None:
            dtypes.append(known)
        elif isinstance(x, bool | int | float) and not isinstance(x, type):
            numbers.append(x)
        else:
            dtypes.append(element_type(x))
    common = promote(dtypes) if dtypes else None
    from ds_compiler.frontends.trace.dtypes import weak_type

    for number in numbers:
        common = weak_type(number, common)
    if common is None:
        raise located("result_type: nothing is given")
    return common.numpy
