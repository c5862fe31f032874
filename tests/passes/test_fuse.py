"""What becomes one kernel, and what must not."""

from __future__ import annotations

from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dims import symbol
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import Binary, Bind, Broadcast, Cast, DotGeneral, Fusion, Gather, Reduce, Reshape, Size, Unary
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


def _product(b: Builder, x: Value, y: Value) -> Value:
    return b.emit(DotGeneral(x, y, (), (), (1,), (0,)))


def test_an_activation_and_its_derivative_leave_with_the_product() -> None:
    """Two results replace the product's own, which nothing reads any more."""

    def body(b: Builder, x: Value, y: Value) -> list[Value]:
        dot = _product(b, x, y)
        e = b.emit(Unary(dot, "tanh"))
        slope = b.emit(Binary(spread(b, 1, e), b.emit(Binary(e, e, "mul")), "sub"))
        return [b.emit(Binary(dot, e, "mul")), b.emit(Binary(dot, slope, "mul"))]

    changed = check(module_of(body, "3 4", "4 5"), "fuse", rtol=1e-5, atol=1e-6)
    assert [op.strategy for op in changed.main.walk() if isinstance(op, Fusion)] == ["matmul"]


def test_a_product_is_stored_once_for_several_loops() -> None:
    """What each of them begins with is not worth an array of its own."""

    def body(b: Builder, x: Value, y: Value) -> list[Value]:
        dot = _product(b, x, y)
        return [b.emit(Reduce(b.emit(Unary(dot, kind)), (1,), "max")) for kind in ("exp", "tanh")]

    changed = check(module_of(body, "3 4", "4 5"), "fuse", rtol=1e-5, atol=1e-6)
    assert [op.strategy for op in changed.main.walk() if isinstance(op, Fusion)] == ["matmul", "loop", "loop"]


def test_a_weight_is_updated_behind_its_last_reader() -> None:
    """The update is written last, and computed with the gradient: early, but when the weight may be overwritten."""

    def body(b: Builder, w: Value, m: Value, x: Value, g: Value) -> list[Value]:
        gradient = b.emit(DotGeneral(x, g, (), (), (0,), (0,)))
        back = b.emit(DotGeneral(g, w, (), (), (1,), (1,)))
        loss = b.emit(Reduce(b.emit(Unary(back, "exp")), (0, 1), "sum"))
        moment = b.emit(Binary(b.emit(Binary(m, spread(b, 0.9, m), "mul")), gradient, "add"))
        return [b.emit(Binary(w, moment, "sub")), moment, loss]

    changed = check(module_of(body, "4 5", "4 5", "3 4", "3 5"), "fuse", rtol=1e-5, atol=1e-6)
    kernels = [op for op in changed.main.walk() if isinstance(op, Fusion)]
    assert [len(op.results) for op in kernels] == [1, 2, 1]
