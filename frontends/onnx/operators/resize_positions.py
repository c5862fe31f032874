"""Which input positions the output positions of a resized axis correspond to."""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ops import Iota


@dataclass(frozen=True)
class Mode:
    """What the attributes say about all axes.

    Attributes:
        rounding: of nearest; ``simple`` (before opset 11) is floor when an axis grows and ceil when it shrinks.
    """

    interpolation: str
    coordinates: str
    rounding: str
    cubic_a: float
    exclude_outside: bool
    antialias: bool
    outside: float


@dataclass(frozen=True)
class Axis:
    """One axis to resize.

    Attributes:
        scale: f32 scalar, output positions for each input position.
        ratio: the same where it is a known number.
        first, last: f32 scalars, the part of the axis that ``tf_crop_and_resize`` reads.
    """

    axis: int
    size: Dim
    out: Dim
    scale: Value
    ratio: float | None
    first: Value | None = None
    last: Value | None = None


def as_float(e: Emitter, dim: Dim) -> Value:
    return e.cast(e.size(dim), f32)


def coordinates(e: Emitter, a: Axis, mode: Mode) -> Value:
    """Where each output position lies in the input, f32."""
    i = e.emit(Iota((a.out,), 0, f32))
    centred = e.binary("div", e.binary("add", i, 0.5), a.scale)
    match mode.coordinates:
        case "asymmetric":
            return e.binary("div", i, a.scale)
        case "tf_half_pixel_for_nn":
            return centred
        case "half_pixel":
            return e.binary("sub", centred, 0.5)
        case "pytorch_half_pixel":
            return e.select(_single(e, a), e.full(0, i.type), e.binary("sub", centred, 0.5))
        case "half_pixel_symmetric":
            adjustment = e.binary("div", as_float(e, a.out), e.binary("mul", a.scale, as_float(e, a.size)))
            half = e.binary("mul", as_float(e, a.size), 0.5)
            offset = e.binary("mul", half, e.binary("sub", e.scalar(1, f32), adjustment))
            return e.binary("sub", e.binary("add", offset, centred), 0.5)
        case "align_corners":
            step = e.binary("mul", i, as_float(e, a.size - 1))
            if e.strict:  # ONNX's reference takes the new length before it is rounded down
                length = e.binary("mul", a.scale, as_float(e, a.size))
                return e.select(e.compare("eq", i, 0), i, e.binary("div", step, e.binary("sub", length, 1)))
            return e.select(_single(e, a), e.full(0, i.type), e.binary("div", step, _divisor(e, a)))
    assert a.first is not None and a.last is not None
    end = as_float(e, a.size - 1)
    step = e.binary("div", e.binary("mul", e.binary("sub", a.last, a.first), end), _divisor(e, a))
    spread = e.binary("add", e.binary("mul", i, step), e.binary("mul", a.first, end))
    middle = e.binary("mul", e.binary("mul", e.binary("add", a.first, a.last), 0.5), end)
    return e.select(_single(e, a), middle, spread)


def _single(e: Emitter, a: Axis) -> Value:
    """Whether there is one output position."""
    return e.compare("eq", e.size(a.out), 1)


def _divisor(e: Emitter, a: Axis) -> Value:
    return e.binary("max", as_float(e, a.out - 1), 1)


def clamped(e: Emitter, position: Value, a: Axis) -> Value:
    """An f32 position as an index in range."""
    index = e.binary("max", e.cast(position, i64), 0)
    return e.binary("min", index, e.size(a.size - 1))


def rounded(e: Emitter, position: Value, a: Axis, mode: Mode) -> Value:
    match mode.rounding:
        case "floor":
            return e.unary("floor", position)
        case "ceil":
            return e.unary("ceil", position)
        case "round_prefer_ceil":
            return e.unary("floor", e.binary("add", position, 0.5))
        case "round_prefer_floor":
            return e.unary("ceil", e.binary("sub", position, 0.5))
    shrinks = e.compare("lt", a.scale, 1)
    return e.select(shrinks, e.unary("ceil", position), e.unary("floor", position))
