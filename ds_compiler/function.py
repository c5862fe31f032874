"""`ds.compile` on a Python function: traced at the first call, compiled, kept for all calls that its guards admit."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import numpy as np

from ds_compiler.backends.triton.target import is_gpu_target
from ds_compiler.compiled import CompiledModel
from ds_compiler.finite import check_finite
from ds_compiler.frontends.trace import tree
from ds_compiler.frontends.trace.closure import numbers_read
from ds_compiler.frontends.trace.errors import NumberNeeded
from ds_compiler.frontends.trace.frame import tracing
from ds_compiler.frontends.trace.function import Output, Program, trace_program
from ds_compiler.frontends.trace.sizes import SizeGuard
from ds_compiler.frontends.trace.tree import Structure
from ds_compiler.guards import Watch, surroundings, watch_content, watch_number, watch_type
from ds_compiler.ir import Module
from ds_compiler.report import FunctionReport
from ds_compiler.side_effects import refuse_side_effects
from ds_compiler.signature import (
    Call,
    Numbers,
    OuterNumbers,
    Parameters,
    Scalar,
    Signature,
    Static,
    shown,
    type_in_program,
)

if TYPE_CHECKING:
    from ds_compiler.gpu import GpuModel

Array = np.ndarray[Any, Any]
_P = ParamSpec("_P")
_R = TypeVar("_R")

_MOST_PROGRAMS = 64


@dataclass
class _Entry:
    """A compiled program, what it is for, and why it was needed.

    Attributes:
        outer: numbers that the function reads from outside, each with why it cannot be an input, or "".
    """

    structure: Structure
    signature: Signature
    watches: list[Watch]
    sizes: tuple[SizeGuard, ...]
    inputs: list[Callable[[], Any]]
    module: Module
    model: CompiledModel | GpuModel
    result: Structure
    leaves: tuple[Any, ...]
    reason: str
    seconds: float
    outer: Mapping[str, str]
    donated: frozenset[int] = frozenset()
    calls: int = 0

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the program is right for a call with these open sizes, in the surroundings as they are now."""
        return all(g.holds(sizes) for g in self.sizes) and not any(w.failure() for w in self.watches)


