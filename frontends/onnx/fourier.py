"""The discrete Fourier transform in primitives: matrix products with cosines and sines, and ways to need fewer of them.

A short transform is one product with a table. A longer one splits by its factors (Cooley and Tukey, "An algorithm for
the machine calculation of complex Fourier series", 1965); one with a large prime factor becomes a convolution with a
chirp (Bluestein, "A linear filtering approach to the computation of discrete Fourier transform", 1970). A length that
only running the program tells is one product, with a table that the program makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dims import product
from ds_compiler.ir.dtypes import f64, i64
from ds_compiler.ops import DotGeneral, Gather, Iota, Pad

Array = np.ndarray[Any, Any]

SHORT = 64
"""Longest transform that is one product: the products of a longer one's factors are fewer operations."""


@dataclass(frozen=True)
class Spectrum:
    """Complex numbers as two tensors of one type, [rows, length]; without `imaginary` they are real."""

    real: Value
    imaginary: Value | None = None

    @property
    def length(self) -> Dim:
        return self.real.type.shape[1]

    @property
    def parts(self) -> list[Value]:
        return [self.real] if self.imaginary is None else [self.real, self.imaginary]


def transform(e: Emitter, x: Spectrum, sign: int, bins: Dim | None = None) -> Spectrum:
    """``sum over n of x[n] exp(sign * 2πi k n / N)`` for each k below `bins` (default: N), not scaled."""
    n = x.length
    count = n if bins is None else bins
    if not isinstance(n, int) or n <= SHORT:
        return _product(e, x, n, count, sign)
    factor = _factor(n)
    whole = _bluestein(e, x, n, sign) if factor is None else _split(e, x, factor, n // factor, sign)
    return whole if count == n else Spectrum(*(e.slice(v, 1, 0, count) for v in whole.parts))


def _factor(n: int) -> int | None:
    """The largest factor up to `SHORT`; None where the rest has a prime factor above it."""
    rest = n
    for prime in range(2, SHORT + 1):
        while rest % prime == 0:
            rest //= prime
    return None if rest > 1 else max(d for d in range(2, SHORT + 1) if n % d == 0)


def _angles(rows: int, columns: int, n: int) -> Array:
    """``2π (row * column mod n) / n``."""
    steps = np.outer(np.arange(rows), np.arange(columns)) % n
    return steps * (2 * np.pi / n)


def _product(e: Emitter, x: Spectrum, n: Dim, bins: Dim, sign: int) -> Spectrum:
    if isinstance(n, int) and isinstance(bins, int):
        angle = _angles(n, bins, max(n, 1))
        cosine, sine = (_table(e, f(angle), x.real) for f in (np.cos, np.sin))
    else:
        turn = e.binary("div", e.emit(Iota((n,), 0, f64)), e.cast(e.size(n), f64))
        angle_ = e.binary("mul", turn, 2 * np.pi)
        place, bin_ = (e.emit(Iota((n, bins), axis, i64)) for axis in (0, 1))
        step = e.binary("mod", e.binary("mul", place, bin_), e.size(n))
        circle = [e.cast(e.unary(kind, angle_), x.real.type.dtype) for kind in ("cos", "sin")]
        cosine, sine = (e.emit(Gather(values, step, 0)) for values in circle)
    real, imaginary = _dot(e, x.real, cosine), _signed(e, _dot(e, x.real, sine), sign)
    if x.imaginary is None:
        return Spectrum(real, imaginary)
    across = _signed(e, _dot(e, x.imaginary, sine), -sign)
    return Spectrum(e.binary("add", real, across), e.binary("add", imaginary, _dot(e, x.imaginary, cosine)))


def _dot(e: Emitter, rows: Value, table: Value) -> Value:
    return e.emit(DotGeneral(rows, table, (), (), (1,), (0,)))


def _signed(e: Emitter, value: Value, sign: int) -> Value:
    return value if sign > 0 else e.unary("neg", value)


def _table(e: Emitter, array: Array, like: Value) -> Value:
    return e.constant(array, like.type.dtype)


def _times(e: Emitter, x: Spectrum, factor: Array) -> Spectrum:
    """Each element times a complex number; `factor` broadcasts."""
    c, s = (_table(e, part, x.real) for part in (factor.real, factor.imag))
    real, imaginary = e.binary("mul", x.real, c), e.binary("mul", x.real, s)
    if x.imaginary is None:
        return Spectrum(real, imaginary)
    return Spectrum(
        e.binary("sub", real, e.binary("mul", x.imaginary, s)),
        e.binary("add", imaginary, e.binary("mul", x.imaginary, c)),
    )


def _split(e: Emitter, x: Spectrum, first: int, second: int, sign: int) -> Spectrum:
    """Transforms of `first` elements that lie `second` apart, then of `second` elements."""
    rows = x.real.type.shape[0]
    parts = [e.transpose(e.reshape(v, (rows, first, second)), (0, 2, 1)) for v in x.parts]
    flat = Spectrum(*(e.reshape(v, (product((rows, second)), first)) for v in parts))
    inner = transform(e, flat, sign)
    twiddle = np.exp(sign * 1j * _angles(second, first, first * second))
    turned = _times(e, Spectrum(*(e.reshape(v, (rows, second, first)) for v in inner.parts)), twiddle)
    parts = [e.transpose(v, (0, 2, 1)) for v in turned.parts]
    outer = transform(e, Spectrum(*(e.reshape(v, (product((rows, first)), second)) for v in parts)), sign)
    parts = [e.transpose(e.reshape(v, (rows, first, second)), (0, 2, 1)) for v in outer.parts]
    return Spectrum(*(e.reshape(v, (rows, first * second)) for v in parts))


def _bluestein(e: Emitter, x: Spectrum, n: int, sign: int) -> Spectrum:
    """``kn = (k² + n² - (k-n)²) / 2`` makes a convolution of the transform; it runs at a power of two."""
    longer = 1 << (2 * n - 2).bit_length()
    square = np.arange(n, dtype=np.int64) ** 2 % (2 * n)
    chirp = np.exp(sign * 1j * np.pi * square / n)
    kernel = np.zeros(longer, complex)
    kernel[:n] = chirp.conj()
    kernel[longer - n + 1 :] = chirp.conj()[:0:-1]
    turned = _times(e, x, chirp)
    zero = e.scalar(0, x.real.type.dtype)
    padded = Spectrum(*(e.emit(Pad(v, zero, (0, 0), (0, longer - n))) for v in turned.parts))
    filtered = _times(e, transform(e, padded, -1), np.fft.fft(kernel) / longer)
    back = transform(e, filtered, 1)
    return _times(e, Spectrum(*(e.slice(v, 1, 0, n) for v in back.parts)), chirp)
