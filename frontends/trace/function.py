"""Functions → IR functions: a whole program (`trace_program`), and functions that operations name (`trace_callee`)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import tree
from ds_compiler.frontends.trace.array import TracedArray, is_array, is_number, is_unknown_number, read, wrap
from ds_compiler.frontends.trace.closure import rebound
from ds_compiler.frontends.trace.errors import TraceError
from ds_compiler.frontends.trace.frame import Frame, Trace, current, located, placing_errors, tracing_into
from ds_compiler.frontends.trace.number import Number, number_of, type_of
from ds_compiler.frontends.trace.places import place_of, shown_file
from ds_compiler.frontends.trace.sizes import SizeGuard
from ds_compiler.frontends.trace.tree import Structure
from ds_compiler.ir import CompileError, Expr, Function, Location, Module, TensorType, Value

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Program:
    """A traced function.

    Attributes:
        module: its ``main`` takes the traced leaves of the arguments, then the lifted arrays that are read.
        lifted: which those are, as keys of `lifted` given to `trace_program`.
        structure: form of the result; `leaves` are its leaves, with an `Output` for each array that is computed.
        guards: what the function asked about open sizes.
    """

    module: Module
    lifted: tuple[int, ...]
    structure: Structure
    leaves: tuple[Any, ...]
    guards: tuple[SizeGuard, ...] = ()


@dataclass(frozen=True)
class Output:
    """The place of result number `index` of the program; `is_number`: what the function returns is a Python number."""

    index: int
    is_number: bool = False


def trace_program(
    function: Callable[..., Any],
    structure: Structure,
    leaves: Sequence[Any],
    types: Sequence[TensorType | None],
    lifted: Mapping[int, tuple[Array, str]],
    paths: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
    numbers: Mapping[str, type] | None = None,
) -> Program:
    """Trace ``function(*args, **kwargs)``.

    Args:
        structure: form of ``(args, kwargs)``.
        leaves: of that; those with a type are replaced by traced arrays, the others are given as they are.
        lifted: arrays that the function reads from its surroundings, by identity, each with a name.
        paths: how the leaves are called in the program.
        sizes: values of open sizes, for what the function asks about them.
        numbers: Python numbers of the function's closure and globals that are inputs, behind those of `leaves`.

    Raises:
        CompileError: the function does what cannot be traced; names the user's line.
    """
    names = unique_names(list(structure.paths()) if paths is None else paths)
    outer = dict(numbers or {})
    wanted = [(t, n) for t, n in zip(types, names) if t is not None]
    wanted += [(type_of(kind), name) for name, kind in outer.items()]
    trace = Trace(lifted=dict(lifted), sizes=dict(sizes or {}))
    frame = Frame(trace, [t for t, _ in wanted], [n for _, n in wanted])
    with tracing_into(frame), placing_errors("call"):
        arguments = iter(frame.root.arguments)
        given = [
            leaf if t is None else _given(i, leaf, next(arguments)) for i, (leaf, t) in enumerate(zip(leaves, types))
        ]
        args, kwargs = tree.unflatten(structure, given)
        given_outer = {name: Number(argument, frozenset({name})) for name, argument in zip(outer, arguments)}
        parameters = _parameter_names(function, len(args))
        given_containers = [
            entry
            for name, argument in (*zip(parameters, args), *kwargs.items())
            for entry in _containers(argument, name)
        ]
        result = _called(rebound(function, given_outer), args, kwargs)
        _check_unchanged(function, given_containers, result)
        results, form = tree.flatten(result)
        values: list[Value] = []
        for index, leaf in enumerate(results):
            if is_unknown_number(leaf) or isinstance(leaf, Expr):
                results[index] = Output(len(values), is_number=True)
                values.append(number_of(leaf).read())
            elif isinstance(leaf, TracedArray):
                results[index] = Output(len(values))
                values.append(leaf.read())
        places = [path for path, leaf in zip(form.paths(), results) if isinstance(leaf, Output)]
        trace.module.add(frame.finish("main", values, unique_names(["out" + path for path in places])))
    used = [key for key in trace.lifted if key in frame.inputs]
    used.sort(key=lambda key: frame.root.arguments.index(frame.inputs[key]))  # type: ignore[arg-type]
    _name_arguments(frame)
    return Program(trace.module, tuple(used), form, tuple(results), tuple(trace.guards))


def _called(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The function's result; its own errors are told the line, and what may be behind them."""
    try:
        return function(*args, **kwargs)
    except CompileError:
        raise
    except Exception as error:
        name = getattr(function, "__name__", "the function")
        place = place_of(error)
        if place:
            error.add_note(
                f"at {place}, while ds.compile traced {name}: arrays are stand-ins there, and sizes that dynamic= "
                "leaves open are symbols; neither has a value that Python code can look up or convert"
            )
        raise


