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
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx.backend.base import Backend, BackendRep, namedtupledict

from ds_compiler.api import compile
from ds_compiler.frontends.onnx.signature import model_inputs

Array = np.ndarray[Any, Any]


class CompiledRep(BackendRep):
    """A compiled model.

    Args:
        model: the model.
        options: as `ds_compiler.compile` takes them.

    Attributes:
        program: what `ds_compiler.compile` made.

    Raises:
        CompileError: the model is malformed or not supported.
    """

    def __init__(self, model: ModelProto, **options: Any) -> None:
        self._outputs = [output.name for output in model.graph.output]
        self._names = [value.name for value in model_inputs(model.graph)]
        self.program = compile(model, **options)

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs in the model's order, reachable by name too.

        Args:
            inputs: arrays (lists of these for sequences, None for an empty optional) in the order of the model's
                inputs, or by name.

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
        results = self.program.run(None, inputs)
        outputs: tuple[Any, ...] = namedtupledict("Outputs", self._outputs)(*results)
        return outputs


class CompiledBackend(Backend):
    """The CPU back end as ONNX's tools see it. Keyword arguments are those of `ds_compiler.compile`."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether every operator of `model` can be imported."""
        from ds_compiler.frontends.onnx import import_model
        from ds_compiler.frontends.onnx.given import NotOneProgram
        from ds_compiler.ir import CompileError

        try:
            import_model(model)
        except NotOneProgram:
            pass
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
