"""Every derivative rule against central differences, forward and reverse, first and second order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Block, Builder, Region, TensorType, Value, dtypes, operation_class, operation_names, symbol
from ds_compiler.ops import (
    Binary,
    Broadcast,
    Cast,
    Compare,
    Composite,
    Concat,
    Conv,
    ConvTranspose,
    Cumulative,
    DotGeneral,
    DynamicSlice,
    Gather,
    GatherElements,
    GatherND,
    Pad,
    Reduce,
    ReduceWindow,
    Reshape,
    ScatterElements,
    ScatterND,
    Select,
    Slice,
    StopGradient,
    TopK,
    Transpose,
    Unary,
    Yield,
)
from ds_compiler.ops.derivatives import rule_of
from ds_compiler.ops.elementwise import BINARY, UNARY
from tests.passes.differentiating import check_gradient, check_native, module_of

Array = np.ndarray[Any, Any]
N, M = symbol("n"), symbol("m")
F64 = dtypes.f64


@dataclass(frozen=True)
class Case:
    """A function, its arguments' types, and arrays to differentiate it at."""

    body: Callable[..., Any]
    types: tuple[TensorType, ...]
    arrays: tuple[Array, ...]
    order: int = 2


def normal(*shape: int, seed: int = 0, low: float | None = None, high: float = 1.0) -> Array:
    rng = np.random.default_rng(seed + sum(shape))
    return np.asarray(rng.standard_normal(shape) if low is None else rng.uniform(low, high, shape))


def case(body: Callable[..., Any], *arrays: Array, types: str = "", order: int = 2) -> Case:
    """`types`: shapes of the arguments by ``;``, for symbolic ones."""
    stated = [t.split() for t in types.split(";")] if types else [[str(d) for d in a.shape] for a in arrays]
    from tests.passes.helpers import tensor

    of = tuple(
        tensor(" ".join(shape), dtypes.from_numpy(a.dtype).name) for shape, a in zip(stated, arrays, strict=True)
    )
    return Case(body, of, arrays, order)


CASES: dict[str, Case] = {}

DOMAIN = {
    "sqrt": (0.2, 2), "rsqrt": (0.3, 2), "reciprocal": (0.4, 2), "log": (0.3, 2), "log1p": (-0.5, 1),
    "asin": (-0.8, 0.8), "acos": (-0.8, 0.8), "acosh": (1.3, 3), "atanh": (-0.8, 0.8), "tan": (-1, 1),
}  # fmt: skip
for kind in UNARY:
    if "f" in UNARY[kind].accepts:
        low, high = DOMAIN.get(kind, (0.05, 1.45))
        x = normal(2, 3, low=low, high=high)
        CASES[kind] = case(lambda b, x, kind=kind: b.emit(Unary(x, kind)), x)

for kind in BINARY:
    if "f" in BINARY[kind].accepts:
        x, y = normal(2, 3, low=0.5, high=2.5), normal(2, 3, seed=7, low=0.6, high=2.4)
        CASES[kind] = case(lambda b, x, y, kind=kind: b.emit(Binary(x, y, kind)), x, y)

    def squared(b: Builder, x: Value, exponent: float) -> Value:
        return b.emit(Binary(x, _number(b, exponent, x), "pow"))


def _number(b: Builder, number: float, like: Value) -> Value:
    from tests.passes.helpers import spread

    return spread(b, number, like)


for exponent in (0.0, 1.0, 2.0, 3.0, -1.5):
    CASES[f"pow {exponent}"] = case(lambda b, x, e=exponent: squared(b, x, e), normal(4, low=0.5, high=2))


def _chosen(b: Builder, x: Value, y: Value) -> Value:
    return b.emit(Select(b.emit(Compare(x, y, "lt")), b.emit(Unary(x, "exp")), b.emit(Binary(x, y, "mul"))))


