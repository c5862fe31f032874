"""Fourier transforms of signals and of their frames, and the filters that go with them."""

from __future__ import annotations

import math

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.extents import as_size, entries, known_numbers
from ds_compiler.frontends.onnx.fourier import Spectrum, transform
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import floordiv, minimum, product
from ds_compiler.ir.dtypes import f64, i64
from ds_compiler.ops import Gather, Iota, Pad


def _length(e: Emitter, n: Node, value: Value | None, what: str) -> Dim | None:
    """A length given by an input of one element; None without it."""
    if value is None:
        return None
    if value.type.elements != 1:
        n.fail(f"{what} is {value.type}, expected a scalar")
    size = as_size(e, entries(e, n, e.reshape(value, ()), what)[0], "length")
    if isinstance(size, int) and size < 1:
        n.fail(f"{what} is {size}")
    return size


@onnx_op("DFT", since=17)
def dft_attribute(e: Emitter, n: Node) -> Value:
    return dft(e, n, n.int("axis", 1))


@onnx_op("DFT", since=20)
def dft_input(e: Emitter, n: Node) -> Value:
    given = n.optional(2)
    return dft(e, n, -2 if given is None else known_numbers(e, n, given, "the axis")[0])


def dft(e: Emitter, n: Node, axis: int) -> Value:
    """Along `axis` of a tensor whose last axis holds real and imaginary parts (or real ones only).

    A one-sided inverse gives real numbers, from the first half of a spectrum.
    """
    x = n.input(0)
    rank = x.type.rank
    axis = n.axis(axis, rank)
    if rank < 2 or axis == rank - 1 or x.type.shape[-1] not in (1, 2) or not x.type.dtype.is_float:
        n.fail(f"axis {axis} of {x.type}: the last axis holds one or two parts and is not transformed")
    inverse, onesided = bool(n.int("inverse", 0)), bool(n.int("onesided", 0))
    if onesided and not inverse and x.type.shape[-1] == 2:
        n.fail("a one-sided transform takes real numbers, the input has imaginary parts")
    extent = x.type.shape[axis]
    length = _length(e, n, n.optional(1), "dft_length")
    if length is None:
        length = 2 * (extent - 1) if inverse and onesided else extent
    half = floordiv(length, 2) + 1
    wanted = half if inverse and onesided else length
    outer = [a for a in range(rank - 1) if a != axis]
    rows = product(tuple(x.type.shape[a] for a in outer))
    moved = e.transpose(e.wide(x), (rank - 1, *outer, axis))
    parts = []
    for part in range(2 if x.type.shape[-1] == 2 else 1):
        one = e.reshape(e.slice(moved, 0, part, part + 1), (rows, extent))
        parts.append(fitted(e, one, wanted))
    spectrum = Spectrum(*parts)
    if inverse and onesided:
        spectrum = _mirrored(e, spectrum, length)
    result = transform(e, spectrum, 1 if inverse else -1, half if onesided and not inverse else None)
    parts = result.parts[:1] if inverse and onesided else result.parts
    if inverse:
        scale = e.cast(e.size(length), parts[0].type.dtype)
        parts = [e.binary("div", v, scale) for v in parts]
    shape = tuple(x.type.shape[a] for a in outer)
    joined = e.concat([e.reshape(v, (*shape, parts[0].type.shape[1], 1)) for v in parts], rank - 1)
    back = list(range(rank - 2))
    back.insert(axis, rank - 2)
    return e.cast(e.transpose(joined, (*back, rank - 1)), x.type.dtype)


def fitted(e: Emitter, x: Value, length: Dim) -> Value:
    """Rows cut, or padded with zeros, to `length`."""
    extent = x.type.shape[1]
    if extent == length:
        return x
    kept = minimum(extent, length)
    x = e.slice(x, 1, 0, kept)
    missing = length - kept
    if missing == 0:
        return x
    padded = e.emit(Pad(x, e.scalar(0, x.type.dtype), (0, 0), (0, missing)))
    return e.reshape(padded, (x.type.shape[0], length))


def _mirrored(e: Emitter, x: Spectrum, length: Dim) -> Spectrum:
    """The spectrum of real numbers from its first half: element N - k is the conjugate of element k."""
    rest = length - x.length
    first = length - x.length  # element N - half is the conjugate of this one, and so on down to element 1
    real = e.concat([x.real, e.slice(x.real, 1, first, 0, -1)], 1) if rest != 0 else x.real
    real = e.reshape(real, (x.real.type.shape[0], length))
    if x.imaginary is None:
        return Spectrum(real)
    mirrored = e.unary("neg", e.slice(x.imaginary, 1, first, 0, -1))
    joined = e.concat([x.imaginary, mirrored], 1) if rest != 0 else x.imaginary
    return Spectrum(real, e.reshape(joined, (x.real.type.shape[0], length)))


