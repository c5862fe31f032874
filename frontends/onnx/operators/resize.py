"""Resize and Upsample: one axis after another, each a gather of neighbours weighted by their distance.

Positions are computed in f32, as onnxruntime does, so that roundings fall alike. Where sizes are known the emitter
computes positions and weights at import; symbolic sizes leave them to the program, as vectors along one axis. Nearest
neighbours that repeat or step evenly become broadcasts and slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.resize_antialias import antialias_matrix
from ds_compiler.frontends.onnx.operators.resize_positions import Axis, Mode, as_float, clamped, coordinates, rounded
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ops import DotGeneral, Gather

_COORDINATES = (
    "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
    "tf_half_pixel_for_nn",
)  # fmt: skip
_ROUNDING = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_UNIFORM = ("half_pixel", "asymmetric", "tf_half_pixel_for_nn")  # coordinate(i + scale) = coordinate(i) + 1


# -- the operators -------------------------------------------------------------------------------------------------
@onnx_op("Upsample", since=7)
def upsample(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    scales = n.optional(1)
    if scales is None:
        scales = e.constant(np.asarray(n.required("scales"), np.float32))
    mode = Mode(_interpolation(n), "asymmetric", "floor", -0.75, False, False, 0.0)
    return resize(e, x, _axes_by_scales(e, n, x, scales, tuple(range(x.type.rank)), None), mode)


@onnx_op("Resize", since=10)
def resize_by_scales(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    mode = Mode(_interpolation(n), "asymmetric", "simple", -0.75, False, False, 0.0)
    return resize(e, x, _axes_by_scales(e, n, x, n.input(1), tuple(range(x.type.rank)), None), mode)


@onnx_op("Resize", since=11)
def resize_node(e: Emitter, n: Node) -> Value:
    x, roi, scales, sizes = n.input(0), n.optional(1), n.optional(2), n.optional(3)
    mode = Mode(
        _interpolation(n),
        n.choice("coordinate_transformation_mode", "half_pixel", _COORDINATES),
        n.choice("nearest_mode", "round_prefer_floor", _ROUNDING),
        n.float("cubic_coeff_a", -0.75),
        bool(n.int("exclude_outside", 0)),
        bool(n.int("antialias", 0)),
        n.float("extrapolation_value", 0.0),
    )
    rank = x.type.rank
    axes = tuple(n.axis(a, rank) for a in n.ints("axes", range(rank)))
    if len(set(axes)) != len(axes):
        n.fail(f"axes {axes} name an axis twice")
    decides = sizes if scales is None or scales.type.elements == 0 else scales
    if mode.antialias and decides is not None and e.source(decides) is None:
        n.needed(e, decides, "the new size of an antialiased image")
    crop = roi if mode.coordinates == "tf_crop_and_resize" else None
    if mode.coordinates == "tf_crop_and_resize" and (roi is None or roi.type.shape != (2 * len(axes),)):
        n.fail(f"tf_crop_and_resize needs input roi with {2 * len(axes)} elements")
    if scales is not None and scales.type.elements != 0:
        return resize(e, x, _axes_by_scales(e, n, x, scales, axes, crop), mode)
    if sizes is None:
        n.fail("neither scales nor sizes are given")
    return resize(e, x, _axes_by_sizes(e, n, x, sizes, axes, crop), mode)


def _interpolation(n: Node) -> str:
    mode = n.choice("mode", "nearest", ("nearest", "linear", "bilinear", "cubic"))
    return "linear" if mode == "bilinear" else mode


def _element(e: Emitter, vector: Value, index: int) -> Value:
    return e.reshape(e.slice(vector, 0, index, index + 1), ())


def _ratio(e: Emitter, scale: Value) -> float | None:
    known = e.array(scale)
    return None if known is None else float(known)


def _crop(e: Emitter, roi: Value | None, index: int, count: int) -> tuple[Value | None, Value | None]:
    if roi is None:
        return None, None
    return e.cast(_element(e, roi, index), f32), e.cast(_element(e, roi, count + index), f32)


def _numbers(e: Emitter, n: Node, vector: Value, axes: Sequence[int], what: str) -> Value:
    """`vector`, which has an element for each of `axes`; an open length is checked when the program runs."""
    wanted = f"{what} are {vector.type}, expected {len(axes)} numbers"
    if vector.type.rank != 1 or (isinstance(vector.type.shape[0], int) and vector.type.shape[0] != len(axes)):
        n.fail(wanted)
    e.assume(vector.type.shape[0], len(axes), f"{n.op_type}: {wanted}")
    return e.reshape(vector, (len(axes),))


def _axes_by_scales(e: Emitter, n: Node, x: Value, scales: Value, axes: Sequence[int], roi: Value | None) -> list[Axis]:
    """Output size = floor(size * scale)."""
    scales = _numbers(e, n, scales, axes, "scales")
    result = []
    for index, axis in enumerate(axes):
        size, scale = x.type.shape[axis], e.cast(_element(e, scales, index), f32)
        ratio = _ratio(e, scale)
        first, last = _crop(e, roi, index, len(axes))
        if ratio is not None and not ratio > 0:
            n.fail(f"scale {ratio} of axis {axis} must be positive")
        extent = scale
        if first is not None and last is not None:
            extent = e.binary("mul", scale, e.binary("sub", last, first))
        known = _ratio(e, extent)
        if known is not None:
            out = scaled_size(size, known)
        else:
            exact = e.unary("floor", e.binary("mul", as_float(e, size), extent))
            out = e.bind(e.cast(exact, i64), "resized")
        result.append(Axis(axis, size, out, scale, ratio, first, last))
    return result


def scaled_size(size: Dim, scale: float) -> Dim:
    """``floor(size * scale)`` with the product rounded to f32; a symbolic size is scaled by the simplest fraction
    that rounds to `scale`."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    fraction = Fraction(scale).limit_denominator(1 << 12)
    if np.float32(float(fraction)) != np.float32(scale):
        fraction = Fraction(scale)
    return floordiv(size * fraction.numerator, fraction.denominator)


