"""Operators of the domain com.microsoft in tests: onnxruntime is their only reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import ds_compiler as ds

Array = np.ndarray[Any, Any]


def contrib_model(
    operator: str,
    inputs: dict[str, Array | None],
    constants: dict[str, Array],
    outputs: int | tuple[int, ...],
    domain: str,
    **attributes: Any,
) -> onnx.ModelProto:
    """One node; `inputs` in the node's order (None: left out), those in `constants` as initializers.

    Args:
        outputs: how many there are, or the numbers of those that are wanted.
    """
    names = [name if value is not None else "" for name, value in inputs.items()]
    wanted = range(outputs) if isinstance(outputs, int) else outputs
    results = [f"y{i}" if i in wanted else "" for i in range(max(wanted) + 1)]
    node = helper.make_node(operator, names, results, domain=domain, **attributes)
    given = [(name, value) for name, value in inputs.items() if value is not None and name not in constants]
    graph = helper.make_graph(
        [node],
        operator,
        [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for name, v in given],
        [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in results if name],
        [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in constants.items()],
    )
    for output in graph.output:
        output.ClearField("type")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def both(
    operator: str,
    inputs: dict[str, Array | None],
    *,
    constant: tuple[str, ...] = (),
    outputs: int | tuple[int, ...] = 1,
    domain: str = "com.microsoft",
    **attributes: Any,
) -> list[tuple[Array, Array]]:
    """(ours, onnxruntime's) for each output; `constant` names the inputs that are initializers."""
    onnxruntime = pytest.importorskip("onnxruntime")
    constants = {name: inputs[name] for name in constant if inputs[name] is not None}
    model = contrib_model(operator, inputs, constants, outputs, domain, **attributes)  # type: ignore[arg-type]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {name: v for name, v in inputs.items() if v is not None and name not in constants}
    expected = session.run(None, feeds)
    compiled = ds.compile(model, cache=False)
    found = compiled.run(None, feeds)
    return list(zip(found, expected, strict=True))


def check(pairs: list[tuple[Array, Array]], tolerance: float = 2e-5) -> None:
    """Same shapes and element types; floats within `tolerance` of the largest magnitude, integers equal."""
    for index, (ours, theirs) in enumerate(pairs):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, index
        if ours.dtype.kind == "f":
            scale = max(1.0, float(np.abs(theirs.astype(np.float64)).max(initial=0)))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale, err_msg=f"output {index}")
        else:
            np.testing.assert_array_equal(ours, theirs, err_msg=f"output {index}")


def check_rounded(pairs: list[tuple[Array, Array]], most: float = 0.02) -> None:
    """Integers at most 1 apart, and no more than the part `most` of them: ties that f32 arithmetic decides."""
    for ours, theirs in pairs:
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        apart = np.abs(ours.astype(np.int64) - theirs.astype(np.int64))
        assert apart.max(initial=0) <= 1 and (apart != 0).mean() <= most
