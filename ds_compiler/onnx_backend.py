"""ONNX's backend interface (`onnx.backend.base`) on compiled programs.

import ds_compiler.onnx_backend as backend

(y,) = backend.run_model(model, [x])
program = backend.prepare(model)
outputs = program.run([x])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ds_compiler.api import compile
from ds_compiler.compiled import CompiledModel

Array = np.ndarray[Any, Any]

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

COMPILE_TIME_INPUTS: dict[str, tuple[int, ...]] = {
    "CumProd": (1,),
    "CumSum": (1,),
    "Pad": (3,),
    **{f"Reduce{how}": (1,) for how in _REDUCTIONS},
    "Slice": (3, 4),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that decide which program it is (axes and steps), by operator. A model that reads one of them from its own
inputs is compiled at the first run with each new value."""


def compile_time_inputs(model: ModelProto) -> list[str]:
    """The model's inputs that its nodes read as axes or steps, in the order of its inputs."""
    read = {n.input[i] for n in model.graph.node for i in COMPILE_TIME_INPUTS.get(n.op_type, ()) if i < len(n.input)}
    return [name for name in input_names(model) if name in read]


def input_names(model: ModelProto) -> list[str]:
    """The inputs that a run feeds: those without an initializer."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in constants]


def with_constants(model: ModelProto, values: Mapping[str, Array]) -> ModelProto:
    """A copy of `model` in which inputs have become constants."""
    fixed = ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in values.items())
    return fixed


class CompiledRep(BackendRep):
    """A compiled model.

    Args:
        model: the model.
        options: as `ds_compiler.compile` takes them.

    Raises:
        CompileError: the model is malformed or not supported.
    """

    def __init__(self, model: ModelProto, **options: Any) -> None:
        self._model, self._options = model, options
        self._names = input_names(model)
        self._fixed = compile_time_inputs(model)
        self._programs: dict[tuple[bytes, ...], CompiledModel] = {}
        if not self._fixed:
            self._program({})

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the model's order, reachable by name too.

        Args:
            inputs: arrays (or scalars) in the order of the model's inputs, or by name.

        Raises:
            InputError: element types or shapes do not match.
            CompileError: a value that decides the program (an axis) makes it invalid.
        """
        if not isinstance(inputs, Mapping):
            if not isinstance(inputs, Sequence):
                inputs = [inputs]
            if len(inputs) != len(self._names):
                raise ValueError(f"{len(inputs)} inputs given, the model has {len(self._names)}: {self._names}")
            inputs = dict(zip(self._names, inputs, strict=True))
        feeds = {name: np.asarray(value) for name, value in inputs.items()}
        program = self._program({name: feeds.pop(name) for name in self._fixed})
        outputs = [output.name for output in self._model.graph.output]
        results: tuple[Any, ...] = namedtupledict("Outputs", outputs)(*program.run(None, feeds))
        return results

    def _program(self, fixed: Mapping[str, Array]) -> CompiledModel:
        key = tuple(array.tobytes() for array in fixed.values())
        if key not in self._programs:
            model = with_constants(self._model, fixed) if fixed else self._model
            self._programs[key] = compile(model, **self._options)
        return self._programs[key]


class CompiledBackend(Backend):
    """The CPU back end as ONNX's tools see it. Keyword arguments are those of `ds_compiler.compile`."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of `model` can be imported."""
        from ds_compiler.frontends.onnx import import_model
        from ds_compiler.ir import CompileError

        try:
            import_model(model)
        except CompileError:
            return False
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> CompiledRep:
        """The compiled model.

        Raises:
            CompileError: the model is malformed or not supported.
            ValueError: `device` is not supported.
        """
        if not cls.supports_device(device):
            raise ValueError(f"device '{device}' is not supported; supported: CPU")
        return CompiledRep(model, **kwargs)

    @classmethod
    def run_model(cls, model: ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Compile and run once; as `CompiledRep.run`."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Compile and run one node on arrays, at the opset given as ``opset_version`` (default: the newest).

        Args:
            inputs: for each of the node's named inputs an array.
            outputs_info: not needed.
        """
        import onnx

        version = int(kwargs.pop("opset_version", onnx.defs.onnx_opset_version()))
        names = [name for name in node.input if name]
        arrays = [np.asarray(x) for x in inputs]
        values = [_value_info(name, array) for name, array in zip(names, arrays, strict=True)]
        results = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "node", values, results)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(node.domain, version)])
        return cls.run_model(model, arrays, device, **kwargs)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether programs run on `device`: ``CPU``, with an optional number behind a colon."""
        return device.partition(":")[0] == "CPU"


def _value_info(name: str, array: Array) -> Any:
    code = TensorProto.STRING if array.dtype.kind in "OUS" else helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, code, array.shape)


is_compatible = CompiledBackend.is_compatible
prepare = CompiledBackend.prepare
run_model = CompiledBackend.run_model
run_node = CompiledBackend.run_node
supports_device = CompiledBackend.supports_device
