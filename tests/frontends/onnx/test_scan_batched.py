"""Scan of opset 8: batches, sequences of their own lengths, directions; against NumPy and onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, parser

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import CompileError
from ds_compiler.ir.verifier import verify
from ds_compiler.reference import interpret
from tests.frontends.onnx.native import executables

Array = np.ndarray[Any, Any]


def _model(batch: str, directions: str = "0", lengths: bool = False) -> ModelProto:
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 8]>
g ({f"int64[{batch}] lengths, " if lengths else ""}float[{batch}, 2] init, float[{batch}, t, 2] xs)
  => (float[{batch}, 2] last, float[{batch}, t, 2] ys) {{
  last, ys = Scan({"lengths" if lengths else ""}, init, xs) <num_scan_inputs = 1, directions = [{directions}],
    body = b (float[2] s, float[2] x) => (float[2] s2, float[2] y) {{
      half = Constant<value = float {{0.5}}>()
      faded = Mul(s, half)
      s2 = Add(faded, x)
      y = Neg(s2)
    }}>
}}""".replace("Scan(,", 'Scan("",')
    )


def _expected(init: Array, xs: Array, lengths: Array, backwards: bool) -> tuple[Array, Array]:
    last, ys = init.copy(), np.zeros_like(xs)
    for b, length in enumerate(lengths):
        for t in range(length):
            last[b] = last[b] * np.float32(0.5) + xs[b, length - 1 - t if backwards else t]
            ys[b, t] = -last[b]
    return last, ys


@pytest.mark.parametrize("batch", ["3", "n"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("lengths", [None, (4, 0, 2)])
def test_batched_scan(batch: str, backwards: bool, lengths: tuple[int, ...] | None) -> None:
    model = _model(batch, str(int(backwards)), lengths is not None)
    rng = np.random.default_rng(0)
    feeds: dict[str, Array] = {} if lengths is None else {"lengths": np.array(lengths)}
    feeds["init"] = rng.standard_normal((3, 2)).astype(np.float32)
    feeds["xs"] = rng.standard_normal((3, 4, 2)).astype(np.float32)
    expected = _expected(feeds["init"], feeds["xs"], np.array(lengths or (4, 4, 4)), backwards)
    module = import_model(model)
    verify(module)
    for results in (interpret(module, feeds), *(p.run(None, feeds) for p in executables(module, 1))):
        for ours, wanted in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lengths", [None, (4, 1, 2)])
def test_onnxruntime_agrees(lengths: tuple[int, ...] | None) -> None:
    """What is stacked behind a sequence's end is undefined; both put zeros there."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = _model("3", "0", lengths is not None)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds: dict[str, Array] = {} if lengths is None else {"lengths": np.array(lengths)}
    feeds["init"] = np.arange(6, dtype=np.float32).reshape(3, 2)
    feeds["xs"] = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    for ours, theirs in zip(interpret(import_model(model), feeds), session.run(None, feeds), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_an_input_without_a_sequence_is_refused() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 8]>
g (float[3] xs) => (float[3] ys) {
  ys = Scan("", xs) <num_scan_inputs = 1, body = b (float x) => (float y) { y = Neg(x) }>
}""")
    with pytest.raises(CompileError, match="expected at least 2 axes"):
        import_model(model)
