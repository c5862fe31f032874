"""``x[key]`` and ``x.at[key]``: integers, slices, None, Ellipsis, integer arrays (known or traced), known masks."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import compose
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray, dtype_of, is_unknown_number, read, wrap
from ds_compiler.frontends.trace.dtypes import name_of
from ds_compiler.frontends.trace.frame import current, located, placing_errors
from ds_compiler.ir import Dim, Expr, Value
from ds_compiler.ir.dims import maximum, minimum
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Gather, GatherND, Iota, ScatterND, Slice
from ds_compiler.ops.shape import slice_size


@dataclass
class _New:
    """A new axis of size 1."""


@dataclass
class _Window:
    """A slice of one axis, bounds in range."""

    start: Dim
    size: Dim
    step: int


@dataclass
class _At:
    """One position of one axis."""

    position: Dim


@dataclass
class _Positions:
    """An integer tensor over one axis."""

    indices: Value


_Entry = _New | _Window | _At | _Positions


def get(array: TracedArray, key: Any) -> TracedArray:
    """``array[key]``.

    Raises:
        TraceError: the key does not fit, or the result's shape would depend on data.
        ExecutionError (when the program runs): a traced index is out of range, as NumPy's IndexError.
    """
    with placing_errors("getitem"):
        return wrap(_get(array.read(), key))


def _get(value: Value, key: Any) -> Value:
    entries = _entries(value.type.shape, key)
    advanced = any(isinstance(entry, _Positions) for entry in entries)
    value = _windows(value, entries, advanced)
    if not advanced:
        return value
    # Beside arrays, a single position is one of them, as in NumPy.
    kept: list[Value | None] = []
    for entry in entries:
        if isinstance(entry, _Positions):
            kept.append(entry.indices)
        else:
            kept.append(compose.size(entry.position, i64) if isinstance(entry, _At) else None)
    return _gather(value, kept)


def _entries(shape: tuple[Dim, ...], key: Any) -> list[_Entry]:
    """The key, an entry for each axis and each new one."""
    items: list[Any] = []
    for item in key if isinstance(key, tuple) else (key,):
        if isinstance(item, list):
            item = np.asarray(item, np.int64 if not item else None)
        if isinstance(item, np.ndarray | np.generic) and item.dtype == np.bool_:
            if item.ndim == 0:
                raise located("a single bool is no index", help="use ds.where")
            items += np.nonzero(item) if _mask_fits(item, shape, items) else []
        else:
            items.append(item)
    used = sum(item is not None and item is not Ellipsis for item in items)
    if used > len(shape):
        raise located(f"{used} indices for an array of shape {compose.shown(shape)}")
    ellipses = [i for i, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1:
        raise located("an index holds more than one ellipsis")
    fill = [slice(None)] * (len(shape) - used)
    at = ellipses[0] if ellipses else len(items)
    items[at : at + 1] = fill
    entries: list[_Entry] = []
    axis = 0
    for item in items:
        if item is None:
            entries.append(_New())
            continue
        entries.append(_entry(item, axis, shape[axis]))
        axis += 1
    return entries


def _mask_fits(mask: Any, shape: tuple[Dim, ...], before: list[Any]) -> bool:
    axis = sum(item is not None for item in before)
    if any(item is Ellipsis for item in before):
        axis = len(shape) - mask.ndim
    if tuple(shape[axis : axis + mask.ndim]) != mask.shape:
        raise located(f"a mask of shape {compose.shown(mask.shape)} does not fit an array of {compose.shown(shape)}")
    return True


def _entry(item: Any, axis: int, extent: Dim) -> _Entry:
    if isinstance(item, slice):
        return _window(item, extent)
    if isinstance(item, Expr):
        return _At(item)
    if is_unknown_number(item):
        item = wrap(read(item))
    found = dtype_of(item)
    if found is not None and (isinstance(item, TracedArray) or np.ndim(item) > 0):
        if found.kind == "b":
            raise located(
                "the result of indexing with a traced mask has a shape that depends on data",
                help="use ds.where(mask, x, other), or multiply by the mask",
            )
        if not found.is_integer:
            raise located(f"an index array is of {name_of(found)}, expected integers")
        known = isinstance(item, np.ndarray) and item.size and isinstance(extent, int)
        if known and (item.min() < -extent or item.max() >= extent):
            raise located(f"an index array holds positions out of range for axis {axis} of size {extent}")
        positions = read(item)
        compose.check_indices(positions, extent, axis, "getitem")
        return _Positions(compose.cast(positions, i64))
    try:
        position = operator.index(item)
    except TypeError:
        raise located(f"a {type(item).__name__} is no index") from None
    if isinstance(extent, int) and not -extent <= position < extent:
        raise located(f"index {position} is out of range for axis {axis} of size {extent}")
    return _At(position if position >= 0 else extent + position)


def _window(item: slice, extent: Dim) -> _Window:
    if any(isinstance(bound, TracedArray) for bound in (item.start, item.stop, item.step)):
        raise located(
            "the bound of a slice is a traced array, so the result's size is not known",
            help="ds.dynamic_slice(x, starts, sizes) takes a window of known size",
        )
    bounds = [b if b is None or isinstance(b, Expr) else operator.index(b) for b in (item.start, item.stop, item.step)]
    step = 1 if bounds[2] is None else bounds[2]
    if not isinstance(step, int) or step == 0:
        raise located(f"the step of a slice is {step}")
    if isinstance(extent, int) and not any(isinstance(b, Expr) for b in bounds):
        first, end, step = slice(*bounds).indices(extent)
        return _Window(first, len(range(first, end, step)), step)
    last = extent - 1
    start = (0 if step > 0 else last) if bounds[0] is None else _clamped(bounds[0], extent, step)
    stop = (extent if step > 0 else -1) if bounds[1] is None else _clamped(bounds[1], extent, step)
    return _Window(start, slice_size(start, stop, step), step)


def _clamped(bound: Dim, extent: Dim, step: int) -> Dim:
    """A bound counted from the start and moved into range, as Python does it; symbols are sizes, hence not negative."""
    if isinstance(bound, int) and bound < 0:
        bound = maximum(extent + bound, 0 if step > 0 else -1)
    if step < 0:
        return minimum(bound, extent - 1)
    return minimum(bound, extent)


def _windows(value: Value, entries: list[_Entry], advanced: bool) -> Value:
    """What slices, new axes and (unless arrays are there too) single positions leave."""
    starts: list[Dim] = []
    sizes: list[Dim] = []
    steps: list[int] = []
    shape: list[Dim] = []
    axis = 0
    for entry in entries:
        if isinstance(entry, _New):
            shape.append(1)
            continue
        extent = value.type.shape[axis]
        axis += 1
        if isinstance(entry, _Window):
            starts.append(entry.start if entry.size != 0 else 0)
            sizes.append(entry.size)
            steps.append(entry.step)
            shape.append(entry.size)
        elif isinstance(entry, _At) and not advanced:
            starts.append(entry.position)
            sizes.append(1)
            steps.append(1)
        else:
            starts.append(0)
            sizes.append(extent)
            steps.append(1)
            shape.append(extent)
    whole = all(s == 0 for s in starts) and tuple(sizes) == value.type.shape and all(s == 1 for s in steps)
    if not whole:
        value = current().emit(Slice(value, tuple(starts), tuple(sizes), tuple(steps)))
    return compose.reshape(value, shape)


def _gather(value: Value, indices: list[Value | None]) -> Value:
    """`indices` over some axes of `value`; their shape stands where the first of them was, or in front if others
    stand between them (NumPy's rule)."""
    axes = [axis for axis, index in enumerate(indices) if index is not None]
    given = [index for index in indices if index is not None]
    if len(axes) == 1:
        return current().emit(Gather(value, given[0], axes[0]))
    given = compose.aligned(*given)
    rank = given[0].type.rank
    shape = given[0].type.shape
    rest = [axis for axis in range(value.type.rank) if axis not in axes]
    value = compose.transpose(value, (*axes, *rest))
    points = compose.concat([compose.reshape(index, (*shape, 1)) for index in given], rank)
    result = current().emit(GatherND(value, points, 0))
    if axes[-1] - axes[0] != len(axes) - 1:
        return result
    before = list(range(rank, rank + axes[0]))
    return compose.transpose(result, (*before, *range(rank), *range(rank + axes[0], result.type.rank)))


class Updater:
    """``x.at``: index it, then say how the elements there change."""

    def __init__(self, array: TracedArray) -> None:
        self._array = array

    def __getitem__(self, key: Any) -> Update:
        return Update(self._array, key)


class Update:
    """``x.at[key]``: each method gives a changed copy of `x`. Of equal positions, `add` and its kin use all updates;
    `set` leaves one of them."""

    def __init__(self, array: TracedArray, key: Any) -> None:
        self._array, self._key = array, key

    def get(self) -> TracedArray:
        """``x[key]``."""
        return get(self._array, self._key)

    def set(self, values: ArrayLike, /) -> TracedArray:
        """`values` in those places."""
        return self._scatter(values, "set")

    def add(self, values: ArrayLike, /) -> TracedArray:
        """Plus `values` in those places."""
        return self._scatter(values, "add")

    def multiply(self, values: ArrayLike, /) -> TracedArray:
        """Times `values` in those places."""
        return self._scatter(values, "mul")

    def max(self, values: ArrayLike, /) -> TracedArray:
        """The larger of old and new in those places."""
        return self._scatter(values, "max")

    def min(self, values: ArrayLike, /) -> TracedArray:
        """The smaller of old and new in those places."""
        return self._scatter(values, "min")

    def _scatter(self, values: ArrayLike, mode: str) -> TracedArray:
        with placing_errors(f"at[].{mode}"):
            value = self._array.read()
            dtype = value.type.dtype
            updates = read(values, dtype)
            if updates.type.dtype != dtype:
                raise located(
                    f"updates of {name_of(updates.type.dtype)} for an array of {name_of(dtype)}", help="use .astype()"
                )
            found = dtype_of(self._key)
            if found is not None and found.is_integer and value.type.rank:  # rows: no positions need be computed
                index = read(self._key)
                compose.check_indices(index, value.type.shape[0], 0, f"at[].{mode}")
                target = (*index.type.shape, *value.type.shape[1:])
                index = compose.reshape(compose.cast(index, i64), (*index.type.shape, 1))
                return wrap(current().emit(ScatterND(value, index, compose.broadcast_to(updates, target), mode)))
            total = value.type.elements
            numbers = compose.reshape(current().emit(Iota((total,), 0, i64)), value.type.shape)
            places = _get(numbers, self._key)
            updates = compose.broadcast_to(updates, places.type.shape)
            count = places.type.elements
            flat = current().emit(
                ScatterND(
                    compose.reshape(value, (total,)),
                    compose.reshape(places, (count, 1)),
                    compose.reshape(updates, (count,)),
                    mode,
                )
            )
            return wrap(compose.reshape(flat, value.type.shape))
