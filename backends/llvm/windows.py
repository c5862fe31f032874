"""Kernels around a sliding window: convolution (dense, grouped, depthwise), channels last, and pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ds_compiler.backends.constants import Packing
from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, constant, vector_of
from ds_compiler.backends.llvm.contraction import EpilogueEmitter, root_of
from ds_compiler.backends.llvm.conv_plan import conv_plan
from ds_compiler.backends.llvm.convolution import Convolution, choose
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.pool import PoolShape, emit_pool
from ds_compiler.backends.llvm.pool_planes import PlaneWindow, emit_plane_pool, plane_scratch_bytes
from ds_compiler.backends.llvm.scalars import compute_type
from ds_compiler.backends.llvm.weight_depthwise import (
    depthwise_weight_scratch_bytes,
    emit_depthwise_weight_gradient,
)
from ds_compiler.backends.llvm.weight_gradient import emit_weight_gradient
from ds_compiler.backends.llvm.weight_plan import weight_plan, weight_scratch_bytes
from ds_compiler.backends.llvm.window import ConvShape, Epilogue
from ds_compiler.backends.loops.contraction import lower_epilogue
from ds_compiler.ir import BlockArgument, Value
from ds_compiler.ir.dims import Dim, product
from ds_compiler.ops import Conv, ConvTranspose, ConvWeightGradient, ReduceWindow

# Windows over planes are written out tap by tap along each axis; larger ones are left to loops.
_WINDOW_ROWS = 64
_WINDOW_COLUMNS = 64


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """(rows, columns); a one-dimensional window has one row."""
    return (1, values[0]) if len(values) == 1 else (values[0], values[1])


def _plane(frame: KernelFrame, spatial: Sequence[Dim]) -> tuple[V, V]:
    height, width = (1, spatial[0]) if len(spatial) == 1 else (spatial[0], spatial[1])
    return frame.size(height), frame.size(width)


def _pads(frame: KernelFrame, low: Sequence[Dim], high: Sequence[Dim]) -> tuple[int | V, int | V, int | V, int | V]:
    def one(dim: Dim) -> int | V:
        return dim if isinstance(dim, int) else frame.size(dim)

    if len(low) == 1:
        return 0, one(low[0]), 0, one(high[0])
    return one(low[0]), one(low[1]), one(high[0]), one(high[1])


def _epilogue(frame: KernelFrame, root: Value) -> tuple[EpilogueEmitter, Epilogue]:
    rank = root.type.rank
    parts = [(0,), tuple(range(1, rank - 1)), (rank - 1,)]
    emitter = EpilogueEmitter(frame, lower_epilogue(frame.fusion, root, parts))

    def finish(fb: FunctionBuilder, image: V, pixel: V, channel: V, lanes: int, mask: V | None, value: V) -> None:
        emitter((image, pixel, channel), lanes, mask, value)

    return emitter, finish


def missing_schedule(frame: KernelFrame) -> str | None:
    """Why the schedules below do not cover a convolution or pooling; None when one does."""
    op = root_of(frame, (Conv, ConvTranspose, ConvWeightGradient, ReduceWindow))
    assert isinstance(op, Conv | ConvTranspose | ConvWeightGradient | ReduceWindow)
    x, result = op.operands[0].type, op.results[0].type
    if not all(isinstance(v, BlockArgument) for v in op.operands):
        return "an operand is computed in the kernel"
    if x.dtype.name not in ("f32", "f64"):
        return f"element type {x.dtype}"
    if isinstance(op, ReduceWindow):
        return None if _channels_last(op) or _over_planes(op) else f"windows {op.window} over axes {op.axes} of {x}"
    if x.rank not in (3, 4):
        return f"{x.rank - 2} spatial axes"
    out = op.gradient.type if isinstance(op, ConvWeightGradient) else result
    if not isinstance(x.shape[-1], int) or not isinstance(out.shape[-1], int):
        return f"an unknown number of channels, or channels are not last ({x})"
    if op.layout != "nhwc":
        return f"layout {op.layout}"
    if isinstance(op, ConvWeightGradient):
        return None
    if not all(isinstance(d, int) for d in op.weight.type.shape):
        return f"the weight's shape is unknown ({op.weight.type})"
    if isinstance(op, ConvTranspose) and frame.constant_input(op.weight) is None:
        return "the weight is not constant"
    return None


def _channels_last(op: ReduceWindow) -> bool:
    x = op.operand.type
    inner = x.rank in (3, 4) and op.axes == tuple(range(1, x.rank - 1))
    return inner and isinstance(x.shape[-1], int) and op.how != "sum"


def _over_planes(op: ReduceWindow) -> bool:
    """Whether the windows run over the last axes, and are few enough rows to write out."""
    rank = op.operand.type.rank
    last = bool(op.axes) and op.axes == tuple(range(rank - len(op.axes), rank))
    return last and math.prod(op.window[:-1]) <= _WINDOW_ROWS and op.window[-1] <= _WINDOW_COLUMNS


def _pack_at_run_time(frame: KernelFrame, convolution: Convolution, weight: V, to: V) -> int:
    """Emit what `pack_conv_weight` does, into this task's own scratch at `to`; the bytes it takes."""
    fb, shape, element = frame.fb, convolution.shape, convolution.element
    plan = conv_plan(shape, frame.target, element)
    depth, out, taps = shape.ci // shape.groups, shape.co // shape.groups, shape.kernel[0] * shape.kernel[1]
    row, panels, zero = depth * taps, -(-out // plan.width), fb.i64(0)

    def pack(group: V, panel: V, columns: int) -> None:
        """A panel of so many channels; columns behind them repeat the last one: they are computed, not stored."""
        channel = fb.add(fb.mul(group, fb.i64(out)), fb.mul(panel, fb.i64(plan.width)))
        source = fb.gep(element, weight, fb.mul(channel, fb.i64(row)))
        number = fb.add(fb.mul(group, fb.i64(panels)), panel)
        target = fb.gep(element, to, fb.mul(number, fb.i64(row * plan.width)))
        with fb.loop(zero, fb.i64(depth), hint="in") as c, fb.loop(zero, fb.i64(taps), hint="tap") as tap:
            read = fb.gep(element, source, fb.add(fb.mul(c.index, fb.i64(taps)), tap.index))
            k = fb.add(fb.mul(tap.index, fb.i64(depth)), c.index)
            written = fb.gep(element, target, fb.mul(k, fb.i64(plan.width)))
            for first in range(0, plan.width, plan.lanes):
                vector = constant(vector_of(element, plan.lanes), 0.0)
                for lane in range(plan.lanes):
                    place = fb.gep(element, read, fb.i64(min(first + lane, columns - 1) * row))
                    vector = fb.insert(vector, fb.load(element, place), lane)
                fb.store(vector, fb.gep(element, written, fb.i64(first)))

    full, rest = divmod(out, plan.width)
    with fb.loop(zero, fb.i64(shape.groups), hint="group") as group:
        if full:
            with fb.loop(zero, fb.i64(full), hint="panel") as panel:
                pack(group.index, panel.index, plan.width)
        if rest:
            pack(group.index, fb.i64(full), rest)
    return shape.groups * panels * row * plan.width * bytes_of(element)


def _pack_depthwise_at_run_time(frame: KernelFrame, convolution: Convolution, weight: V, to: V) -> int:
    """Emit what `pack_depthwise_weight` does, into this task's own scratch at `to`; the bytes it takes."""
    fb, shape, element = frame.fb, convolution.shape, convolution.element
    taps, lanes = shape.kernel[0] * shape.kernel[1], frame.target.lanes(element)
    row, zero = -(-shape.co // lanes) * lanes, fb.i64(0)
    with (
        fb.loop(zero, fb.i64(shape.co), hint="channel") as channel,
        fb.loop(zero, fb.i64(taps), hint="tap") as tap,
    ):
        source = fb.add(fb.mul(channel.index, fb.i64(taps)), tap.index)
        target = fb.add(fb.mul(tap.index, fb.i64(row)), channel.index)
        # Columns past the last channel keep what was there: they are computed, not stored.
        fb.store(fb.load(element, fb.gep(element, weight, source)), fb.gep(element, to, target))
    return taps * row * bytes_of(element)


def emit_convolution(frame: KernelFrame) -> KernelInfo:
    """A ``conv`` or ``conv_transpose`` fusion, channels last, then elementwise operations.

    A constant weight is stored packed; another one is packed by each task for itself when the kernel starts.
    """
    transposed = frame.fusion.strategy == "conv_transpose"
    op = root_of(frame, ConvTranspose if transposed else Conv)
    assert isinstance(op, Conv | ConvTranspose)
    x, w, result = op.input.type, op.weight.type, op.result.type
    constant = frame.constant_input(op.weight)
    ci, co = x.shape[-1], result.shape[-1]
    assert isinstance(ci, int) and isinstance(co, int)
    h, width = _plane(frame, x.shape[1:-1])
    oh, ow = _plane(frame, result.shape[1:-1])
    shape = ConvShape(
        n=frame.size(x.shape[0]),
        h=h,
        w=width,
        oh=oh,
        ow=ow,
        kernel=_pair([d for d in w.shape[2:] if isinstance(d, int)]),
        stride=_pair(op.strides),
        dilation=_pair(op.dilations),
        pads=_pads(frame, op.low, op.high),
        ci=ci,
        co=co,
        groups=op.groups,
    )
    emitter, finish = _epilogue(frame, op.result)
    element = compute_type(x.dtype)
    scratch, fb = frame.scratch, frame.fb
    packed: dict[int, Packing] = {}
    if constant is not None:
        convolution = choose(shape, frame.target, transposed=transposed, element=element)
        weight, scratch_bytes = frame.pointers[constant], convolution.scratch_bytes()
        weight_shape = (*(d for d in w.shape[:2] if isinstance(d, int)), *shape.kernel)
        static = (weight_shape, op.groups, op.strides, op.dilations, op.low, op.high, x.shape[1:])
        name = f"{convolution.algorithm} {static}"
        packed[constant] = Packing(name, lambda a: convolution.pack(a.reshape(weight_shape)))
    else:
        depthwise = shape.groups == shape.ci > 1
        convolution = Convolution("depthwise" if depthwise else "product", shape, frame.target, element)
        scratch_bytes = -(-convolution.scratch_bytes() // 64) * 64
        weight = fb.gep("i8", scratch, fb.i64(scratch_bytes))
        pack = _pack_depthwise_at_run_time if depthwise else _pack_at_run_time
        scratch_bytes += pack(frame, convolution, frame.pointer(op.weight), weight)
    convolution.emit(
        fb,
        shape=shape,
        x=frame.pointer(op.input),
        w=weight,
        task=frame.task,
        tasks=frame.tasks,
        scratch=scratch,
        epilogue=finish,
    )
    own = {frame.fusion.body.block.arguments.index(v) for v in (op.input, op.weight)}  # type: ignore[arg-type]
    return KernelInfo(scratch_bytes=scratch_bytes, packed=packed, inplace=emitter.inplace(own))


def emit_weight_sums(frame: KernelFrame) -> KernelInfo:
    """A ``conv_weight_gradient`` fusion, channels last."""
    op = root_of(frame, ConvWeightGradient)
    assert isinstance(op, ConvWeightGradient)
    x, gradient = op.input.type, op.gradient.type
    ci, co, element = x.shape[-1], gradient.shape[-1], compute_type(x.dtype)
    assert isinstance(ci, int) and isinstance(co, int)
    h, width = _plane(frame, x.shape[1:-1])
    oh, ow = _plane(frame, gradient.shape[1:-1])
    shape = ConvShape(
        n=frame.size(x.shape[0]),
        h=h,
        w=width,
        oh=oh,
        ow=ow,
        kernel=_pair(op.kernel),
        stride=_pair(op.strides),
        dilation=_pair(op.dilations),
        pads=_pads(frame, op.low, op.high),
        ci=ci,
        co=co,
        groups=op.groups,
    )
    block = frame.fusion.body.block
    pointers = {"x": frame.pointer(op.input), "gradient": frame.pointer(op.gradient), "result": frame.pointers[-1]}
    work = {"task": frame.task, "tasks": frame.tasks, "scratch": frame.scratch}
    assert len(block.terminator.operands) == 1
    if ci == co == op.groups > 1:
        emit_depthwise_weight_gradient(frame.fb, frame.target, shape=shape, element=element, **pointers, **work)
        return KernelInfo(scratch_bytes=depthwise_weight_scratch_bytes(shape, frame.target, element))
    plan = weight_plan(shape, frame.target, element)
    emit_weight_gradient(frame.fb, plan, shape=shape, element=element, **pointers, **work)
    return KernelInfo(scratch_bytes=weight_scratch_bytes(plan, shape, element))


def emit_pooling(frame: KernelFrame) -> KernelInfo:
    """A ``pool`` fusion: windows over the axes between the first and the last, or the last ones; then elementwise
    operations."""
    op = root_of(frame, ReduceWindow)
    assert isinstance(op, ReduceWindow)
    if not _channels_last(op):
        return _emit_planes(frame, op)
    x, result = op.operand.type, op.result.type
    channels = x.shape[-1]
    assert isinstance(channels, int)
    h, width = _plane(frame, x.shape[1:-1])
    oh, ow = _plane(frame, result.shape[1:-1])
    shape = PoolShape(
        n=frame.size(x.shape[0]),
        h=h,
        w=width,
        oh=oh,
        ow=ow,
        kernel=_pair(op.window),
        stride=_pair(op.strides),
        dilation=_pair(op.dilations),
        pads=_pads(frame, op.low, op.high),
        channels=channels,
    )
    emitter, finish = _epilogue(frame, op.result)
    emit_pool(
        frame.fb,
        frame.target,
        kind="max" if op.how == "max" else "average",
        shape=shape,
        x=frame.pointer(op.operand),
        task=frame.task,
        tasks=frame.tasks,
        epilogue=finish,
        count_include_pad=op.how == "mean",
        element=compute_type(x.dtype),
    )
    own = {frame.fusion.body.block.arguments.index(op.operand)}  # type: ignore[arg-type]
    return KernelInfo(inplace=emitter.inplace(own))


def _emit_planes(frame: KernelFrame, op: ReduceWindow) -> KernelInfo:
    """Windows over the last axes: vectors run along the innermost one."""
    x, result = op.operand.type, op.result.type
    element, first = compute_type(x.dtype), op.axes[0]

    def amount(dim: Dim) -> int | V:
        return dim if isinstance(dim, int) else frame.size(dim)

    window = PlaneWindow(
        how=op.how,
        planes=frame.size(product(x.shape[:first])),
        sizes=tuple(frame.size(d) for d in x.shape[first:]),
        out=tuple(frame.size(d) for d in result.shape[first:]),
        window=op.window,
        strides=op.strides,
        dilations=op.dilations,
        low=tuple(amount(d) for d in op.low),
        static_out=result.shape[-1],
    )
    parts = [tuple(range(first)), tuple(range(first, x.rank - 1)), (x.rank - 1,)]
    emitter = EpilogueEmitter(frame, lower_epilogue(frame.fusion, op.result, parts))

    def finish(plane: V, row: V, column: V, lanes: int, mask: V | None, value: V) -> None:
        emitter((plane, row, column), lanes, mask, value)

    emit_plane_pool(
        frame.fb,
        frame.target,
        window,
        x=frame.pointer(op.operand),
        element=element,
        task=frame.task,
        tasks=frame.tasks,
        scratch=frame.scratch,
        epilogue=finish,
    )
    own = {frame.fusion.body.block.arguments.index(op.operand)}  # type: ignore[arg-type]
    return KernelInfo(scratch_bytes=plane_scratch_bytes(window, frame.target, element), inplace=emitter.inplace(own))
