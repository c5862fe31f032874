"""A fused module -> machine code, constant block and manifest: everything that the runtime needs.

emit     module -> LLVM text of kernels and entry point, memory plan, constants
compile  the same, through LLVM to one relocatable object
"""

from __future__ import annotations

import functools
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field

import llvmlite.binding as llvm

from ds_compiler.backends.checks import collect_checks
from ds_compiler.backends.constants import ConstantPool
from ds_compiler.backends.describe import describe_arguments, describe_kernel, describe_results, program_symbols
from ds_compiler.backends.llvm.builder import ModuleBuilder
from ds_compiler.backends.llvm.kernels import emit_kernel
from ds_compiler.backends.llvm.program import KernelCall, emit_program
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.loops.signature import kernel_key, kernel_name
from ds_compiler.ir import Function, Module
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Fusion
from ds_compiler.passes.buffers import kernel_blocks
from ds_compiler.passes.memory_plan import MemoryPlan, plan_memory
from ds_compiler.runtime import manifest
from ds_compiler.runtime.cpu import required_features
from ds_compiler.runtime.manifest import Manifest
from ds_compiler.runtime.memory import ConstantBlock

WAITING = "(waiting for other threads)"


@dataclass
class Emitted:
    """A program as LLVM text, with what belongs to it.

    Attributes:
        kernels: distinct kernel functions.
        shared: kernel calls and copies that several threads may share.
    """

    text: str
    manifest: Manifest
    constants: ConstantPool
    plan: MemoryPlan
    kernels: int
    shared: int


@dataclass
class Compiled:
    """Machine code and data; `seconds` is the time of each phase."""

    program: bytes
    manifest: Manifest
    pool: ConstantPool
    plan: MemoryPlan
    kernels: int
    shared: int
    seconds: MutableMapping[str, float] = field(default_factory=dict)

    @functools.cached_property
    def constants(self) -> ConstantBlock:
        """The constant block in memory; what only writes files takes `ConstantPool.pieces` instead."""
        return self.pool.block()


def emit(
    module: Module,
    target: Target,
    *,
    name: str = "",
    version: str = "",
    seconds: MutableMapping[str, float] | None = None,
) -> Emitted:
    """Emit LLVM text for the main function of a fused module.

    Raises:
        CompileError: the program holds something without code; names the node.
    """
    function, seconds = module.main, {} if seconds is None else seconds
    builder = ModuleBuilder(target.triple, half_conversions=target.half_conversions)
    with _phase(seconds, "emit kernels"):
        kernels, distinct = _emit_kernels(builder, function, target)
    with _phase(seconds, "plan memory"):
        plan = plan_memory(function, {f: k.info.inplace for f, k in kernels.items()})
    constants = ConstantPool()
    with _phase(seconds, "emit program"):
        bound = plan.buffers.bound
        constraints, checks = collect_checks(function, bound)
        symbols = program_symbols(function, bound)
        program = emit_program(builder, function, plan, kernels, symbols, constants, checks)
    described = Manifest(
        inputs=describe_arguments(function),
        outputs=describe_results(function),
        symbols=symbols,
        constraints=constraints,
        arena=str(plan.arena),
        scratch=str(max((k.info.scratch_bytes for k in kernels.values()), default=0)),
        kernels=(*(describe_kernel(f) for f in program.profiled), manifest.Kernel(WAITING)),
        constants=constants.describe(),
        constants_bytes=constants.size,
        checks=program.checks,
        features=required_features(target.cpu, target.features),
        overwritable=tuple(manifest.Overwritable(*pair) for pair in plan.overwritable),
        arch=target.triple.split("-")[0],
        name=name,
        version=version,
    )
    return Emitted(builder.text(), described, constants, plan, distinct, program.shared)


def compile_module(module: Module, target: Target, *, name: str = "", version: str = "") -> Compiled:
    """Compile the main function of a fused module.

    Raises:
        CompileError: the program holds something without code, or LLVM rejects the text.
    """
    seconds: dict[str, float] = {}
    emitted = emit(module, target, name=name, version=version, seconds=seconds)
    with _phase(seconds, "generate code"):
        code = generate(emitted.text, target)
    return Compiled(code, emitted.manifest, emitted.constants, emitted.plan, emitted.kernels, emitted.shared, seconds)


def generate(text: str, target: Target) -> bytes:
    """LLVM text to a relocatable object.

    No IR passes run: kernels are built as explicit vector code, on which LLVM's passes gain nothing and cost most of
    the compile time.

    Raises:
        CompileError: LLVM does not accept the text.
    """
    machine = target.machine()
    try:
        parsed = llvm.parse_assembly(text)
        parsed.verify()
    except RuntimeError as error:
        raise CompileError(f"internal: LLVM rejects the generated code: {error}") from None
    parsed.triple = machine.triple
    parsed.data_layout = str(machine.target_data)
    return bytes(machine.emit_object(parsed))


def _emit_kernels(builder: ModuleBuilder, function: Function, target: Target) -> tuple[dict[Fusion, KernelCall], int]:
    """A function for each distinct kernel; fusions with equal keys share one."""
    by_key: dict[str, KernelCall] = {}
    calls: dict[Fusion, KernelCall] = {}
    for op in kernel_blocks(function.block):
        if not isinstance(op, Fusion):
            continue
        key = kernel_key(op)
        if key not in by_key:
            name = kernel_name(op, len(by_key))
            by_key[key] = KernelCall(name, emit_kernel(builder, name, op, target))
        calls[op] = by_key[key]
    return calls, len(by_key)


class _phase:
    """Adds the time spent inside to ``seconds[name]``."""

    def __init__(self, seconds: MutableMapping[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.perf_counter() - self._start
