"""Products of dequantised tensors against their definition in float64, and against bits where f32 itself is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from ds_compiler import onnx_backend
from ds_compiler.frontends.onnx.importer import import_model
from ds_compiler.ops import Conv, DotInteger
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
    spread = (1, -1, 1, 1) if operator == "Conv" else (-1,)
    bias = np.arange(weight.shape[kept], dtype=np.float32).reshape(spread) * np.float32(0.25)
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
    node = model.graph.node[2]
    kept = model.graph.node[1].attribute[0].i
    along = [1] * v["w"].ndim
    along[kept] = -1
    a = (x.astype(np.float64) - v["zx"]) * v["sx"].astype(np.float64)
    of_weights = [
        p if p.size == 1 else p.reshape(along) for p in (v["zw"].astype(np.float64), v["sw"].astype(np.float64))
    ]
    b = (v["w"].astype(np.float64) - of_weights[0]) * of_weights[1]
    if node.op_type == "MatMul":
        c = a @ b
    else:
        pads = next(t.ints for t in node.attribute if t.name == "pads")
        groups = next(t.i for t in node.attribute if t.name == "group")
        padded = np.pad(a, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
        windows = np.lib.stride_tricks.sliding_window_view(padded, b.shape[2:], (2, 3))
        split = windows.reshape(len(x), groups, -1, *windows.shape[2:])
        filters = b.reshape(groups, -1, *b.shape[1:])
        c = np.einsum("ngchwij,gocij->ngohw", split, filters).reshape(len(x), -1, *windows.shape[2:4])
    steps = np.maximum(c + v["bias"], 0) / v["sy"].astype(np.float64)
    limits = np.iinfo(v["zy"].dtype)
    return steps, np.clip(np.rint(steps) + v["zy"], limits.min, limits.max).astype(v["zy"].dtype)


def check(model: onnx.ModelProto, x: Array, exact: bool) -> None:
    module = import_model(model)
    run(module, "default", verify=True)
    ops = list(module.walk())
    depthwise = [op for op in ops if isinstance(op, Conv)]
    assert any(isinstance(op, DotInteger) for op in ops) or len(depthwise) == 1
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
    "conv": ("Conv", (2, 6, 9, 8), (10, 6, 3, 3), 0, {"pads": [1, 0, 1, 2], "group": 1}),
    "pointwise": ("Conv", (2, 7, 5, 5), (9, 7, 1, 1), 0, {"pads": [0] * 4, "group": 1}),
    "depthwise": ("Conv", (2, 5, 9, 8), (5, 1, 3, 3), 0, {"pads": [1] * 4, "group": 5}),
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
