"""Random small graphs with a symbolic batch, compiled once, against onnxruntime at several sizes and thread counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

import ds_compiler as ds

onnxruntime = pytest.importorskip("onnxruntime")

Shape = tuple[int, ...]
"""Sizes of the axes behind the batch."""

SMOOTH = ("Tanh", "Sigmoid", "Erf", "Softplus", "Neg", "Abs", "Relu", "LeakyRelu", "HardSwish", "Sin")


@dataclass
class Graph:
    """A model that grows; every value is f32 of shape [batch, ...]."""

    draw: st.DrawFn
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    pool: dict[str, Shape] = field(default_factory=dict)

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def any(self, least_rank: int = 0) -> tuple[str, Shape] | None:
        found = [(n, s) for n, s in self.pool.items() if len(s) >= least_rank]
        return self.draw(st.sampled_from(found)) if found else None

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def weights(self, *shape: int) -> str:
        seed = len(self.constants)
        return self.constant(np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32))

    def node(self, operator: str, inputs: list[str], shape: Shape, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], f"{operator}_{len(self.nodes)}", **attributes))
        self.pool[name] = shape
        return name

    def model(self) -> ModelProto:
        used = {name for node in self.nodes for name in node.input}
        outputs = [name for name in self.pool if name not in used]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *self.pool[n]]) for n in ("x", "y")],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *self.pool[n]]) for n in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def unary(g: Graph, x: str, shape: Shape) -> None:
    g.node(g.draw(st.sampled_from(SMOOTH)), [x], shape)


def binary(g: Graph, x: str, shape: Shape) -> None:
    """With a value of the same shape, with a vector along the last axis, or with a scalar."""
    partners = [n for n, s in g.pool.items() if s == shape]
    other = g.draw(st.sampled_from([*partners, "vector", "scalar"]))
    if other == "vector":
        other = g.weights(shape[-1] if shape else 1)
    elif other == "scalar":
        other = g.weights()
    g.node(g.draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"])), [x, other], shape)


def matmul(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        columns = g.number(1, 9)
        g.node("MatMul", [x, g.weights(shape[-1], columns)], (*shape[:-1], columns))


def transpose(g: Graph, x: str, shape: Shape) -> None:
    order = g.draw(st.permutations(range(len(shape))))
    g.node("Transpose", [x], tuple(shape[a] for a in order), perm=[0, *(a + 1 for a in order)])


def reshape(g: Graph, x: str, shape: Shape) -> None:
    total = int(np.prod(shape, dtype=int))
    first = g.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
    target = g.constant(np.array(g.draw(st.sampled_from([[0, first, total // first], [-1, first, total // first]]))))
    g.node("Reshape", [x, target], (first, total // first))


def softmax(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        g.node(g.draw(st.sampled_from(["Softmax", "LogSoftmax"])), [x], shape, axis=g.number(1, len(shape)))


def layer_norm(g: Graph, x: str, shape: Shape) -> None:
    if shape and shape[-1] > 1:
        g.node("LayerNormalization", [x, g.weights(shape[-1]), g.weights(shape[-1])], shape, axis=-1, epsilon=0.1)


def reduce(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        axis, keep = g.number(0, len(shape) - 1), g.number(0, 1)
        axes = g.constant(np.array([axis + 1]))
        kept = (*shape[:axis], *((1,) if keep else ()), *shape[axis + 1 :])
        g.node(g.draw(st.sampled_from(["ReduceSum", "ReduceMean", "ReduceMax"])), [x, axes], kept, keepdims=keep)


def slice_(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        axis = g.number(0, len(shape) - 1)
        size, step = shape[axis], g.draw(st.sampled_from([1, 2, -1]))
        start = g.number(0, size - 1)
        stop = g.number(start + 1, size) if step > 0 else g.draw(st.sampled_from([*range(start), -size - 1]))
        count = len(range(size)[slice(start, None if stop < 0 else stop, step)])
        bounds = [g.constant(np.array([v])) for v in (start, stop, axis + 1, step)]
        g.node("Slice", [x, *bounds], (*shape[:axis], count, *shape[axis + 1 :]))


def gather(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        axis = g.number(0, len(shape) - 1)
        size = shape[axis]
        rows = g.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=5))
        g.node("Gather", [x, g.constant(np.array(rows))], (*shape[:axis], len(rows), *shape[axis + 1 :]), axis=axis + 1)


def concat(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        axis = g.number(0, len(shape) - 1)
        rest = (shape[:axis], shape[axis + 1 :])
        fitting = [n for n, s in g.pool.items() if len(s) == len(shape) and (s[:axis], s[axis + 1 :]) == rest]
        other = g.draw(st.sampled_from(fitting))
        size = shape[axis] + g.pool[other][axis]
        if size <= 40:
            g.node("Concat", [x, other], (*shape[:axis], size, *shape[axis + 1 :]), axis=axis + 1)


def pad(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        low, high = g.number(0, 2), g.number(0, 2)
        pads = [0] * len(shape) + [low] + [0] * len(shape) + [high]
        g.node("Pad", [x, g.constant(np.array(pads))], (*shape[:-1], shape[-1] + low + high))


def cumulative(g: Graph, x: str, shape: Shape) -> None:
    if shape:
        axis = g.constant(np.int64(g.number(1, len(shape))))
        g.node("CumSum", [x, axis], shape, reverse=g.number(0, 1), exclusive=g.number(0, 1))


GROWTH: list[Callable[[Graph, str, Shape], None]] = [
    unary, binary, matmul, transpose, reshape, softmax, layer_norm, reduce, slice_, gather, concat, pad, cumulative,
]  # fmt: skip


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    shape = draw(st.sampled_from([(4,), (3, 5), (2, 8), (1, 7), (2, 3, 4)]))
    graph = Graph(draw, pool={"x": shape, "y": draw(st.sampled_from([shape, (5,), (3, 5)]))})
    for grow in draw(st.lists(st.sampled_from(GROWTH), min_size=2, max_size=9)):
        found = graph.any()
        assert found is not None
        grow(graph, *found)
    graph.node("Add", ["x", "x"], shape)
    graph.node("Neg", ["y"], graph.pool["y"])
    return graph.model()


@settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True)
@given(proto=models())
def test_random_models(proto: ModelProto) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    program = ds.compile(proto, cache=False)
    inputs = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim[1:]] for v in proto.graph.input}
    for batch in (1, 2, 17):
        rng = np.random.default_rng(batch)
        feeds = {n: rng.uniform(-2, 2, (batch, *shape)).astype(np.float32) for n, shape in inputs.items()}
        expected = dict(zip([o.name for o in proto.graph.output], session.run(None, feeds), strict=True))
        for threads in (1, 2):
            program.threads = threads
            for name, array in program(feeds).items():
                assert array.shape == expected[name].shape
                scale = max(1.0, float(np.abs(expected[name]).max(initial=0)))
                np.testing.assert_allclose(array, expected[name], rtol=2e-4, atol=2e-5 * scale, err_msg=name)
