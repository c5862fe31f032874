"""Walks an FX graph of ATen operators and builds the module; what single operators mean is in `operators`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch._prims_common import elementwise_dtypes
from torch._subclasses.fake_tensor import unset_fake_temporarily

from ds_compiler.frontends.torch import operators
from ds_compiler.frontends.torch.emitter import Emitter
from ds_compiler.frontends.torch.registry import find_handler, handles
from ds_compiler.frontends.torch.sizes import element_type, size, tensor_type
from ds_compiler.ir import (
    Block,
    CompileError,
    Dim,
    Expr,
    Function,
    Location,
    Module,
    Region,
    TensorType,
    Value,
    dims,
)
from ds_compiler.ir.dtypes import bool_
from ds_compiler.ops import Return, Transpose

_ = operators  # importing the package registers the handlers

_IGNORED = {"dtype", "layout", "device", "pin_memory", "memory_format", "non_blocking", "generator"}
"""Arguments whose meaning is in the types of results, or that mean nothing to a compiled program."""

_ARITHMETIC: dict[Any, Callable[..., Dim]] = {
    operator.add: operator.add,
    operator.sub: operator.sub,
    operator.mul: operator.mul,
    operator.neg: operator.neg,
    operator.floordiv: dims.floordiv,
    operator.mod: dims.mod,
    torch.sym_max: dims.maximum,
    torch.sym_min: dims.minimum,
    torch.sym_sum: sum,
}

Permutation = tuple[int, ...] | None


@dataclass(frozen=True)
class Argument:
    """One input of the module: argument `index` of the graph, its axes in the order of memory (None: as they are)."""

    index: int
    permutation: Permutation
    type: TensorType


@dataclass(frozen=True)
class Output:
    """One output of the graph: a result of the module, an argument handed through, a size, or a plain object.

    Attributes:
        result: index among the module's results, or None.
        permutation: applied to the result's axes gives the tensor that the graph returns.
        argument: index of the graph's argument that this is, or None.
        value: a size or another object, if the first two are None.
    """

    result: int | None = None
    permutation: Permutation = None
    argument: int | None = None
    value: Any = None


@dataclass(frozen=True)
class Imported:
    """A graph as a module.

    Attributes:
        arguments: the module's inputs that are tensors, in order.
        sizes: (symbol, graph argument) pairs; if there are any, an input behind the arguments has these sizes as its
            shape, and its contents are never read.
        random: whether the last input is a key of random numbers, u32[2], which each call draws anew.
    """

    module: Module
    arguments: tuple[Argument, ...]
    sizes: tuple[tuple[str, int], ...]
    outputs: tuple[Output, ...]
    random: bool = False


def supported(node: Any) -> bool:
    """Whether a node of a graph can be imported."""
    if node.op != "call_function":
        return node.op in ("placeholder", "get_attr", "output")
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, torch.fx.Node) and supported(source)
    metas = _tensors(node.meta.get("val")) + [t for a in node.all_input_nodes for t in _tensors(a.meta.get("val"))]
    try:
        for fake in metas:
            tensor_type(fake)
    except CompileError:
        return False
    if node.target in _ARITHMETIC or str(node.target) in ("aten.sym_size.int",):
        return True
    return handles(node)


def import_graph(
    graph: Any, constants: Callable[[str], Any] | None = None, *, preserve_strides: bool = True
) -> Imported:
    """The module that computes what a graph of ATen operators does.

    Args:
        graph: `torch.fx.Graph` whose nodes hold fake tensors in ``meta["val"]``.
        constants: the tensor that an attribute's name (of ``get_attr``, or of a placeholder that is a parameter) stands
            for, or None if it is an input.
        preserve_strides: arguments and results have their axes in memory in the order that PyTorch gives them;
            otherwise all are row-major.

    Raises:
        CompileError: an operator, element type or size is not supported; one line that names the node.
    """
    return _Importer(constants or (lambda _: None), preserve_strides).run(graph)


class _Importer:
    def __init__(self, constants: Callable[[str], Any], preserve_strides: bool) -> None:
        self.constants, self.preserve_strides = constants, preserve_strides
        self.values: dict[Any, Any] = {}
        self.block = Block()
        self.emitter = Emitter(self.block)
        self.arguments: list[Argument] = []

    def run(self, graph: Any) -> Imported:
        sizes: list[tuple[str, int]] = []
        placeholders = [n for n in graph.nodes if n.op == "placeholder"]
        for index, node in enumerate(placeholders):
            self._placeholder(node, index, sizes)
        if sizes:
            self.block.add_argument(TensorType(tuple(dims.symbol(name) for name, _ in sizes), bool_), "sizes")
        for node in graph.nodes:
            if node.op == "get_attr":
                self.values[node] = self._constant(self._attribute(node), node.name)
            elif node.op == "call_function":
                with self.emitter.at(_location(node)):
                    self.values[node] = self._call(node)
        (last,) = (n for n in graph.nodes if n.op == "output")
        outputs, results = self._outputs(_flat(last.args[0]), {n: i for i, n in enumerate(placeholders)})
        self.emitter.insert(Return(tuple(results)))
        _sweep(self.block)
        module = Module([Function("main", Region(self.block), [f"out{i}" for i in range(len(results))])])
        return Imported(module, tuple(self.arguments), tuple(sizes), outputs, self.emitter.key is not None)

    def _placeholder(self, node: Any, index: int, sizes: list[tuple[str, int]]) -> None:
        fake = node.meta.get("val")
        constant = self.constants(node.target)
        if constant is not None:
            self.values[node] = self._constant(constant, node.name)
        elif isinstance(fake, torch.SymInt):
            dim = size(fake)
            self.values[node] = dim
            if isinstance(dim, Expr) and str(dim).isidentifier() and str(dim) not in dict(sizes):
                sizes.append((str(dim), index))
        elif isinstance(fake, torch.Tensor):
            logical = tensor_type(fake)
            order = memory_order(fake) if self.preserve_strides else None
            type_ = logical if order is None else logical.with_shape([logical.shape[a] for a in order])
            value: Value = self.block.add_argument(type_, _identifier(node.name))
            self.arguments.append(Argument(index, order, type_))
            if order is not None:
                value = self.block.append(Transpose(value, _inverse(order))).result
            self.values[node] = value
        else:
            self.values[node] = fake

    def _attribute(self, node: Any) -> Any:
        found = self.constants(node.target)
        if found is None:
            raise CompileError(f"the graph's attribute '{node.target}' is no tensor")
        return found

    def _constant(self, tensor: Any, name: str) -> Value:
        value = self.emitter.constant(to_numpy(tensor))
        value.hint = _identifier(name)
        return value

    def _call(self, node: Any) -> Any:
        arguments = [self._argument(a) for a in node.args]
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        if node.target in _ARITHMETIC:
            return _ARITHMETIC[node.target](*arguments)
        if str(node.target) == "aten.sym_size.int":
            return arguments[0].type.shape[arguments[1]]
        handler = find_handler(node.target)
        if handler is None:
            raise self.emitter.fail(f"the operator {node.target} is not supported")
        e = self.emitter
        fakes = node.meta["val"]
        many = isinstance(fakes, list | tuple)
        e.results = tuple(tensor_type(f) if isinstance(f, torch.Tensor) else None for f in (fakes if many else [fakes]))
        e.promoted = _promoted(node)
        named = {k: self._argument(v) for k, v in node.kwargs.items() if k not in _IGNORED}
        try:
            found = handler(e, *arguments, **named)
        except CompileError as error:
            if error.location:
                raise
            raise e.fail(str(error)) from error
        results = list(found) if isinstance(found, list | tuple) else [found]
        checked = [
            e.conform(v, t) if isinstance(v, Value) and t is not None else v
            for v, t in zip(results, e.results, strict=True)
        ]
        return checked if many else checked[0]

    def _argument(self, argument: Any) -> Any:
        if isinstance(argument, torch.fx.Node):
            return self.values[argument]
        if isinstance(argument, list | tuple):
            return [self._argument(a) for a in argument]
        if isinstance(argument, torch.SymInt):
            return size(argument)
        return argument

    def _outputs(self, nodes: Sequence[Any], placeholders: dict[Any, int]) -> tuple[tuple[Output, ...], list[Value]]:
        outputs: list[Output] = []
        results: list[Value] = []
        places: dict[Any, Output] = {}
        for node in nodes:
            value = self.values[node] if isinstance(node, torch.fx.Node) else node
            if node in places:
                outputs.append(places[node])
            elif isinstance(node, torch.fx.Node) and node in placeholders:
                outputs.append(Output(argument=placeholders[node]))
            elif isinstance(value, Value):
                order = memory_order(node.meta["val"]) if self.preserve_strides else None
                results.append(value if order is None else self.emitter.transpose(value, order))
                outputs.append(Output(len(results) - 1, None if order is None else _inverse(order)))
            else:
                outputs.append(Output(value=value))
            if isinstance(node, torch.fx.Node):
                places[node] = outputs[-1]
        return tuple(outputs), results


def memory_order(fake: Any) -> Permutation:
    """The axes from the slowest to the fastest in memory; None when they are in order, or the tensor is not dense."""
    strides = [s if isinstance(s, int) else s.node.hint for s in fake.stride()]
    extents = [s if isinstance(s, int) else s.node.hint for s in fake.shape]
    if any(s is None for s in (*strides, *extents)):
        return None
    order = sorted(range(len(strides)), key=lambda a: (-strides[a] if extents[a] != 1 else 0, a))
    if any(extents[a] == 1 for a in order):  # a unit axis may stand anywhere: leave it between its neighbours
        order = _with_units_in_place(extents, strides)
    expected = 1
    for axis in reversed(order):
        if extents[axis] != 1 and strides[axis] != expected:
            return None
        expected *= extents[axis]
    return None if order == list(range(len(order))) else tuple(order)


def _with_units_in_place(extents: Sequence[int], strides: Sequence[int]) -> list[int]:
    real = iter(sorted((a for a, n in enumerate(extents) if n != 1), key=lambda a: (-strides[a], a)))
    return [a if n == 1 else next(real) for a, n in enumerate(extents)]


def to_numpy(tensor: Any) -> np.ndarray[Any, Any]:
    """The elements of a tensor as a NumPy array of our element type, row-major."""
    with unset_fake_temporarily():  # Dynamo calls back ends where all new tensors are fake
        tensor = tensor.detach().cpu().contiguous()
        if tensor.dtype == torch.bfloat16:
            return np.asarray(tensor.view(torch.int16).numpy()).view(element_type(tensor.dtype).numpy)
        return np.asarray(tensor.numpy())


def _promoted(node: Any) -> Any:
    fakes = [a.meta.get("val") if isinstance(a, torch.fx.Node) else a for a in node.args]
    numbers = [a for a in fakes if isinstance(a, torch.Tensor | bool | int | float | torch.SymInt | torch.SymFloat)]
    if not any(isinstance(a, torch.Tensor) for a in numbers):
        return bool_
    kind = torch._prims_common.ELEMENTWISE_TYPE_PROMOTION_KIND.DEFAULT
    return element_type(elementwise_dtypes(*numbers, type_promotion_kind=kind)[1])


def _location(node: Any) -> Location:
    places = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
    file = [f"{places[-1][0].rsplit('/', 1)[-1]}:{places[-1][1]}"] if places else []
    return Location((node.name, *file), str(node.target))


def _identifier(name: str) -> str:
    text = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"v{text}" if not text or text[0].isdigit() else text


def _inverse(permutation: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(permutation)), key=lambda a: permutation[a]))


def _tensors(fakes: Any) -> list[Any]:
    items: Iterable[Any] = fakes if isinstance(fakes, list | tuple) else [fakes]
    return [f for f in items if isinstance(f, torch.Tensor)]


def _flat(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]


def _sweep(block: Block) -> None:
    """Drop operations that nothing reads, last first."""
    for operation in reversed(block):
        if (
            not operation.is_terminator
            and not operation.has_side_effects
            and not any(r.uses for r in operation.results)
        ):
            operation.drop()
