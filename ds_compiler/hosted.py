"""ONNX models part of which no program computes: strings and encoded images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto

from ds_compiler.frontends.onnx import host
from ds_compiler.ir import CompileError
from ds_compiler.runtime.errors import ExecutionError
from ds_compiler.several import SeveralPrograms


@dataclass(frozen=True)
class HostedReport:
    """What a hosted model consists of; prints as text.

    Attributes:
        reason: why it is not one program.
        nodes: what runs on the host, in Python.
        program: the report on the rest, or None if there is none.
    """

    reason: str
    nodes: tuple[str, ...]
    program: Any

    def __str__(self) -> str:
        lines = [f"on the host, in Python, because {self.reason}: {', '.join(self.nodes)}"]
        return "\n".join([*lines, *([] if self.program is None else [str(self.program)])])


class HostedModel(SeveralPrograms):
    """A model that the host prepares data for, or whose results it labels; the rest is a program.

    Made by `ds_compiler.compile`.

    Args:
        model: the model.
        compile: what makes a program of the rest.
        reason: why not all of it is a program.
    """

    def __init__(self, model: ModelProto, compile: Callable[[ModelProto], Any], reason: CompileError) -> None:
        super().__init__(model, reason)
        parts = host.split(model)
        self._nodes = parts.nodes
        self._before = None if parts.before is None else host.evaluator(parts.before)
        self._after = None if parts.after is None else host.evaluator(parts.after)
        self.program = None if parts.core is None else compile(parts.core)
        self._read = [] if parts.core is None else [value.name for value in parts.core.graph.input]

    def report(self) -> HostedReport:
        """What runs on the host, and a report on the program."""
        return HostedReport(self.reason, self._nodes, None if self.program is None else self.program.report())

    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: _array(value) for name, value in feeds.items()}
        if self._before is not None:
            known |= _evaluated(self._before, known)
        if self.program is not None:
            known |= self.program({name: known[name] for name in self._read})
        if self._after is not None:
            known |= _evaluated(self._after, known)
        return {value.name: _array(known[value.name]) for value in self._outputs}


def _evaluated(evaluator: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    feeds = {name: known[name] for name in evaluator.input_names}
    try:
        results = evaluator.run(None, feeds)
    except Exception as error:  # whatever ONNX's evaluator meets
        text = " ".join(str(error).split())
        raise ExecutionError(f"on the host: {type(error).__name__}: {text}") from error
    return dict(zip(evaluator.output_names, results, strict=True))


def _array(value: Any) -> Any:
    """As an array, unless it is a sequence or nothing; strings as objects, which have no fixed width."""
    if value is None or isinstance(value, list):
        return value
    array = np.asarray(value)
    return array.astype(object) if array.dtype.kind in "US" else array
