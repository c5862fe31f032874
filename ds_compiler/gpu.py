"""Models compiled for a GPU: looking at their kernels needs none, calling them does."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds_compiler import passes as rooms
from ds_compiler.backends.triton.compile import compile_kernels
from ds_compiler.backends.triton.program import Lowered, lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.ir.errors import CompileError
from ds_compiler.report import Report
from ds_compiler.runtime.cuda.driver import system_driver
from ds_compiler.runtime.cuda.executable import GpuExecutable
from ds_compiler.runtime.cuda.plan import Code, GpuProgram, Kernel, Launch
from ds_compiler.runtime.errors import InputError
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
        source, passes: what it was compiled from, and with which pipeline.
        account: what `build_for_gpu` tells of the compilation.
    """

    def __init__(
        self, lowered: Lowered, codes: tuple[Code, ...], source: Source, passes: str, account: dict[str, Any]
    ) -> None:
        self.program: GpuProgram = lowered.program
        self._codes = codes
        self._source, self._passes, self._account = source, passes, account
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

    def __call__(
        self,
        /,
        *inputs: Any,
        stream: int | None = None,
        donated: frozenset[int] = frozenset(),
        keep: bool = False,
        **named: Any,
    ) -> dict[str, Any]:
        """Outputs by name; see `ds_compiler.runtime.cuda.executable.GpuExecutable`, what it says of the options too.

        Raises:
            LoadError: as `executable`.
            InputError: names, element types or shapes do not match.
            ExecutionError: the driver reports an error, memory does not suffice, or a check of the program failed.
        """
        return self.executable(*inputs, stream=stream, donated=donated, keep=keep, **named)

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Any]:
        """onnxruntime's convention: the outputs called `names`, or all, as a list.

        Raises:
            InputError: as for a call; or an output does not exist.
            LoadError, ExecutionError: as for a call.
        """
        unknown = set(names or ()) - {t.name for t in self.outputs}
        if unknown:
            raise InputError(f"unknown output {min(unknown)!r}; known: {', '.join(t.name for t in self.outputs)}")
        results = self(dict(inputs))
        return list(results.values()) if names is None else [results[n] for n in names]

    def ir(self, after: str | None = None) -> str:
        """Text of the module that kernels were generated from, or after pass `after`; as `CompiledModel.ir`.

        Raises:
            CompileError: no such pass runs; or the model can no longer be read.
        """
        from ds_compiler import build

        return build.text(self._source, self._passes, after)

    def report(self) -> Report:
        """What the program consists of and how it was made; prints as text. Memory is that in use on the device."""
        # Looking at a program loads nothing: what runs is what `executable` has made.
        held = self.executable.memory() if "executable" in self.__dict__ else {}
        return Report.of(self.program.manifest, self._account, False, held)

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
    from ds_compiler import build

    start = time.perf_counter()
    gpu = ""
    if target_name == "cuda":
        driver = system_driver()
        target_name, gpu = f"cuda:{driver.capability}", f"this machine's GPU is an {driver.name}: "
    try:
        target = parse_target(target_name)
    except ValueError as error:
        raise CompileError(f"{gpu}{error}") from None
    invocations = build.pipeline(passes)
    seconds: dict[str, float] = {}
    by_pass: dict[str, float] = {}

    def note(stage: str, since: float) -> float:
        now = time.perf_counter()
        seconds[stage] = now - since
        return now

    with rooms.collect() as remarks:
        module = source.module()
        at = note("import", start)
        rooms.run(module, invocations, verify=verify, timing=by_pass)
        at = note("passes", at)
        lowered = lower(module, target, name=source.name, version=build.version())
    at = note("emit", at)
    codes = compile_kernels(lowered.program)
    note("compile kernels", at)
    account = {
        "name": source.name,
        "target": {"name": target_name, "cpu": target_name},
        "pipeline": ",".join(map(str, invocations)),
        "seconds": {**seconds, "total": time.perf_counter() - start},
        "pass_seconds": by_pass,
        "distinct_kernels": len(lowered.program.kernels),
        "work": build.work(lowered.program.manifest),
        "memory": build.memory(lowered.plan),
        "rewrites": dict(remarks.counts.most_common()),
        "remarks": [str(entry) for entry in remarks.missed[: build.MOST_REMARKS]],
    }
    return GpuModel(lowered, codes, source, passes, account)