def _axes_by_sizes(e: Emitter, n: Node, x: Value, sizes: Value, axes: Sequence[int], roi: Value | None) -> list[Axis]:
    """Output sizes as given, or kept in proportion by ``keep_aspect_ratio_policy``."""
    sizes = _numbers(e, n, sizes, axes, "sizes")
    policy = n.choice("keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    known = e.dims(sizes)
    wanted = [known[i] if known is not None else e.bind(_element(e, sizes, i), "resized") for i in range(len(axes))]
    extents = [x.type.shape[axis] for axis in axes]
    scales = [_quotient(e, out, size) for out, size in zip(wanted, extents, strict=True)]
    if policy != "stretch" and scales:
        common = scales[0]
        for scale in scales[1:]:
            common = e.binary("min" if policy == "not_larger" else "max", common, scale)
        scales = [common] * len(scales)
        nearest = [e.unary("floor", e.binary("add", e.binary("mul", common, as_float(e, s)), 0.5)) for s in extents]
        wanted = [e.bind(e.cast(r, i64), "resized") for r in nearest]
    result = []
    for index, axis in enumerate(axes):
        first, last = _crop(e, roi, index, len(axes))
        scale = scales[index]
        result.append(Axis(axis, extents[index], wanted[index], scale, _ratio(e, scale), first, last))
    return result


def _quotient(e: Emitter, out: Dim, size: Dim) -> Value:
    if out == size:
        return e.scalar(1, f32)
    return e.binary("div", as_float(e, out), as_float(e, size))


# -- all axes ------------------------------------------------------------------------------------------------------
def resize(e: Emitter, x: Value, axes: Sequence[Axis], mode: Mode) -> Value:
    """Resize axis after axis, those first that shrink most, then the innermost (its gather is the slowest)."""
    todo = [a for a in axes if a.first is not None or not (a.out == a.size and a.ratio == 1)]
    if mode.interpolation == "nearest":
        return _nearest(e, x, todo, mode)
    value = x if x.type.dtype.is_float and x.type.dtype.bits >= 32 else e.cast(x, f32)
    for axis in sorted(todo, key=lambda a: (min(a.ratio or 1, 1), -a.axis)):
        value = _interpolated(e, value, axis, mode)
    return e.cast(value, x.type.dtype)


def _extrapolated(e: Emitter, value: Value, position: Value, a: Axis, mode: Mode) -> Value:
    """``extrapolation_value`` where the position lies outside the input."""
    if mode.coordinates != "tf_crop_and_resize":
        return value
    outside = e.binary("or", e.compare("lt", position, 0), e.compare("gt", position, as_float(e, a.size - 1)))
    return e.select(_along(e, outside, value, a), e.full(mode.outside, value.type), value)


def _along(e: Emitter, vector: Value, like: Value, a: Axis) -> Value:
    return e.broadcast(vector, like.type.shape, (a.axis,))


# -- nearest ---------------------------------------------------------------------------------------------------------
def _nearest(e: Emitter, x: Value, axes: Sequence[Axis], mode: Mode) -> Value:
    repeated = {a.axis: int(a.ratio) for a in axes if a.ratio is not None and _repeats(e, a, mode)}
    value = x
    for a in axes:
        if a.axis in repeated:
            continue
        position = coordinates(e, a, mode)
        index = clamped(e, rounded(e, position, a, mode), a)
        value = _taken(e, value, index, a.axis)
        value = _extrapolated(e, value, position, a, mode)
    return _repeat(e, value, repeated) if repeated else value


def _repeats(e: Emitter, a: Axis, mode: Mode) -> bool:
    """Whether each element is repeated `ratio` times. Shown on four elements: the coordinates repeat with them."""
    if a.ratio is None or a.ratio != int(a.ratio) or mode.coordinates not in _UNIFORM:
        return False
    count = int(a.ratio)
    if a.out != a.size * count:
        return False
    probe = Axis(0, 4, 4 * count, a.scale, a.ratio)
    indices = e.array(clamped(e, rounded(e, coordinates(e, probe, mode), probe, mode), probe))
    return indices is not None and np.array_equal(indices, np.arange(4 * count) // count)


def _repeat(e: Emitter, x: Value, counts: dict[int, int]) -> Value:
    spread: list[Dim] = []
    kept = []
    for axis, dim in enumerate(x.type.shape):
        kept.append(len(spread))
        spread += [dim, counts[axis]] if axis in counts else [dim]
    shape = [dim * counts.get(axis, 1) for axis, dim in enumerate(x.type.shape)]
    return e.reshape(e.broadcast(x, spread, kept), shape)


def _taken(e: Emitter, x: Value, index: Value, axis: int) -> Value:
    """Elements along `axis`; evenly spaced ones as a slice."""
    known = e.array(index)
    if known is not None and known.size:
        steps = np.diff(known)
        step = int(steps[0]) if steps.size else 1
        if step > 0 and np.all(steps == step):
            return e.slice(x, axis, int(known[0]), int(known[-1]) + 1, step)
    return e.emit(Gather(x, index, axis))


# -- linear and cubic --------------------------------------------------------------------------------------------------
def _interpolated(e: Emitter, x: Value, a: Axis, mode: Mode) -> Value:
    if mode.antialias and (a.ratio is None or a.ratio < 1):
        return _antialiased(e, x, a, mode)
    position = coordinates(e, a, mode)
    value = _linear(e, x, position, a) if mode.interpolation == "linear" else _cubic(e, x, position, a, mode)
    return _extrapolated(e, value, position, a, mode)


def _linear(e: Emitter, x: Value, position: Value, a: Axis) -> Value:
    position = e.binary("min", e.binary("max", position, 0), as_float(e, a.size - 1))
    below = e.unary("floor", position)
    low = clamped(e, below, a)
    high = e.binary("min", e.binary("add", low, 1), e.size(a.size - 1))
    left, right = e.emit(Gather(x, low, a.axis)), e.emit(Gather(x, high, a.axis))
    weight = _along(e, e.cast(e.binary("sub", position, below), x.type.dtype), left, a)
    return e.binary("add", left, e.binary("mul", e.binary("sub", right, left), weight))


def _cubic(e: Emitter, x: Value, position: Value, a: Axis, mode: Mode) -> Value:
    """Four taps; those outside the input repeat its border, or with ``exclude_outside`` do not count."""
    below = e.unary("floor", position)
    weights = _cubic_weights(e, e.binary("sub", position, below), mode.cubic_a)
    taps = [e.binary("add", below, offset) for offset in (-1, 0, 1, 2)]
    if mode.exclude_outside:
        end = as_float(e, a.size - 1)
        inside = [e.binary("and", e.compare("ge", tap, 0), e.compare("le", tap, end)) for tap in taps]
        weights = [e.select(i, w, e.full(0, w.type)) for i, w in zip(inside, weights, strict=True)]
        total = weights[0]
        for weight in weights[1:]:
            total = e.binary("add", total, weight)
        weights = [e.binary("div", weight, total) for weight in weights]
    result: Value | None = None
    for tap, weight in zip(taps, weights, strict=True):
        part = e.emit(Gather(x, clamped(e, tap, a), a.axis))
        part = e.binary("mul", part, _along(e, e.cast(weight, x.type.dtype), part, a))
        result = part if result is None else e.binary("add", result, part)
    assert result is not None
    return result


def _cubic_weights(e: Emitter, t: Value, a: float) -> list[Value]:
    """Keys's kernel at distances t + 1, t, 1 - t and 2 - t, by Horner's scheme."""

    def near(d: Value) -> Value:
        inner = e.binary("sub", e.binary("mul", d, a + 2), a + 3)
        return e.binary("add", e.binary("mul", e.binary("mul", inner, d), d), 1)

    def far(d: Value) -> Value:
        inner = e.binary("mul", e.binary("sub", e.binary("mul", d, a), 5 * a), d)
        return e.binary("sub", e.binary("mul", e.binary("add", inner, 8 * a), d), 4 * a)

    rest = e.binary("sub", e.scalar(1, f32), t)
    return [far(e.binary("add", t, 1)), near(t), near(rest), far(e.binary("add", rest, 1))]


def _antialiased(e: Emitter, x: Value, a: Axis, mode: Mode) -> Value:
    """A product with a constant matrix; the filter is as wide as the step between output positions."""
    position = e.array(coordinates(e, a, mode))
    if position is None or a.ratio is None or not isinstance(a.size, int):
        raise e.fail("Resize: antialias with symbolic sizes is not supported", help="fix the sizes with dims")
    matrix = antialias_matrix(
        position, a.size, a.ratio, mode.cubic_a if mode.interpolation == "cubic" else None, mode.exclude_outside
    )
    product = e.emit(DotGeneral(x, e.constant(matrix.astype(x.type.dtype.numpy)), (), (), (a.axis,), (1,)))
    order = list(range(x.type.rank - 1))
    order.insert(a.axis, x.type.rank - 1)
    return _extrapolated(e, e.transpose(product, order), e.constant(position), a, mode)
