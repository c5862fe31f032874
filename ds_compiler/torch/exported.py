"""Whole modules, captured by torch.export: weights become constants, which are packed once and saved in artifacts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from ds_compiler.compiled import CompiledModel
from ds_compiler.frontends.torch import decompositions, import_graph
from ds_compiler.ir import CompileError
from ds_compiler.report import Report
from ds_compiler.runtime.errors import InputError
from ds_compiler.torch.program import Program


class ExportedModule:
    """Called like the module it was made from, with tensors; results carry no gradient.

    Attributes:
        model: the program with NumPy arrays: inputs by the names of forward's parameters, outputs ``out0``, ``out1``…
    """

    def __init__(self, program: Program, places: Sequence[int], count: int, in_spec: Any, out_spec: Any) -> None:
        assert isinstance(program.model, CompiledModel), "modules are compiled for CPUs alone"
        self.model = program.model
        self._program, self._places, self._count = program, tuple(places), count
        self._in_spec, self._out_spec = in_spec, out_spec

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result.

        Raises:
            InputError: the arguments' structure, element types or shapes are not those of the example.
            ExecutionError: a check inside of the program failed.
        """
        flat, spec = pytree.tree_flatten((args, kwargs))
        if spec != self._in_spec:
            raise InputError(f"expected arguments like {self._in_spec}, got {spec}")
        arguments: list[Any] = [None] * self._count
        for place, value in zip(self._places, flat, strict=True):
            arguments[place] = value
        for argument, tensor in zip(self._program.arguments, self.model.inputs):
            given = arguments[argument.index]
            if not isinstance(given, torch.Tensor) or str(given.dtype) != f"torch.{tensor.dtype}":
                got = given.dtype if isinstance(given, torch.Tensor) else type(given).__name__
                raise InputError(f"input {tensor.name!r}: expected {tensor}, got {got}")
        return pytree.tree_unflatten(self._program(*arguments), self._out_spec)

    def ir(self, after: str | None = None) -> str:
        """As `CompiledModel.ir`."""
        return self.model.ir(after)

    def report(self) -> Report:
        """As `CompiledModel.report`."""
        return self.model.report()

    def save(self, path: str | os.PathLike[str]) -> None:
        """As `CompiledModel.save`."""
        self.model.save(path)


def compile_exported(module: Any, example_inputs: Any, dynamic: Any, options: dict[str, Any]) -> ExportedModule:
    """Export a module and compile it.

    Args:
        example_inputs: a tuple of arguments of forward, one tensor, or a dict by name.
        dynamic: by parameter, names of the axes that stay open: of the first, a sequence (None: fixed), or a dict.

    Raises:
        CompileError: there are no example inputs, or the module cannot be exported or compiled.
    """
    if example_inputs is None:
        raise CompileError("compile() of a PyTorch module needs example_inputs=", help="a tuple of tensors")
    by_name = isinstance(example_inputs, Mapping)
    args = () if by_name else example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    kwargs = dict(example_inputs) if by_name else {}
    try:
        shapes = _dynamic_shapes(module, args, kwargs, dynamic)
        exported = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
        exported = exported.run_decompositions(decompositions())
    except CompileError:
        raise
    except Exception as error:  # torch.export raises what it finds, of many classes
        raise CompileError(f"torch.export does not capture the module: {error}") from error
    signature = exported.graph_signature
    if signature.buffers_to_mutate or signature.user_inputs_to_mutate:
        written = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
        raise CompileError(f"the module writes into '{written[0]}'", help="call .eval() on it first")
    held = {**exported.state_dict, **exported.constants}
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants

    def constant(name: str) -> Any:
        return held.get(names.get(name, name))

    imported = import_graph(exported.graph, constant, preserve_strides=False)
    placeholders = [n.name for n in exported.graph.nodes if n.op == "placeholder"]
    places = [placeholders.index(name) for name in placeholders if name not in names]
    spec = exported.call_spec
    return ExportedModule(Program.of(imported, **options), places, len(placeholders), spec.in_spec, spec.out_spec)


def _dynamic_shapes(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic: Any) -> Any:
    """What torch.export takes: a dict of axes for each parameter."""
    if not dynamic:
        return None
    if not isinstance(dynamic, Mapping):
        raise CompileError(f"dynamic={dynamic!r} is not supported for a PyTorch module", help="name the axes")
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    if unknown := sorted(dynamic.keys() - bound.keys()):
        raise CompileError(f"dynamic: forward has no argument '{unknown[0]}'")
    axes: dict[str, Any] = {}

    def symbol(name: str | None) -> Any:
        return None if name is None else axes.setdefault(name, torch.export.Dim(name))

    shapes: dict[str, Any] = {}
    for name in bound:
        given = dynamic.get(name)
        if given is None:
            shapes[name] = None
        elif isinstance(given, str):
            shapes[name] = {0: symbol(given)}
        elif isinstance(given, Mapping):
            shapes[name] = {axis: symbol(label) for axis, label in given.items()}
        else:
            shapes[name] = {axis: symbol(label) for axis, label in enumerate(given) if label is not None}
    return shapes
