"""Products and convolutions on tensor cores, under Triton's interpreter."""

from __future__ import annotations

import pytest

from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dtypes import f32
from ds_compiler.ops import Binary, Broadcast, Cast, Conv, ConvTranspose, DotGeneral, Transpose, Unary
from tests.backends.triton.interpreting import check, needs_triton
from tests.passes.helpers import module_of, spread, tensor

pytestmark = needs_triton


def dot(x: Value, y: Value) -> DotGeneral:
    """``x @ y`` over the last axis of x and the last but one of y, leading axes of both a batch."""
    n = x.type.rank - 2
    batch = tuple(range(n))
    return DotGeneral(x, y, batch, batch, (n + 1,), (n,))


def with_epilogue(b: Builder, x: Value, y: Value, bias: Value) -> Value:
    product = b.emit(dot(x, y))
    total = b.emit(Binary(product, b.emit(Broadcast(bias, product.type.shape, (product.type.rank - 1,))), "add"))
    return b.emit(Binary(b.emit(Unary(total, "tanh")), spread(b, 2.0, total), "mul"))


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize(("x", "y"), [("70 100", "100 40"), ("3 20 64", "3 64 200"), ("m k", "k 40"), ("m 64", "64 n")])
def test_product_with_epilogue(x: str, y: str, dtype: str) -> None:
    module = module_of(with_epilogue, tensor(x, dtype), tensor(y, dtype), tensor(y.split()[-1], dtype))
    lowered = check(module, {"m": 70, "k": 50, "n": 30}, {"m": 1, "k": 1, "n": 1}, scale=4)
    (kernel,) = lowered.program.kernels
    assert "tl.dot(" in kernel.source


def test_transposed_operands_are_read_in_place() -> None:
    def make(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(DotGeneral(x, b.emit(Transpose(y, (1, 0))), (), (), (0,), (0,)))

    (kernel,) = check(module_of(make, "50 30", "40 50"), scale=4).program.kernels
    assert "tl.dot(" in kernel.source


def test_widened_operands_are_multiplied_as_they_are() -> None:
    def make(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(dot(b.emit(Cast(x, f32)), b.emit(Cast(y, f32))))

    check(module_of(make, tensor("32 64", "bf16"), tensor("64 32", "bf16")), scale=4)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize(
    ("strides", "low", "high", "dilations"), [((1, 1), (1, 1), (1, 1), (1, 1)), ((2, 1), (0, 2), (1, 0), (1, 2))]
)
@pytest.mark.parametrize("channels", [3, 40])
def test_convolutions(channels, strides, low, high, dilations, layout) -> None:  # type: ignore[no-untyped-def]
    def make(b: Builder, x: Value, w: Value, bias: Value) -> Value:
        y = b.emit(Conv(x, w, strides, low, high, dilations, 1, layout))
        axis = 3 if layout == "nhwc" else 1
        total = b.emit(Binary(y, b.emit(Broadcast(bias, y.type.shape, (axis,))), "add"))
        return b.emit(Binary(total, spread(b, 0.0, total), "max"))

    image = f"2 {channels} 9 10" if layout == "nchw" else f"2 9 10 {channels}"
    (kernel,) = check(module_of(make, image, f"24 {channels} 3 3", "24"), scale=10).program.kernels
    assert "tl.dot(" in kernel.source


@pytest.mark.parametrize("groups", [2, 16])
def test_grouped_convolutions(groups: int) -> None:
    def make(b: Builder, x: Value, w: Value) -> Value:
        return b.emit(Conv(x, w, (1, 1), (1, 1), (1, 1), (1, 1), groups, "nhwc"))

    check(module_of(make, "1 6 7 16", f"16 {16 // groups} 3 3"), scale=10)


def test_transposed_convolution() -> None:
    def make(b: Builder, x: Value, w: Value) -> Value:
        return b.emit(ConvTranspose(x, w, (2, 2), (1, 1), (0, 1), (1, 1), 1, "nhwc"))

    check(module_of(make, "1 5 6 20", "20 16 3 3"), scale=10)
