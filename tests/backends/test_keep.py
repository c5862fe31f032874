"""Costly values kept in the result between a reduction and the store: fewer functions computed, same results."""

from __future__ import annotations

import numpy as np

from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.ir import Kernel, Reduction, Store, step_nodes, walk
from ds_compiler.backends.loops.keep import keep_costly
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Binary, Broadcast, DotGeneral, Fusion, Reduce, Unary
from ds_compiler.passes.fuse import fuse
from tests.backends.programs import check_program
from tests.passes.helpers import module_of, tensor


def kernel_of(module: Module) -> Kernel:
    copy = module.clone()
    fuse(copy)
    (fusion,) = [op for op in copy.main.block if isinstance(op, Fusion)]
    return keep_costly(collapse(lower_loops(fusion)))


def kept(kernel: Kernel) -> int:
    return sum(isinstance(s, Reduction) and s.keep is not None for nest in kernel.nests for s in nest.steps)


def softmax(b: Builder, x: Value, axis: int) -> Value:
    axes = tuple(a for a in range(x.type.rank) if a != axis)

    def spread(v: Value) -> Value:
        return b.emit(Broadcast(v, x.type.shape, axes))

    e = b.emit(Unary(b.emit(Binary(x, spread(b.emit(Reduce(x, (axis,), "max"))), "sub")), "exp"))
    return b.emit(Binary(e, spread(b.emit(Reduce(e, (axis,), "sum"))), "div"))


def test_softmax_takes_each_exponential_once() -> None:
    module = module_of(lambda b, x: softmax(b, x, 1), "n m")
    kernel = kernel_of(module)
    assert kept(kernel) == 1
    (nest,) = kernel.nests
    last = nest.steps[-1]
    assert isinstance(last, Store) and not any(n.op in ("exp", "div") for n in walk(step_nodes(last)))
    check_program(module, {"n": 3, "m": 1}, {"n": 5, "m": 49}, {"n": 2, "m": 128})


def test_a_sum_that_may_be_tiny_divides() -> None:
    """exp(x) / sum exp(x) without the maximum: the reciprocal of a denormal sum would be infinite."""

    def make(b: Builder, x: Value) -> Value:
        e = b.emit(Unary(x, "exp"))
        return b.emit(Binary(e, b.emit(Broadcast(b.emit(Reduce(e, (1,), "sum")), x.type.shape, (0,))), "div"))

    module = module_of(make, "n m")
    last = kernel_of(module).nests[0].steps[-1]
    assert any(n.op == "div" for n in walk(step_nodes(last)))
    x = np.full((3, 16), -101.0, np.float32)
    x[:, 1:] = -200
    check_program(module, inputs=[x])


def test_softmax_over_a_leading_axis() -> None:
    module = module_of(lambda b, x: softmax(b, x, 0), "n m")
    assert kept(kernel_of(module)) == 1
    check_program(module, {"n": 3, "m": 1}, {"n": 5, "m": 49}, {"n": 40, "m": 128})


def test_narrow_types_are_not_kept() -> None:
    """The buffer would round them in between."""
    module = module_of(lambda b, x: softmax(b, x, 1), tensor("n m", "f16"))
    assert kept(kernel_of(module)) == 0
    check_program(module, {"n": 5, "m": 49}, rtol=2e-3)


def test_cheap_values_are_not_kept() -> None:
    def make(b: Builder, x: Value) -> Value:
        mean = b.emit(Broadcast(b.emit(Reduce(x, (1,), "mean")), x.type.shape, (0,)))
        centred = b.emit(Binary(x, mean, "sub"))
        square = b.emit(Reduce(b.emit(Binary(centred, centred, "mul")), (1,), "mean"))
        return b.emit(Binary(centred, b.emit(Broadcast(square, x.type.shape, (0,))), "mul"))

    assert kept(kernel_of(module_of(make, "n m"))) == 0


def test_an_operand_read_again_is_not_overwritten() -> None:
    """tanh(y) * softmax(y) must not write its exponentials over y, an intermediate result that dies here."""

    def make(b: Builder, x: Value, w: Value) -> Value:
        y = b.emit(DotGeneral(x, w, (), (), (1,), (0,)))
        return b.emit(Binary(b.emit(Unary(y, "tanh")), softmax(b, y, 1), "mul"))

    module = module_of(make, "n 7", "7 m")
    check_program(module, {"n": 5, "m": 49}, {"n": 40, "m": 128})


def test_softmax_overwrites_its_operand() -> None:
    """The only reader of an intermediate result may reuse its place."""

    def make(b: Builder, x: Value, w: Value) -> Value:
        return b.emit(Unary(softmax(b, b.emit(DotGeneral(x, w, (), (), (1,), (0,))), 1), "neg"))

    check_program(module_of(make, "n 7", "7 m"), {"n": 5, "m": 49}, {"n": 40, "m": 128})
