"""From a source to machine code: front end, passes, back end. The one file of the API that imports them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, BinaryIO

from ds_compiler import passes as rooms
from ds_compiler.backends.llvm.compile import Compiled, compile_module
from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.backends.llvm.target import Target, parse_target
from ds_compiler.ir import CompileError, Dim, Module, parse_dim
from ds_compiler.passes.buffers import Where
from ds_compiler.passes.memory_plan import MemoryPlan
from ds_compiler.runtime import artifact
from ds_compiler.runtime.artifact import Contents
from ds_compiler.runtime.manifest import Manifest
from ds_compiler.source import Source

MOST_REMARKS = 100


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        CompileError: there is none.
    """
    try:
        return parse_target(name)
    except ValueError as error:
        raise CompileError(str(error)) from None


def pipeline(passes: str) -> list[rooms.manager.Invocation]:
    """The passes that `passes` names; kernels are made of fusions, so that `fuse` comes last if it is not there.

    Raises:
        CompileError: a pass is unknown.
    """
    invocations = rooms.parse_pipeline(passes)
    if not invocations or invocations[-1].pass_.name != "fuse":
        invocations += rooms.parse_pipeline("fuse")
    return invocations


@dataclass(frozen=True)
class Built:
    """A compiled program, and the account of how it was made."""

    compiled: Compiled
    account: dict[str, Any]

    def contents(self) -> Contents:
        """What an artifact of the program would hold."""
        compiled = self.compiled
        return Contents(compiled.manifest, compiled.program, pool_object(), compiled.constants)

    def write(self, file: BinaryIO) -> None:
        """Write the artifact; the constants go there from where they are, without a block of them in memory."""
        compiled = self.compiled
        artifact.write(file, compiled.program, compiled.manifest, compiled.pool.pieces(), pool_object())


def build(source: Source, target_name: str, passes: str, verify: bool) -> Built:
    """Compile.

    Raises:
        CompileError: the model is malformed or holds what is not supported, or an option is wrong.
    """
    target, invocations = find_target(target_name), pipeline(passes)
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    with rooms.collect() as remarks:
        module = source.module()
        imported = time.perf_counter()
        seconds["import"] = imported - start
        if verify:
            _verify(module)
        by_pass: dict[str, float] = {}
        rooms.run(module, invocations, verify=verify, timing=by_pass)
        seconds["passes"] = time.perf_counter() - imported
        compiled = compile_module(module, target, name=source.name, version=version())
    seconds.update(compiled.seconds)
    account = {
        "name": source.name,
        "target": {"name": target_name, "cpu": target.cpu, "vector_bits": target.vector_bits},
        "pipeline": ",".join(map(str, invocations)),
        "seconds": {**seconds, "total": time.perf_counter() - start},
        "pass_seconds": by_pass,
        "distinct_kernels": compiled.kernels,
        "shared_kernels": compiled.shared,
        "work": work(compiled.manifest),
        "memory": memory(compiled.plan),
        "rewrites": dict(remarks.counts.most_common()),
        "remarks": [str(entry) for entry in remarks.missed[:MOST_REMARKS]],
    }
    return Built(compiled, account)


def text(source: Source, passes: str, after: str | None) -> str:
    """IR text after the last run of pass `after`, "import" meaning before all of them; None: after all.

    Raises:
        CompileError: as for `build`; or no pass is called `after`.
    """
    from ds_compiler.ir.printer import print_module

    invocations = pipeline(passes)
    names = ["import", *(invocation.pass_.name for invocation in invocations)]
    if after is not None and after not in names:
        raise CompileError(f"no pass called '{after}' runs", help=f"these do: {', '.join(dict.fromkeys(names))}")
    last = len(names) - 1 - names[::-1].index(after) if after is not None else len(names) - 1
    module = source.module()
    rooms.run(module, invocations[:last])
    return print_module(module)


def _verify(module: Module) -> None:
    from ds_compiler.ir.verifier import verify

    verify(module)


def version() -> str:
    """The project's version."""
    from importlib import metadata

    return metadata.version("ds_compiler")


def work(manifest: Manifest) -> dict[str, str]:
    """FLOPs and bytes of all kernels, as simplified sums."""
    totals: dict[str, Dim] = {"flops": 0, "bytes": 0}
    for kernel in manifest.kernels:
        for what in totals:
            totals[what] = totals[what] + parse_dim(getattr(kernel, what))
    return {what: str(total) for what, total in totals.items()}


def memory(plan: MemoryPlan) -> dict[str, Any]:
    """The memory planner's account."""
    return {
        "arena": str(plan.arena),
        "lower_bound": str(plan.lower_bound),
        "buffers": {where.name.lower(): len(plan.buffers.of_kind(where)) for where in Where},
    }
