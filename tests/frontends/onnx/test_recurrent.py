"""LSTM, GRU and RNN: ONNX's cases, and random ones against onnxruntime with symbolic sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir.verifier import verify
from ds_compiler.reference import interpret
from tests.frontends.onnx.native import executables
from tests.frontends.onnx.node_cases import NodeCase, check_case, node_cases

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUT, HIDDEN = 3, 5


@pytest.mark.parametrize("case", node_cases("LSTM", "GRU", "RNN"))
def test_node(case: NodeCase) -> None:
    check_case(case)


def model_of(
    operator: str, *, time: int | str = "time", given: str = "B h c", opset: int = 17, **attributes: Any
) -> tuple[ModelProto, dict[str, Any]]:
    """A model of one node whose weights are constants, and its inputs but X and the lengths.

    Args:
        given: optional inputs that the node has.
    """
    rng = np.random.default_rng(len(str(attributes)))
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[operator] * HIDDEN
    weights = {
        "W": rng.standard_normal((directions, rows, INPUT)),
        "R": rng.standard_normal((directions, rows, HIDDEN)) / 2,
        "B": rng.standard_normal((directions, 2 * rows)),
        "P": rng.standard_normal((directions, 3 * HIDDEN)),
    }
    present = ["X", "W", "R", *given.split()]
    order = ["X", "W", "R", "B", "lengths", "h", "c", "P"]
    names = [name if name in present else "" for name in order[: max(order.index(p) for p in present) + 1]]
    state = [directions, "batch", HIDDEN]
    types: dict[str, tuple[int, list[int | str]]] = {
        "X": (TensorProto.FLOAT, [time, "batch", INPUT]),
        "lengths": (TensorProto.INT32, ["batch"]),
        "h": (TensorProto.FLOAT, state),  # type: ignore[dict-item]
        "c": (TensorProto.FLOAT, state),  # type: ignore[dict-item]
    }
    outputs = ["Y", "Y_h", "Y_c"][: 3 if operator == "LSTM" else 2]
    graph = helper.make_graph(
        [helper.make_node(operator, names, outputs, "node", hidden_size=HIDDEN, **attributes)],
        "g",
        [helper.make_tensor_value_info(n, *types[n]) for n in names if n in types],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [
            helper.make_tensor(n, TensorProto.FLOAT, a.shape, a.astype(np.float32).ravel())
            for n, a in weights.items()
            if n in names
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), {
        "names": [n for n in names if n in types],
        "directions": directions,
    }


def check(operator: str, *, sizes: tuple[tuple[int, int], ...] = ((7, 2), (1, 3), (2, 1)), **options: Any) -> None:
    """One import, interpreted and compiled, must agree with onnxruntime for all (time, batch)."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model, description = model_of(operator, **options)
    module = import_model(model)
    verify(module)
    programs = executables(module, 1, 2)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for time, batch in sizes:
        rng = np.random.default_rng(time)
        state = (description["directions"], batch, HIDDEN)
        arrays = {
            "X": rng.standard_normal((time, batch, INPUT)).astype(np.float32),
            "lengths": rng.integers(1, time + 1, batch).astype(np.int32),
            "h": rng.standard_normal(state).astype(np.float32),
            "c": rng.standard_normal(state).astype(np.float32),
        }
        inputs = {n: arrays[n] for n in description["names"]}
        expected = session.run(None, inputs)
        for results in (interpret(module, inputs), *(p.run(None, inputs) for p in programs)):
            for ours, theirs in zip(results, expected, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", GATES)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("given", ["", "B", "B h c", "B lengths h c", "lengths"])
def test_directions_and_inputs(operator: str, direction: str, given: str) -> None:
    given = given if operator == "LSTM" else given.replace(" c", "")
    check(operator, direction=direction, given=given)


@pytest.mark.parametrize("operator", GATES)
def test_one_step_needs_no_scan(operator: str) -> None:
    given = "B h c" if operator == "LSTM" else "B h"
    check(operator, time=1, given=given, sizes=((1, 2),))
    model, _ = model_of(operator, time=1, given=given)
    assert "scan" not in [op.mnemonic for op in import_model(model).walk()]


@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_lstm_peepholes(direction: str) -> None:
    check("LSTM", given="B lengths h c P", direction=direction)


def test_lstm_input_forget() -> None:
    check("LSTM", given="B h c", input_forget=1)


@pytest.mark.parametrize("operator", GATES)
def test_clip(operator: str) -> None:
    check(operator, given="B h", clip=0.3)


@pytest.mark.parametrize("before_reset", [0, 1])
def test_gru_linear_before_reset(before_reset: int) -> None:
    check("GRU", given="B lengths h", linear_before_reset=before_reset, direction="bidirectional")


@pytest.mark.parametrize(
    ("names", "alphas", "betas"),
    [
        (["Relu"], None, None),
        (["Affine"], [0.5], [0.25]),
        (["LeakyRelu"], [0.2], None),
        (["LeakyRelu"], None, None),
        (["ThresholdedRelu"], [0.3], None),
        (["ScaledTanh"], [0.7], [0.4]),
        (["HardSigmoid"], [0.3], [0.6]),
        (["HardSigmoid"], None, None),
        (["Elu"], [0.8], None),
        (["Softsign"], None, None),
        (["Softplus"], None, None),
    ],
)
def test_activations(names: list[str], alphas: list[float] | None, betas: list[float] | None) -> None:
    attributes: dict[str, Any] = {"activations": names}
    if alphas:
        attributes["activation_alpha"] = alphas
    if betas:
        attributes["activation_beta"] = betas
    check("RNN", given="B h", **attributes)


def test_alphas_go_to_the_activations_that_take_one() -> None:
    check(
        "LSTM",
        direction="bidirectional",
        activations=["Sigmoid", "LeakyRelu", "Tanh", "HardSigmoid", "Tanh", "Elu"],
        activation_alpha=[0.1, 0.3, 0.8],
        activation_beta=[0.6],
    )


@pytest.mark.parametrize("operator", GATES)
def test_no_steps_leave_the_initial_state(operator: str) -> None:
    model, _ = model_of(operator, given="B lengths h", direction="bidirectional")
    module = import_model(model)
    h = np.ones((2, 3, HIDDEN), np.float32)
    no_time = {"X": np.ones((0, 3, INPUT), np.float32), "lengths": np.zeros(3, np.int32), "h": h}
    no_lengths = no_time | {"X": np.ones((4, 3, INPUT), np.float32)}
    for inputs in (no_time, no_lengths):
        for results in (interpret(module, inputs), executables(module)[0].run(None, inputs)):
            np.testing.assert_array_equal(results[0], np.zeros((len(inputs["X"]), 2, 3, HIDDEN)))
            np.testing.assert_array_equal(results[1], h)
