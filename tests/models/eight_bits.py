"""Models with 8-bit products in ONNX's reference evaluator, the products in exact arithmetic or as AVX2 adds them.

AVX2 multiplies unsigned by signed bytes and adds neighbours into 16 bits, which saturates: 255 · 127 · 2 does not fit.
onnxruntime does so on processors without VNNI, where weights use all 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]
Product = Callable[[Array, Array], Array]


def exact(a: Array, b: Array) -> Array:
    """a [m, k] unsigned · b [k, n] signed, as int64 (in float64, which holds every such sum)."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.int64)


def saturating(a: Array, b: Array) -> Array:
    """The same, sums of neighbours (2j, 2j + 1) cut off at the limits of int16."""
    odd = a.shape[1] % 2
    a, b = np.pad(a, ((0, 0), (0, odd))).astype(np.int32), np.pad(b, ((0, odd), (0, 0))).astype(np.int32)
    total = np.zeros((a.shape[0], b.shape[1]), np.int64)
    for j in range(0, a.shape[1], 2):
        total += np.clip(a[:, j, None] * b[j] + a[:, j + 1, None] * b[j + 1], -(1 << 15), (1 << 15) - 1)
    return total


def run(model: ModelProto, feeds: dict[str, Array], product: Product) -> list[Array]:
    """The model's outputs; its weights are int8, what they are multiplied by uint8."""

    class DequantizeLinear(OpRun):  # the evaluator's begins with opset 19
        op_domain = ""

        def _run(self, x: Array, scale: Array, zero: Array, **_: Any) -> tuple[Array]:
            assert scale.size == 1
            return ((x.astype(np.float32) - zero) * scale,)

    class MatMulInteger(OpRun):
        op_domain = ""

        def _run(self, a: Array, b: Array, a_zero: Array, b_zero: Array) -> tuple[Array]:
            flat = _shifted(product, a.reshape(-1, a.shape[-1]), b, a_zero, b_zero)
            return (flat.reshape(*a.shape[:-1], b.shape[1]).astype(np.int32),)

    class DynamicQuantizeLSTM(OpRun):
        op_domain = "com.microsoft"

        def _run(self, *inputs: Array | None, direction: str = "", hidden_size: int = 0) -> tuple[Array, Array, Array]:
            x, w, r, bias, _, h, c, _, *scales = inputs
            assert direction == "bidirectional"
            results = [_lstm(product, *(v[d] for v in (w, r, bias, h, c, *scales)), x[:: 1 - 2 * d]) for d in range(2)]
            y = np.stack([results[0][0], results[1][0][::-1]], 1)
            return y, *(np.stack([found[i] for found in results]) for i in (1, 2))

    evaluator = ReferenceEvaluator(model, new_ops=[DequantizeLinear, MatMulInteger, DynamicQuantizeLSTM])
    return list(evaluator.run(None, feeds))  # type: ignore[arg-type]


def _shifted(product: Product, a: Array, b: Array, a_zero: Array, b_zero: Array) -> Array:
    """The product of what is left after the zero points are taken off."""
    az, bz = int(a_zero), int(b_zero)
    rows, columns = a.astype(np.int64).sum(1)[:, None], b.astype(np.int64).sum(0)
    return product(a, b) - az * columns - bz * rows + a.shape[1] * az * bz


def _quantised(x: Array) -> tuple[Array, np.float32, Array]:
    """DynamicQuantizeLinear."""
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255)) if high > low else np.float32(1)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


def _lstm(
    product: Product, w: Array, r: Array, bias: Array, h: Array, c: Array, ws: Array, wz: Array, rs: Array, rz: Array,
    x: Array,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """One direction: x [steps, batch, depth] is quantised as a whole, the state anew at each step; gates i, o, f, c."""

    def sigmoid(v: Array) -> Array:
        return 1 / (1 + np.exp(-v))

    steps, batch, depth = x.shape
    q, scale, zero = _quantised(x)
    given = _shifted(product, q.reshape(-1, depth), w, zero, wz) * np.float64(scale) * ws
    given = given.reshape(steps, batch, -1) + bias[: w.shape[1]].astype(np.float64) + bias[w.shape[1] :]
    outputs = []
    for step in given:
        q, scale, zero = _quantised(h)
        gates = step + _shifted(product, q, r, zero, rz) * np.float64(scale) * rs
        i, o, f, g = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = (sigmoid(o) * np.tanh(c)).astype(np.float32)
        outputs.append(h)
    return np.stack(outputs), h, c.astype(np.float32)
