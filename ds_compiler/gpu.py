"""Models compiled for a GPU: looking at their kernels needs none, calling them does."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_compiler import passes as rooms
from ds_compiler.backends.triton.compile import compile_kernels
from ds_compiler.backends.triton.program import Lowered, lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.ir.errors import CompileError
from ds_compiler.runtime.cuda.driver import system_driver
from ds_compiler.runtime.cuda.executable import GpuExecutable
from ds_compiler.runtime.cuda.plan import Code, GpuProgram, Kernel, Launch
from ds_compiler.runtime.manifest import Tensor
from ds_compiler.source import Source

KINDS = {"triton": ".py", "ptx": ".ptx", "cubin": ".cubin"}


@dataclass(frozen=True)
class GpuKernel:
    """One kernel: its source, machine code, and the number of launches in a run."""

    kernel: Kernel
    code: Code
    launches: int

    def content(self, kind: str) -> bytes:
        """What a file of one of `KINDS` holds."""
        return {
            "triton": self.kernel.source.encode(),
            "ptx": self.code.assembly.encode(),
            "cubin": self.code.image,
        }[kind]


class GpuModel:
    """A model for a GPU; made by `compile(target="cuda:90")`.

    Args:
        lowered: the program and its constants.
        codes: machine code of its kernels.
        seconds: how long each phase of compilation took.
    """

    def __init__(self, lowered: Lowered, codes: tuple[Code, ...], seconds: Mapping[str, float]) -> None:
        self.program: GpuProgram = lowered.program
        self.seconds = dict(seconds)
        self._codes = codes
        self._constants = b"".join(lowered.constants.pieces())

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Name, element type and shape of each input; an open size is the text of an expression."""
        return self.program.manifest.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """As `inputs`."""
        return self.program.manifest.outputs

    @property
    def kernels(self) -> tuple[GpuKernel, ...]:
        """The distinct kernels in the order of their first launch."""
        launches = [step.kernel for step in self.program.steps if isinstance(step, Launch)]
        pairs = enumerate(zip(self.program.kernels, self._codes, strict=True))
        return tuple(GpuKernel(kernel, code, launches.count(n)) for n, (kernel, code) in pairs)

    @functools.cached_property
    def executable(self) -> GpuExecutable:
        """The program on this machine's GPU; weights are uploaded when this is first asked for.

        Raises:
            LoadError: there is no driver, no GPU, or one that cannot run the code.
        """
        return GpuExecutable(self.program, self._codes, self._constants)

    def __call__(self, /, *inputs: Any, stream: int | None = None, **named: Any) -> dict[str, Any]:
        """Outputs by name; see `ds_compiler.runtime.cuda.executable.GpuExecutable`.

        Raises:
            LoadError: as `executable`.
            InputError: names, element types or shapes do not match.
            ExecutionError: the driver reports an error, memory does not suffice, or a check of the program failed.
        """
        return self.executable(*inputs, stream=stream, **named)

    def write(self, folder: Path, kinds: tuple[str, ...]) -> list[Path]:
        """Write a file for each kernel and kind.

        Raises:
            OSError: a file cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for kernel in self.kernels:
            for kind in kinds:
                path = folder / f"{kernel.kernel.name}{KINDS[kind]}"
                path.write_bytes(kernel.content(kind))
                paths.append(path)
        return paths

    def __repr__(self) -> str:
        manifest = self.program.manifest
        return f"<GpuModel {manifest.name!r} for {self.program.target}: {len(self.program.kernels)} kernels>"


def build_for_gpu(source: Source, target_name: str, passes: str, verify: bool) -> GpuModel:
    """Compile. ``cuda`` is this machine's GPU.

    Raises:
        CompileError: the target is unknown, or the model holds what is not supported on it.
        LoadError: the target is ``cuda``, and this machine has no GPU.
    """
    from ds_compiler.build import pipeline, version

    if target_name == "cuda":
        target_name = f"cuda:{system_driver().capability}"
    try:
        target = parse_target(target_name)
    except ValueError as error:
        raise CompileError(str(error)) from None
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    module = source.module()
    seconds["import"] = time.perf_counter() - start
    start = time.perf_counter()
    rooms.run(module, pipeline(passes), verify=verify)
    seconds["passes"] = time.perf_counter() - start
    start = time.perf_counter()
    lowered = lower(module, target, name=source.name, version=version())
    seconds["emit"] = time.perf_counter() - start
    start = time.perf_counter()
    codes = compile_kernels(lowered.program)
    seconds["compile kernels"] = time.perf_counter() - start
    return GpuModel(lowered, codes, seconds)
