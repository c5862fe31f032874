"""Direct references of convolution and pooling in float64, and a runner for the emitters under test."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V, vector_of
from ds_compiler.backends.llvm.target import Target, host
from ds_compiler.backends.llvm.window import Epilogue
from tests.backends.jit import compile_module

Array = NDArray[np.float64]
Pair = tuple[int, int]
_SIZES = ("n", "h", "width", "oh", "ow", "top", "left", "bottom", "right")


def output_size(size: int, kernel: int, stride: int, dilation: int, pads: Pair, ceil: bool = False) -> int:
    """ONNX's rule; in ceil mode a window may not start beyond the image and its first padding."""
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    if room < 0:
        return 0
    count = (-(-room // stride) if ceil else room // stride) + 1
    return count - 1 if ceil and (count - 1) * stride >= size + pads[0] else count


def gather_windows(x: Array, out: Pair, kernel: Pair, stride: Pair, dilation: Pair, pads: Pair, fill: float) -> Array:
    """``[n, oh, ow, kh, kw, c]``: each window of ``x: [n, h, w, c]``, `fill` where it leaves the image."""
    n, h, w, c = x.shape
    result = np.full((n, *out, *kernel, c), fill)
    for kh in range(kernel[0]):
        for kw in range(kernel[1]):
            rows = np.arange(out[0]) * stride[0] - pads[0] + kh * dilation[0]
            columns = np.arange(out[1]) * stride[1] - pads[1] + kw * dilation[1]
            r, s = (rows >= 0) & (rows < h), (columns >= 0) & (columns < w)
            result[np.ix_(range(n), r.nonzero()[0], s.nonzero()[0], [kh], [kw])] = x[:, rows[r]][:, :, columns[s]][
                :, :, :, None, None
            ]
    return result


def convolve(
    x: Array, weight: Array, out: Pair, stride: Pair, dilation: Pair, pads: Pair, groups: int
) -> tuple[Array, Array]:
    """Convolution of ``x: [n, h, w, ci]`` and the same sum of absolute values (which bounds the rounding)."""
    co, cig, kh, kw = weight.shape
    windows = gather_windows(x, out, (kh, kw), stride, dilation, pads, 0.0)
    results = []
    for values, by in ((windows, weight), (np.abs(windows), np.abs(weight))):
        parts = [
            np.einsum(
                "nhwabc,ocab->nhwo",
                values[..., g * cig : (g + 1) * cig],
                by[g * co // groups : (g + 1) * co // groups],
                optimize=True,
            )
            for g in range(groups)
        ]
        results.append(np.concatenate(parts, -1))
    return results[0], results[1]


def convolve_transposed(
    x: Array, weight: Array, out: Pair, stride: Pair, dilation: Pair, pads: Pair, groups: int
) -> tuple[Array, Array]:
    """Transposed convolution with ``weight: [ci, co / groups, kh, kw]``, and the same sum of absolute values."""
    n, h, w, ci = x.shape
    _, cog, kh, kw = weight.shape
    results = []
    for values, by in ((x, weight), (np.abs(x), np.abs(weight))):
        grouped = values.reshape(n, h, w, groups, ci // groups)
        kernels = by.reshape(groups, ci // groups, cog, kh, kw)
        terms = np.einsum("nhwgi,gioab->nhwabgo", grouped, kernels).reshape(n, h, w, kh, kw, groups * cog)
        result = np.zeros((n, *out, groups * cog))
        for i, j, a, b in np.ndindex(h, w, kh, kw):
            row, column = i * stride[0] - pads[0] + a * dilation[0], j * stride[1] - pads[1] + b * dilation[1]
            if 0 <= row < out[0] and 0 <= column < out[1]:
                result[:, row, column] += terms[:, i, j, a, b]
        results.append(result)
    return results[0], results[1]


@dataclass(frozen=True)
class Sizes:
    """The sizes that may be run-time values, as i64 operands of the kernel under test."""

    n: V
    h: V
    w: V
    oh: V
    ow: V
    pads: tuple[V, V, V, V]


class Kernel:
    """A compiled kernel ``out[n, oh, ow, co] = f(x, w)`` whose epilogue stores and counts the stores.

    `emit(fb, target, sizes, x, w, scratch, task, tasks, epilogue)` emits it. With `static` (values of n, h, w,
    oh, ow, top, left, bottom, right) the sizes are constants.
    """

    def __init__(
        self,
        emit: Callable[[FunctionBuilder, Target, Sizes, V, V, V, V, V, Epilogue], None],
        co: int,
        *,
        static: tuple[int, ...] | None = None,
        scratch_bytes: int = 0,
        target: Target | None = None,
    ) -> None:
        self.co, self.scratch_bytes = co, scratch_bytes
        mb = ModuleBuilder()
        pointers = ("x", "weight", "y", "seen", "scratch")
        fb = mb.function(
            "f", [*(("ptr", name) for name in pointers), *(("i64", name) for name in (*_SIZES, "task", "tasks"))]
        )
        x, w, y, seen, scratch = fb.args[:5]
        v = [fb.i64(s) for s in static] if static else fb.args[5:14]
        sizes = Sizes(v[0], v[1], v[2], v[3], v[4], (v[5], v[6], v[7], v[8]))
        pixels = fb.mul(sizes.oh, sizes.ow)

        def epilogue(fb: FunctionBuilder, image: V, pixel: V, channel: V, lanes: int, mask: V | None, value: V) -> None:
            at = fb.add(fb.mul(fb.add(fb.mul(image, pixels), pixel), fb.i64(co)), channel)
            to, mark, counts = fb.gep("float", y, at), fb.gep("i32", seen, at), vector_of("i32", lanes)
            one = fb.const(counts, 1)
            if mask is None:
                fb.store(value, to)
                fb.store(fb.binary("add", fb.load(counts, mark), one), mark)
            else:
                fb.masked_store(value, to, mask)
                fb.masked_store(fb.binary("add", fb.masked_load(counts, mark, mask), one), mark, mask)

        emit(fb, target or host(), sizes, x, w, scratch, fb.args[14], fb.args[15], epilogue)
        fb.ret()
        fb.finish()
        self._compiled = compile_module(mb.text(), target)
        self._call = self._compiled.function("f", [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 11)

    def __call__(
        self, x: NDArray[np.float32], w: NDArray[np.float32], out: Pair, pads: tuple[int, ...], tasks: int
    ) -> NDArray[np.float32]:
        """Run all tasks, each with its own scratch; checks that each output was given exactly once, in bounds."""
        n, h, width, _ = x.shape
        guard = 64
        size = n * out[0] * out[1] * self.co
        y = np.full(size + 2 * guard, np.nan, np.float32)
        seen = np.zeros(size + 2 * guard, np.int32)
        x_padded = np.full(x.size + 2 * guard, np.nan, np.float32)  # a read beyond the input shows as NaN
        x_padded[guard : guard + x.size] = x.ravel()
        for task in range(tasks):
            scratch = np.full(self.scratch_bytes + guard, 0xFF, np.uint8)
            self._call(
                x_padded[guard:].ctypes.data,
                w.ctypes.data,
                y[guard:].ctypes.data,
                seen[guard:].ctypes.data,
                scratch.ctypes.data,
                *(n, h, width, *out, *pads, task, tasks),
            )
            assert (scratch[self.scratch_bytes :] == 0xFF).all(), "wrote beyond the scratch"
        assert (seen[guard : guard + size] == 1).all(), "an output was not given exactly once"
        assert (seen[:guard] == 0).all() and (seen[guard + size :] == 0).all(), "an output out of bounds"
        return y[guard : guard + size].reshape(n, *out, self.co)
