"""Scales and shifts disappear into weights, leave what they must, and results stay the same in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.ir import Builder, Module, TensorType, Value, dtypes
from ds_compiler.ops import Binary, Broadcast, Conv, ConvTranspose, DotGeneral, Unary
from ds_compiler.passes.manager import run
from ds_compiler.reference import interpret
from tests.backends.programs import check_program
from tests.passes.helpers import const, module_of, names, random_inputs, spread

PIPELINE = "cleanup,fold-affine,cleanup"
Step = Callable[[Builder, Value, int, np.random.Generator], Value]


def vector(b: Builder, like: Value, axis: int, rng: np.random.Generator) -> Value:
    size = like.type.shape[axis]
    assert isinstance(size, int)
    values = rng.uniform(0.5, 2, size) * rng.choice([-1, 1], size)
    return b.emit(Broadcast(const(b, values, like.type.dtype.name), like.type.shape, (axis,)))


def binary(kind: str, *, left: bool = False, scalar: bool = False) -> Step:
    def step(b: Builder, x: Value, axis: int, rng: np.random.Generator) -> Value:
        c = spread(b, float(rng.uniform(0.5, 2)), x) if scalar else vector(b, x, axis, rng)
        return b.emit(Binary(*((c, x) if left else (x, c)), kind))

    return step


def negated(b: Builder, x: Value, axis: int, rng: np.random.Generator) -> Value:
    return b.emit(Unary(x, "neg"))


STEPS: dict[str, Step] = {
    "mul": binary("mul"),
    "mul_scalar": binary("mul", scalar=True),
    "mul_left": binary("mul", left=True),
    "div": binary("div"),
    "add": binary("add"),
    "add_scalar": binary("add", scalar=True),
    "sub": binary("sub"),
    "sub_from": binary("sub", left=True),
    "neg": negated,
}
FACTORS = ("mul", "mul_scalar", "mul_left", "div", "neg")


@dataclass(frozen=True)
class Shape:
    """A product: `kind` is conv, transposed, or dot (weights right) or dot_left."""

    kind: str = "conv"
    layout: str = "nchw"
    groups: int = 1
    kernel: int = 1
    padding: int = 0
    stride: int = 1

    def input(self) -> tuple[int, ...]:
        if self.kind.startswith("dot"):
            return (2, 5, 6)
        return (2, 6, 7, 5) if self.layout == "nchw" else (2, 7, 5, 6)

    @property
    def input_axis(self) -> int:
        return 2 if self.kind.startswith("dot") else 1 if self.layout == "nchw" else 3

    @property
    def output_axis(self) -> int:
        return {"dot": 2, "dot_left": 0}.get(self.kind, self.input_axis)

    def apply(self, b: Builder, x: Value, rng: np.random.Generator) -> Value:
        dtype = x.type.dtype.name
        if self.kind == "dot":
            return b.emit(DotGeneral(x, const(b, rng.standard_normal((6, 4)), dtype), (), (), (2,), (0,)))
        if self.kind == "dot_left":
            return b.emit(DotGeneral(const(b, rng.standard_normal((4, 6)), dtype), x, (), (), (1,), (2,)))
        pads, strides = (self.padding,) * 2, (self.stride,) * 2
        k = (self.kernel,) * 2
        if self.kind == "conv":
            w = const(b, rng.standard_normal((9, 6 // self.groups, *k)), dtype)
            return b.emit(Conv(x, w, strides, pads, pads, (1, 1), self.groups, self.layout))
        w = const(b, rng.standard_normal((6, 2, *k)), dtype)
        return b.emit(ConvTranspose(x, w, strides, pads, pads, (1, 1), self.groups, self.layout))


def built(shape: Shape, before: list[str], after: list[str], dtype: str = "f64", seed: int = 0) -> Module:
    rng = np.random.default_rng(seed)

    def body(b: Builder, x: Value) -> Value:
        for name in before:
            x = STEPS[name](b, x, shape.input_axis, rng)
        x = shape.apply(b, x, rng)
        for name in after:
            x = STEPS[name](b, x, shape.output_axis, rng)
        return x

    return module_of(body, TensorType(shape.input(), dtypes.dtype(dtype)))


def folded(module: Module) -> Module:
    changed = module.clone()
    run(changed, PIPELINE)
    inputs = random_inputs(module)
    for want, got in zip(interpret(module, inputs), interpret(changed, inputs), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11 * np.abs(want).max())
    return changed


SHAPES = [
    Shape(),
    Shape(layout="nhwc"),
    Shape(groups=3, kernel=3, padding=1),
    Shape(groups=3, kernel=3, layout="nhwc", stride=2),
    Shape("transposed", kernel=2, stride=2),
    Shape("transposed", groups=2, kernel=3, padding=1, layout="nhwc"),
    Shape("dot"),
    Shape("dot_left"),
]
_shapes = st.builds(
    Shape,
    kind=st.sampled_from(["conv", "transposed", "dot", "dot_left"]),
    layout=st.sampled_from(["nchw", "nhwc"]),
    groups=st.sampled_from([1, 3]),
    kernel=st.integers(1, 3),
    padding=st.integers(0, 1),
    stride=st.integers(1, 2),
)


@settings(max_examples=80, deadline=None)
@given(
    _shapes,
    st.lists(st.sampled_from(sorted(STEPS)), max_size=3),
    st.lists(st.sampled_from(sorted(STEPS)), max_size=4),
    st.integers(0, 1000),
)
def test_any_chain_around_a_product(shape: Shape, before: list[str], after: list[str], seed: int) -> None:
    changed = folded(built(shape, before, after, seed=seed))
    # Behind the product, at most one bias is left whatever stood there.
    ops = names(changed)
    product = next(i for i, name in enumerate(ops) if name in ("conv", "conv_transpose", "dot_general"))
    assert [name for name in ops[product + 1 :] if name != "broadcast"] in ([], ["add"], ["sub"])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_normalisation_behind_is_one_bias(shape: Shape) -> None:
    changed = folded(built(shape, [], ["add", "sub", "div", "mul", "add"]))
    assert [n for n in names(changed) if n != "broadcast"][1:] == ["add"]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("step", FACTORS)
def test_factors_in_front_go(shape: Shape, step: str) -> None:
    changed = folded(built(shape, [step], []))
    assert len(names(changed)) == 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shifts_in_front_go_where_nothing_is_padded(shape: Shape) -> None:
    changed = folded(built(shape, ["add"], []))
    ops = [n for n in names(changed) if n != "broadcast"]
    exact = shape.kind.startswith("dot") or (shape.kind == "conv" and shape.padding == 0)
    assert ops[-1] == ("add" if exact else names(changed)[-1])
    assert ops[0] == ("add" if not exact else ops[0]) and len(ops) == 2


def test_results_read_elsewhere_keep_their_product() -> None:
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value) -> list[Value]:
        y = Shape().apply(b, x, rng)
        return [STEPS["mul"](b, y, 1, rng), y]

    assert "mul" in names(folded(module_of(body, TensorType((2, 6, 7, 5), dtypes.f64))))


def test_factors_along_other_axes_stay() -> None:
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value) -> Value:
        return STEPS["mul"](b, Shape().apply(b, x, rng), 2, rng)

    assert "mul" in names(folded(module_of(body, TensorType((2, 6, 7, 5), dtypes.f64))))


def test_run_time_factors_stay() -> None:
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value, s: Value) -> Value:
        y = Shape().apply(b, x, rng)
        return b.emit(Binary(y, b.emit(Broadcast(s, y.type.shape, (1,))), "mul"))

    types = (TensorType((2, 6, 7, 5), dtypes.f64), TensorType((9,), dtypes.f64))
    assert "mul" in names(folded(module_of(body, *types)))


def test_weights_that_would_overflow_stay() -> None:
    def body(b: Builder, x: Value) -> Value:
        y = b.emit(DotGeneral(x, const(b, np.full((6, 4), 1e30)), (), (), (1,), (0,)))
        return b.emit(Binary(y, spread(b, 1e30, y), "mul"))

    module = module_of(body, "2 6")
    run(module, PIPELINE)
    assert "mul" in names(module)


def test_division_by_zero_stays() -> None:
    def body(b: Builder, x: Value) -> Value:
        y = b.emit(DotGeneral(x, const(b, np.ones((6, 3))), (), (), (1,), (0,)))
        return b.emit(Binary(y, b.emit(Broadcast(const(b, [1.0, 0.0, 2.0]), y.type.shape, (1,))), "div"))

    module = module_of(body, "2 6")
    run(module, PIPELINE)
    assert "div" in names(module)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_native_code(shape: Shape) -> None:
    module = built(shape, ["mul", "add"], ["sub", "mul", "add"], "f32")
    run(module, "cleanup,fold-affine,layout,cleanup")
    check_program(module, threads=(1,), rtol=1e-4)


def test_no_factor_left_in_a_network_of_normalised_convolutions() -> None:
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value) -> Any:
        for _ in range(3):
            y = b.emit(Conv(x, const(b, rng.standard_normal((6, 6, 3, 3)), "f64"), (1, 1), (1, 1), (1, 1), (1, 1), 1))
            for name in ("sub", "mul", "mul", "add"):
                y = STEPS[name](b, y, 1, rng)
            x = b.emit(Binary(y, spread(b, 0.0, y), "max"))
        return x

    changed = folded(module_of(body, TensorType((1, 6, 8, 8), dtypes.f64)))
    assert [n for n in names(changed) if n != "broadcast"] == ["conv", "add", "max"] * 3


def test_large_weights_are_not_rewritten_for_what_stands_in_front() -> None:
    rng = np.random.default_rng(0)

    def body(b: Builder, x: Value) -> Value:
        return b.emit(DotGeneral(STEPS["mul"](b, x, 1, rng), const(b, rng.random((300, 300))), (), (), (1,), (0,)))

    module = module_of(body, "4 300")
    run(module, PIPELINE)
    assert "mul" in names(module)
