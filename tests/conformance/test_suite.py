"""ONNX's backend test suite on compiled programs: a sample by default, every case with ``-m slow``."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from ds_compiler import onnx_backend
from ds_compiler.ir import CompileError
from tests.conformance.cases import GROUPS, Case, cases, exclusions, random, strict
from tests.conformance.sweep import check

ALL = [case for group in GROUPS for case in cases(group)]
SAMPLE = [case for case in ALL[::45] if case.name not in exclusions()]


def test_exclusions_name_cases() -> None:
    names = {case.name for case in ALL}
    assert not [name for name in (*random(), *strict()) if name not in names]
    assert not [name for name in exclusions() if name not in names]
    assert all(reason.strip() for reason in exclusions().values())


@pytest.mark.parametrize("case", SAMPLE, ids=repr)
def test_sample(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=repr)
def test_case(case: Case) -> None:
    """An excluded case that passes is an error: its line goes."""
    reason = exclusions().get(case.name)
    if reason is None:
        check(case)
        return
    try:
        check(case)
    except Exception:
        pytest.skip(reason)
    pytest.fail(f"passes, but is excluded: {reason}")


def test_run_node() -> None:
    node = helper.make_node("Sub", ["a", "b"], ["y"])
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(2)
    results = onnx_backend.run_node(node, [a, b], cache=False)
    np.testing.assert_array_equal(results.y, a - b)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(results[0], a - b)


def _cumulative() -> object:
    x = helper.make_tensor_value_info("x", 1, ["n", 3])
    axis = helper.make_tensor_value_info("axis", 7, [])
    y = helper.make_tensor_value_info("y", 1, ["n", 3])
    graph = helper.make_graph([helper.make_node("CumSum", ["x", "axis"], ["y"])], "g", [x, axis], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_an_input_that_decides_the_program_may_change() -> None:
    program = onnx_backend.prepare(_cumulative(), cache=False)  # type: ignore[arg-type]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for axis in (0, 1, 0):
        (y,) = program.run([x, np.int64(axis)])
        np.testing.assert_array_equal(y, x.cumsum(axis))
    (y,) = program.run({"axis": np.int64(-1), "x": x})
    np.testing.assert_array_equal(y, x.cumsum(-1))


def test_wrong_uses() -> None:
    model = _cumulative()
    assert onnx_backend.supports_device("CPU:0") and not onnx_backend.supports_device("CUDA")
    with pytest.raises(ValueError, match="device 'CUDA'"):
        onnx_backend.prepare(model, "CUDA")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 inputs given, the model has 2"):
        onnx_backend.run_model(model, [np.zeros((1, 3), np.float32)], cache=False)  # type: ignore[arg-type]
    with pytest.raises(CompileError, match="Absent"):
        onnx_backend.run_node(helper.make_node("Absent", ["a"], ["y"]), [np.zeros(1)], cache=False)
