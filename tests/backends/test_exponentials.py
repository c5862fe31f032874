"""Exponentials of differences to the maximum are bounded; others are not touched."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.exponentials import bound_exponentials
from ds_compiler.backends.loops.ir import step_nodes, walk
from ds_compiler.backends.loops.keep import keep_costly
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Binary, Broadcast, Fusion, Reduce, Unary
from ds_compiler.passes.fuse import fuse
from tests.backends.programs import check_program
from tests.passes.helpers import module_of


def exponentials(module: Module) -> set[str]:
    copy = module.clone()
    fuse(copy)
    kernels = [lower_loops(op) for op in copy.main.block if isinstance(op, Fusion)]
    kernels = [bound_exponentials(keep_costly(collapse(k))) for k in kernels]
    steps = [s for k in kernels for nest in k.nests for s in nest.steps]
    return {n.op for s in steps for n in walk(step_nodes(s)) if n.op.startswith("exp")}


def shifted(b: Builder, x: Value, how: str) -> tuple[Value, Value]:
    """(x - r, sum of e**(x - r)) with the reduction r = `how` over the last axis."""
    difference = b.emit(Binary(x, b.emit(Broadcast(b.emit(Reduce(x, (1,), how)), x.type.shape, (0,))), "sub"))
    total = b.emit(Reduce(b.emit(Unary(difference, "exp")), (1,), "sum"))
    return difference, b.emit(Broadcast(total, x.type.shape, (0,)))


def softmax(b: Builder, x: Value, how: str = "max") -> Value:
    difference, total = shifted(b, x, how)
    return b.emit(Binary(b.emit(Unary(difference, "exp")), total, "div"))


def log_softmax(b: Builder, x: Value) -> Value:
    difference, total = shifted(b, x, "max")
    return b.emit(Binary(difference, b.emit(Unary(total, "log")), "sub"))


@pytest.mark.parametrize("form", [softmax, log_softmax])
def test_below_the_maximum(form) -> None:  # type: ignore[no-untyped-def]
    module = module_of(form, "n m")
    assert exponentials(module) == {"exp_nonpositive"}
    check_program(module, {"n": 3, "m": 1}, {"n": 5, "m": 49}, {"n": 2, "m": 128})


def test_other_reductions_bound_nothing() -> None:
    for how in ("min", "mean"):
        module = module_of(lambda b, x, how=how: softmax(b, x, how), "n m")
        assert exponentials(module) == {"exp"}
        check_program(module, {"n": 5, "m": 49})


def test_masked_and_extreme_rows() -> None:
    x = np.random.default_rng(0).standard_normal((6, 19)).astype(np.float32)
    x[0, 3:] = -np.inf  # masked
    x[1, 5] = np.nan
    x[2, 7] = np.inf
    x[3] = -np.inf
    x[4] *= 1e38
    x[5, ::2] -= 87.5  # results around the smallest normal number
    module = module_of(softmax, "n m")
    with np.errstate(invalid="ignore", over="ignore"):
        check_program(module, inputs=[x])