@onnx_op("STFT", since=17)
def stft(e: Emitter, n: Node) -> Value:
    """Frames of the signal [batch, length, parts], each times the window, transformed: [batch, frames, bins, 2]."""
    x, window = n.input(0), n.optional(2)
    if x.type.rank == 2:
        x = e.reshape(x, (*x.type.shape, 1))
    if x.type.rank != 3 or x.type.shape[2] not in (1, 2):
        n.fail(f"the signal is {x.type}, expected [batch, length, 1 or 2]")
    step = _length(e, n, n.input(1), "frame_step")
    assert step is not None
    length = _length(e, n, n.optional(3), "frame_length")
    if length is None:
        if window is None:
            n.fail("without a window, frame_length must be given")
        length = window.type.shape[0]
    batch, extent, parts = x.type.shape
    count = floordiv(extent - length, step) + 1
    if isinstance(count, int) and count < 1:
        n.fail(f"frames of {length} elements do not fit the signal {x.type}")
    onesided = bool(n.int("onesided", 1)) and parts == 1
    frame, place = (e.emit(Iota((count, length), axis, i64)) for axis in (0, 1))
    index = e.binary("add", e.binary("mul", frame, e.size(step)), place)
    frames = e.emit(Gather(e.wide(x), index, 1))
    if window is not None:
        weights = e.reshape(e.cast(window, frames.type.dtype), (window.type.shape[0], 1))
        if window.type.rank != 1:
            n.fail(f"the window is {window.type}, expected a vector")
        frames = e.binary("mul", frames, e.reshape(weights, (length, 1)))
    rows = product((batch, count))
    split = [e.reshape(e.slice(frames, 3, p, p + 1), (rows, length)) for p in range(2 if parts == 2 else 1)]
    result = transform(e, Spectrum(*split), -1, floordiv(length, 2) + 1 if onesided else None)
    bins = result.length
    joined = e.concat([e.reshape(v, (batch, count, bins, 1)) for v in result.parts], 3)
    return e.cast(joined, x.type.dtype)


@onnx_op("MelWeightMatrix", since=17)
def mel_weight_matrix(e: Emitter, n: Node) -> Value:
    """Triangles over the bins of a spectrum, [bins, mel bins], whose corners are evenly spaced on the mel scale."""
    mels = _length(e, n, n.input(0), "num_mel_bins")
    length, rate = (e.cast(e.reshape(n.input(i), ()), i64) for i in (1, 2))
    bins_of = _length(e, n, n.input(1), "dft_length")
    assert mels is not None and bins_of is not None
    bins = floordiv(bins_of, 2) + 1
    low, high = (_mel(e, e.cast(e.reshape(n.input(i), ()), f64)) for i in (3, 4))
    step = e.binary("div", e.binary("sub", high, low), e.cast(e.size(mels + 2), f64))
    point = e.binary("add", e.binary("mul", e.emit(Iota((mels + 2,), 0, f64)), step), low)
    hertz = e.binary("mul", e.unary("expm1", e.binary("mul", point, math.log(10) / 2595)), 700)
    scaled = e.binary("mul", hertz, e.cast(e.binary("add", length, 1), f64))
    corner = e.unary("floor", e.binary("div", scaled, e.cast(rate, f64)))
    left, centre, right = (e.slice(corner, 0, i, mels + i) for i in range(3))
    place = e.emit(Iota((bins, mels), 0, f64))
    rise, fall = e.binary("sub", centre, left), e.binary("sub", right, centre)
    up = e.binary("div", e.binary("sub", place, left), e.binary("max", rise, 1))
    up = e.select(e.compare("eq", rise, 0), e.scalar(1, f64), up)  # no slope: the corner alone counts
    down = e.binary("div", e.binary("sub", right, place), e.binary("max", fall, 1))
    rising = e.binary("and", e.compare("ge", place, left), e.compare("le", place, centre))
    falling = e.binary("and", e.compare("ge", place, centre), e.compare("lt", place, right))
    zero = e.scalar(0, f64)
    weights = e.select(falling, down, e.select(rising, up, zero))
    return e.cast(weights, element_type(n.int("output_datatype", 1), "output_datatype"))


def _mel(e: Emitter, hertz: Value) -> Value:
    return e.binary("mul", e.unary("log1p", e.binary("div", hertz, 700)), 2595 / math.log(10))
