"""Whole programs: memory, control flow, sizes known only at run time, on one, two, three and seven threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.ir import Block, Builder, Module, Region, TensorType, Value, dtypes, symbol
from ds_compiler.ops import (
    Binary,
    Bind,
    Broadcast,
    Cast,
    Compare,
    Conv,
    DotGeneral,
    If,
    Iota,
    Reduce,
    Reshape,
    Scan,
    Size,
    Slice,
    Transpose,
    Unary,
    While,
    Yield,
)
from ds_compiler.passes.buffers import Carry, Output, Where
from ds_compiler.runtime import ExecutionError, InputError
from tests.backends.programs import STRESSED, check_program, compiled, executable
from tests.passes.helpers import const, module_of, random_inputs, spread, tensor
from tests.passes.interpreting import interpret

SIZES = ({"n": 1}, {"n": 5}, {"n": 6000})


def region(body: Callable[..., Sequence[Value]], *types: TensorType) -> Region:
    """A region that takes `types` and yields what ``body(builder, *arguments)`` returns."""
    block = Block(types)
    builder = Builder(block)
    builder.insert(Yield(tuple(body(builder, *block.arguments))))
    return Region(block)


def unary(b: Builder, x: Value, kind: str = "tanh") -> Value:
    return b.emit(Unary(x, kind))


def add(b: Builder, x: Value, y: Value) -> Value:
    return b.emit(Binary(x, y, "add"))


def scaled(b: Builder, x: Value, factor: float) -> Value:
    return b.emit(Binary(x, spread(b, factor, x), "mul"))


def is_positive(b: Builder, x: Value) -> Value:
    """Scalar bool: the first element along every axis sums to more than 0 (any scalar works here)."""
    total = b.emit(Reduce(x, tuple(range(x.type.rank)), "max")) if x.type.rank else x
    return b.emit(Compare(total, const(b, 0.0), "gt"))


# -- straight-line programs -------------------------------------------------------------------
def test_kernels_in_a_row_and_a_view() -> None:
    def body(b: Builder, x: Value, w: Value) -> list[Value]:
        y = unary(b, b.emit(DotGeneral(x, w, (), (), (1,), (0,))))
        turned = b.emit(Transpose(y, (1, 0)))
        return [b.emit(Reshape(y, (symbol("n") * 2, 8))), b.emit(Reduce(turned, (1,), "sum"))]

    check_program(module_of(body, "n 32", "32 16"), *SIZES, rtol=1e-4)


def test_input_constant_and_repeated_value_as_outputs() -> None:
    def body(b: Builder, x: Value) -> list[Value]:
        y = unary(b, x)
        c = const(b, np.arange(6).reshape(2, 3))
        n = b.emit(Size(symbol("n") * 3 + 1))
        return [x, y, y, c, c, n, b.emit(Reshape(y, (symbol("n") * 4,)))]

    result = check_program(module_of(body, "n 4"), *SIZES)
    assert result.plan.buffers.outputs.count(Output.DIRECT) == 1


def test_chain_runs_in_place_in_the_output() -> None:
    def body(b: Builder, x: Value) -> Value:
        for _ in range(6):
            x = unary(b, x)
        return x

    result = check_program(module_of(body, "n 40"), *SIZES, max_ops=1)
    assert len(result.manifest.kernels) == 6 + 1
    assert result.plan.buffers.in_place == 5 and result.plan.arena == 0


def test_input_read_later_is_not_overwritten() -> None:
    def body(b: Builder, x: Value) -> Value:
        y = unary(b, x)
        z = unary(b, y, "exp")
        w = unary(b, z, "neg")
        return add(b, unary(b, w, "abs"), y)

    check_program(module_of(body, "n 40"), *SIZES, max_ops=1)


def test_equal_kernels_are_emitted_once() -> None:
    def body(b: Builder, x: Value, v: Value) -> list[Value]:
        w = const(b, np.eye(32) * 2)
        for _ in range(4):
            x = unary(b, b.emit(DotGeneral(x, w, (), (), (1,), (0,))))
        return [x, unary(b, v, "exp")]

    result = check_program(module_of(body, "n 32", "n"), {"n": 3}, {"n": 70}, rtol=1e-4)
    assert (len(result.manifest.kernels) - 1, result.kernels) == (5, 2)
    assert len(result.manifest.constants) == 1  # the packed weight, once


def test_equal_constants_are_stored_once() -> None:
    rng = np.random.default_rng(0)
    data = rng.standard_normal((50, 8))

    def body(b: Builder, x: Value) -> Value:
        for other in (data, data.copy(), data + 1):
            x = unary(b, add(b, x, const(b, other)))
        return x

    result = check_program(module_of(body, "50 8"), max_ops=2)
    assert len(result.manifest.constants) == 2
    assert result.manifest.constant_block_bytes() == 2 * 50 * 8 * 4


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f8e4m3fn"])
def test_constants_of_types_that_numpy_lacks(dtype: str) -> None:
    """Types of ml_dtypes export no buffer."""

    def body(b: Builder, x: Value) -> list[Value]:
        table = const(b, np.arange(24).reshape(3, 8) / 4, dtype)
        return [b.emit(Cast(table, dtypes.f32)), add(b, x, b.emit(Cast(table, dtypes.f32)))]

    check_program(module_of(body, "3 8"))


def test_empty_tensors() -> None:
    def body(b: Builder, x: Value) -> list[Value]:
        return [unary(b, x), b.emit(Reduce(x, (0,), "sum"))]

    check_program(module_of(body, "n 4"), {"n": 0}, {"n": 2})


@pytest.mark.parametrize("channels", [8, 128])
def test_convolution_to_one_channel(channels: int) -> None:
    """Its epilogue stores vectors along an axis of one element."""

    weight = np.random.default_rng(0).standard_normal((1, channels, 1))

    def body(b: Builder, x: Value) -> Value:
        y = b.emit(Conv(x, const(b, weight), (1,), (0,), (0,), (1,), 1, "nhwc"))
        return unary(b, b.emit(Binary(y, spread(b, -0.5, y), "add")), "sigmoid")

    module = module_of(body, f"1 t {channels}")
    check_program(module, {"t": 1}, {"t": 7}, {"t": 33})


# -- if ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_if_writes_to_one_place(value: float) -> None:
    def body(b: Builder, c: Value, x: Value) -> Value:
        return b.emit(
            If(
                is_positive(b, c),
                region(lambda b: [unary(b, x, "exp")]),
                region(lambda b: [unary(b, unary(b, x, "neg"))]),
            )
        )

    module = module_of(body, "", "n 9")
    x = np.random.default_rng(0).standard_normal((3000, 9)).astype(np.float32)
    result = check_program(module, inputs=[np.float32(value) * np.ones((), np.float32), x], max_ops=1)
    assert result.plan.buffers.outputs == [Output.DIRECT]


@pytest.mark.parametrize("value", [-1.0, 1.0])
def test_if_yields_outer_values_nested_and_twice(value: float) -> None:
    def body(b: Builder, c: Value, x: Value) -> list[Value]:
        y = unary(b, x)
        k = const(b, np.full((4, 9), 3.0))

        def inner(b: Builder) -> list[Value]:
            z = unary(b, y, "exp")
            nested = b.insert(
                If(is_positive(b, x), region(lambda b: [z, y]), region(lambda b: [unary(b, z, "neg"), x]))
            )
            return [nested.results[0], nested.results[1], k]

        op = b.insert(If(is_positive(b, c), region(inner), region(lambda b: [y, y, unary(b, k)])))
        return [*op.results, add(b, add(b, op.results[0], op.results[1]), op.results[2]), y]

    module = module_of(body, "", "4 9")
    for sign in (1.0, -1.0):
        x = sign * np.abs(np.random.default_rng(0).standard_normal((4, 9))).astype(np.float32)
        check_program(module, inputs=[np.full((), value, np.float32), x.astype(np.float32)], max_ops=1)


def test_if_with_sizes_of_its_own() -> None:
    """Each branch yields another size, which the branch binds."""
    n, m = symbol("n"), symbol("_m")

    def body(b: Builder, c: Value, x: Value) -> list[Value]:
        def sliced(size: Any) -> Callable[[Builder], list[Value]]:
            def inner(b: Builder) -> list[Value]:
                b.insert(Bind(b.emit(Size(size)), "_m"))
                return [unary(b, b.emit(Slice(x, (0, 0), (size, 4), (1, 1))))]

            return inner

        op = b.insert(If(is_positive(b, c), region(sliced(n)), region(sliced(1)), (tensor("_m 4"),)))
        return [op.results[0], unary(b, op.results[0], "exp"), b.emit(Reduce(op.results[0], (0,), "sum"))]

    module = module_of(body, "", "n 4")
    x = np.random.default_rng(0).standard_normal((5000, 4)).astype(np.float32)
    for value in (-1.0, 1.0):
        check_program(module, inputs=[np.full((), value, np.float32), x], rtol=1e-3)
    assert m is not n


# -- loops ------------------------------------------------------------------------------------
def counted(b: Builder, limit: int, inits: list[Value], step: Callable[..., list[Value]]) -> list[Value]:
    """A while that runs `limit` times; the counter is carried first."""
    start = const(b, 0, "i64")
    types = [v.type for v in (start, *inits)]

    def condition(b: Builder, i: Value, *rest: Value) -> list[Value]:
        return [b.emit(Compare(i, const(b, limit, "i64"), "lt"))]

    def body(b: Builder, i: Value, *rest: Value) -> list[Value]:
        return [b.emit(Binary(i, const(b, 1, "i64"), "add")), *step(b, *rest)]

    op = b.insert(While((start, *inits), region(condition, *types), region(body, *types)))
    return list(op.results)


@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_while_carries_by_alternating_halves(limit: int) -> None:
    def body(b: Builder, x: Value) -> list[Value]:
        return counted(b, limit, [x], lambda b, v: [scaled(b, unary(b, v), 1.5)])

    result = check_program(module_of(body, "n 7"), *SIZES)
    ((_, carried),) = result.plan.buffers.carried.values()
    assert carried.how is Carry.WRITTEN


@pytest.mark.parametrize("limit", [0, 1, 4, 5])
def test_while_that_exchanges_keeps_and_repeats_values(limit: int) -> None:
    def body(b: Builder, x: Value, y: Value, z: Value) -> list[Value]:
        w = unary(b, x)

        def step(b: Builder, p: Value, q: Value, r: Value, s: Value, t: Value) -> list[Value]:
            fresh = add(b, p, unary(b, q))
            return [q, p, fresh, fresh, w]

        return [*counted(b, limit, [x, y, z, w, z], step), w]

    check_program(module_of(body, *["n 7"] * 3), *SIZES, max_ops=1)


def test_while_that_ends_by_its_data() -> None:
    def body(b: Builder, x: Value) -> Value:
        def condition(b: Builder, v: Value) -> list[Value]:
            total = b.emit(Reduce(v, (0, 1), "max"))
            return [b.emit(Compare(total, const(b, 100.0), "lt"))]

        op = While((x,), region(condition, x.type), region(lambda b, v: [scaled(b, v, 1.25)], x.type))
        return b.emit(op)

    module = module_of(body, "n 7")
    for rows in (1, 4000):
        x = np.random.default_rng(0).random((rows, 7)).astype(np.float32) + 1
        check_program(module, inputs=[x])


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_with_recurrence_has_no_copies(reverse: bool) -> None:
    """As an LSTM: the state is both carried and stacked."""

    def body(b: Builder, xs: Value, h0: Value, w: Value) -> list[Value]:
        def step(b: Builder, h: Value, x: Value) -> list[Value]:
            z = b.emit(DotGeneral(h, w, (), (), (1,), (0,)))
            new = unary(b, add(b, z, x))
            return [new, new]

        op = b.insert(Scan((h0,), (xs,), symbol("t"), region(step, h0.type, tensor("n 16")), reverse))
        return list(op.results)

    result = check_program(
        module_of(body, "t n 16", "n 16", "16 16"), {"t": 0, "n": 2}, {"t": 1, "n": 1}, {"t": 6, "n": 900}, rtol=1e-3
    )
    buffers = result.plan.buffers
    assert [c.how for cs in buffers.carried.values() for c in cs] == [Carry.POINTER]
    assert [s.direct for ss in buffers.stacked.values() for s in ss] == [True]
    assert buffers.outputs == [Output.COPY, Output.DIRECT]
    assert buffers.of_kind(Where.ARENA) == [] or result.plan.arena != 0


def test_scan_stacks_arguments_outer_values_and_duplicates() -> None:
    def body(b: Builder, xs: Value, c0: Value) -> list[Value]:
        y = unary(b, c0)

        def step(b: Builder, c: Value, d: Value, x: Value) -> list[Value]:
            new = add(b, c, x)
            return [new, c, x, y, new, new, c, b.emit(Reshape(d, (4, symbol("n"))))]

        op = b.insert(Scan((c0, y), (xs,), symbol("t"), region(step, c0.type, y.type, c0.type)))
        return [*op.results, add(b, op.results[0], op.results[1])]

    check_program(module_of(body, "t n 4", "n 4"), {"t": 1, "n": 3}, {"t": 5, "n": 3}, {"t": 4, "n": 5000}, max_ops=1)


def test_scan_in_scan() -> None:
    def body(b: Builder, xs: Value, c0: Value) -> list[Value]:
        def inner(b: Builder, c: Value, x: Value) -> list[Value]:
            new = unary(b, add(b, c, x))
            return [new, scaled(b, new, 2.0)]

        def outer(b: Builder, c: Value, row: Value) -> list[Value]:
            op = b.insert(Scan((c,), (row,), 3, region(inner, c.type, tensor("n"))))
            return [op.results[0], op.results[1], scaled(b, op.results[0], 0.5)]

        op = b.insert(Scan((c0,), (xs,), symbol("t"), region(outer, c0.type, tensor("3 n"))))
        return list(op.results)

    check_program(module_of(body, "t 3 n", "n"), {"t": 1, "n": 3}, {"t": 4, "n": 20000})


def test_if_in_scan() -> None:
    def body(b: Builder, xs: Value, c0: Value) -> list[Value]:
        def step(b: Builder, c: Value, x: Value) -> list[Value]:
            op = b.insert(
                If(is_positive(b, x), region(lambda b: [unary(b, x), c]), region(lambda b: [add(b, c, x), x]))
            )
            return [op.results[0], op.results[1]]

        return list(b.insert(Scan((c0,), (xs,), symbol("t"), region(step, c0.type, c0.type))).results)

    module = module_of(body, "t n 4", "n 4")
    check_program(module, {"t": 1, "n": 3}, {"t": 7, "n": 1}, {"t": 3, "n": 5000})


# -- sizes that depend on data ----------------------------------------------------------------
def count_positive(b: Builder, x: Value) -> Value:
    flags = b.emit(Cast(b.emit(Compare(x, spread(b, 0.0, x), "gt")), dtypes.i64))
    return b.emit(Reduce(flags, tuple(range(x.type.rank)), "sum"))


def test_size_from_data() -> None:
    def body(b: Builder, x: Value) -> list[Value]:
        b.insert(Bind(count_positive(b, x), "_count"))
        count = symbol("_count")
        numbers = b.emit(Cast(b.emit(Iota((count, 3), 0, dtypes.i64)), dtypes.f32))
        y = unary(b, numbers, "sqrt")
        return [y, y, b.emit(Reduce(y, (0,), "sum")), b.emit(Size(count * 2))]

    result = check_program(module_of(body, "n 5"), *SIZES, max_ops=1, rtol=1e-4)
    assert result.plan.buffers.outputs[0] is Output.HANDED_OVER
    assert result.plan.buffers.outputs[1] is Output.ALLOCATED_COPY


def test_size_from_data_in_a_loop() -> None:
    def body(b: Builder, xs: Value) -> Value:
        def step(b: Builder, total: Value, x: Value) -> list[Value]:
            b.insert(Bind(count_positive(b, x), "_count"))
            numbers = b.emit(Cast(b.emit(Iota((symbol("_count"),), 0, dtypes.i64)), dtypes.f32))
            return [add(b, total, b.emit(Reduce(unary(b, numbers, "sqrt"), (0,), "max")))]

        return b.emit(Scan((const(b, 0.0),), (xs,), symbol("t"), region(step, tensor(), tensor("n"))))

    check_program(module_of(body, "t n"), {"t": 3, "n": 9}, {"t": 4, "n": 60000}, max_ops=1)


# -- checks -----------------------------------------------------------------------------------
def test_sizes_that_do_not_fit_are_an_input_error() -> None:
    def body(b: Builder, x: Value) -> Value:
        return unary(b, b.emit(Reshape(x, (3, symbol("k"), 2))))

    module = module_of(lambda b, x, y: [body(b, x), y], "n 4", "k")
    _, result = compiled(module)
    run = executable(result)
    run(np.zeros((3, 4), np.float32), np.zeros(2, np.float32))
    with pytest.raises(InputError, match=r"elements before and after: 4\*n and 6\*k must be equal"):
        run(np.zeros((3, 4), np.float32), np.zeros(3, np.float32))


@pytest.mark.parametrize("threads", [1, 2, 3, STRESSED])
def test_sizes_from_data_that_do_not_fit_are_an_execution_error(threads: int) -> None:
    def body(b: Builder, x: Value) -> Value:
        b.insert(Bind(count_positive(b, x), "_count"))
        return unary(b, b.emit(Reshape(x, (symbol("_count"), 2))))

    _, result = compiled(module_of(body, "n"))
    run = executable(result, threads)
    assert run(np.array([1, 1, -1, -1], np.float32))["y0"].shape == (2, 2)
    for _ in range(3):
        with pytest.raises(ExecutionError, match="reshape: elements before and after"):
            run(np.array([1, 1, 1, -1], np.float32))
    assert run(np.array([1, -1], np.float32))["y0"].shape == (1, 2)


def test_branch_not_taken_is_not_checked() -> None:
    def body(b: Builder, c: Value, x: Value) -> Value:
        n = symbol("n")
        cut = region(lambda b: [b.emit(Reduce(b.emit(Slice(x, (0,), (n - 5,), (1,))), (0,), "sum"))])
        return b.emit(If(is_positive(b, c), cut, region(lambda b: [b.emit(Reduce(x, (0,), "max"))])))

    _, result = compiled(module_of(body, "", "n"))
    run = executable(result, 2)
    small = np.ones(3, np.float32)
    assert run(np.float32(-1).reshape(()), small)["y0"] == 1
    with pytest.raises(ExecutionError, match=r"negative|slice"):
        run(np.float32(1).reshape(()), small)


# -- profile ----------------------------------------------------------------------------------
@pytest.mark.parametrize("threads", [1, 2])
def test_profile_has_every_kernel(threads: int) -> None:
    def body(b: Builder, x: Value) -> list[Value]:
        return [unary(b, x), b.emit(Reduce(x, (0,), "sum"))]

    _, result = compiled(module_of(body, "n 300"))
    times = executable(result, threads).profile({"x0": np.ones((1000, 300), np.float32)}, 3)
    assert [t.name for t in times][-1] == "(waiting for other threads)"
    assert all(t.seconds > 0 for t in times[:-1])


# -- random programs --------------------------------------------------------------------------
@st.composite
def random_modules(draw: st.DrawFn) -> Module:
    """Control flow nested to depth 2 over values of one shape."""
    kind = tensor("n 4")

    def straight(b: Builder, values: list[Value]) -> Value:
        pick = st.sampled_from(values)
        match draw(st.integers(0, 3)):
            case 0:
                return unary(b, draw(pick), draw(st.sampled_from(["tanh", "neg", "sin"])))
            case 1:
                return unary(b, add(b, draw(pick), draw(pick)))
            case 2:
                rows = b.emit(Reduce(draw(pick), (0,), "max"))
                return unary(b, b.emit(Broadcast(rows, kind.shape, (1,))))
            case _:
                return b.emit(Binary(draw(pick), draw(pick), "min"))

    def fill(b: Builder, values: list[Value], depth: int) -> list[Value]:
        values = list(values)
        for _ in range(draw(st.integers(1, 4))):
            choice = draw(st.integers(0, 7)) if depth < 2 else 0
            pick = st.sampled_from(values)
            if choice == 5:
                outer = list(values)
                count = draw(st.integers(1, 3))

                def branch(b: Builder, outer: list[Value] = outer, count: int = count) -> list[Value]:
                    inner = fill(b, outer, depth + 1)
                    return [draw(st.sampled_from(inner)) for _ in range(count)]

                op = b.insert(If(is_positive(b, draw(pick)), region(branch), region(branch)))
                values += op.results
            elif choice == 6:
                inits = [draw(pick) for _ in range(draw(st.integers(1, 3)))]
                outer = list(values)

                def step(b: Builder, *carried: Value, outer: list[Value] = outer) -> list[Value]:
                    inner = fill(b, [*outer, *carried], depth + 1)
                    return [draw(st.sampled_from([*inner[len(outer) :]])) for _ in carried]

                values += counted(b, draw(st.integers(0, 3)), inits, step)[1:]
            elif choice == 7:
                inits = [draw(pick) for _ in range(draw(st.integers(0, 2)))]
                stacks = draw(st.integers(1, 2))
                scanned = b.emit(Broadcast(draw(pick), (3, *kind.shape), (1, 2)))
                outer = list(values)

                def scan_step(
                    b: Builder, *arguments: Value, outer: list[Value] = outer, n: int = len(inits), stacks: int = stacks
                ) -> list[Value]:
                    inner = fill(b, [*outer, *arguments], depth + 1)
                    return [draw(st.sampled_from([*inner[len(outer) :], inner[0]])) for _ in range(n + stacks)]

                types = [kind] * (len(inits) + 1)
                op = b.insert(Scan(tuple(inits), (scanned,), 3, region(scan_step, *types), draw(st.booleans())))
                values += op.results[: len(inits)]
                values += [b.emit(Reduce(r, (0,), "max")) for r in op.results[len(inits) :]]
            else:
                values.append(straight(b, values))
        return values

    def body(b: Builder, x: Value, y: Value) -> list[Value]:
        values = fill(b, [x, y], 0)
        return [values[-1], *(draw(st.sampled_from(values)) for _ in range(draw(st.integers(0, 2))))]

    return module_of(body, kind, kind)


@settings(max_examples=25, deadline=None)
@given(random_modules(), st.integers(1, 3))
def test_random_programs(module: Module, max_ops: int) -> None:
    check_program(module, {"n": 3}, {"n": 5000}, threads=(1, 2, STRESSED), max_ops=max_ops, rtol=1e-3)


@pytest.mark.parametrize(("lhs", "rhs"), [("n", "n"), ("8", "8"), ("2 n 8", "8"), ("2 3 8", "8"), ("8", "2 8 n")])
def test_products_with_vectors(lhs: str, rhs: str) -> None:
    """A result without columns, or without any axis, and an epilogue that reads the sum alone."""

    def make(b: Builder, x: Value, y: Value) -> Value:
        dot = b.emit(DotGeneral(x, y, (), (), (x.type.rank - 1,), (max(y.type.rank - 2, 0),)))
        return b.emit(Unary(dot, "tanh"))

    check_program(module_of(make, lhs, rhs), {"n": 5}, {"n": 1})


def test_a_product_may_overwrite_what_its_epilogue_reads() -> None:
    """A weight and its moment, updated in place by the kernel of the gradient; each vector's values are computed before
    the first is stored."""

    def make(b: Builder, w: Value, m: Value, x: Value, g: Value) -> list[Value]:
        gradient = b.emit(DotGeneral(x, g, (), (), (0,), (0,)))
        moment = b.emit(Binary(b.emit(Binary(m, w, "mul")), gradient, "add"))
        return [b.emit(Binary(w, moment, "sub")), moment]

    module = module_of(make, "37 21", "37 21", "50 37", "50 21")
    result = check_program(module)
    assert [(p.output, p.input) for p in result.manifest.overwritable] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    arrays = random_inputs(module)
    expected = interpret(module, arrays)
    got = executable(result)(*arrays, donated=frozenset({0, 1})).values()
    for ours, reference in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-5, atol=1e-5)
    assert all(any(o is a for a in arrays) for o in got)
