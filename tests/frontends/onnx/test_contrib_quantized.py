"""Quantised operators of com.microsoft against onnxruntime, at odd sizes, signed and unsigned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontends.onnx.contrib import Array, both, check, check_rounded

RNG = np.random.default_rng(0)
TYPES = (np.uint8, np.int8)


def floats(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(dtype: Any, *shape: int) -> Array:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max + 1, shape).astype(dtype)


def narrow(*shape: int) -> Array:
    """Weights of 7 bits: onnxruntime's 8-bit kernels saturate their sums on processors without VNNI."""
    return RNG.integers(-64, 64, shape).astype(np.int8)


def scale(value: float) -> Array:
    return np.array(value, np.float32)


def quantised(dtype: Any, *shape: int, by: float = 0.05, zero: int = 3) -> dict[str, Array]:
    return {"x": whole(dtype, *shape), "scale": scale(by), "zero": np.array(zero, dtype)}


def named(prefix: str, parts: dict[str, Array]) -> dict[str, Array | None]:
    return {f"{prefix}_{name}": value for name, value in parts.items()}


def as_constants(inputs: dict[str, Array | None], *except_: str) -> tuple[str, ...]:
    return tuple(name for name in inputs if name not in except_)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("operator", ["QLinearAdd", "QLinearMul"])
@pytest.mark.parametrize("right", [(2, 5, 33), (33,), (1,)])
def test_arithmetic(operator: str, dtype: Any, right: tuple[int, ...]) -> None:
    inputs = named("a", quantised(dtype, 2, 5, 33)) | named("b", quantised(dtype, *right, by=0.03, zero=-2 % 120))
    inputs |= {"y_scale": scale(0.11), "y_zero": np.array(9, dtype)}
    check_rounded(both(operator, inputs, constant=as_constants(inputs, "a_x", "b_x")))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("QLinearSigmoid", {}),
        ("QLinearLeakyRelu", {"alpha": 0.1}),
        ("QLinearGlobalAveragePool", {"channels_last": 0}),
        ("QLinearGlobalAveragePool", {"channels_last": 1}),
        ("QLinearAveragePool", {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}),
        ("QLinearAveragePool", {"kernel_shape": [2, 2], "channels_last": 1}),
        ("QLinearSoftmax", {"axis": 3, "opset": 13}),
        ("QLinearSoftmax", {"axis": 2, "opset": 12}),
    ],
)
def test_function(operator: str, attributes: dict[str, Any], dtype: Any) -> None:
    inputs = named("x", quantised(dtype, 2, 4, 7, 9))
    small = {"QLinearSigmoid": 1 / 256, "QLinearSoftmax": 1 / 256}.get(operator, 0.04)
    inputs |= {"y_scale": scale(small), "y_zero": np.array(np.iinfo(dtype).min, dtype)}
    check_rounded(both(operator, inputs, constant=as_constants(inputs, "x_x"), **attributes))


