"""What becomes one kernel, and what must not."""

from __future__ import annotations

from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dims import symbol
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Binary, Bind, Broadcast, Cast, Fusion, Gather, Reduce, Reshape, Size, Unary
from tests.passes.helpers import check, module_of, spread


def test_kernels_do_not_need_each_other() -> None:
    """The centred rows are stored beside the result only if the deviation, which is a result too, does not follow
    from them: the kernel reads it through a broadcast of its own."""

    def body(b: Builder, x: Value) -> list[Value]:
        mean = b.emit(Reduce(x, (1,), "mean"))
        centred = b.emit(Binary(x, b.emit(Broadcast(mean, x.type.shape, (0,))), "sub"))
        square = b.emit(Reduce(b.emit(Binary(centred, centred, "mul")), (1,), "mean"))
        inverse = b.emit(Unary(square, "rsqrt"))
        result = b.emit(Binary(centred, b.emit(Broadcast(inverse, x.type.shape, (0,))), "mul"))
        return [result, mean, inverse]

    check(module_of(body, "3 8"), "fuse", rtol=1e-6)


def test_a_value_behind_a_shared_broadcast_has_other_readers() -> None:
    """A broadcast is computed by each kernel that wants it, so all of them need its operand: one that took the operand
    in would have to run before the others, whose results it reads."""

    def body(b: Builder, x: Value, y: Value, s: Value) -> Value:
        limit = b.emit(Broadcast(b.emit(Unary(s, "neg")), y.type.shape, ()))
        quotient = b.emit(Binary(y, limit, "div"))
        factor = b.emit(Binary(quotient, limit, "min"))
        return b.emit(Binary(x, b.emit(Broadcast(factor, x.type.shape, (0,))), "mul"))

    check(module_of(body, "3 8", "3", ""), "fuse")


def test_a_size_is_read_after_it_is_bound() -> None:
    """The quotient reads the size that its own divisor determines: one kernel for both would run before the size is
    known."""

    def body(b: Builder, x: Value, scale: Value) -> Value:
        extent = b.emit(Binary(scale, spread(b, 4, scale), "mul"))
        count = b.emit(Cast(b.emit(Unary(b.emit(Unary(extent, "abs")), "ceil")), i64))
        b.insert(Bind(count, "_k"))
        taken = b.emit(Cast(b.emit(Size(symbol("_k"))), scale.type.dtype))
        ratio = b.emit(Binary(taken, extent, "div"))
        return b.emit(Binary(x, b.emit(Broadcast(ratio, x.type.shape, ())), "mul"))

    check(module_of(body, "3", ""), "fuse")
    check(module_of(body, "3", ""), "cleanup,fuse")


def test_indices_are_computed_once() -> None:
    """Not for each element that a gather reads by them; only their conversion is free."""

    def body(b: Builder, x: Value, y: Value) -> Value:
        half = b.emit(Binary(y, spread(b, 0.5, y), "mul"))
        return b.emit(Unary(b.emit(Gather(x, b.emit(Cast(half, i64)), 1)), "exp"))

    module = check(module_of(body, "3 8", "5"), "fuse", rtol=1e-6)
    kernels = [[op.mnemonic for op in k.body.block] for k in module.main.block if isinstance(k, Fusion)]
    assert [k[-2] for k in kernels] == ["mul", "exp"]
    assert "cast" in kernels[1]


def test_a_cycle_through_an_earlier_kernel_with_a_later_member() -> None:
    """The product stores the exponentials as well, and reads the operand of the sum, which must not store that."""

    def body(b: Builder, x: Value, y: Value) -> list[Value]:
        power = b.emit(Unary(x, "exp"))
        flat = b.emit(Reshape(power, (24,)))
        curve = b.emit(Unary(y, "tanh"))
        total = b.emit(Binary(flat, curve, "add"))
        return [total, b.emit(Binary(power, b.emit(Reshape(curve, (4, 6))), "mul"))]

    check(module_of(body, "4 6", "24"), "fuse")
