"""What kinds of operations fusion tells apart: by the kernels that compute them, and by cost."""

from __future__ import annotations

from ds_compiler.ir import Operation, Value
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Composite,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    ConvWeightGradient,
    Cumulative,
    DotGeneral,
    DotInteger,
    DynamicSlice,
    Gather,
    GatherElements,
    GatherND,
    Iota,
    Pad,
    Predicate,
    Reduce,
    ReduceWindow,
    Reshape,
    ScatterElements,
    ScatterND,
    Select,
    Size,
    Slice,
    TopK,
    Transpose,
    Unary,
)
from ds_compiler.ops.elementwise import BINARY, UNARY

ELEMENTWISE = (Unary, Binary, Compare, Predicate, Select, Cast, Bitcast)
MOVEMENT = (Transpose, Slice, Pad, DynamicSlice, Gather, GatherElements, GatherND)
SINK_ONLY = (Concat, ScatterND, ScatterElements, Cumulative)
WHOLE = "attention attention_backward"  # composites that are kernels
CONTRACTION = (DotGeneral, DotInteger, Conv, ConvTranspose, ConvWeightGradient, Composite)

# Operations whose result costs more to compute again than to load from the first-level cache.
EXPENSIVE_FLOPS = 4


def contraction_strategy(op: Operation) -> str | None:
    match op:
        case DotGeneral() if op.result.type.dtype.is_float:
            return "matmul"
        case DotInteger() if _in_pairs(op):
            return "matmul"
        case Conv():
            return "conv"
        case ConvTranspose():
            return "conv_transpose"
        case ConvWeightGradient():
            return "conv_weight_gradient"
        case TopK():
            return "top_k"
        case Composite():
            return op.callee
        case ReduceWindow():
            rank = op.operand.type.rank
            channels_last = op.axes == tuple(range(1, rank - 1)) and rank in (3, 4)
            known = isinstance(op.operand.type.shape[-1], int) and op.how != "sum"
            planes = bool(op.axes) and op.axes == tuple(range(rank - len(op.axes), rank))
            if ((channels_last and known) or planes) and op.operand.type.dtype.name in ("f32", "f64"):
                return "pool"
    return None


def _in_pairs(op: DotInteger) -> bool:
    """Whether products come in pairs that one instruction adds up: the weights are packed when compiling."""
    depth = op.lhs.type.shape[-1]
    return isinstance(op.rhs.defining_op, Constant) and isinstance(depth, int) and depth % 2 == 0


def is_loop(op: Operation) -> bool:
    """Operations that loop kernels compute."""
    reducing = (Reduce, ArgReduce, ReduceWindow, DotGeneral, DotInteger)
    return isinstance(op, (*ELEMENTWISE, *MOVEMENT, *SINK_ONLY, Broadcast, Iota, *reducing))


def is_rotation(op: Operation) -> bool:
    """A concat of slices of one tensor, some negated (rotary embeddings): cheap enough to compute where it is read."""
    if not isinstance(op, Concat) or len(op.inputs) != 2:
        return False
    sources: set[Value] = set()
    for value in op.inputs:
        part = value.defining_op
        if isinstance(part, Unary) and part.kind == "neg":
            part = part.operand.defining_op
        if not isinstance(part, Slice):
            return False
        sources.add(part.operand)
    return len(sources) == 1


def is_copy(op: Operation) -> bool:
    """Cheaper to compute again than to load: scalars, broadcasts, added or dropped unit dimensions."""
    match op:
        case Constant():
            return bool(op.value.size == 1 and op.value.ndim == 0)
        case Broadcast() | Iota() | Size():
            return True
        case Reshape():
            return [d for d in op.shape if d != 1] == [d for d in op.operand.type.shape if d != 1]
    return False


def flops(op: Operation) -> int:
    if isinstance(op, Unary):
        return UNARY[op.kind].flops
    if isinstance(op, Binary):
        return BINARY[op.kind].flops
    return 1


def has_reduction(op: Operation) -> bool:
    return isinstance(op, Reduce | ArgReduce | ReduceWindow)