def _containers(x: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The dicts and lists in the arguments, each with a copy: the caller's own are not what the function gets."""
    if type(x) in (dict, list):
        yield name, x, x.copy()
    items = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
    for item in items:
        yield from _containers(item, name)


def _parameter_names(function: Any, count: int) -> list[str]:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        names = []
    return [names[i] if i < len(names) else f"argument {i}" for i in range(count)]


def _check_unchanged(function: Any, given: Sequence[tuple[str, Any, Any]], result: Any) -> None:
    """A change of an argument would be lost, unless the argument is returned.

    Raises:
        TraceError: it would.
    """
    returned = {id(x) for _, x, _ in _containers(result)}
    for name, now, before in given:
        pairs = zip(now.values(), before.values()) if isinstance(now, dict) else zip(now, before)
        changed = len(now) != len(before) or any(a is not b for a, b in pairs)
        if changed and id(now) not in returned:
            code = getattr(inspect.unwrap(function), "__code__", None)
            place = f"{shown_file(code.co_filename)}:{code.co_firstlineno}" if code is not None else ""
            raise TraceError(
                f"{getattr(function, '__name__', 'the function')} changes its argument {name}, unseen by its caller",
                location=Location((place,) if place else ()),
                help="return the changed structure, or build a new one",
            )


def _given(index: int, leaf: Any, argument: Value) -> TracedArray:
    """What stands for a leaf of the arguments."""
    return Number(argument, frozenset({index})) if type(leaf) in (int, float) else wrap(argument)


def _name_arguments(frame: Frame) -> None:
    for argument, name in zip(frame.root.arguments, unique_names([a.hint for a in frame.root.arguments])):
        argument.hint = name


def unique_names(paths: Sequence[str]) -> list[str]:
    """Paths as identifiers, no two alike."""
    names: list[str] = []
    for path in paths:
        name = re.sub(r"\W+", "_", path, flags=re.ASCII).strip("_")
        name = f"x{name}" if not name or name[0].isdigit() else name
        base, count = name, 1
        while name in names:
            count += 1
            name = f"{base}_{count}"
        names.append(name)
    return names


@dataclass(frozen=True)
class Callee:
    """A function of the module being traced.

    Attributes:
        function: the IR function; it is in the module only if it was asked for.
        captured: what the enclosing function passes behind the explicit arguments.
        structure, leaves: its result; an `Output` stands for a result of the function.
    """

    function: Function
    captured: tuple[Value, ...]
    structure: Structure
    leaves: tuple[Any, ...]

    @property
    def types(self) -> tuple[TensorType, ...]:
        return tuple(self.function.result_types)

    def result(self, values: Sequence[Value]) -> Any:
        """The function's result with `values` as its outputs."""
        return tree.unflatten(
            self.structure, [wrap(values[x.index]) if isinstance(x, Output) else x for x in self.leaves]
        )


def trace_callee(
    function: Callable[..., Any],
    structure: Structure,
    leaves: Sequence[Any],
    types: Sequence[TensorType | None],
    *,
    add: bool,
) -> Callee:
    """Trace ``function(*args)``, `structure` being the form of ``args``, into a function of the module.

    All array leaves of the result are outputs, constants too.

    Args:
        add: put it into the module, under a name of its own.
    """
    trace = current().trace
    frame = Frame(trace, [t for t in types if t is not None])
    name = trace.fresh(re.sub(r"\W", "_", getattr(function, "__name__", "function")).strip("_") or "function")
    with tracing_into(frame):
        arguments = iter(frame.root.arguments)
        given = [leaf if t is None else wrap(next(arguments)) for leaf, t in zip(leaves, types)]
        results, form = tree.flatten(function(*tree.unflatten(structure, given)))
        values: list[Value] = []
        for index, leaf in enumerate(results):
            if is_array(leaf) or is_number(leaf):
                results[index] = Output(len(values))
                values.append(read(leaf))
        made = frame.finish(name, values)
    if add:
        trace.module.add(made)
    return Callee(made, tuple(frame.captures()), form, tuple(results))


def traced_leaves(arguments: Sequence[Any]) -> tuple[list[Any], Structure, list[TensorType | None], list[Value]]:
    """Leaves of ``args`` with the types and values of those that are arrays.

    Raises:
        TraceError: an array has an element type that does not exist here.
    """
    leaves, structure = tree.flatten(tuple(arguments))
    values = [read(leaf) if is_array(leaf) else None for leaf in leaves]
    return leaves, structure, [None if v is None else v.type for v in values], [v for v in values if v is not None]


def float_leaves(what: str, values: Sequence[Value]) -> None:
    """Check that derivatives with respect to `values` exist."""
    for value in values:
        if not value.type.dtype.is_float:
            raise located(f"{what}: an argument is {value.type}, and only floating-point arrays have derivatives")
