"""Transposed convolution, by phases: each phase of the stride is a dense convolution of the input.

With output o = i * stride - pad + k * dilation, the outputs with ``(o + pad) mod stride == r`` use only the kernel
taps ``k = r, r + stride, ...``, tap number t of them on input ``(o + pad) // stride - t``. So the phases are
convolutions with stride 1 whose taps run backwards, and whose outputs are `stride` pixels apart; all use the
same code in a loop. A kernel as large as the stride has one tap a phase: a matrix product that scatters its rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of
from ds_compiler.backends.llvm.conv import emit_grid
from ds_compiler.backends.llvm.conv_plan import Plan, make_plan, scratch_bytes
from ds_compiler.backends.llvm.conv_windows import Grid
from ds_compiler.backends.llvm.packing import pack_b
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.window import ConvShape, Epilogue, ceil_div, index


def _taps(shape: ConvShape) -> tuple[int, int]:
    """Taps of a phase, the largest number that any has (the missing ones of others read zeros)."""
    rows, columns = (((k - 1) * d) // s + 1 for k, d, s in zip(shape.kernel, shape.dilation, shape.stride))
    return rows, columns


def conv_transpose_plan(shape: ConvShape, target: Target, element: str = "float") -> Plan:
    """The tiling of the phases of `shape` on `target`."""
    rows, columns = _taps(shape)
    return make_plan(
        target,
        element,
        ci=shape.ci // shape.groups,
        co=shape.co // shape.groups,
        taps=(rows, columns),
        bytes_per_pixel=shape.ci * bytes_of(element),
        in_place=False,
    )


def conv_transpose_scratch_bytes(shape: ConvShape, target: Target, element: str = "float") -> int:
    """Bytes of scratch that each task needs; independent of the run-time sizes."""
    return scratch_bytes(conv_transpose_plan(shape, target, element), element)


def pack_conv_transpose_weight(w: NDArray[np.generic], shape: ConvShape, target: Target) -> NDArray[np.generic]:
    """Reorder ``[ci, co / groups, kh, kw]`` to ``[phases, groups, panels, taps * ci / groups, nv * lanes]``.

    Raises:
        ValueError: the weight's shape is not the one that `shape` says.
    """
    expected = (shape.ci, shape.co // shape.groups, *shape.kernel)
    if w.shape != expected:
        raise ValueError(f"transposed convolution weight: expected {list(expected)}, got {list(w.shape)}")
    element = {4: "float", 8: "double"}[w.dtype.itemsize]
    (sh, sw), (dh, dw), (th, tw) = shape.stride, shape.dilation, _taps(shape)
    # [ci, co, tap row, phase row, tap column, phase column]: kernel index k * dilation = tap * stride + phase.
    spread = np.zeros((*w.shape[:2], th * sh, tw * sw), w.dtype)
    spread[:, :, : (w.shape[2] - 1) * dh + 1 : dh, : (w.shape[3] - 1) * dw + 1 : dw] = w
    parts = spread.reshape(shape.groups, shape.ci // shape.groups, -1, th, sh, tw, sw)
    rows = parts.transpose(4, 6, 0, 3, 5, 1, 2).reshape(sh * sw, shape.groups, -1, shape.co // shape.groups)
    return pack_b(rows, conv_transpose_plan(shape, target, element).width)


def emit_conv_transpose(
    fb: FunctionBuilder,
    target: Target,
    *,
    shape: ConvShape,
    x: V,
    w: V,
    task: V,
    tasks: V,
    scratch: V,
    epilogue: Epilogue,
    element: str = "float",
) -> None:
    """Emit a transposed convolution of ``x: [n, h, w, ci]``; `w` is from `pack_conv_transpose_weight`.

    `shape` describes it as ONNX does: kernel, stride, dilation and pads of the convolution that it transposes,
    and oh, ow with whatever output padding adds. Epilogue, tasks and scratch as for `conv.emit_conv`.
    """
    plan = conv_transpose_plan(shape, target, element)
    phase_size = shape.groups * -(-(shape.co // shape.groups) // plan.width) * plan.k * plan.width
    (sh, sw), zero = shape.stride, fb.i64(0)
    outputs, taps = (shape.oh, shape.ow), _taps(shape)
    with fb.loop(zero, fb.i64(sh), hint="phase.row") as outer, fb.loop(zero, fb.i64(sw), hint="phase") as inner:
        phases = (outer.index, inner.index)
        firsts, starts, extents = [], [], []
        for axis, phase in enumerate(phases):
            stride, pad = fb.i64(shape.stride[axis]), index(shape.pads[axis])
            first = fb.srem(fb.add(phase, fb.sub(stride, fb.srem(pad, stride))), stride)
            firsts.append(first)
            starts.append(fb.sdiv(fb.add(first, pad), stride))
            extents.append(ceil_div(fb, fb.smax(zero, fb.sub(outputs[axis], first)), stride))

        def tap_exists(axis: int, tap: V, phases: tuple[V, V] = phases) -> V:
            stride, dilation, kernel = shape.stride[axis], shape.dilation[axis], shape.kernel[axis]
            spread = fb.add(phases[axis], fb.mul(tap, fb.i64(stride)))
            within = fb.icmp("sle", spread, fb.i64((kernel - 1) * dilation))
            hit = fb.icmp("eq", fb.srem(spread, fb.i64(dilation)), zero)
            return fb.binary("and", within, hit)

        grid = Grid(
            rows=extents[0],
            columns=extents[1],
            start=(starts[0], starts[1]),
            stride=(1, 1),
            dilation=(-1, -1),
            taps=taps,
            first=(firsts[0], firsts[1]),
            step=shape.stride,
            tap_exists=tap_exists,
        )
        number = fb.add(fb.mul(outer.index, fb.i64(sw)), inner.index)
        emit_grid(
            fb,
            plan,
            grid,
            shape=shape,
            x=x,
            w=fb.gep(element, w, fb.mul(number, fb.i64(phase_size))),
            task=task,
            tasks=tasks,
            scratch=scratch,
            epilogue=epilogue,
            element=element,
        )
