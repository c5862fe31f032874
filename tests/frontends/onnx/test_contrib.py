"""Operators of com.microsoft other than attention and quantised ones, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.frontends.onnx.contrib import Array, both, check

RNG = np.random.default_rng(0)


def floats(*shape: int, dtype: Any = np.float32) -> Array:
    return RNG.standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("operator", ["Gelu", "QuickGelu", "FastGelu"])
def test_activation(operator: str) -> None:
    check(both(operator, {"x": 3 * floats(2, 7, 33)}))


@pytest.mark.parametrize("operator", ["BiasGelu", "FastGelu"])
def test_activation_with_bias(operator: str) -> None:
    check(both(operator, {"x": 3 * floats(2, 7, 33), "b": floats(33)}))


@pytest.mark.parametrize("skip", [(2, 5, 24), (1, 5, 24), (5, 24)])
@pytest.mark.parametrize("bias", [False, True])
def test_skip_layer_normalization(skip: tuple[int, ...], bias: bool) -> None:
    inputs: dict[str, Array | None] = {
        "x": floats(2, 5, 24),
        "skip": floats(*skip),
        "gamma": floats(24),
        "beta": floats(24),
        "bias": floats(24) if bias else None,
    }
    pairs = both("SkipLayerNormalization", inputs, constant=("gamma", "beta", "bias"), outputs=(0, 3), epsilon=1e-5)
    check(pairs)  # onnxruntime leaves the mean and the deviation unset


@pytest.mark.parametrize("bias", [False, True])
def test_skip_simplified_layer_normalization(bias: bool) -> None:
    inputs: dict[str, Array | None] = {
        "x": floats(2, 5, 24),
        "skip": floats(2, 5, 24),
        "gamma": floats(24),
        "bias": floats(24) if bias else None,
    }
    pairs = both("SkipSimplifiedLayerNormalization", inputs, outputs=(0, 3), epsilon=1e-5)
    check(pairs)


def test_simplified_layer_normalization_stands_in_the_default_domain() -> None:
    inputs: dict[str, Array | None] = {"x": floats(2, 5, 24), "gamma": floats(24)}
    check(both("SimplifiedLayerNormalization", inputs, domain="", outputs=2, epsilon=1e-5))


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_embed_layer_normalization(segments: bool, masked: bool, positions: bool) -> None:
    inputs: dict[str, Array | None] = {
        "ids": RNG.integers(0, 40, (2, 6)).astype(np.int32),
        "kinds": RNG.integers(0, 2, (2, 6)).astype(np.int32) if segments else None,
        "words": floats(40, 16),
        "positions": floats(12, 16),
        "segments": floats(2, 16) if segments else None,
        "gamma": floats(16),
        "beta": floats(16),
        "mask": np.array([[1, 1, 1, 1, 0, 0], [1] * 6], np.int32) if masked else None,
        "where": RNG.integers(0, 12, (2, 6)).astype(np.int32) if positions else None,
    }
    tables = ("words", "positions", "segments", "gamma", "beta")
    outputs = 3
    check(both("EmbedLayerNormalization", inputs, constant=tables, outputs=outputs, epsilon=1e-5))


@pytest.mark.parametrize("transpose", [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0), (0, 0, 1, 1)])
def test_fused_matmul(transpose: tuple[int, int, int, int]) -> None:
    a, b, batch_a, batch_b = transpose
    left = floats(5, 3, 7) if not a else floats(5, 7, 3)
    right = floats(5, 7, 4) if not b else floats(5, 4, 7)
    if batch_a:
        left, right = left.swapaxes(0, 1).copy(), right.swapaxes(0, 1).copy()
    inputs: dict[str, Array | None] = {"a": left, "b": right}
    attributes = {"transA": a, "transB": b, "transBatchA": batch_a, "transBatchB": batch_b, "alpha": 0.25}
    check(both("FusedMatMul", inputs, **attributes))


@pytest.mark.parametrize("activation", ["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
def test_fused_gemm(activation: str) -> None:
    inputs: dict[str, Array | None] = {"a": floats(5, 7), "b": floats(9, 7), "c": floats(9)}
    parameters = {"activation_alpha": 0.3} if activation == "LeakyRelu" else {}
    check(both("FusedGemm", inputs, constant=("b", "c"), transB=1, activation=activation, **parameters))


@pytest.mark.parametrize(
    ("activation", "parameters"),
    [("Relu", []), ("LeakyRelu", [0.2]), ("Clip", [-0.5, 0.5]), ("HardSigmoid", [0.3, 0.4]), ("Tanh", [])],
)
@pytest.mark.parametrize("residual", [False, True])
def test_fused_conv(activation: str, parameters: list[float], residual: bool) -> None:
    inputs: dict[str, Array | None] = {
        "x": floats(1, 6, 9, 9),
        "w": floats(8, 6, 3, 3),
        "b": floats(8),
        "z": floats(1, 8, 9, 9) if residual else None,
    }
    attributes: dict[str, Any] = {"activation_params": parameters} if parameters else {}
    check(both("FusedConv", inputs, constant=("w", "b"), pads=[1] * 4, activation=activation, **attributes))


def test_bias_add_and_bias_split_gelu_have_no_kernel_in_onnxruntime_and_follow_their_definition() -> None:
    import math

    from ds_compiler import compile as compile_model
    from tests.frontends.onnx.contrib import contrib_model

    x, bias, skip = floats(2, 9, 12), floats(12), floats(2, 9, 12)
    model = contrib_model("BiasAdd", {"x": x, "b": bias, "s": skip}, {}, 1, "com.microsoft")
    (result,) = compile_model(model, cache=False).run(None, {"x": x, "b": bias, "s": skip})
    np.testing.assert_allclose(result, x + bias + skip, rtol=1e-6, atol=1e-6)
    model = contrib_model("BiasSplitGelu", {"x": x, "b": bias}, {}, 1, "com.microsoft")
    (result,) = compile_model(model, cache=False).run(None, {"x": x, "b": bias})
    left, right = np.split((x + bias).astype(np.float64), 2, axis=-1)
    expected = left * right * 0.5 * (1 + np.vectorize(math.erf)(right / math.sqrt(2)))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("bits", "zero"), [(4, "none"), (4, "packed"), (4, "float"), (8, "none"), (8, "packed"), (2, "none")]
)
@pytest.mark.parametrize(("depth", "block"), [(64, 16), (80, 32), (50, 16)])
def test_matmul_n_bits(bits: int, zero: str, depth: int, block: int) -> None:
    columns, blocks = 9, -(-depth // block)
    zeros: Array | None = None
    if zero == "packed":
        zeros = RNG.integers(0, 256, (columns, -(-blocks * bits // 8))).astype(np.uint8)
    elif zero == "float":
        zeros = RNG.uniform(5, 9, (columns, blocks)).astype(np.float32)
    inputs: dict[str, Array | None] = {
        "a": floats(3, 5, depth),
        "b": RNG.integers(0, 256, (columns, blocks, block * bits // 8)).astype(np.uint8),
        "scales": RNG.uniform(0.01, 0.1, (columns, blocks)).astype(np.float32),
        "zeros": zeros,
        "order": None,
        "bias": floats(columns),
    }
    attributes = {"K": depth, "N": columns, "bits": bits, "block_size": block}
    check(both("MatMulNBits", inputs, constant=("b", "scales", "zeros", "bias"), **attributes))
