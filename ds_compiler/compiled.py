"""A compiled model: calling it, saving it, looking inside."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ds_compiler.report import Report
from ds_compiler.runtime import artifact
from ds_compiler.runtime.artifact import Contents
from ds_compiler.runtime.executable import Executable, KernelTime
from ds_compiler.runtime.manifest import Tensor
from ds_compiler.source import Source

Array = np.ndarray[Any, Any]


class CompiledModel:
    """A program with the model's own input and output names. Several threads may call it at once.

    Made by `ds_compiler.compile` and `ds_compiler.load`.

    Args:
        contents: code, constants and their description.
        threads: how many a call uses; by default one for each core.
        source, passes: what it was compiled from, and with which pipeline; None for an artifact.
        account: what `build` tells of the compilation; empty for an artifact.
        cached: whether the program came from the compile cache.
    """

    def __init__(
        self,
        contents: Contents,
        *,
        threads: int | None = None,
        source: Source | None = None,
        passes: str = "default",
        account: dict[str, Any] | None = None,
        cached: bool = False,
    ) -> None:
        self._contents = contents
        self._executable = Executable(
            contents.program, contents.manifest, contents.constants, pool_object=contents.pool, threads=threads
        )
        self._source, self._passes, self._cached = source, passes, cached
        self._account = {} if account is None else account

    # -- calling ------------------------------------------------------------------------------------
    def __call__(
        self,
        /,
        *inputs: Any,
        out: Mapping[str, Array] | None = None,
        donated: frozenset[int] = frozenset(),
        **named: Any,
    ) -> dict[str, Array]:
        """Outputs by name, for inputs by keyword, in one dict (names may be anything), or in order.

        Args:
            out: arrays to write outputs into instead of new ones; exact type and shape, contiguous, not overlapping.
            donated: numbers of inputs whose arrays the caller gives up; outputs are written there where that is safe.

        Raises:
            InputError: names, element types or shapes do not match.
            ExecutionError: a check inside of the program failed.
        """
        return self._executable(*inputs, out=out, donated=donated, **named)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Array]:
        """onnxruntime's convention: the outputs called `names`, or all, as a list.

        Raises:
            InputError: as for a call; or an output does not exist.
            ExecutionError: a check inside of the program failed.
        """
        return self._executable.run(names, inputs)

    def profile(self, inputs: Mapping[str, Any], repeat: int = 10) -> list[KernelTime]:
        """Time and work of every kernel in program order, with the model's nodes that it computes.

        Raises:
            ValueError: `repeat` is less than 1.
            InputError, ExecutionError: as for a call.
        """
        return self._executable.profile(inputs, repeat)

    @property
    def threads(self) -> int:
        """Threads a call uses; may be set."""
        return self._executable.threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        self._executable.threads = count

    @property
    def executable(self) -> Executable:
        """The program in memory, for callers that bring their own arrays."""
        return self._executable

    # -- looking inside -----------------------------------------------------------------------------
    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Name, element type and shape of each input; an open size is the text of an expression."""
        return self._contents.manifest.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """As `inputs`. Symbols that no input has are sizes that data decides."""
        return self._contents.manifest.outputs

    def ir(self, after: str | None = None) -> str:
        """Text of the module that code was generated from, or after the last run of pass `after` ("import": none).

        It is made anew from the model, so this takes as long as import and passes do.

        Raises:
            CompileError: no such pass runs; or the model can no longer be read.
            ValueError: the model was loaded from an artifact, which holds no IR.
        """
        if self._source is None:
            raise ValueError("an artifact holds machine code only; compile its model to see IR")
        from ds_compiler import build

        return build.text(self._source, self._passes, after)

    def report(self) -> Report:
        """What the program consists of and how it was made; prints as text."""
        return Report.of(self._contents.manifest, self._account, self._cached, self._executable.memory())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an artifact for `ds_compiler.load`: one file with code and weights. It appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        contents = self._contents
        artifact.save(path, contents.program, contents.manifest, contents.constants, contents.pool)

    def __repr__(self) -> str:
        manifest = self._contents.manifest
        ends = (", ".join(f"{t.name}: {t}" for t in side) for side in (manifest.inputs, manifest.outputs))
        return f"<CompiledModel {manifest.name!r} ({next(ends)}) -> ({next(ends)})>"
