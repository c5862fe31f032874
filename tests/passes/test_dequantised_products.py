"""Products of dequantised tensors against their definition in float64, and against bits where f32 itself is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ds_compiler import onnx_backend
from ds_compiler.frontends.onnx.importer import import_model
from ds_compiler.ops import Constant, Conv, DotInteger
from ds_compiler.passes.manager import run

Array = np.ndarray[Any, Any]
_rng = np.random.default_rng(11)


def quantised_layer(
    operator: str, shape: tuple[int, ...], weight: Array, scales: tuple[Array, Array, Array], zeros: Any, kept: int,
    **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """``Quantize(Relu(operator(Dequantize(x), Dequantize(weight)) + bias))``; `zeros`: of x, weight, y."""
    x_scale, w_scale, y_scale = scales
    values = {"w": weight, "sx": x_scale, "sw": w_scale, "sy": y_scale, "zx": zeros[0], "zw": zeros[1], "zy": zeros[2]}
    bias = np.arange(weight.shape[1], dtype=np.float32) * np.float32(0.25)
    values["bias"] = bias
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "sx", "zx"], ["a"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["b"], axis=kept),
        helper.make_node(operator, ["a", "b"], ["c"], **attributes),
        helper.make_node("Add", ["c", "bias"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("QuantizeLinear", ["e", "sy", "zy"], ["y"]),
    ]
    types = [onnx.helper.np_dtype_to_tensor_dtype(np.asarray(z).dtype) for z in (zeros[0], zeros[2])]
    dims = ["n", *shape[1:]]
    graph = helper.make_graph(
        nodes, "layer",
        [helper.make_tensor_value_info("x", types[0], dims)],
        [helper.make_tensor_value_info("y", types[1], None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def expected(model: onnx.ModelProto, x: Array) -> tuple[Array, Array]:
    """(sum in float64 before it is quantised, in steps of the result; the result) by the definition."""
    v = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    kept = model.graph.node[1].attribute[0].i
    along = [1] * v["w"].ndim
    along[kept] = -1
    a = (x.astype(np.float64) - v["zx"]) * v["sx"].astype(np.float64)
    of_weights = [
        p if p.size == 1 else p.reshape(along) for p in (v["zw"].astype(np.float64), v["sw"].astype(np.float64))
    ]
    b = (v["w"].astype(np.float64) - of_weights[0]) * of_weights[1]
    c = a @ b
    steps = np.maximum(c + v["bias"], 0) / v["sy"].astype(np.float64)
    limits = np.iinfo(v["zy"].dtype)
    return steps, np.clip(np.rint(steps) + v["zy"], limits.min, limits.max).astype(v["zy"].dtype)


def check(model: onnx.ModelProto, x: Array, exact: bool) -> None:
    module = import_model(model)
    run(module, "default", verify=True)
    assert any(isinstance(op, DotInteger) for op in module.walk())
    got = onnx_backend.prepare(model).run([x])[0]
    steps, wanted = expected(model, x)
    assert got.dtype == wanted.dtype
    differ = got != wanted
    if exact:
        assert not differ.any()
    # one rounding of the scales' product, of the bias and of the division each: relative 2^-23 of the sum's size
    near_tie = np.abs(steps - np.floor(steps) - 0.5) <= 1e-6 * (np.abs(steps) + 300)
    assert not (differ & ~near_tie).any()


LAYERS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], int, dict[str, Any]]] = {
    "matmul": ("MatMul", (7, 33), (33, 20), 1, {}),
    "batched": ("MatMul", (2, 5, 64), (64, 17), 1, {}),
}


@pytest.mark.parametrize("exact", [True, False], ids=["powers", "scales"])
@pytest.mark.parametrize("channels", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("types", ["u8s8", "s8s8", "u8u8"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer: str, types: str, channels: bool, exact: bool) -> None:
    """With scales that are powers of two f32 holds every sum: then not even ties may differ."""
    operator, shape, weight_shape, kept, attributes = LAYERS[layer]
    x_type, w_type = ({"u": np.uint8, "s": np.int8}[t] for t in (types[0], types[2]))
    x, w = (
        _rng.integers(np.iinfo(t).min, np.iinfo(t).max + 1, s).astype(t)
        for t, s in ((x_type, shape), (w_type, weight_shape))
    )
    count = (weight_shape[kept],) if channels else ()
    w_scale = 2.0 ** _rng.integers(-7, -4, count) if exact else _rng.uniform(0.01, 0.02, count)
    x_scale, y_scale = (0.25, 0.5) if exact else (0.0371, 0.173)
    zeros = x_type(3), np.full(count, 131 if w_type is np.uint8 else 0, w_type), np.uint8(7)
    scales = np.float32(x_scale), np.asarray(w_scale, np.float32), np.float32(y_scale)
    model = quantised_layer(operator, shape, w, scales, zeros, kept, **attributes)
    check(model, x, exact)


def test_weights_scaled_along_the_depth_stay_f32() -> None:
    w = _rng.integers(-128, 128, (12, 12)).astype(np.int8)
    w_scale = _rng.uniform(0.01, 0.02, 12).astype(np.float32)
    zeros = np.uint8(3), np.zeros(12, np.int8), np.uint8(7)
    scales = np.float32(0.25), w_scale, np.float32(0.5)
    model = quantised_layer("MatMul", (4, 12), w, scales, zeros, 0)
    module = import_model(model)
    run(module, "default", verify=True)
    assert not any(isinstance(op, DotInteger) for op in module.walk())


def test_convolutions_stay_f32_with_constant_weights() -> None:
    w = _rng.integers(-128, 128, (6, 5, 3, 3)).astype(np.int8)
    zeros = np.uint8(3), np.zeros(6, np.int8), np.uint8(7)
    scales = np.float32(0.25), _rng.uniform(0.01, 0.02, 6).astype(np.float32), np.float32(0.5)
    model = quantised_layer("Conv", (2, 5, 9, 7), w, scales, zeros, 0)
    module = import_model(model)
    run(module, "dequantised-products", verify=True)
    (convolution,) = (op for op in module.walk() if isinstance(op, Conv))
    weight = convolution.weight.defining_op
    assert isinstance(weight, Constant)
    np.testing.assert_array_equal(weight.value, w * scales[1].reshape(6, 1, 1, 1))
