"""`ds.compile` on a Python function: traced at the first call, compiled, kept for all calls that its guards admit."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import numpy as np

from ds_compiler.compiled import CompiledModel
from ds_compiler.frontends.trace import tree
from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.dtypes import element_type
from ds_compiler.frontends.trace.errors import TraceError
from ds_compiler.frontends.trace.frame import tracing
from ds_compiler.frontends.trace.function import Output, trace_program
from ds_compiler.frontends.trace.places import here
from ds_compiler.frontends.trace.tree import Structure
from ds_compiler.guards import Watch, surroundings, watch_content, watch_type
from ds_compiler.ir import Dim, TensorType, symbol
from ds_compiler.report import Report

Array = np.ndarray[Any, Any]
Signature = tuple[Any, ...]
_P = ParamSpec("_P")
_R = TypeVar("_R")

_MOST_PROGRAMS = 64


@dataclass(frozen=True)
class _Static:
    """An argument that is no array: its value is part of the program."""

    type: type
    value: Any


@dataclass
class _Entry:
    """A compiled program, what it is for, and why it was needed."""

    structure: Structure
    signature: Signature
    watches: list[Watch]
    inputs: list[Callable[[], Any]]
    model: CompiledModel
    result: Structure
    leaves: tuple[Any, ...]
    reason: str
    seconds: float
    donated: tuple[int, ...] = ()
    spare: Mapping[str, Array] | None = None
    calls: int = 0


@dataclass(frozen=True)
class FunctionReport:
    """What a compiled function did so far; prints as text.

    Attributes:
        programs: a report on each program.
        reasons: why each was compiled: the first call, or the guards that failed.
        seconds: what tracing and compiling each took.
        calls: how often each ran.
    """

    name: str
    programs: tuple[Report, ...]
    reasons: tuple[str, ...]
    seconds: tuple[float, ...]
    calls: tuple[int, ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.programs)} programs, {sum(self.calls)} calls"]
        rows = zip(self.programs, self.reasons, self.seconds, self.calls)
        for index, (program, reason, seconds, calls) in enumerate(rows, 1):
            origin = "from the cache" if program.cached else "compiled"
            lines.append(f"program {index} ({calls} calls, {origin}, ready after {seconds:.2f} s): {reason}")
            lines += [f"  {line}" for line in str(program).splitlines()]
        return "\n".join(lines)


class CompiledFunction(Generic[_P, _R]):
    """A function of arrays and nested structures of them that runs as one native program.

    Made by `ds_compiler.compile`. Arrays are the program's inputs; everything else (numbers, strings, flags, the
    form of structures, what the function reads from its surroundings) is part of the program, which is made anew when
    it differs. Several threads may call it at once.
    """

    def __init__(
        self,
        function: Callable[_P, _R],
        options: Mapping[str, Any],
        dynamic: bool | Mapping[str, Any] | None,
        donate: Sequence[str],
    ) -> None:
        functools.update_wrapper(self, function)
        self._function, self._options = function, dict(options)
        try:
            self._signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):
            self._signature = None
        self._dynamic = dynamic
        parameters = set(self._signature.parameters) if self._signature else set[str]()
        named = [*donate, *(dynamic if isinstance(dynamic, Mapping) else ())]
        for name in named:
            if name not in parameters:
                raise ValueError(f"{self._name} has no parameter {name!r}; it has: {', '.join(parameters)}")
        self._donate = tuple(donate)
        self._entries: dict[tuple[Structure, Signature], list[_Entry]] = {}
        self._all: list[_Entry] = []
        self._lock = threading.RLock()

    @property
    def _name(self) -> str:
        return str(getattr(self._function, "__name__", "function"))

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        """The function's result, arrays in it as NumPy arrays.

        Raises:
            CompileError: it cannot be traced or compiled; names the line.
            ExecutionError: a check inside of the program failed (an index, a size).
        """
        if tracing():  # inside of another function that is traced, it is a part of that one
            return self._function(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        signature, arrays = self._described(leaves, structure)
        key = (structure, signature)
        entry = next((e for e in self._entries.get(key, ()) if not _failed(e)), None)
        if entry is None:
            entry = self._compiled(key, leaves)
        return self._run(entry, arrays)

    def _run(self, entry: _Entry, arrays: list[Any]) -> _R:
        entry.calls += 1
        spare, entry.spare = entry.spare, None
        outputs = entry.model(*arrays, *[fetch() for fetch in entry.inputs], out=spare)
        if entry.donated:
            self._keep(entry, arrays, outputs)
        values = list(outputs.values())
        result: _R = tree.unflatten(
            entry.result, [values[leaf.index] if isinstance(leaf, Output) else leaf for leaf in entry.leaves]
        )
        return result

    def _keep(self, entry: _Entry, arrays: list[Any], outputs: Mapping[str, Array]) -> None:
        """Donated arrays, which the caller no longer reads, take the outputs of the next call."""
        spare: dict[str, Array] = {}
        free = [arrays[i] for i in entry.donated if isinstance(arrays[i], np.ndarray)]
        for name, output in outputs.items():
            for index, array in enumerate(free):
                flags = array.flags
                if (
                    (array.dtype, array.shape) == (output.dtype, output.shape)
                    and flags.c_contiguous
                    and flags.aligned
                    and flags.writeable
                    and flags.owndata
                ):
                    spare[name] = free.pop(index)
                    break
        entry.spare = spare

    # -- guards -------------------------------------------------------------------------------------
    def _described(self, leaves: list[Any], structure: Structure) -> tuple[Signature, list[Any]]:
        """A key of all leaves, and those that are arrays."""
        described: list[Any] = []
        arrays: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, np.ndarray | np.generic):
                described.append((leaf.dtype, leaf.shape))
                arrays.append(leaf)
            elif isinstance(leaf, TracedArray):
                raise TraceError(
                    "a traced array is given to a compiled function outside of any trace",
                    location=here(),
                    help=f"it was made at {leaf.made}; return it from the traced function instead",
                )
            else:
                described.append(_Static(type(leaf), leaf))
        if self._dynamic is not None and self._dynamic is not False:
            described = self._with_symbols(described, structure)
        signature = tuple(described)
        try:
            hash(signature)
        except TypeError:
            path = next(p for p, d in zip(self._paths(structure), described) if not _hashable(d))
            raise TraceError(
                f"{self._name}: argument {path} is neither an array nor hashable",
                location=here(),
                help="pass an array, or register its class with ds.register_node",
            ) from None
        return signature, arrays

    def _paths(self, structure: Structure) -> list[str]:
        """How the user names each leaf of the arguments."""
        args, kwargs = structure.children
        names = list(self._signature.parameters) if self._signature else []
        paths: list[str] = []
        for index, child in enumerate(args.children):
            paths += child.paths(names[index] if index < len(names) else f"argument {index}")
        for name, child in zip(kwargs.context, kwargs.children):  # type: ignore[call-overload]
            paths += child.paths(str(name))
        return paths

    def _with_symbols(self, described: list[Any], structure: Structure) -> list[Any]:
        """Open sizes replaced by their symbols, so that the key is one for all of them."""
        paths = self._paths(structure)
        result = list(described)
        values: dict[str, int] = {}
        leading: int | None = None
        for index, (path, item) in enumerate(zip(paths, described)):
            if isinstance(item, _Static):
                continue
            dtype, shape = item
            new: list[Dim] = list(shape)
            if isinstance(self._dynamic, Mapping):
                names = _axis_names(self._dynamic.get(path.split("[")[0].split(".")[0]), len(shape))
                for axis, name in names.items():
                    if axis >= len(shape):
                        raise TraceError(f"dynamic: {path} has no axis {axis}", location=here())
                    if values.setdefault(name, shape[axis]) != shape[axis]:
                        raise TraceError(
                            f"{self._name}: the size '{name}' is {values[name]} in one argument and "
                            f"{shape[axis]} in {path}",
                            location=here(),
                        )
                    new[axis] = symbol(name)
            elif path.isidentifier() and shape and leading in (None, shape[0]):
                leading = shape[0]
                new[0] = symbol("batch")
            result[index] = (dtype, tuple(new))
        return result

    # -- compiling ----------------------------------------------------------------------------------
    def _compiled(self, key: tuple[Structure, Signature], leaves: list[Any]) -> _Entry:
        from ds_compiler.api import compile_source
        from ds_compiler.source import Source

        with self._lock:
            found = next((e for e in self._entries.get(key, ()) if not _failed(e)), None)
            if found is not None:
                return found
            start = time.perf_counter()
            structure, signature = key
            reason = self._reason(structure, signature)
            paths = self._paths(structure)
            statics = {p: leaf for p, d, leaf in zip(paths, signature, leaves) if isinstance(d, _Static)}
            watches = surroundings(self._function, statics)
            lifted = {id(w.value): (w.value, w.path) for w in watches if w.kind == "array"}
            types = [None if isinstance(d, _Static) else _type(path, *d) for path, d in zip(paths, signature)]
            program = trace_program(self._function, structure, leaves, types, lifted, paths)
            read = set(program.lifted)
            fetches = {id(w.value): w.fetch for w in watches if w.kind == "array"}
            watches = [
                w if w.kind != "array" else watch_type(w) if id(w.value) in read else watch_content(w) for w in watches
            ]
            source = Source(program.module, self._name, {})
            passes = self._options.get("passes") or "traced"
            model = compile_source(source, **{**self._options, "passes": passes})
            traced = [i for i, t in enumerate(types) if t is not None]
            donated = tuple(n for n, i in enumerate(traced) if paths[i].split("[")[0].split(".")[0] in self._donate)
            entry = _Entry(
                structure=structure,
                signature=signature,
                watches=watches,
                inputs=[fetches[i] for i in program.lifted],
                model=model,
                result=program.structure,
                leaves=program.leaves,
                reason=reason,
                seconds=time.perf_counter() - start,
                donated=donated,
            )
            if len(self._all) >= _MOST_PROGRAMS:
                oldest = self._all.pop(0)
                self._entries[oldest.structure, oldest.signature].remove(oldest)
            self._entries.setdefault(key, []).insert(0, entry)
            self._all.append(entry)
            return entry

    def _reason(self, structure: Structure, signature: Signature) -> str:
        """Which guards of the program that fits best fail, and why."""
        if not self._all:
            return "first call"
        best = min((self._differences(e, structure, signature) for e in reversed(self._all)), key=len)
        return "guard failed: " + "; ".join(best)

    def _differences(self, entry: _Entry, structure: Structure, signature: Signature) -> list[str]:
        old = dict(zip(self._paths(entry.structure), entry.signature))
        new = dict(zip(self._paths(structure), signature))
        found = [f"{path} is not given" for path in old if path not in new]
        found += [f"{path} = {_text(now)} is given, was not" for path, now in new.items() if path not in old]
        for path, now in new.items():
            was = old.get(path, now)
            if was != now:
                hint = ""
                if isinstance(was, _Static) and isinstance(now, _Static) and was.type is now.type in (int, float):
                    hint = " (a Python number is part of the program; a NumPy scalar is an input)"
                found.append(f"{path} was {_text(was)}, now {_text(now)}{hint}")
        if not found and entry.structure != structure:
            found = [f"the arguments have the form {structure}, had {entry.structure}"]
        return found or [why for w in entry.watches if (why := w.failure())] or ["its program was dropped"]

    # -- looking inside -----------------------------------------------------------------------------
    @property
    def programs(self) -> tuple[CompiledModel, ...]:
        """The programs compiled so far, the oldest first."""
        return tuple(entry.model for entry in self._all)

    def ir(self, after: str | None = None) -> str:
        """Text of the latest program, as `CompiledModel.ir`.

        Raises:
            ValueError: it was not called yet.
        """
        if not self._all:
            raise ValueError(f"{self._name} was not called yet, so that nothing is compiled")
        return self._all[-1].model.ir(after)

    def report(self) -> FunctionReport:
        """The programs, and why each was compiled."""
        entries = list(self._all)
        return FunctionReport(
            self._name,
            tuple(e.model.report() for e in entries),
            tuple(e.reason for e in entries),
            tuple(e.seconds for e in entries),
            tuple(e.calls for e in entries),
        )

    def __repr__(self) -> str:
        return f"<CompiledFunction {self._name!r}, {len(self._all)} programs>"


def _failed(entry: _Entry) -> bool:
    return any(watch.failure() for watch in entry.watches)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _text(described: Any) -> str:
    if isinstance(described, _Static):
        return repr(described.value)
    dtype, shape = described
    return f"{dtype}[{', '.join(map(str, shape))}]"


def _type(path: str, dtype: np.dtype[Any], shape: tuple[Dim, ...]) -> TensorType:
    try:
        return TensorType(shape, element_type(dtype))
    except TraceError as error:
        raise TraceError(f"{path}: {error.what}", location=error.location, help=error.help) from None


def _axis_names(given: Any, rank: int) -> dict[int, str]:
    """Names of open sizes by axis, from a dict, a sequence with None for fixed ones, or one name for the first axis."""
    if given is None:
        return {}
    if isinstance(given, str):
        return {0: given}
    if isinstance(given, Mapping):
        return {axis % rank if rank and axis < 0 else axis: str(name) for axis, name in given.items()}
    return {axis: str(name) for axis, name in enumerate(given) if name is not None}
