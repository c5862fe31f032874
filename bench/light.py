"""The full-size CNN architectures that ship in the onnx wheel, with weights that compute something.

`onnx/backend/test/data/light/light_*.onnx` are complete graphs (ResNet-50, VGG-19, ...) whose every
weight is one repeated constant, made by a ConstantOfShape node, so that the output never changes.
`build` writes the same graph with seeded random weights as initializers. Each weight also stands as a
graph input, as IR version 3 asks for and as the originals had it.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

LIGHT_MODELS = {
    "resnet50": "light_resnet50.onnx",
    "densenet121": "light_densenet121.onnx",
    "inception_v1": "light_inception_v1.onnx",
    "inception_v2": "light_inception_v2.onnx",
    "shufflenet": "light_shufflenet.onnx",
    "squeezenet": "light_squeezenet.onnx",
    "vgg19": "light_vgg19.onnx",
    "alexnet": "light_bvlc_alexnet.onnx",
    "zfnet512": "light_zfnet512.onnx",
}

RELU_GAIN = 1 / (0.5 - 0.5 / np.pi)
"""One over the variance of Relu(x) for a standard normal x."""


class _Uses:
    """Which nodes read a value, and which node makes it."""

    def __init__(self, graph: GraphProto) -> None:
        self.users: dict[str, list[tuple[NodeProto, int]]] = {}
        self.makers: dict[str, NodeProto] = {}
        for node in graph.node:
            for position, value in enumerate(node.input):
                self.users.setdefault(value, []).append((node, position))
            for value in node.output:
                self.makers[value] = node

    def readers(self, node: NodeProto) -> set[str]:
        """Operators that read the first output of `node`."""
        return {user.op_type for user, _ in self.users.get(node.output[0], [])}

    def source(self, node: NodeProto) -> str:
        """Operator that makes the first input of `node`; empty for a graph input."""
        maker = self.makers.get(node.input[0])
        return maker.op_type if maker is not None else ""


def build(name: str, path: Path) -> None:
    """Write the architecture `name` (a key of LIGHT_MODELS) with random weights to `path`."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    model = onnx.load(folder / LIGHT_MODELS[name])
    graph = model.graph
    uses = _Uses(graph)
    shapes = {i.name: tuple(i.dims) for i in graph.initializer if i.data_type == TensorProto.FLOAT}
    integers = {i.name: numpy_helper.to_array(i) for i in graph.initializer if i.data_type == TensorProto.INT64}
    filled = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    for node in filled:
        shapes[node.output[0]] = tuple(int(d) for d in integers[node.input[0]])
        graph.node.remove(node)
    gone = {node.input[0] for node in filled}

    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kept = [i for i in graph.initializer if i.name in integers and i.name not in gone]
    weights = [numpy_helper.from_array(_weight(rng, value, shape, uses), value) for value, shape in shapes.items()]
    inputs = [v for v in graph.input if v.name not in gone and v.name not in shapes]
    inputs += [helper.make_tensor_value_info(v, TensorProto.FLOAT, shape) for v, shape in shapes.items()]
    for field, values in ((graph.initializer, kept + weights), (graph.input, inputs)):
        del field[:]
        field.extend(values)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _weight(rng: np.random.Generator, value: str, shape: tuple[int, ...], graph: _Uses) -> NDArray[np.float32]:
    """Random values for a weight, by what reads it, such that activations keep a deviation near 1."""
    if value not in graph.users:  # ResNet-50 and ShuffleNet carry one tensor that nothing reads
        return np.zeros(shape, np.float32)
    node, position = graph.users[value][0]
    while node.op_type in ("Unsqueeze", "Reshape"):
        node, position = graph.users[node.output[0]][0]
    normal = rng.standard_normal(shape, dtype=np.float32)
    match node.op_type, position:
        case "Conv", 1 if shape[1] == 1:  # depthwise
            return normal * np.float32(np.sqrt(1 / np.prod(shape[2:])))
        case "Conv" | "Gemm", 1:
            # Kaiming, for filters with a mean of zero. With any other mean the positive mean that Relu leaves grows
            # from layer to layer until every picture gives the same output.
            axes = tuple(range(1, 4)) if node.op_type == "Conv" else (len(shape) - 1,)
            fan_in = np.prod([shape[axis] for axis in axes])
            linear = graph.source(node) == "BatchNormalization" or "Softmax" in graph.readers(node)
            normal -= normal.mean(axis=axes, keepdims=True)
            return normal * np.float32(np.sqrt((1 if linear else RELU_GAIN) / fan_in))
        case "BatchNormalization", 1:
            # A residual sum doubles the variance at each block unless its branch is scaled down.
            scale = 0.6 if "Sum" in graph.readers(node) else 1.0
            return (scale * (1 + 0.1 * normal)).astype(np.float32)
        case "BatchNormalization", 4:
            return rng.uniform(0.8, 1.2, shape).astype(np.float32)
        case "Mul", _:
            return (1 + 0.1 * normal).astype(np.float32)
        case _:  # biases, offsets, running means
            return (0.1 * normal).astype(np.float32)