def test_concat() -> None:
    inputs: dict[str, Array | None] = {"y_scale": scale(0.07), "y_zero": np.array(5, np.uint8)}
    inputs |= named("a", quantised(np.uint8, 2, 3, 5)) | named("b", quantised(np.uint8, 2, 4, 5, by=0.09))
    check_rounded(both("QLinearConcat", inputs, constant=as_constants(inputs, "a_x", "b_x"), axis=1))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_matmul_integer_to_float(dtype: Any, columns: bool) -> None:
    n = 17
    scales = RNG.uniform(0.01, 0.1, n if columns else 1).astype(np.float32)
    inputs: dict[str, Array | None] = {
        "a": whole(dtype, 2, 5, 37),
        "b": narrow(37, n),
        "a_scale": scale(0.02),
        "b_scale": scales if columns else scales.reshape(()),
        "a_zero": np.array(7, dtype),
        "b_zero": np.zeros(n, np.int8) if columns else np.array(1, np.int8),
        "bias": floats(n),
    }
    check(both("MatMulIntegerToFloat", inputs, constant=as_constants(inputs, "a")))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_dynamic_quantize_matmul(columns: bool, bias: bool) -> None:
    n = 17
    scales = RNG.uniform(0.01, 0.1, n if columns else 1).astype(np.float32)
    inputs: dict[str, Array | None] = {
        "a": floats(2, 5, 37),
        "b": narrow(37, n),
        "b_scale": scales if columns else scales.reshape(()),
        "b_zero": np.zeros(n, np.int8) if columns else np.array(0, np.int8),
        "bias": floats(n) if bias else None,
    }
    check(both("DynamicQuantizeMatMul", inputs, constant=as_constants(inputs, "a")))


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("columns", [False, True])
def test_gemm(transposed: int, rounded: bool, columns: bool) -> None:
    n = 17
    weights = narrow(37, n)
    inputs: dict[str, Array | None] = named("a", quantised(np.uint8, 5, 37))
    inputs |= {
        "b_x": np.ascontiguousarray(weights.T) if transposed else weights,
        "b_scale": RNG.uniform(0.01, 0.1, n).astype(np.float32) if columns else scale(0.02),
        "b_zero": np.zeros(n, np.int8) if columns else np.array(0, np.int8),
        "c": RNG.integers(-900, 900, n).astype(np.int32),
    }
    if rounded:
        inputs |= {"y_scale": scale(0.9), "y_zero": np.array(100, np.uint8)}
    pairs = both("QGemm", inputs, constant=as_constants(inputs, "a_x"), transB=transposed)
    check_rounded(pairs) if rounded else check(pairs)


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_attention(past: int, masked: bool) -> None:
    heads, size, rows = 3, 8, 5
    width = heads * size
    inputs: dict[str, Array | None] = {
        "x": whole(np.uint8, 2, rows, 20),
        "w": narrow(20, 3 * width),
        "b": floats(3 * width),
        "x_scale": scale(0.01),
        "w_scale": scale(0.02),
        "mask": np.array([4, rows + past], np.int32) if masked else None,
        "x_zero": np.array(128, np.uint8),
        "w_zero": np.array(0, np.int8),
        "past": floats(2, 2, heads, past, size) if past else None,
    }
    constants = ("w", "b", "x_scale", "w_scale", "x_zero", "w_zero")
    check(both("QAttention", inputs, constant=constants, outputs=2 if past else 1, num_heads=heads, unidirectional=1))


def test_embed_layer_normalization() -> None:
    tables = {"words": 40, "positions": 12, "segments": 2}
    inputs: dict[str, Array | None] = {
        "ids": RNG.integers(0, 40, (2, 6)).astype(np.int32),
        "kinds": RNG.integers(0, 2, (2, 6)).astype(np.int32),
        **{name: whole(np.uint8, rows, 16) for name, rows in tables.items()},
        "gamma": whole(np.uint8, 16),
        "beta": whole(np.uint8, 16),
        "mask": np.array([[1, 1, 1, 1, 0, 0], [1] * 6], np.int32),
        **{f"scale{i}": scale(0.01 * (i + 1)) for i in range(5)},
        **{f"zero{i}": np.array(100 + i, np.uint8) for i in range(5)},
    }
    constant = as_constants(inputs, "ids", "kinds", "mask")
    check(both("QEmbedLayerNormalization", inputs, constant=constant, outputs=2, epsilon=1e-5))


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("columns", [False, True])
def test_lstm(direction: str, columns: bool) -> None:
    count, hidden, width, batch, length = (2 if direction == "bidirectional" else 1), 7, 5, 2, 4
    per = (count, 4 * hidden) if columns else (count,)
    inputs: dict[str, Array | None] = {
        "x": floats(length, batch, width),
        "w": narrow(count, width, 4 * hidden),
        "r": narrow(count, hidden, 4 * hidden),
        "b": floats(count, 8 * hidden),
        "lengths": None,
        "h0": floats(count, batch, hidden),
        "c0": floats(count, batch, hidden),
        "p": None,
        "w_scale": RNG.uniform(0.01, 0.02, per).astype(np.float32),
        "w_zero": np.zeros(per, np.int8),
        "r_scale": RNG.uniform(0.01, 0.02, per).astype(np.float32),
        "r_zero": np.zeros(per, np.int8),
    }
    constant = ("w", "r", "b", "w_scale", "w_zero", "r_scale", "r_zero")
    pairs = both("DynamicQuantizeLSTM", inputs, constant=constant, outputs=3, hidden_size=hidden, direction=direction)
    check(pairs, 1e-3)
