"""The Dynamo backend ``ds``: each graph of ATen operators becomes a program; forward and backward by AOTAutograd."""

from __future__ import annotations

import functools
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.fx import GraphModule

from ds_compiler.frontends.torch import decompositions, import_graph
from ds_compiler.ir import CompileError
from ds_compiler.torch import partition
from ds_compiler.torch.accounts import GraphReport, record
from ds_compiler.torch.program import Program


def ds(graph: GraphModule, example_inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
    """Compile a graph that Dynamo has captured, with its derivative: ``torch.compile(model, backend="ds")``.

    Args:
        options: ``options=`` of torch.compile, handed to `ds_compiler.compile` (``threads``, ``cache``, ``passes``…).
    """
    given = dict(options.pop("options", None) or {})
    given.setdefault("threads", torch.get_num_threads())
    compiler = functools.partial(compile_graph, options=given)
    compiled: Callable[..., Any] = aot_autograd(
        fw_compiler=functools.partial(compiler, kind="forward"),
        bw_compiler=functools.partial(compiler, kind="backward"),
        inference_compiler=functools.partial(compiler, kind="inference"),
        partition_fn=min_cut_rematerialization_partition,
        decompositions=decompositions(),
    )(graph, example_inputs)
    return compiled


def compile_graph(
    graph: GraphModule, example_inputs: Sequence[Any], *, kind: str, options: dict[str, Any]
) -> Callable[[list[Any]], list[Any]]:
    """A graph of ATen operators as a function that takes its arguments in a list, which it empties.

    What cannot be compiled is left to PyTorch: single operators, or with a warning a graph that fails as a whole.
    """
    start = time.perf_counter()
    every = partition.operators(graph)
    fallbacks = partition.unsupported(graph)
    programs: list[Program] = []
    call: Callable[..., Any] = graph.forward
    error = ""
    try:
        if every and len(every) > fallbacks.total():
            device = device_of(graph)
            call = _split(graph, programs, device, options) if fallbacks else _whole(graph, programs, device, options)
    except CompileError as found:
        error, programs, fallbacks = str(found), [], Counter(str(n.target) for n in every)
        warnings.warn(f"ds: PyTorch runs a {kind} graph, which does not compile: {error}", stacklevel=2)
    models = tuple(p.model for p in programs)
    record(GraphReport(kind, len(every), fallbacks, models, time.perf_counter() - start, error))

    def boxed(arguments: list[Any]) -> list[Any]:
        taken = tuple(arguments)
        arguments.clear()
        return list(call(*taken))

    boxed._boxed_call = True  # type: ignore[attr-defined]
    return boxed


def device_of(graph: GraphModule) -> torch.device:
    """The device that a graph is compiled for: that of its tensors, numbers on the host aside.

    Raises:
        CompileError: they are on several, or on one that there is no code for.
    """
    devices: set[torch.device] = set()
    for node in graph.graph.nodes:
        value = node.meta.get("val")
        outside = node.op in ("placeholder", "get_attr") or any(user.op == "output" for user in node.users)
        # A number on the host may be an operand of operators on a GPU. As a result it must be where PyTorch has it.
        number = node.op != "call_function" and isinstance(value, torch.Tensor) and value.dim() == 0
        if outside and isinstance(value, torch.Tensor) and not (number and value.device.type == "cpu"):
            devices.add(value.device)
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise CompileError(f"the graph's inputs and results are on several devices ({names})")
    device = devices.pop() if devices else torch.device("cpu")
    if device.type not in ("cpu", "cuda") or device.index not in (None, 0):
        raise CompileError(f"graphs on the device '{device}' are not compiled yet, only on cpu and cuda:0")
    return device


def _whole(graph: GraphModule, programs: list[Program], device: torch.device, options: dict[str, Any]) -> Program:
    programs.append(_compiled(graph, device, options))
    return programs[0]


def _compiled(graph: GraphModule, device: torch.device, options: dict[str, Any]) -> Program:
    attributes = functools.partial(_attribute, graph)
    try:
        return Program.of(import_graph(graph.graph, attributes), device, **options)
    except CompileError:
        raise
    except (ValueError, TypeError, KeyError, AssertionError) as error:
        raise CompileError(f"an ATen graph does not compile: {type(error).__name__}: {error}") from error


def _split(
    graph: GraphModule, programs: list[Program], device: torch.device, options: dict[str, Any]
) -> Callable[..., Any]:
    """The graph as a module that calls programs between the operators that PyTorch runs."""
    split = partition.partitioned(graph)
    for name, child in list(split.named_children()):
        if name.startswith(partition.PREFIX):
            part: Any = child
            program = _compiled(part, device, options)
            programs.append(program)
            single = not isinstance(next(n for n in part.graph.nodes if n.op == "output").args[0], tuple | list)
            setattr(split, name, _Called(program, single))
    forward: Callable[..., Any] = split.forward
    return forward


class _Called(torch.nn.Module):  # type: ignore[misc,unused-ignore]
    """A program as a submodule of the graph it was cut from."""

    def __init__(self, program: Program, single: bool) -> None:
        super().__init__()
        self.program, self.single = program, single

    def forward(self, *arguments: Any) -> Any:
        results = self.program(*arguments)
        return results[0] if self.single else tuple(results)


def _attribute(graph: GraphModule, name: str) -> Any:
    """The tensor that a ``get_attr`` node reads; None for names of inputs."""
    found: Any = graph
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, torch.Tensor) else None
