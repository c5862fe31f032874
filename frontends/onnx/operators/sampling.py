"""GridSample: an image read at positions that another tensor gives, in any number of dimensions."""

from __future__ import annotations

import itertools

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ops import GatherElements

_CUBIC_A = -0.75
_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "cubic": "cubic", "nearest": "nearest"}
_TAPS = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}


@onnx_op("GridSample", since=16)
def grid_sample(e: Emitter, n: Node) -> Value:
    """A weighted sum of the pixels around each position; the grid's last axis counts the image's axes from the end."""
    x, grid = n.input(0), n.input(1)
    mode = _MODES[n.choice("mode", "linear" if n.opset >= 20 else "bilinear", tuple(_MODES))]
    padding = n.choice("padding_mode", "zeros", ("zeros", "border", "reflection"))
    aligned = bool(n.int("align_corners", 0))
    batch, channels, *extents = x.type.shape
    rank = len(extents)
    if x.type.rank < 3 or grid.type.rank != x.type.rank or grid.type.shape[-1] != rank:
        n.fail(f"the input is {x.type}, the grid {grid.type}")
    outer = grid.type.shape[1:-1]
    places = product(outer)
    positions = e.reshape(e.cast(grid, f32), (batch, places, rank))
    taps = []
    for axis, extent in enumerate(extents):
        column = e.reshape(e.slice(positions, 2, rank - 1 - axis, rank - axis), (batch, places))
        taps.append(_taps(e, column, extent, mode, padding, aligned))
    flat = e.reshape(e.wide(x), (batch, channels, product(tuple(extents))))
    total: Value | None = None
    for corner in itertools.product(*taps):
        index, weight = corner[0]
        for extent, (step, factor) in zip(extents[1:], corner[1:], strict=True):
            index = e.binary("add", e.binary("mul", index, e.size(extent)), step)
            weight = e.binary("mul", weight, factor)
        shape = (batch, channels, places)
        pixels = e.emit(GatherElements(flat, e.broadcast(index, shape, (0, 2)), 2))
        part = e.binary("mul", pixels, e.broadcast(e.cast(weight, pixels.type.dtype), shape, (0, 2)))
        total = part if total is None else e.binary("add", total, part)
    assert total is not None
    return e.reshape(e.cast(total, x.type.dtype), (batch, channels, *outer))


def _taps(e: Emitter, column: Value, extent: Dim, mode: str, padding: str, aligned: bool) -> list[tuple[Value, Value]]:
    """(index, weight) along one axis of each pixel that counts; `column` goes from -1 to 1 over the image."""
    size = e.cast(e.size(extent), f32)
    if aligned:
        place = e.binary("mul", e.binary("div", e.binary("add", column, 1), 2), e.binary("sub", size, 1))
    else:
        place = e.binary("div", e.binary("sub", e.binary("mul", e.binary("add", column, 1), size), 1), 2)
    if mode == "nearest":
        place = e.unary("round", place)
    if padding == "border" and mode != "cubic":  # cubic weights keep the position: only pixels are clamped, below
        place = e.binary("min", e.binary("max", place, 0), e.binary("sub", size, 1))
    elif padding == "reflection":
        place = _reflected(e, place, size, aligned)
    first = e.unary("floor", place)
    fraction = e.binary("sub", place, first)
    last = e.binary("sub", size, 1)
    found = []
    for tap in _TAPS[mode]:
        at = e.binary("add", first, tap) if tap else first
        weight = _weight(e, fraction, tap, mode)
        if padding == "zeros":
            inside = e.binary("and", e.compare("ge", at, 0), e.compare("le", at, last))
            weight = e.select(inside, weight, e.scalar(0, f32))
        elif padding == "reflection":
            at = _reflected(e, at, size, aligned)
        index = e.cast(e.binary("min", e.binary("max", at, 0), last), i64)
        found.append((index, weight))
    return found


def _reflected(e: Emitter, place: Value, size: Value, aligned: bool) -> Value:
    """Turned back at the image's edges: the centres of the outer pixels if aligned, else half a pixel further out."""
    low = 0.0 if aligned else -0.5
    span = e.binary("mul", e.binary("sub", size, 1) if aligned else size, 2)
    there = e.binary("mod", e.binary("sub", place, low), e.binary("max", span, 1))
    return e.binary("add", e.binary("min", there, e.binary("sub", span, there)), low)


def _weight(e: Emitter, fraction: Value, tap: int, mode: str) -> Value:
    """Of the pixel `tap` places after the one before the position."""
    if mode == "nearest":
        return e.full(1, fraction.type)
    if mode == "linear":
        return fraction if tap else e.binary("sub", e.scalar(1, f32), fraction)
    distance = e.unary("abs", e.binary("sub", fraction, tap))
    a = _CUBIC_A
    near = (a + 2, -(a + 3), 0.0, 1.0)
    far = (a, -5 * a, 8 * a, -4 * a)
    result: Value | None = None
    for coefficient in near if tap in (0, 1) else far:
        scaled = e.full(coefficient, distance.type) if result is None else e.binary("mul", result, distance)
        result = scaled if result is None else e.binary("add", scaled, coefficient)
    assert result is not None
    return result
