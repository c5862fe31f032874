"""Depthwise convolution: each channel with its own kernel, vectors along the channels.

Groups equal the input channels; a channel multiplier (several outputs an input channel) is allowed. Bound by memory
in most networks, so what counts is that an input column is loaded once for all the windows of a
register tile that contain it (see `window`), and that the epilogue runs on registers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, vector_of
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.window import ConvShape, Epilogue, WindowBody, emit_windows


def pack_depthwise_weight(w: NDArray[np.generic], lanes: int) -> NDArray[np.generic]:
    """Reorder ``[c * m, 1, kh, kw]`` to ``[kh * kw, c * m rounded up to whole vectors]``, zeros at the end.

    Raises:
        ValueError: the second dimension is not 1.
    """
    channels, one, kh, kw = w.shape
    if one != 1:
        raise ValueError(f"depthwise weight: expected [channels, 1, kh, kw], got {list(w.shape)}")
    packed = np.zeros((kh * kw, -(-channels // lanes) * lanes), w.dtype)
    packed[:, :channels] = w.reshape(channels, kh * kw).T
    return packed


def emit_depthwise(
    fb: FunctionBuilder,
    target: Target,
    *,
    shape: ConvShape,
    x: V,
    w: V,
    task: V,
    tasks: V,
    epilogue: Epilogue,
    element: str = "float",
) -> None:
    """Emit a depthwise convolution of ``x: [n, h, w, ci]``; `w` is from `pack_depthwise_weight`.

    Each output vector goes to ``epilogue(fb, image, pixel, channel, lanes, mask, value)`` once, from one of the
    `tasks`; the sum runs over the kernel row by row, so the result does not depend on the number of tasks.

    Raises:
        ValueError: `shape` is not depthwise (groups == ci).
    """
    if shape.groups != shape.ci:
        raise ValueError(f"depthwise convolution: {shape.groups} groups for {shape.ci} input channels")
    lanes = target.lanes(element)
    vector = vector_of(element, lanes)
    row = -(-shape.co // lanes) * lanes

    def weight(tap: V, channel: V, j: int) -> V:
        at = fb.add(fb.mul(tap, fb.i64(row)), fb.add(channel, fb.i64(j * lanes)))
        return fb.load(vector, fb.gep(element, w, at))

    def combine(acc: V, value: V, by: V | None) -> V:
        assert by is not None
        return fb.intrinsic("fmuladd", value, by, acc)

    body = WindowBody(initial=0.0, weight=weight, combine=combine, finish=lambda acc, count: acc)
    emit_windows(
        fb,
        target,
        shape,
        body,
        x=x,
        channels=shape.ci,
        multiplier=shape.co // shape.ci,
        element=element,
        task=task,
        tasks=tasks,
        epilogue=epilogue,
    )
