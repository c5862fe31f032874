"""A fused module as a GPU program: kernels, the arena's plan, the steps in order.

Fusion, memory plan, constants, checks and descriptions are those of the CPU back end; what differs is that the program
is a list of launches and not code. What a check says is looked at when the program has ended: kernels clamp indices, so
that nothing goes wrong before. Control flow would need the host to read the device's memory: not supported yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.checks import collect_checks
from ds_compiler.backends.constants import ConstantPool
from ds_compiler.backends.describe import describe_arguments, describe_kernel, describe_results, program_symbols
from ds_compiler.backends.loops.signature import kernel_key, kernel_name
from ds_compiler.backends.triton.kernels import FusionKernels, KernelSource, emit_kernels
from ds_compiler.backends.triton.target import GpuTarget
from ds_compiler.ir import Module, Operation, Value
from ds_compiler.ir.dims import Dim, ceildiv, maximum
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Assume, Check, Constant, Fusion, Reshape, Return, Size
from ds_compiler.passes.arena import ALIGNMENT, nominal
from ds_compiler.passes.buffers import Buffer, Output, Where
from ds_compiler.passes.memory_plan import MemoryPlan, plan_memory
from ds_compiler.runtime.cuda.plan import Copy, GpuProgram, Kernel, Launch, Place, SetSize, Step
from ds_compiler.runtime.manifest import Manifest, Overwritable

_LARGEST = 3
_PLACES = (Constant, Reshape, Assume, Return)  # they make no code


@dataclass
class Lowered:
    """A program and what belongs to it."""

    program: GpuProgram
    constants: ConstantPool
    plan: MemoryPlan


def lower(module: Module, target: GpuTarget, *, name: str = "", version: str = "") -> Lowered:
    """The GPU program of a fused module.

    Raises:
        CompileError: it holds something without code; names the node.
    """
    function = module.main
    for op in function.block:
        if not isinstance(op, (*_PLACES, Check, Fusion, Size)):
            raise CompileError(
                f"the GPU back end does not support '{op.mnemonic}' yet",
                location=op.location,
                help="control flow and sizes that data decides run on the CPU: target='cpu'",
            )
    fusions = [op for op in function.block if isinstance(op, Fusion)]
    by_key: dict[str, FusionKernels] = {}
    kernels: dict[Fusion, FusionKernels] = {}
    for fusion in fusions:
        key = kernel_key(fusion)
        if key not in by_key:
            by_key[key] = emit_kernels(fusion, kernel_name(fusion, len(by_key)), target)
        kernels[fusion] = by_key[key]
    plan = plan_memory(function, {f: k.inplace for f, k in kernels.items()})
    constraints, checks = collect_checks(function, plan.buffers.bound)
    for op in checks:
        raise CompileError("the GPU back end does not support checks at run time yet", location=op.location)
    constants = ConstantPool()
    emitter = _Steps(plan, constants, kernels)
    emitter.run(function.block.terminator, list(function.block))
    manifest = Manifest(
        inputs=describe_arguments(function),
        outputs=describe_results(function),
        symbols=program_symbols(function, plan.buffers.bound),
        constraints=constraints,
        arena=str(plan.arena + emitter.scalar_bytes + emitter.scratch_bytes),
        kernels=tuple(describe_kernel(f) for f in fusions),
        constants=constants.describe(),
        constants_bytes=constants.size,
        checks=tuple(emitter.messages),
        overwritable=tuple(Overwritable(output, input) for output, input in plan.overwritable),
        arch=str(target),
        name=name,
        version=version,
    )
    program = GpuProgram(str(target), manifest, tuple(emitter.kernels), tuple(emitter.steps), _largest(fusions))
    return Lowered(program, constants, plan)


def _largest(fusions: list[Fusion]) -> tuple[tuple[str, str], ...]:
    """Names and sizes of the largest intermediate values."""
    sizes = [(str(f.location) or f.strategy, r.type.bytes) for f in fusions for r in f.results]
    return tuple((n, str(b)) for n, b in sorted(sizes, key=lambda pair: -nominal(pair[1]))[:_LARGEST])


def _aligned(size: Dim) -> Dim:
    return ceildiv(size, ALIGNMENT) * ALIGNMENT


class _Steps:
    def __init__(self, plan: MemoryPlan, constants: ConstantPool, kernels: dict[Fusion, FusionKernels]) -> None:
        self.plan, self.constants, self.sources = plan, constants, kernels
        self.kernels: list[Kernel] = []
        self.steps: list[Step] = []
        self._numbers: dict[str, int] = {}
        self._slots = 0
        self._scalars: dict[Buffer, int] = {}
        self.messages: list[str] = []
        # Launches follow one another, so that all share one piece of memory for what lives within a fusion.
        self.scratch_bytes: Dim = 0
        for made in kernels.values():
            self.scratch_bytes = maximum(self.scratch_bytes, sum((_aligned(size) for size in made.scratch), 0))

    @property
    def scalar_bytes(self) -> int:
        """Bytes behind the planned arena and scratch, for sizes that kernels read."""
        return ALIGNMENT * len(self._scalars)

    def run(self, terminator: Operation, ops: list[Operation]) -> None:
        own = self.plan.buffers.own
        for op in ops:
            if isinstance(op, Fusion):
                self._launch(op)
            elif isinstance(op, Check):
                self._check(op)
            elif isinstance(op, Size):
                self.steps.append(SetSize(self._place(own[op.result]), str(op.dim)))
        for index, (value, how) in enumerate(zip(terminator.operands, self.plan.buffers.outputs, strict=True)):
            if how is Output.COPY:
                target = Place("output", index=index)
                self.steps.append(Copy(target, self._value(value), str(value.type.bytes)))

    def _check(self, op: Check) -> None:
        """Keep the condition until the program has ended, when the host looks at all of them."""
        flag = Place("flag", str(len(self.messages)))
        self.messages.append(f"{op.location}: {op.message}" if op.location else op.message)
        self.steps.append(Copy(flag, self._value(op.condition), "1"))

    def _launch(self, fusion: Fusion) -> None:
        places: list[Place] = [self._value(v) for v in fusion.inputs]
        places += [self._place(self.plan.buffers.own[r]) for r in fusion.results]
        scratch = self._scratch_places(self.sources[fusion].scratch)
        for source in self.sources[fusion].sources:
            arguments: list[Place | str] = []
            for parameter in source.parameters:
                if parameter.buffer is not None:
                    arguments.append(places[parameter.buffer])
                elif parameter.scratch is not None:
                    arguments.append(scratch[parameter.scratch])
                else:
                    assert parameter.symbol is not None
                    arguments.append(parameter.symbol)
            self.steps.append(Launch(self._kernel(source), str(source.grid), tuple(arguments), self._slots))
        self._slots += 1

    def _scratch_places(self, sizes: tuple[Dim, ...]) -> list[Place]:
        places = []
        offset = self.plan.arena
        for size in sizes:
            places.append(Place("arena", str(offset)))
            offset = offset + _aligned(size)
        return places

    def _kernel(self, source: KernelSource) -> int:
        number = self._numbers.get(source.name)
        if number is None:
            number = self._numbers[source.name] = len(self.kernels)
            signature = tuple((p.name, p.signature) for p in source.parameters)
            self.kernels.append(Kernel(source.name, source.text, signature, source.num_warps, source.num_stages))
        return number

    def _value(self, value: Value) -> Place:
        while isinstance(value.defining_op, Reshape):
            value = value.defining_op.operand
        if isinstance(value.defining_op, Constant):
            return Place("constant", str(self.constants.offset(value.defining_op)))
        return self._place(self.plan.buffers.own[value])

    def _place(self, buffer: Buffer) -> Place:
        buffer = buffer.find()
        match buffer.where:
            case Where.INPUT:
                return Place("input", index=buffer.index)
            case Where.OUTPUT:
                return Place("output", index=buffer.index)
            case Where.CONSTANT:
                assert buffer.constant is not None
                return Place("constant", str(self.constants.offset(buffer.constant)))
            case Where.ARENA:
                return Place("arena", str(buffer.offset))
            case Where.PRIVATE:
                number = self._scalars.setdefault(buffer, len(self._scalars))
                return Place("arena", str(self.plan.arena + self.scratch_bytes + ALIGNMENT * number))
        raise CompileError(f"the GPU back end has no memory of the kind '{buffer.where.value}' yet")
