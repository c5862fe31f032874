"""Reductions and products that are cut into parts, under Triton's interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from ds_compiler.backends.triton.dot_schedule import choose_parts
from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dtypes import bf16
from ds_compiler.ops import Binary, Broadcast, ConvWeightGradient, DotGeneral, Reduce, Unary
from tests.backends.triton.interpreting import check, needs_triton, run
from tests.passes.helpers import module_of, spread, tensor

pytestmark = needs_triton


def names(lowered) -> list[str]:  # type: ignore[no-untyped-def]
    return ["tl.dot(" if "tl.dot(" in k.source else "loop" for k in lowered.program.kernels]


@pytest.mark.parametrize(
    ("shape", "axes", "dtype"),
    [
        ("70001", (0,), "f32"),
        ("3 17001", (1,), "bf16"),
        ("3000 24", (0,), "i32"),
        ("3000 24", (0,), "f16"),
        ("31 6 700", (0, 2), "f32"),
        ("n 300", (0,), "f32"),
    ],
)
def test_long_reductions_of_few_rows(shape: str, axes: tuple[int, ...], dtype: str) -> None:
    def make(b: Builder, x: Value) -> Value:
        total = b.emit(Reduce(x, axes, "sum"))
        return b.emit(Binary(total, total, "add"))

    lowered = check(module_of(make, tensor(shape, dtype)), {"n": 300}, {"n": 3}, {"n": 0}, scale=64)
    if "n" not in shape:
        partial, combining, *_ = (k.source for k in lowered.program.kernels)
        assert "scratch0" in partial and "scratch0" in combining and lowered.program.manifest.arena != "0"


def test_open_lengths_are_cut_as_well() -> None:
    module = module_of(lambda b, x: b.emit(Reduce(x, (0, 1), "max")), "n 40 24")
    lowered = check(module, {"n": 20}, {"n": 1}, {"n": 0})
    assert len(lowered.program.kernels) == 2


def test_results_of_a_reduction_that_another_and_all_points_need() -> None:
    """The variance of columns, as a batch norm has it: three reductions' worth of kernels, then all elements."""

    def make(b: Builder, x: Value, gain: Value) -> list[Value]:
        mean = b.emit(Reduce(x, (0,), "mean"))
        centred = b.emit(Binary(x, b.emit(Broadcast(mean, x.type.shape, (1,))), "sub"))
        variance = b.emit(Reduce(b.emit(Binary(centred, centred, "mul")), (0,), "mean"))
        scale = b.emit(Binary(b.emit(Unary(variance, "rsqrt")), gain, "mul"))
        return [b.emit(Binary(centred, b.emit(Broadcast(scale, x.type.shape, (1,))), "mul")), mean]

    lowered = check(module_of(make, "3001 16", "16"), scale=8)
    assert any("scratch" in k.source for k in lowered.program.kernels)


def test_softmax_of_one_long_row() -> None:
    def make(b: Builder, x: Value) -> Value:
        top = b.emit(Broadcast(b.emit(Reduce(x, (1,), "max")), x.type.shape, (0,)))
        e = b.emit(Unary(b.emit(Binary(x, top, "sub")), "exp"))
        return b.emit(Binary(e, b.emit(Broadcast(b.emit(Reduce(e, (1,), "sum")), x.type.shape, (0,))), "div"))

    lowered = check(module_of(make, "2 40001"), scale=8)
    assert len(lowered.program.kernels) == 5  # maxima and sums in two kernels each, then the quotients


@pytest.mark.parametrize("how", ["prod", "min", "any", "all"])
def test_every_combination(how: str) -> None:
    dtype = "bool" if how in ("any", "all") else "f32"

    def make(b: Builder, x: Value) -> Value:
        return b.emit(Reduce(x, (0,), how))

    rng = np.random.default_rng(0)
    x = (rng.random((9001, 3)) < (0.0003 if how == "any" else 0.9997)) if dtype == "bool" else rng.random((9001, 3))
    x = x if dtype == "bool" else (0.9999 + 2e-4 * x).astype(np.float32)
    check(module_of(make, tensor("9001 3", dtype)), inputs=[x], scale=64)


@pytest.mark.parametrize(("depth", "dtype"), [(1024, "f32"), (1003, "f32"), (5003, "bf16"), (4096, "f16")])
def test_split_products_end_in_one_epilogue(depth: int, dtype: str) -> None:
    def make(b: Builder, x: Value, y: Value, bias: Value) -> Value:
        product = b.emit(DotGeneral(x, y, (), (), (0,), (0,)))
        total = b.emit(Binary(product, b.emit(Broadcast(bias, product.type.shape, (1,))), "add"))
        return b.emit(Binary(b.emit(Unary(total, "tanh")), spread(b, 2.0, total), "mul"))

    module = module_of(make, tensor(f"{depth} 12", dtype), tensor(f"{depth} 16", dtype), tensor("16", dtype))
    rng = np.random.default_rng(0)
    inputs = [(rng.standard_normal(a.type.shape) / 16).astype(a.type.dtype.numpy) for a in module.main.arguments]
    lowered = check(module, inputs=inputs, scale=16)
    assert names(lowered) == ["tl.dot(", "loop"]
    partial, combining = (k.source for k in lowered.program.kernels)
    assert "library.tanh" in combining and "library.tanh" not in partial
    assert "scratch0: tensor<" in partial and "f32>" in partial.split("scratch0: ")[1].split("\n")[0]


def test_a_convolution_weights_gradient_is_split() -> None:
    def make(b: Builder, x: Value, g: Value) -> Value:
        return b.emit(ConvWeightGradient(x, g, (3, 3), (1, 1), (1, 1), (1, 1), (1, 1), 1, "nhwc"))

    lowered = check(module_of(make, "4 12 12 8", "4 12 12 8"), scale=64)
    assert names(lowered) == ["tl.dot(", "loop"]


def test_a_run_gives_the_same_bits() -> None:
    module = module_of(lambda b, x, y: b.emit(DotGeneral(x, y, (), (), (0,), (0,))), "1024 16", "1024 16")
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((1024, 16)).astype(np.float32) for _ in range(2)]
    lowered, (first, second) = run(module, inputs, inputs)
    np.testing.assert_array_equal(first[0], second[0])
    assert not any("atomic" in k.source for k in lowered.program.kernels)


def test_large_products_stay_whole() -> None:
    assert choose_parts(1, 8192, 8192, 8192, bf16) == 1
    assert choose_parts(1, 4096, 4096, 1024, bf16) == 1
    assert choose_parts(1, 128, 128, 65536, bf16) > 8
