"""ONNX models whose inputs decide more than sizes: a program for each structure that they are called with."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from onnx import TypeProto, ValueInfoProto

from ds_compiler.api import compile_source
from ds_compiler.compiled import CompiledModel
from ds_compiler.frontends.onnx import loader
from ds_compiler.frontends.onnx.given import Absent, Fixed, Given, Items, NotOneProgram, Ranked
from ds_compiler.frontends.onnx.signature import is_structured
from ds_compiler.ir.dtypes import from_numpy
from ds_compiler.report import Report
from ds_compiler.runtime.errors import InputError
from ds_compiler.several import SeveralPrograms
from ds_compiler.source import Source

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class SpecializedReport:
    """What a specialized model did so far; prints as text.

    Attributes:
        reason: why one program does not serve all calls.
        programs: a report on each program.
        given: what each holds for, by input.
    """

    reason: str
    programs: tuple[Report, ...]
    given: tuple[Mapping[str, Given], ...]

    def __str__(self) -> str:
        lines = [f"{len(self.programs)} programs, one for each structure of the inputs: {self.reason}"]
        for index, (program, given) in enumerate(zip(self.programs, self.given), 1):
            lines.append(f"program {index} holds for " + ", ".join(f"{name}: {about}" for name, about in given.items()))
            lines += [f"  {line}" for line in str(program).splitlines()]
        return "\n".join(lines)


class SpecializedModel(SeveralPrograms):
    """A model with sequences, optionals or open ranks among its inputs, or one that reads axes or positions from them.

    Made by `ds_compiler.compile`. A call with a structure, or a value that decides the program, that is new compiles
    first; sizes stay open as in any model. Several threads may call it at once.

    Args:
        source: the model.
        options: of `ds_compiler.api.compile_source`.
        reason: why it has no single program.
    """

    def __init__(self, source: Source, options: Mapping[str, Any], reason: NotOneProgram) -> None:
        super().__init__(loader.load_model(source.model).proto, reason)
        self._source, self._options = source, dict(options)
        self._structured = [v.name for v in self._inputs if is_structured(v.type)]
        self._by_value: list[str] = [] if reason.value_of is None else [reason.value_of]
        self._programs: dict[tuple[tuple[str, Given], ...], CompiledModel] = {}
        self._lock = threading.RLock()

    @property
    def programs(self) -> tuple[CompiledModel, ...]:
        """All programs that calls have needed so far."""
        return tuple(self._programs.values())

    def report(self) -> SpecializedReport:
        """Why there are several programs, and what each consists of."""
        given = tuple(dict(key) for key in self._programs)
        return SpecializedReport(self.reason, tuple(p.report() for p in self.programs), given)

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        program, arrays = self._prepared(feeds)
        found = program(arrays)
        return {value.name: _collected(value, found) for value in self._outputs}

    def _prepared(self, feeds: Mapping[str, Any]) -> tuple[CompiledModel, dict[str, Any]]:
        """The program for a call, and its inputs."""
        with self._lock:
            while True:
                given = {name: _structure(name, feeds.get(name)) for name in self._structured}
                given |= {name: _contents(feeds[name]) for name in self._by_value}
                key = tuple(given.items())
                try:
                    if key not in self._programs:
                        self._programs[key] = compile_source(replace(self._source, given=given), **self._options)
                    break
                except NotOneProgram as error:
                    if error.value_of is None or error.value_of in self._by_value:
                        raise
                    self._by_value.append(error.value_of)
        arrays: dict[str, Any] = {}
        for value in self._inputs:
            match given.get(value.name):
                case Fixed() | Absent():
                    pass
                case Items():
                    arrays |= {f"{value.name}[{i}]": np.asarray(x) for i, x in enumerate(feeds[value.name])}
                case _:
                    arrays[value.name] = feeds[value.name]
        return self._programs[key], arrays


def _structure(name: str, value: Any) -> Given:
    if value is None:
        return Absent()
    if isinstance(value, list | tuple):
        return Items(tuple(_ranked(f"{name}[{i}]", x) for i, x in enumerate(value)))
    return _ranked(name, value)


def _ranked(name: str, value: Any) -> Ranked:
    array = np.asarray(value)
    try:
        return Ranked(from_numpy(array.dtype).name, array.ndim)
    except ValueError as error:
        raise InputError(f"input {name!r}: {error}") from None


def _contents(value: Any) -> Fixed:
    array = np.asarray(value)
    return Fixed(from_numpy(array.dtype).name, array.shape, array.tobytes())


def _collected(value: ValueInfoProto, found: Mapping[str, Array]) -> Any:
    """An output as the model declares it."""
    if value.name in found:
        return found[value.name]
    if _is_sequence(value.type):
        elements: list[Array] = []
        while (name := f"{value.name}[{len(elements)}]") in found:
            elements.append(found[name])
        return elements
    return None


def _is_sequence(type_: TypeProto) -> bool:
    if type_.HasField("optional_type"):
        type_ = type_.optional_type.elem_type
    return bool(type_.HasField("sequence_type"))