def _through_f32(b: Builder, x: Value) -> Value:
    half = b.emit(Cast(b.emit(Cast(x, dtypes.i64)), F64))
    return b.emit(Binary(b.emit(Cast(b.emit(Cast(x, F64)), F64)), half, "mul"))


CASES |= {
    "select": case(_chosen, normal(5), normal(5, seed=3)),
    "cast": case(_through_f32, normal(4, low=1.2, high=1.8)),
    "reshape": case(lambda b, x: b.emit(Reshape(x, (3, 2))), normal(2, 3)),
    "reshape symbolic": case(lambda b, x: b.emit(Reshape(x, (3 * N,))), normal(2, 3), types="n 3"),
    "transpose": case(lambda b, x: b.emit(Transpose(x, (2, 0, 1))), normal(2, 3, 1)),
    "broadcast new axes": case(lambda b, x: b.emit(Broadcast(x, (2, 3, 4), (1,))), normal(3)),
    "broadcast ones": case(lambda b, x: b.emit(Broadcast(x, (4, 2, 3), (0, 2))), normal(1, 3)),
    "broadcast scalar": case(lambda b, x: b.emit(Broadcast(x, (2, 0, 3), ())), normal()),
    "broadcast symbolic repeated": case(
        lambda b, x, y: b.emit(Binary(b.emit(Broadcast(x, (M, 2), (0, 1))), y, "mul")),
        normal(1, 2), normal(3, 2), types="n 2;m 2",
    ),
    "broadcast symbolic along": case(
        lambda b, x, y: b.emit(Binary(b.emit(Broadcast(x, (M, 2), (0, 1))), y, "mul")),
        normal(3, 2), normal(3, 2), types="n 2;m 2",
    ),
    "slice": case(lambda b, x: b.emit(Slice(x, (1, 0), (2, 3), (1, 1))), normal(4, 3)),
    "slice steps": case(lambda b, x: b.emit(Slice(x, (1, 0), (2, 2), (2, 2))), normal(6, 3)),
    "slice backwards": case(lambda b, x: b.emit(Slice(x, (5, 2), (3, 3), (-2, -1))), normal(6, 3)),
    "slice one": case(lambda b, x: b.emit(Slice(x, (3,), (1,), (7,))), normal(6)),
    "slice nothing": case(lambda b, x: b.emit(Slice(x, (0,), (0,), (1,))), normal(3)),
    "slice symbolic": case(lambda b, x: b.emit(Slice(x, (N - 1, 0), (N, 2), (-1, 1))), normal(3, 3), types="n 3"),
    "slice symbolic steps": case(lambda b, x: b.emit(Slice(x, (1,), (N // 2,), (2,))), normal(5), types="n"),
    "dynamic slice": case(
        lambda b, x, i, j: b.emit(DynamicSlice(x, (i, j), (2, 3))), normal(4, 3), np.asarray(1), np.asarray(0)
    ),
    "dynamic slice clamped": case(
        lambda b, x, i: b.emit(DynamicSlice(x, (i,), (2,))), normal(4), np.asarray(9)
    ),
    "dynamic slice symbolic": case(
        lambda b, x, i: b.emit(DynamicSlice(x, (i,), (2,))), normal(4), np.asarray(-3), types="n;"
    ),
    "pad": case(lambda b, x, v: b.emit(Pad(x, v, (1, 0), (0, 2))), normal(2, 3), normal()),
    "concat": case(lambda b, x, y: b.emit(Concat((x, y, x), 1)), normal(2, 3), normal(2, 1)),
    "concat symbolic": case(lambda b, x, y: b.emit(Concat((x, y), 0)), normal(2, 3), normal(4, 3), types="n 3;m 3"),
    "gather": case(lambda b, x, i: b.emit(Gather(x, i, 0)), normal(4, 3), np.array([[0, 3], [3, -1], [1, 1]])),
    "gather axis 1": case(lambda b, x, i: b.emit(Gather(x, i, 1)), normal(2, 4, 3), np.array([3, 1, 1])),
    "gather scalar": case(lambda b, x, i: b.emit(Gather(x, i, 1)), normal(2, 4), np.asarray(-2)),
    "gather elements": case(
        lambda b, x, i: b.emit(GatherElements(x, i, 1)), normal(2, 4), np.array([[0, 0, 2], [3, 1, -1]])
    ),
    "gather nd": case(lambda b, x, i: b.emit(GatherND(x, i, 0)), normal(3, 4, 2), np.array([[0, 1], [2, 3], [0, 1]])),
    "gather nd batch": case(lambda b, x, i: b.emit(GatherND(x, i, 1)), normal(2, 4, 3), np.arange(4).reshape(2, 2, 1)),
    "top k": case(lambda b, x: b.insert(TopK(x, 2, True)).results, normal(3, 4)),
    "composite": case(lambda b, x: _softplus(b, x), normal(3)),
    "stop gradient": case(
        lambda b, x, i: b.emit(Binary(x, b.emit(StopGradient(b.emit(Cast(i, F64)))), "mul")), normal(3), np.arange(3)
    ),
}  # fmt: skip


def _softplus(b: Builder, x: Value) -> Value:
    block = Block([x.type])
    inside = Builder(block)
    inside.insert(Yield((inside.emit(Unary(inside.emit(Unary(block.arguments[0], "exp")), "log1p")),)))
    return b.insert(Composite((x,), Region(block), "softplus")).results[0]


for mode in ("set", "add", "mul", "max", "min"):
    CASES[f"scatter nd {mode}"] = case(
        lambda b, x, i, u, mode=mode: b.emit(ScatterND(x, i, u, mode)),
        normal(4, 2), np.array([[2], [0], [-1]]), normal(3, 2, seed=4),
    )  # fmt: skip
    CASES[f"scatter elements {mode}"] = case(
        lambda b, x, i, u, mode=mode: b.emit(ScatterElements(x, i, u, 1, mode)),
        normal(2, 4), np.array([[0, 2], [3, 1]]), normal(2, 2, seed=4),
    )  # fmt: skip
for mode in ("add", "mul", "max"):
    CASES[f"scatter elements {mode} twice"] = case(
        lambda b, x, i, u, mode=mode: b.emit(ScatterElements(x, i, u, 0, mode)),
        normal(3), np.array([1, 1, 0]), normal(3, seed=5),
        order=1 if mode == "mul" else 2,
    )  # fmt: skip

for how in ("sum", "mean", "max", "min", "prod"):
    CASES[f"reduce {how}"] = case(lambda b, x, how=how: b.emit(Reduce(x, (0, 2), how)), normal(2, 3, 2))
    CASES[f"reduce all {how}"] = case(lambda b, x, how=how: b.emit(Reduce(x, (0,), how)), normal(4), types="n")
CASES["reduce prod with zeros"] = case(lambda b, x: b.emit(Reduce(x, (1,), "prod")), np.array([[0.0, 2, 3], [0, 0, 4]]))
CASES["reduce nothing"] = case(lambda b, x: b.emit(Reduce(x, (0,), "sum")), normal(0, 3))

for how in ("sum", "prod", "max", "min"):
    for exclusive in (False, True):
        for back in (False, True):
            arguments = (1, how, exclusive, back)
            # Over nothing the extremum is infinite, which has no central difference.
            if not (exclusive and how in ("max", "min")):
                CASES[f"cumulative {how} {exclusive} {back}"] = case(
                    lambda b, x, a=arguments: b.emit(Cumulative(x, *a)), normal(2, 4)
                )
CASES["cumulative prod with zeros"] = case(lambda b, x: b.emit(Cumulative(x, 0, "prod")), np.array([2.0, 0, 3, 0, 1]))


def _inner_extremum(b: Builder, x: Value, how: str, back: bool) -> Value:
    running = b.emit(Cumulative(x, 0, how, True, back))
    return b.emit(Slice(running, (0 if back else 1,), (3,), (1,)))


for how in ("max", "min"):
    for back in (False, True):
        CASES[f"cumulative {how} exclusive {back}"] = case(
            lambda b, x, how=how, back=back: _inner_extremum(b, x, how, back), normal(4)
        )

WINDOWS = {
    "plain": ((1, 2), (2, 2), (1, 1), (0, 0), (0, 0), (1, 1)),
    "strided": ((1, 2), (3, 2), (2, 2), (1, 0), (1, 1), (1, 1)),
    "dilated": ((2,), (2,), (1,), (1,), (0,), (2,)),
    "remainder": ((1, 2), (2, 2), (2, 2), (0, 0), (0, 0), (1, 1)),
}  # fmt: skip
for how in ("max", "sum", "mean", "mean_valid"):
    for name, arguments in WINDOWS.items():
        CASES[f"pool {how} {name}"] = case(
            lambda b, x, a=arguments, how=how: b.emit(ReduceWindow(x, *a, how)), normal(2, 5, 5), order=1
        )
CASES["pool twice"] = case(lambda b, x: b.emit(ReduceWindow(x, (0,), (3,), (2,), (1,), (1,), (1,), "max")), normal(5))
CASES["pool symbolic"] = case(
    lambda b, x: b.emit(ReduceWindow(x, (0,), (3,), (2,), (1,), (1,), (1,), "mean")), normal(6), types="n"
)

DOTS = {
    "matrix": ((), (), (1,), (0,), (2, 3), (3, 4)),
    "transposed": ((), (), (0,), (1,), (3, 2), (4, 3)),
    "batch": ((0,), (0,), (2,), (1,), (2, 2, 3), (2, 3, 2)),
    "batch behind": ((2,), (1,), (0,), (2,), (3, 2, 2), (2, 2, 3)),
    "two contracted": ((), (), (0, 2), (2, 0), (2, 3, 4), (4, 2, 2)),
    "outer": ((), (), (), (), (2,), (3,)),
    "vector": ((), (), (0,), (0,), (3,), (3,)),
    "empty": ((), (), (1,), (0,), (2, 0), (0, 2)),
}  # fmt: skip
for name, (*axes, a_shape, b_shape) in DOTS.items():
    CASES[f"dot {name}"] = case(
        lambda b, x, y, axes=tuple(axes): b.emit(DotGeneral(x, y, *axes)), normal(*a_shape), normal(*b_shape, seed=2)
    )
CASES["dot symbolic"] = case(
    lambda b, x, y: b.emit(DotGeneral(x, y, (), (), (1,), (0,))), normal(2, 3), normal(3, 2), types="n m;m 2"
)

CONVOLUTIONS = {
    "plain": ((1, 2, 4, 4), (2, 2, 3, 3), (1, 1), (0, 0), (0, 0), (1, 1), 1, "nchw"),
    "padded": ((1, 2, 3, 3), (1, 2, 3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 1, "nchw"),
    "strided": ((2, 1, 5, 4), (2, 1, 3, 2), (2, 2), (1, 0), (1, 1), (1, 1), 1, "nchw"),
    "remainder": ((1, 1, 6), (1, 1, 3), (2,), (0,), (0,), (1,), 1, "nchw"),
    "dilated": ((1, 1, 6), (2, 1, 2), (1,), (1,), (0,), (2,), 1, "nchw"),
    "grouped": ((1, 4, 3), (4, 2, 2), (1,), (0,), (1,), (1,), 2, "nchw"),
    "depthwise": ((2, 3, 4), (3, 1, 2), (1,), (1,), (0,), (1,), 3, "nchw"),
    "depthwise with multiplier": ((2, 3, 4, 3), (6, 1, 2, 2), (1, 2), (1, 0), (0, 1), (1, 1), 3, "nchw"),
    "nhwc": ((1, 4, 3, 2), (2, 2, 2, 2), (2, 1), (1, 0), (0, 1), (1, 1), 1, "nhwc"),
    "nhwc grouped": ((1, 4, 4), (2, 2, 2), (1,), (0,), (0,), (1,), 2, "nhwc"),
    "wide": ((1, 16, 3), (2, 16, 2), (1,), (0,), (1,), (1,), 1, "nchw"),
    "strided kernel of one": ((1, 2, 5), (3, 2, 1), (2,), (0,), (0,), (1,), 1, "nchw"),
    "strided and dilated": ((1, 1, 7), (1, 1, 2), (2,), (1,), (0,), (2,), 1, "nchw"),
    "strides differ": ((1, 2, 7, 4, 2), (2, 1, 3, 2, 1), (3, 1, 2), (1, 0, 0), (0, 1, 1), (1, 1, 1), 2, "nchw"),
    "nhwc strided": ((1, 6, 5, 2), (3, 2, 3, 2), (2, 3), (2, 1), (0, 1), (1, 1), 1, "nhwc"),
    "much padding": ((1, 1, 2), (1, 1, 2), (1,), (3,), (2,), (1,), 1, "nchw"),
}  # fmt: skip
for name, (x_shape, w_shape, *arguments) in CONVOLUTIONS.items():
    CASES[f"conv {name}"] = case(
        lambda b, x, w, a=tuple(arguments): b.emit(Conv(x, w, *a)), normal(*x_shape), normal(*w_shape, seed=3)
    )
CASES["conv symbolic"] = case(
    lambda b, x, w: b.emit(Conv(x, w, (2,), (1,), (1,), (1,), 1)), normal(2, 2, 5), normal(2, 2, 3), types="n 2 m;2 2 3"
)
TRANSPOSED = {
    "plain": ((1, 2, 3, 2), (2, 2, 2, 3), (1, 1), (0, 0), (0, 0), (1, 1), 1, "nchw"),
    "strided": ((2, 2, 3), (2, 1, 3), (2,), (1,), (0,), (1,), 1, "nchw"),
    "grouped": ((1, 4, 3), (4, 2, 2), (1,), (0,), (1,), (2,), 2, "nchw"),
    "nhwc": ((1, 3, 2), (2, 2, 2), (2,), (0,), (0,), (1,), 1, "nhwc"),
    "remainder": ((1, 1, 3), (1, 1, 2), (3,), (0,), (-1,), (1,), 1, "nchw"),
}  # fmt: skip
for name, (x_shape, w_shape, *arguments) in TRANSPOSED.items():
    if name != "remainder":
        CASES[f"conv transpose {name}"] = case(
            lambda b, x, w, a=tuple(arguments): b.emit(ConvTranspose(x, w, *a)),
            normal(*x_shape),
            normal(*w_shape, seed=3),
        )


@pytest.mark.parametrize("name", CASES)
def test_central_differences(name: str) -> None:
    chosen = CASES[name]
    module = module_of(chosen.body, chosen.types)
    # Second differences of what is steep need a wider step and lose digits.
    check_gradient(module, chosen.arrays, order=chosen.order, tolerance=2e-5)


@pytest.mark.parametrize("name", CASES)
def test_compiled_equals_interpreted(name: str) -> None:
    chosen = CASES[name]
    check_native(module_of(chosen.body, chosen.types), chosen.arrays)


def test_every_operation_is_decided() -> None:
    """Each operation class has a rule, is expanded by the pass, or makes no floating-point value of an operand."""
    classes = {found[0].__name__ for name in operation_names() if (found := operation_class(name))}
    ruled = {c for c in classes if any(k.__name__ == c for k in _ruled())}
    regions = {"If", "While", "Scan", "Composite", "CustomCall", "StopGradient", "Call", "Vjp", "Jvp"}
    sources = {"Constant", "Size", "Bind", "Assume", "Check", "Iota", "Return", "Yield"}
    assert classes - ruled - regions - sources == {"Fusion"}


def _ruled() -> list[type]:
    return [found[0] for name in operation_names() if (found := operation_class(name)) and rule_of(found[0])]
