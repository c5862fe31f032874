"""Constant folding: operations on constants are computed now, by their own NumPy semantics."""

from __future__ import annotations

import numpy as np

from ds_compiler.ir import Builder, Module, Operation
from ds_compiler.ir.dims import evaluate
from ds_compiler.ops import Bind, Broadcast, Constant, Iota, Size
from ds_compiler.passes.dce import eliminate_dead_code
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import constant
from ds_compiler.passes.rewriter import PatternSet, Rewrite, rewrite

MAX_BYTES = 64 << 20
SMALL_BYTES = 64 << 10
MAX_GROWTH = 16
MAX_FLOPS = 100_000_000  # about a second of NumPy at worst (erf goes through Python)


@register("fold")
def fold_constants(module: Module) -> None:
    """Compute operations whose operands are constants.

        %1 = constant 2.0
        %2 = sqrt %1         →    %2 = constant 1.4142135

    Results larger than 64 MiB, or larger than 64 KiB and 16 times the operands, stay operations: a program must
    not grow by what it can compute. Broadcasts and iotas stay for the same reason.
    """
    from ds_compiler.ir import operation_class, operation_names

    patterns = PatternSet("fold")
    roots = {entry[0] for entry in map(operation_class, operation_names()) if entry is not None}
    patterns(*sorted(roots, key=lambda c: c.name))(fold)
    rewrite(module, patterns)
    eliminate_dead_code(module)


def fold(op: Operation, builder: Builder) -> Rewrite:
    """The results of `op` as constants, if all operands are constants and the size limits allow it."""
    if isinstance(op, Constant | Broadcast | Iota | Size | Bind) or op.regions or not op.operands or not op.results:
        return None
    values = [v for v in map(constant, op.operands) if v is not None]
    if len(values) != len(op.operands):
        return None
    if not all(r.type.is_static for r in op.results):
        return None
    written = sum(evaluate(r.type.bytes, {}) for r in op.results)
    read = sum(v.nbytes for v in values)
    if written > MAX_BYTES or (written > SMALL_BYTES and written > MAX_GROWTH * read):
        return None
    flops = op.cost().flops
    if not isinstance(flops, int) or flops > MAX_FLOPS:
        return None
    try:
        computed = op.evaluate({}, *values)
    except (NotImplementedError, KeyError):  # not computable here: a symbol in an attribute, a call
        return None
    arrays = computed if isinstance(computed, tuple) else (computed,)
    for result, array in zip(op.results, arrays, strict=True):
        if np.shape(array) != result.type.shape:
            return None  # an out-of-range attribute that only shows at run time
    return [builder.emit(Constant(np.asarray(a))) for a in arrays]
