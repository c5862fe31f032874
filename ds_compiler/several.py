"""What ONNX models that take more than one program have in common: they are called like any compiled model."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from onnx import ModelProto

from ds_compiler.frontends.onnx.signature import model_inputs
from ds_compiler.ir import CompileError
from ds_compiler.runtime.errors import InputError


class SeveralPrograms(ABC):
    """A model that is called like `CompiledModel`, its inputs and outputs being whatever ONNX has.

    Attributes:
        reason: why it has no single program.
    """

    def __init__(self, model: ModelProto, reason: CompileError) -> None:
        self.reason = reason.what
        self._inputs = model_inputs(model.graph)
        self._outputs = list(model.graph.output)

    def __call__(self, /, *inputs: Any, **named: Any) -> dict[str, Any]:
        """Outputs by name, for inputs by keyword, in one dict (names may be anything), or in order.

        Sequences are lists of arrays; an optional that holds nothing is None.

        Raises:
            InputError: names, element types or shapes do not match.
            CompileError: the model does not hold for this structure.
            ExecutionError: a check inside of the program failed.
        """
        if len(inputs) == 1 and not named and isinstance(inputs[0], Mapping):
            feeds = dict(inputs[0])
        elif inputs:
            if named or len(inputs) != len(self._inputs):
                raise InputError(
                    f"expected {len(self._inputs)} inputs ({self._signature()}), got {len(inputs)} in order"
                )
            feeds = dict(zip((v.name for v in self._inputs), inputs, strict=True))
        else:
            feeds = named
        return self._checked(feeds)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """onnxruntime's convention: the outputs called `names`, or all, as a list.

        Raises:
            InputError: as for a call; or an output does not exist.
            CompileError, ExecutionError: as for a call.
        """
        results = self._checked(inputs)
        if unknown := [name for name in names or () if name not in results]:
            raise InputError(f"unknown output {unknown[0]!r}; the model has {', '.join(results)}")
        return [results[name] for name in (results if names is None else names)]

    def save(self, path: str | os.PathLike[str]) -> None:
        """An artifact holds one program, which such a model does not have.

        Raises:
            CompileError: always; it gives the reason.
        """
        raise CompileError(f"no artifact can hold the model: {self.reason}")

    @abstractmethod
    def _run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs, for inputs whose names fit."""

    def _signature(self) -> str:
        return ", ".join(value.name for value in self._inputs) or "none"

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        if unknown := [name for name in feeds if name not in {v.name for v in self._inputs}]:
            raise InputError(f"unknown input {unknown[0]!r}; the model has {self._signature()}")
        for value in self._inputs:
            if value.name not in feeds and not value.type.HasField("optional_type"):
                raise InputError(f"input {value.name!r} is missing")
        return self._run(feeds)
