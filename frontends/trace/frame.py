"""Functions being traced: where operations go, and which values may be read there.

A `Frame` is one IR function in the making. Its scopes are the blocks open now: the function's own, and inside of it
those of control flow. A value is readable while its scope is open; a value of an enclosing *function* enters as one
more argument (regions may read enclosing values, functions may not).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ds_compiler.frontends.trace.errors import TraceError
from ds_compiler.frontends.trace.places import here
from ds_compiler.ir import Block, CompileError, Dim, Function, Location, Module, Operation, Region, TensorType, Value
from ds_compiler.ir.dims import symbol
from ds_compiler.ops import Constant, Return

if TYPE_CHECKING:
    from ds_compiler.frontends.trace.sizes import SizeGuard

Array = np.ndarray[Any, Any]


class _Stack(threading.local):
    """Frames of this thread, the innermost last."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []


_stack = _Stack()


@dataclass(eq=False)
class Scope:
    """A block being filled; closed for good when its construct ends."""

    block: Block
    open: bool = True


@dataclass(eq=False)
class Trace:
    """One module in the making.

    Attributes:
        lifted: arrays that the function reads from outside and that become inputs of the program, by identity, with
            the name that they get; what is found there is never written into the code.
        sizes: values of open sizes in the call for which the function is traced.
        guards: what the function asked about them.
    """

    module: Module = field(default_factory=Module)
    lifted: dict[int, tuple[Array, str]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    guards: list[SizeGuard] = field(default_factory=list)
    counter: int = 0

    def fresh(self, hint: str) -> str:
        """A name that no function of the module has."""
        self.counter += 1
        return f"{hint}_{self.counter}"


class Frame:
    """One function in the making; `captured` lists the outer values that became arguments, in order."""

    def __init__(self, trace: Trace, types: Sequence[TensorType], hints: Sequence[str] = ()) -> None:
        self.trace = trace
        self.root = Block(types, hints)
        self.scopes = [Scope(self.root)]
        self.explicit = len(types)
        self.captured: dict[Value, tuple[Value, Scope]] = {}
        self.inputs: dict[int, Value] = {}
        self._arguments: dict[Value, Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    @property
    def scope(self) -> Scope:
        return self.scopes[-1]

    # -- inserting ---------------------------------------------------------------------------------
    def insert(self, operation: Operation) -> list[Value]:
        """The results of `operation`, inserted at the end of the innermost block."""
        location = here(operation.mnemonic)
        for nested in operation.walk():
            if not nested.location:
                nested.location = location
        self.scope.block.append(operation)
        return list(operation.results)

    def emit(self, operation: Operation) -> Value:
        """The only result of `operation`, inserted."""
        return self.insert(operation)[0]

    def constant(self, array: Array) -> Value:
        """A constant in the function's own block; small equal ones are shared."""
        key = (array.dtype.name, array.shape, array.tobytes()) if array.size <= 64 else None
        if key is not None and key in self._constants:
            return self._constants[key]
        operation = Constant(np.array(array, order="C", copy=True)).at(here("constant"))
        self.root.append(operation)
        if key is not None:
            self._constants[key] = operation.result
        return operation.result

    def array(self, array: Array) -> Value:
        """An array that the function reads from outside: an input if it is to stay one, else a constant."""
        if id(array) not in self.trace.lifted:
            return self.constant(array)
        frames = _stack.frames
        main = next(f for f in frames if f.trace is self.trace)
        if id(array) not in main.inputs:
            from ds_compiler.frontends.trace.dtypes import element_type

            type_ = TensorType(array.shape, element_type(array.dtype))
            main.inputs[id(array)] = main.root.add_argument(type_, self.trace.lifted[id(array)][1])
        return self.readable(main.inputs[id(array)], main.scopes[0], "")

    # -- reading -----------------------------------------------------------------------------------
    def readable(self, value: Value, scope: Scope, made: str) -> Value:
        """What stands for `value`, which belongs to `scope`, here.

        Raises:
            TraceError: its scope has ended.
        """
        if not scope.open:
            raise TraceError(
                "a traced array is used after the function or branch that made it has ended",
                location=here(),
                help=f"it was made at {made or 'an unknown place'}; return it from there instead of storing it away",
            )
        if scope in self.scopes:
            return value
        if value not in self._arguments:
            index = _stack.frames.index(self)
            outer = next((f for f in reversed(_stack.frames[:index]) if f.trace is self.trace), None)
            if outer is None:
                raise TraceError("a traced array of another trace is used", location=here(), help=f"made at {made}")
            outer.readable(value, scope, made)
            self._arguments[value] = self.root.add_argument(value.type)
            self.captured[value] = (value, scope)
        return self._arguments[value]

    def captures(self) -> list[Value]:
        """What the enclosing frame passes for the arguments that were captured; to be asked after `pop`."""
        outer = current()
        return [outer.readable(value, scope, "") for value, scope in self.captured.values()]

    def capture_sizes(self, dims: Sequence[TensorType]) -> None:
        """Make sure that the function can tell the symbols of `dims`: some argument must have an axis of each size."""
        needed = frozenset[str]().union(*(t.symbols for t in dims), *(a.type.symbols for a in self.root.arguments))
        for name in sorted(needed):
            wanted: Dim = symbol(name)
            if any(wanted in a.type.shape for a in self.root.arguments):
                continue
            index = _stack.frames.index(self)
            for outer in reversed(_stack.frames[:index]):
                found = next((a for a in outer.root.arguments if wanted in a.type.shape), None)
                if found is not None:
                    self.readable(found, outer.scopes[0], "")
                    break

    def finish(self, name: str, results: Sequence[Value], result_names: Sequence[str] = ()) -> Function:
        """The function that returns `results`."""
        if _stack.frames and self in _stack.frames[1:]:
            self.capture_sizes([r.type for op in self.root for r in op.results])
        self.insert(Return(tuple(results)))
        return Function(name, Region(self.root), result_names)


def current() -> Frame:
    """The innermost function being traced.

    Raises:
        TraceError: none is.
    """
    if not _stack.frames:
        raise TraceError(
            "nothing is being traced here", location=here(), help="call this inside of a function under ds.compile"
        )
    return _stack.frames[-1]


def tracing() -> bool:
    """Whether a function is being traced in this thread."""
    return bool(_stack.frames)


@contextmanager
def tracing_into(frame: Frame) -> Iterator[Frame]:
    """Let `frame` be the innermost one; afterwards none of its values may be used."""
    _stack.frames.append(frame)
    try:
        yield frame
    finally:
        for scope in frame.scopes:
            scope.open = False
        _stack.frames.pop()


@contextmanager
def nested_block(types: Sequence[TensorType]) -> Iterator[tuple[Block, Scope]]:
    """Insert into a new block with arguments of `types`, nested in the one open now."""
    frame = current()
    scope = Scope(Block(types))
    frame.scopes.append(scope)
    try:
        yield scope.block, scope
    finally:
        scope.open = False
        frame.scopes.pop()


@contextmanager
def placing_errors(kind: str) -> Iterator[None]:
    """Give errors of type rules the user's line."""
    try:
        yield
    except CompileError as error:
        if not error.location:
            error.location = here(kind)
        raise


def located(what: str, help: str = "", kind: str = "") -> TraceError:
    """An error at the user's line."""
    return TraceError(what, location=Location(here().names, kind), help=help)
