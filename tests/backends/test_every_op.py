"""Every primitive of the operation set, on every element type it takes, compiled and compared with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from ds_compiler.backends.llvm.compile import compile_module
from ds_compiler.backends.llvm.target import parse_target
from ds_compiler.ir import Builder, Module, Value, dtypes, symbol
from ds_compiler.ir.dtypes import DType
from ds_compiler.ops import (
    ArgReduce,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
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
from ds_compiler.ops.elementwise import BINARY, COMPARE, PREDICATE, UNARY
from ds_compiler.passes.fuse import fuse
from ds_compiler.runtime.cpu import architecture
from tests.backends.programs import compiled, executable
from tests.passes.helpers import module_of, tensor
from tests.passes.interpreting import interpret

Array = np.ndarray[Any, Any]
Make = Callable[[Builder, DType], Value | Sequence[Value]]

FLOATS = ("f64", "f32", "f16", "bf16")
INTEGERS = ("i64", "i32", "i16", "i8", "u64", "u32", "u16", "u8")
ALL = (*FLOATS, *INTEGERS, "bool")
#: Relative error allowed to a compiled float operation, beyond one rounding of the type.
EPSILON = {"f64": 1e-12, "f32": 2e-6, "f16": 2e-3, "bf16": 2e-2}

n, m = symbol("n"), symbol("m")


def array(shape: Sequence[int], dtype: DType, seed: int) -> Array:
    """Random elements; small integers, so that sums and products stay in range of most types."""
    rng = np.random.default_rng(seed)
    if dtype.is_float:
        return np.asarray(rng.standard_normal(shape)).astype(dtype.numpy)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return rng.integers(-5 if dtype.kind == "i" else 0, 6, shape).astype(dtype.numpy)


def check(module: Module, inputs: Sequence[Array], *, scale: float = 1.0) -> None:
    """Compiled code and interpreter must agree; `scale` multiplies the error allowed to floats."""
    _, result = compiled(module)
    expected = interpret(module, inputs)
    for threads in (1, 2):
        got = list(executable(result, threads)(*[a.copy() for a in inputs]).values())
        for ours, reference in zip(got, expected, strict=True):
            assert ours.dtype == reference.dtype and ours.shape == reference.shape
            name = dtypes.from_numpy(reference.dtype).name
            if name in EPSILON:
                wide, error = reference.astype(np.float64), EPSILON[name] * scale
                np.testing.assert_allclose(ours.astype(np.float64), wide, rtol=error, atol=error)
            else:
                np.testing.assert_array_equal(ours, reference)


# -- elementwise: all kinds that take a type in one program ------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_unary_and_predicates(name: str) -> None:
    dtype = dtypes.dtype(name)
    kinds = [k for k, rule in UNARY.items() if dtype.kind in rule.accepts]
    predicates = [k for k in PREDICATE if dtype.kind in PREDICATE[k].accepts]

    def make(b: Builder, x: Value) -> list[Value]:
        return [*(b.emit(Unary(x, k)) for k in kinds), *(b.emit(Predicate(x, k)) for k in predicates)]

    x = array((3, 13), dtype, 1)
    if dtype.is_float:
        x[0, :4] = [0, np.nan, np.inf, -np.inf]
    check(module_of(make, tensor("n m", name)), [x])


@pytest.mark.parametrize("name", ALL)
def test_binary_and_comparisons(name: str) -> None:
    dtype = dtypes.dtype(name)
    kinds = [k for k, rule in BINARY.items() if dtype.kind in rule.accepts]
    comparisons = [k for k in COMPARE if dtype.kind in COMPARE[k].accepts]

    def make(b: Builder, x: Value, y: Value) -> list[Value]:
        return [*(b.emit(Binary(x, y, k)) for k in kinds), *(b.emit(Compare(x, y, k)) for k in comparisons)]

    x, y = array((3, 13), dtype, 1), array((3, 13), dtype, 2)
    if dtype.kind == "i":
        y[:] = np.abs(y)  # shifts and powers by negative amounts are not defined
    # near-equal quotients make a remainder jump, powers magnify: a few roundings
    check(module_of(make, tensor("n m", name), tensor("n m", name)), [x, y], scale=4)


@pytest.mark.parametrize("source", [name for name in ALL if dtypes.dtype(name).bits >= 8])
def test_bitcasts(source: str) -> None:
    equal = [d for d in map(dtypes.dtype, ALL) if d.bits == dtypes.dtype(source).bits and d.kind != "b"]

    def make(b: Builder, x: Value) -> list[Value]:
        return [b.emit(Bitcast(x, to)) for to in equal]

    check(module_of(make, tensor("n m", source)), [array((3, 13), dtypes.dtype(source), 1)])


@pytest.mark.parametrize("source", ALL)
def test_casts(source: str) -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        return [b.emit(Cast(x, dtypes.dtype(to))) for to in ALL]

    x = array((3, 13), dtypes.dtype(source), 1)
    if dtypes.dtype(source).is_float:
        x = x * np.asarray(3, x.dtype)
        x[0, :3] = [np.nan, np.inf, -np.inf]
    check(module_of(make, tensor("n m", source)), [x])


# -- one program for each operation and type ---------------------------------------------------------------------


def _indices(b: Builder, values: Any) -> Value:
    return b.emit(Constant(np.asarray(values, np.int64)))


def _scalar(b: Builder, value: Any, dtype: DType) -> Value:
    return b.emit(Constant(np.asarray(value, dtype.numpy)))


# name -> (operand shapes over n = 6, m = 19; body; element types)
CASES: dict[str, tuple[tuple[str, ...], Callable[..., Value | Sequence[Value]], Sequence[str]]] = {
    "select": (
        ("n m", "n m", "n m"),
        lambda b, c, x, y: b.emit(Select(b.emit(Compare(c, x, "ne")), x, y)),
        ALL,
    ),
    "iota": (
        ("n m",),
        lambda b, x: [b.emit(Iota(x.type.shape, a, x.type.dtype)) for a in (0, 1)],
        (*FLOATS, *INTEGERS),
    ),
    "size": (("n m",), lambda b, x: [b.emit(Size(n * m + 1)), x], ("f32",)),
    "reshape": (("n 4 3",), lambda b, x: b.emit(Reshape(b.emit(Transpose(x, (0, 2, 1))), (n, 2, 6))), ALL),
    "transpose": (
        ("n m 3 5",),
        lambda b, x: [b.emit(Transpose(x, p)) for p in ((3, 2, 1, 0), (0, 2, 3, 1), (1, 0, 2, 3))],
        ALL,
    ),
    "transpose 2d": (("n m",), lambda b, x: b.emit(Transpose(x, (1, 0))), ALL),
    "broadcast": (
        ("m", "n 1"),
        lambda b, x, y: [b.emit(Broadcast(x, (3, n, m), (2,))), b.emit(Broadcast(y, (n, m), (0, 1)))],
        ALL,
    ),
    "slice": (
        ("n m",),
        lambda b, x: [
            b.emit(Slice(x, (1, 2), (n - 2, 7), (1, 2))),
            b.emit(Slice(x, (0, m - 1), (n, m), (1, -1))),
            b.emit(Slice(x, (2, 0), (n - 2, m), (1, 1))),
        ],
        ALL,
    ),
    "dynamic_slice": (
        ("n m",),
        lambda b, x: b.emit(DynamicSlice(x, (b.emit(Size(n - 3)), b.emit(Size(m + 5))), (2, 5))),
        ALL,
    ),
    "pad": (("n m",), lambda b, x: b.emit(Pad(x, _scalar(b, 1, x.type.dtype), (1, 3), (2, n))), ALL),
    "concat": (
        ("n m", "n 3"),
        lambda b, x, y: [b.emit(Concat((x, y, x), 1)), b.emit(Concat((x, x), 0))],
        ALL,
    ),
    "gather": (
        ("n m",),
        lambda b, x: [
            b.emit(Gather(x, _indices(b, [[0, -1, 2], [3, 3, 1]]), 0)),
            b.emit(Gather(x, _indices(b, [5, -2, 0]), 1)),
        ],
        ALL,
    ),
    "gather_elements": (
        ("n m",),
        lambda b, x: b.emit(GatherElements(x, _indices(b, [[0, -1, 2], [3, 3, 1]]), 1)),
        ALL,
    ),
    "gather_nd": (
        ("n m 3",),
        lambda b, x: b.emit(GatherND(x, _indices(b, [[[0, 1], [2, 2]], [[1, -1], [0, 0]]]), 0)),
        ALL,
    ),
    "scatter_nd": (
        ("n m", "2 m"),
        lambda b, x, u: [
            b.emit(ScatterND(x, _indices(b, [[3], [-1]]), u, mode))
            for mode in (("set", "max", "min") if x.type.dtype.kind == "b" else ("set", "add", "mul", "max", "min"))
        ],
        ALL,
    ),
    "scatter_elements": (
        ("n m", "2 3"),
        lambda b, x, u: [
            b.emit(ScatterElements(x, _indices(b, [[0, 2, 1], [3, -1, 3]]), u, 0, mode))
            for mode in (("set", "max", "min") if x.type.dtype.kind == "b" else ("set", "add", "mul", "max", "min"))
        ],
        ALL,
    ),
    "top_k": (
        ("n m",),
        lambda b, x: [
            r
            for k, largest in ((1, True), (4, True), (4, False), (m, True))
            for r in b.insert(TopK(x, k, largest)).results
        ],
        ALL,
    ),
    "reduce": (
        ("n m 5",),
        lambda b, x: [
            b.emit(Reduce(x, axes, how))
            for axes in ((2,), (1,), (0, 2), (0, 1, 2), (1, 2))
            for how in (("any", "all") if x.type.dtype.kind == "b" else ("sum", "max", "min"))
        ],
        ALL,
    ),
    "reduce mean and prod": (
        ("n m 5",),
        lambda b, x: [b.emit(Reduce(x, axes, how)) for axes in ((2,), (1, 2)) for how in ("mean", "prod")],
        (*FLOATS, "i64", "i32"),
    ),
    "arg_reduce": (
        ("n m 5",),
        lambda b, x: [
            b.emit(ArgReduce(x, axis, how, last))
            for axis in (0, 1, 2)
            for how in ("max", "min")
            for last in (False, True)
        ],
        (*FLOATS, *INTEGERS),
    ),
    "reduce_window": (
        ("n 12 m 5",),
        lambda b, x: [
            b.emit(ReduceWindow(x, (1, 2), (3, 2), (2, 1), (1, 1), (1, 0), (1, 1), how))
            for how in ("max", *(("sum",) if x.type.dtype.is_integer else ("sum", "mean", "mean_valid")))
        ],
        (*FLOATS, *INTEGERS),
    ),
    "reduce_window over three axes": (
        ("n 4 5 m 3",),
        lambda b, x: b.emit(ReduceWindow(x, (1, 2, 3), (2, 2, 2), (1, 2, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1), "max")),
        ("f32", "f64"),
    ),
    "cumulative": (
        ("n m",),
        lambda b, x: [
            b.emit(Cumulative(x, axis, how, exclusive, reverse))
            for how in ("sum", "max", "min")
            for axis, exclusive, reverse in ((1, False, False), (0, True, False), (1, True, True))
        ],
        (*FLOATS, *INTEGERS),
    ),
    "dot_general": (
        ("n 7 m", "n m 9"),
        lambda b, x, y: [
            b.emit(DotGeneral(x, y, (0,), (0,), (2,), (1,))),
            b.emit(DotGeneral(x, x, (), (), (0, 2), (0, 2))),
        ],
        (*FLOATS, *INTEGERS),
    ),
    "dot_integer": (("n 7 m", "m 9"), lambda b, x, y: b.emit(DotInteger(x, y)), ("i16",)),
    "conv": (
        ("2 6 n m", "8 3 3 2"),
        lambda b, x, w: b.emit(Conv(x, w, (2, 1), (1, 0), (1, 1), (1, 2), 2, "nchw")),
        FLOATS,
    ),
    "conv of three axes": (
        ("2 4 5 n m", "8 4 3 2 3"),
        lambda b, x, w: b.emit(Conv(x, w, (1, 2, 1), (1, 0, 1), (1, 1, 0), (1, 1, 1), 1, "nchw")),
        ("f32", "f64"),
    ),
    "conv channels last": (
        ("2 n m 6", "8 3 3 2"),
        lambda b, x, w: b.emit(Conv(x, w, (2, 1), (1, 0), (1, 1), (1, 2), 2, "nhwc")),
        ("f32", "f64"),
    ),
    "conv to few and many channels": (
        ("1 n m 5", "21 5 3 3", "1 21 1 1"),
        lambda b, x, v, w: b.emit(
            Conv(
                b.emit(Conv(x, v, (1, 1), (1, 1), (1, 1), (1, 1), 1, "nhwc")),
                w, (1, 1), (0, 0), (0, 0), (1, 1), 1, "nhwc",
            )
        ),
        ("f32", "f64"),
    ),
    "conv with groups of odd sizes": (
        ("2 n m 10", "54 5 3 2"),
        lambda b, x, w: b.emit(Conv(x, w, (1, 1), (1, 1), (1, 0), (1, 1), 2, "nhwc")),
        ("f32", "f64"),
    ),
    "depthwise conv": (
        ("1 n m 10", "10 1 3 3"),
        lambda b, x, w: b.emit(Conv(x, w, (1, 1), (1, 1), (1, 1), (1, 1), 10, "nhwc")),
        ("f32",),
    ),
    "conv of one axis": (
        ("2 6 m", "8 6 3"),
        lambda b, x, w: b.emit(Conv(x, w, (2,), (1,), (1,), (1,), 1, "nchw")),
        ("f32",),
    ),
    "conv_transpose": (
        ("2 6 n m", "6 4 3 2"),
        lambda b, x, w: b.emit(ConvTranspose(x, w, (2, 1), (1, 0), (0, 1), (1, 2), 2, "nchw")),
        FLOATS,
    ),
    "conv_weight_gradient": (
        ("2 6 n m", "2 4 6 m"),
        lambda b, x, g: b.emit(ConvWeightGradient(x, g, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 2, "nchw")),
        FLOATS,
    ),
    "conv_weight_gradient, depthwise": (
        ("2 n m 10", "2 n m 10"),
        lambda b, x, g: b.emit(ConvWeightGradient(x, g, (3, 1), (1, 1), (1, 0), (1, 0), (1, 1), 10, "nhwc")),
        ("f32", "f64"),
    ),
    "conv_transpose of three axes": (
        ("1 4 3 n m", "4 3 3 2 2"),
        lambda b, x, w: b.emit(ConvTranspose(x, w, (2, 1, 2), (1, 0, 0), (0, 1, 0), (1, 1, 1), 1, "nchw")),
        ("f32",),
    ),
}  # fmt: skip

SIZES: dict[str, int] = {"n": 6, "m": 19}


def _shape(text: str) -> list[int]:
    return [SIZES.get(d) or int(d) for d in text.split()]


@pytest.mark.parametrize(("case", "name"), [(case, name) for case, (_, _, types) in CASES.items() for name in types])
def test_operation(case: str, name: str) -> None:
    shapes, make, _ = CASES[case]
    inputs = [array(_shape(text), dtypes.dtype(name), seed) for seed, text in enumerate(shapes)]
    check(module_of(make, *(tensor(text, name) for text in shapes)), inputs, scale=8)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_narrow_floats_need_no_library(name: str, target: str) -> None:
    """Code for a CPU without conversions does them itself: the routines that LLVM would call need not exist."""
    if architecture() != "x86_64":
        pytest.skip("compiles for x86-64")

    def make(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(Binary(b.emit(Binary(x, y, "mul")), b.emit(Reshape(y, y.type.shape)), "max"))

    module = module_of(make, tensor("n m", name), tensor("n m", name))
    fuse(module)
    code = compile_module(module, parse_target(target)).program
    assert not any(routine in code for routine in (b"hfsf2", b"sfhf2", b"sfbf2"))
