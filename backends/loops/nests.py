"""From a fused region of tensor operations to loop nests: one for all results, or one for each part of a result."""

from __future__ import annotations

from ds_compiler.backends.loops.ir import Graph, Index, Kernel, Nest, Running, Store
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.placement import place
from ds_compiler.backends.loops.points import Point, linear, strides_of
from ds_compiler.ir import Block, OpResult, Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.types import TensorType
from ds_compiler.ops import ArgReduce, Concat, Cumulative, Fusion, Reduce, ScatterElements, ScatterND


def lower_loops(fusion: Fusion) -> Kernel:
    """The loop kernel of a fusion: elementwise chains, reductions, data movement.

    Raises:
        CompileError: an operation in it has no loop form.
    """
    block = fusion.body.block
    buffers: dict[Value, int] = {a: n for n, a in enumerate(block.arguments)}
    outputs = list(block.terminator.operands)
    types = [a.type for a in block.arguments] + [o.type for o in outputs]
    graph = Graph()
    kernel = Kernel(types, len(block.arguments), [], graph)
    lowering = Lowering(graph, {**buffers})
    sink = outputs[0].op if isinstance(outputs[0], OpResult) else None
    first = len(block.arguments)
    match sink:
        case Concat() if len(outputs) == 1:
            start: Dim = 0
            for value in sink.inputs:
                point = lowering.point(value.type.shape)
                lowering.begin([a for i in point if (a := i.axis)], [])
                node = lowering.element(value, point)
                shifted = list(point)
                shifted[sink.axis] = point[sink.axis] + start
                lowering.steps.append(Store(first, _linear_in(tuple(shifted), sink.result.type), node, inner=False))
                kernel.nests.append(_nest(lowering))
                start = start + value.type.shape[sink.axis]
            return kernel
        case ScatterND() | ScatterElements():
            _lower_scatter(lowering, sink, kernel, first)
            return kernel
        case Cumulative():
            _lower_cumulative(lowering, sink, kernel, first)
            return kernel
    kernel.nests.append(_lower_outputs(lowering, block, outputs, first))
    return kernel


def _linear_in(point: Point, type_: TensorType) -> Index:
    """Like `linear`, for points that may be non-zero in a unit dimension of a part."""
    total = Index()
    for index, stride in zip(point, strides_of(type_), strict=True):
        total = total + index.scaled(stride)
    return total


def _nest(lowering: Lowering) -> Nest:
    return Nest(lowering.outer, lowering.inner, lowering.steps)


def _lower_outputs(lowering: Lowering, block: Block, outputs: list[Value], first: int) -> Nest:
    """One nest for all outputs. Axes are laid out by the reductions' operand if there are any, else by the output.

    (A product or window has no result that runs along its inner axes: the output's axes do.)
    """
    reduction = _first_reduction(block)
    if reduction is None:
        point = lowering.point(outputs[0].type.shape)
        lowering.begin([a for i in point if (a := i.axis)], [])
        for number, output in enumerate(outputs):
            at = point if number == 0 else lowering.visited.get(output, point)
            lowering.store(output, at, first + number, Index(), inner=False)
        return _nest(lowering)
    kept_point = lowering.point(reduction.results[0].type.shape)
    lowering.begin([a for i in kept_point if (a := i.axis)], [])
    # Asking for the reduction first fixes which axes are inner.
    lowering.element(reduction.results[0], kept_point)
    known = {**lowering.visited, reduction.results[0]: kept_point}
    pending: list[tuple[int, Value, Point, bool]] = []
    for number, output in enumerate(outputs):
        found = place(output, known, lowering.visited[reduction.operand])
        if found is None:
            raise CompileError(
                f"result {output.type} does not follow the axes of the kernel's reduction", location=reduction.location
            )
        pending.append((number, output, found, any(i.axis in lowering.inner for i in found if i.axis)))
    for number, output, at, inner in pending:
        lowering.store(output, at, first + number, Index(), inner=inner)
    # Reductions come before the stores that need them by construction; a store never feeds a reduction.
    return _nest(lowering)


def _first_reduction(block: Block) -> Reduce | ArgReduce | None:
    return next((op for op in block if isinstance(op, Reduce | ArgReduce)), None)


def _lower_scatter(lowering: Lowering, op: ScatterND | ScatterElements, kernel: Kernel, out: int) -> None:
    point = lowering.point(op.operand.type.shape)
    lowering.begin([a for i in point if (a := i.axis)], [])
    lowering.store(op.operand, point, out, Index(), inner=False)
    copy = _nest(lowering)
    copy.serial = True
    kernel.nests.append(copy)
    point = lowering.point(op.updates.type.shape)
    lowering.begin([a for i in point if (a := i.axis)], [])
    value = lowering.element(op.updates, point)
    if isinstance(op, ScatterElements):
        row = lowering.position(op.indices, point, op.operand.type.shape[op.axis])
        target: Point = (*point[: op.axis], row, *point[op.axis + 1 :])
    else:
        index_type = op.indices.type
        depth = index_type.shape[-1]
        assert isinstance(depth, int)
        lead = point[: index_type.rank - 1]
        rows = [lowering.position(op.indices, (*lead, Index((), d)), op.operand.type.shape[d]) for d in range(depth)]
        target = (*rows, *point[index_type.rank - 1 :])
    lowering.steps.append(Store(out, linear(target, op.operand.type), value, inner=False, mode=op.mode))
    nest = _nest(lowering)
    nest.serial = True
    kernel.nests.append(nest)


def _lower_cumulative(lowering: Lowering, op: Cumulative, kernel: Kernel, out: int) -> None:
    point = lowering.point(op.operand.type.shape)
    along = point[op.axis].axis
    lowering.begin([a for i in point if (a := i.axis) and a is not along], [along] if along else [])
    value = lowering.element(op.operand, point)
    index = linear(point, op.operand.type)
    lowering.steps.append(Running(out, index, value, op.how, op.exclusive, op.reverse))
    kernel.nests.append(_nest(lowering))