class CompiledFunction(Generic[_P, _R]):
    """A function of arrays and nested structures of them that runs as one native program.

    Made by `ds_compiler.compile`. Arrays are the program's inputs; everything else (strings, flags, the form
    of structures, what the function reads from its surroundings) is part of the program, which is made anew when it
    differs. A Python number is part of it until it changes, and an input from then on, unless tracing needs its value.
    Several threads may call it at once.
    """

    def __init__(
        self,
        function: Callable[_P, _R],
        options: Mapping[str, Any],
        dynamic: bool | Mapping[str, Any] | None,
        donate: Sequence[str],
    ) -> None:
        if inspect.isgeneratorfunction(function) or inspect.iscoroutinefunction(function):
            kind = "a generator" if inspect.isgeneratorfunction(function) else "a coroutine"
            raise TypeError(f"{getattr(function, '__name__', 'the function')} is {kind}: it has no result to compile")
        functools.update_wrapper(self, function)
        self._function, self._options = function, dict(options)
        self._check_nan = bool(self._options.pop("check_nan", False))
        self._on_gpu = is_gpu_target(self._options.get("target", "cpu"))
        self._parameters = Parameters(function, self._name, dynamic, self._on_gpu)
        self._parameters.check([*donate, *(dynamic if isinstance(dynamic, Mapping) else ())])
        self._numbers, self._outer = Numbers(dynamic is not False), OuterNumbers(dynamic is not False)
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
        """The function's result, arrays in it as NumPy arrays; for a GPU as `DeviceArray`s.

        Raises:
            CompileError: it cannot be traced or compiled; names the line.
            ExecutionError: a check inside of the program failed (an index, a size).
            NonFiniteError: with `check_nan`, a result is infinite or no number; names the line that made it so.
        """
        if tracing():  # inside of another function that is traced, it is a part of that one
            return self._function(*args, **kwargs)
        leaves, structure = tree.flatten((args, kwargs))
        call = self._parameters.describe(leaves, structure, self._numbers.of(structure))
        entry = self._found(structure, call)
        if entry is None:
            entry, call = self._compiled(structure, leaves)
        return self._run(entry, call.arrays)

    def _found(self, structure: Structure, call: Call) -> _Entry | None:
        known = self._entries.get((structure, call.signature), ())
        return next((e for e in known if e.holds(call.sizes)), None)

    def _run(self, entry: _Entry, arrays: list[Any]) -> _R:
        entry.calls += 1
        inputs = [*arrays, *[fetch() for fetch in entry.inputs]]
        if isinstance(entry.model, CompiledModel):
            outputs = entry.model(*inputs, donated=entry.donated)
        else:
            outputs = entry.model(*inputs, donated=entry.donated, keep=True)
        if self._check_nan:
            check_finite(entry.module, inputs, outputs)
        values = list(outputs.values())
        result: _R = tree.unflatten(entry.result, [_leaf(leaf, values) for leaf in entry.leaves])
        return result

    # -- compiling ----------------------------------------------------------------------------------
    def _compiled(self, structure: Structure, leaves: list[Any]) -> tuple[_Entry, Call]:
        """A program for a call that no other serves. Numbers that have changed become inputs of it, unless tracing
        shows that their values are needed."""
        with self._lock:
            known = [e.signature for e in self._all if e.structure is structure]
            self._numbers.learn(structure, leaves, known)
            self._outer.learn((w, e.outer[w.path]) for e in self._all for w in e.watches if w.path in e.outer)
            while True:
                call = self._parameters.describe(leaves, structure, self._numbers.of(structure))
                found = self._found(structure, call)
                if found is not None:
                    return found, call
                try:
                    return self._new_entry(structure, leaves, call), call
                except Exception as error:
                    arguments = (i for i, d in enumerate(call.signature) if isinstance(d, Scalar))
                    unknown: frozenset[int | str] = frozenset((*arguments, *self._outer.open))
                    if not unknown:
                        raise
                    needed = (error.numbers & unknown if isinstance(error, NumberNeeded) else unknown) or unknown
                    self._numbers.fix(structure, frozenset(n for n in needed if isinstance(n, int)), str(error))
                    self._outer.fix((n for n in needed if isinstance(n, str)), str(error))

    def _new_entry(self, structure: Structure, leaves: list[Any], call: Call) -> _Entry:
        from ds_compiler.api import compile_source
        from ds_compiler.source import Source

        start = time.perf_counter()
        signature = call.signature
        reason = self._reason(structure, call)
        paths = self._parameters.paths(structure)
        statics = {p: leaf for p, d, leaf in zip(paths, signature, leaves) if isinstance(d, Static)}
        walk = surroundings(self._function, statics)
        watches = walk.watches
        lifted = {id(w.value): (w.value, w.path) for w in watches if w.kind == "array"}
        types = [type_in_program(path, d) for path, d in zip(paths, signature)]
        outer = numbers_read(self._function, walk.seen.values())
        opened = [w for w in watches if w.path in self._outer.open and not outer.get(w.path, "?") and w.kind == "equal"]
        numbers = {w.path: type(w.value) for w in opened}
        program: Program = trace_program(self._function, structure, leaves, types, lifted, paths, call.sizes, numbers)
        refuse_side_effects(self._name, walk)
        read = set(program.lifted)
        fetches = {id(w.value): w.fetch for w in watches if w.kind == "array"}
        watches = [
            w if w.kind != "array" else watch_type(w) if id(w.value) in read else watch_content(w)
            for w in watches
            if w.path not in numbers
        ]
        watches += map(watch_number, opened)
        source = Source(program.module, self._name, {})
        passes = self._options.get("passes") or ("traced-gpu" if self._on_gpu else "traced")
        model: CompiledModel | GpuModel
        if self._on_gpu:
            from ds_compiler.gpu import build_for_gpu

            model = build_for_gpu(source, self._options["target"], passes, self._options.get("verify", False))
        else:
            model = compile_source(source, **{**self._options, "passes": passes})
        traced = [i for i, t in enumerate(types) if t is not None]
        given_up = self._donate if not self._check_nan else ()  # what made the NaN must be there to be looked at
        donated = frozenset(n for n, i in enumerate(traced) if paths[i].split("[")[0].split(".")[0] in given_up)
        entry = _Entry(
            structure=structure,
            signature=signature,
            watches=watches,
            sizes=program.guards,
            inputs=[*(_fetch_number(w) for w in opened), *(fetches[i] for i in program.lifted)],
            module=program.module,
            model=model,
            result=program.structure,
            leaves=program.leaves,
            reason=reason,
            seconds=time.perf_counter() - start,
            outer=outer,
            donated=donated,
        )
        if len(self._all) >= _MOST_PROGRAMS:
            oldest = self._all.pop(0)
            self._entries[oldest.structure, oldest.signature].remove(oldest)
        self._entries.setdefault((structure, signature), []).insert(0, entry)
        self._all.append(entry)
        return entry

    def _reason(self, structure: Structure, call: Call) -> str:
        """Which guards of the program that fits best fail, and why."""
        if not self._all:
            return "first call"
        best = min((self._differences(e, structure, call) for e in reversed(self._all)), key=len)
        return "guard failed: " + "; ".join(best)

    def _differences(self, entry: _Entry, structure: Structure, call: Call) -> list[str]:
        old = dict(zip(self._parameters.paths(entry.structure), entry.signature))
        paths = self._parameters.paths(structure)
        new = dict(zip(paths, call.signature))
        found = [f"{path} is not given" for path in old if path not in new]
        found += [f"{path} = {shown(now)} is given, was not" for path, now in new.items() if path not in old]
        for index, path in enumerate(paths):
            now = new[path]
            was = old.get(path, now)
            if was != now:
                found.append(f"{path} was {shown(was)}, now {shown(now)}")
                if isinstance(now, Scalar):
                    found[-1] = f"{path} was {shown(was)} and changes: from now on it is an input"
                if (structure, index) in self._numbers.needed:
                    found[-1] += f" (part of the program: {self._numbers.needed[structure, index]})"
        if not found and entry.structure is not structure:
            found = [f"the arguments have the form {structure}, had {entry.structure}"]
        if not found:
            found = [f"the size guard {guard} does not hold" for guard in entry.sizes if not guard.holds(call.sizes)]
        failed = dict.fromkeys(self._outer.told(w.path, why) for w in entry.watches if (why := w.failure()))
        return found or list(failed) or ["its program was dropped"]

    # -- looking inside -----------------------------------------------------------------------------
    @property
    def programs(self) -> tuple[CompiledModel | GpuModel, ...]:
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
            tuple(tuple(map(str, e.sizes)) for e in entries),
        )

    def __repr__(self) -> str:
        return f"<CompiledFunction {self._name!r}, {len(self._all)} programs>"


def _leaf(leaf: Any, values: list[Any]) -> Any:
    """A leaf of the result."""
    if not isinstance(leaf, Output):
        return leaf
    return values[leaf.index].item() if leaf.is_number else values[leaf.index]


def _fetch_number(watch: Watch) -> Callable[[], Any]:
    dtype = np.float64 if type(watch.value) is float else np.int64
    return lambda: np.asarray(watch.fetch(), dtype)
