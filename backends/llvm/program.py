"""The native entry point of a program: ``dsc_main(ptr ctx)``.

The caller's thread alone runs it: it computes sizes and addresses, follows control flow, and calls kernels one after
the other. Kernels that are large enough go through the pool, whose workers then take chunks of them (`parallel`).
Control flow is emitted by `control_flow`, symbols by `symbols`, the constant block by `constants`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ds_compiler.backends.checks import SizeCheck
from ds_compiler.backends.constants import ConstantPool
from ds_compiler.backends.llvm import control_flow
from ds_compiler.backends.llvm.builder import ModuleBuilder, V
from ds_compiler.backends.llvm.estimate import kernel_ns, total_ns
from ds_compiler.backends.llvm.frame import KernelInfo
from ds_compiler.backends.llvm.parallel import (
    emit_arguments,
    emit_begin,
    emit_context_word,
    emit_parallel,
    emit_ticks,
)
from ds_compiler.backends.llvm.sizes import emit_magnitude, emit_size
from ds_compiler.backends.llvm.symbols import SymbolTable, emit_check
from ds_compiler.ir import Block, Function, Operation, Value
from ds_compiler.ir.dims import Dim
from ds_compiler.ops import Bind, Check, Constant, Fusion, If, Reshape, Scan, Size, While
from ds_compiler.passes.buffers import Buffer, Buffers, Output, Where, kernel_blocks
from ds_compiler.passes.memory_plan import MemoryPlan, half_size
from ds_compiler.runtime.abi import LEAST_SHARED_NS, MAIN_SYMBOL, Status, Word, status_word
from ds_compiler.runtime.manifest import Symbol

_COPY_ARGUMENTS = 3
_MOST_BYTES = float(1 << 47)  # the address space of a process
_COPIED_A_NS = 8  # bytes that one thread copies


@dataclass(frozen=True)
class KernelCall:
    """A fusion with the function that computes it."""

    function: str
    info: KernelInfo


@dataclass(frozen=True)
class Program:
    """What emission of `dsc_main` adds to the module.

    Attributes:
        profiled: the fusions in the order of their profile slots (one slot more holds the time spent waiting).
        checks: messages by the index in the status word.
        shared: kernel calls and copies that workers may help with.
    """

    profiled: tuple[Fusion, ...]
    checks: tuple[str, ...]
    shared: int


def emit_program(
    module: ModuleBuilder,
    function: Function,
    plan: MemoryPlan,
    kernels: Mapping[Fusion, KernelCall],
    symbols: Sequence[Symbol],
    constants: ConstantPool,
    checks: Mapping[Operation, Sequence[SizeCheck]],
) -> Program:
    """Add ``dsc_main`` to `module`, which holds the kernels already.

    Args:
        checks: what must be checked at run time in front of an operation.
    """
    emitter = Emitter(module, function, plan, kernels, symbols, constants, checks)
    emitter.run()
    return Program(tuple(emitter.slots), tuple(emitter.messages), emitter.shared)


@dataclass
class Variable:
    """A pointer that changes while the program runs, kept on the stack."""

    address: V


@dataclass
class ScanState:
    """The position in a scan that is being emitted: the index (in the scanned tensors) of the current slice."""

    index: V


@dataclass
class Alternation:
    """The double buffer of a carried value: both halves' addresses, and a variable with the one to be written."""

    first: V
    second: V
    following: V


@dataclass
class _Entry:
    """Pointers loaded once at the entry."""

    inputs: list[V] = field(default_factory=list)
    outputs: dict[int, V] = field(default_factory=dict)
    offsets: dict[Dim, V] = field(default_factory=dict)


class Emitter:
    """Emits ``dsc_main``; `control_flow` calls back into it."""

    def __init__(
        self,
        module: ModuleBuilder,
        function: Function,
        plan: MemoryPlan,
        kernels: Mapping[Fusion, KernelCall],
        symbols: Sequence[Symbol],
        constants: ConstantPool,
        checks: Mapping[Operation, Sequence[SizeCheck]],
    ) -> None:
        self.function, self.plan, self.buffers = function, plan, plan.buffers
        self.kernels, self.constants, self.checks = kernels, constants, checks
        self.slots = [op for op in kernel_blocks(function.block) if isinstance(op, Fusion)]
        self._slot_of = {f: i for i, f in enumerate(self.slots)}
        self.messages: list[str] = []
        self.shared = 0
        self.fb = fb = module.function(MAIN_SYMBOL, [("ptr", "ctx")])
        (self.ctx,) = fb.args
        self.pointers: dict[Value, V | Variable] = {}
        self.scans: dict[Operation, ScanState] = {}
        self.alternations: dict[Buffer, Alternation] = {}
        self._heap: dict[Buffer, Variable] = {}
        self._private: dict[Buffer, V] = {}
        self._exit = fb.label("exit")
        self._entry = _Entry()
        self.symbols = SymbolTable(fb, emit_context_word(fb, self.ctx, Word.SYMBOLS), symbols)
        self._load_entry()

    def _load_entry(self) -> None:
        fb, ctx = self.fb, self.ctx
        self.arena = emit_context_word(fb, ctx, Word.ARENA)
        self.constant_block = emit_context_word(fb, ctx, Word.CONSTANTS)
        self.output_array = emit_context_word(fb, ctx, Word.OUTPUTS)
        self.alloc = emit_context_word(fb, ctx, Word.ALLOC)
        self.free = emit_context_word(fb, ctx, Word.FREE)
        inputs = emit_context_word(fb, ctx, Word.INPUTS)
        self._entry.inputs = [
            fb.load("ptr", fb.gep("ptr", inputs, fb.i64(i))) for i in range(len(self.function.arguments))
        ]
        for index, how in enumerate(self.buffers.outputs):
            if how in (Output.DIRECT, Output.COPY):
                self._entry.outputs[index] = fb.load("ptr", fb.gep("ptr", self.output_array, fb.i64(index)))
        self.scratch = emit_context_word(fb, ctx, Word.SCRATCH)
        self.profile = emit_context_word(fb, ctx, Word.PROFILE)
        self.profiling = fb.icmp("ne", self.profile, V("ptr", "null"))
        self.since = fb.alloca("i64", 1, align=8)
        for buffer in self.buffers.of_kind(Where.ARENA):
            if not isinstance(buffer.offset, int) and buffer.offset not in self._entry.offsets:
                self._entry.offsets[buffer.offset] = emit_size(fb, buffer.offset, self.symbols)
        for offset in self.plan.slots.values():
            fb.store(V("ptr", "null"), self._slot(offset))
        # One array serves all calls, since each has ended before the next one begins.
        words = [len(f.inputs) + len(f.results) + len(k.info.symbols) for f, k in self.kernels.items()]
        self.arguments = fb.alloca("i64", max([_COPY_ARGUMENTS, *words]), align=64)
        able = {f for f, k in self.kernels.items() if k.info.parallel}
        emit_begin(fb, ctx, emit_size(fb, total_ns(self.function.block, able, self.buffers.bound), self.symbols))

    def run(self) -> None:
        """Emit everything."""
        self.block(self.function.block)
        self._return(self.function.block.terminator)
        self.fb.void(f"br label %{self._exit}")
        self.fb.place(self._exit)
        for offset in self.plan.slots.values():
            self.call_free(self.fb.load("ptr", self._slot(offset)))
        self.fb.ret()
        self.fb.finish()

    # -- operations ---------------------------------------------------------------------------
    def block(self, block: Block) -> None:
        """Emit the operations of a block, without what its terminator means."""
        for op in block:
            for check in self.checks.get(op, ()):
                self.fail_unless(emit_check(self.fb, check, self.symbols), Status.SHAPE, check.message)
            match op:
                case Fusion():
                    self._kernel(op)
                case Size():
                    self.fb.store(emit_size(self.fb, op.dim, self.symbols), self.address(self.buffers.own[op.result]))
                case Bind():
                    self._bind(op)
                case Check():
                    self._check(op)
                case If():
                    control_flow.emit_if(self, op)
                case While():
                    control_flow.emit_while(self, op)
                case Scan():
                    control_flow.emit_scan(self, op)
                case _:
                    pass  # constants and reshapes are places only

    def _kernel(self, fusion: Fusion) -> None:
        fb, call = self.fb, self.kernels[fusion]
        self.allocate(fusion)
        fb.comment(f"{fusion.location}")
        arguments = []
        for index, value in enumerate(fusion.inputs):
            packing = call.info.packed.get(index)
            source = value.defining_op
            if packing is not None and isinstance(source, Constant):
                arguments.append(self.constant(self.constants.offset(source, packing)))
            else:
                arguments.append(self.pointer(value))
        arguments += [self.address(self.buffers.own[result]) for result in fusion.results]
        arguments += [self.symbols[name] for name in call.info.symbols]
        emit_arguments(fb, self.arguments, arguments)
        with self._timed(self._slot_of[fusion]):
            self._run(call.function, kernel_ns(fusion) if call.info.parallel else 0)

    def _run(self, function: str, cost: Dim) -> None:
        """Run a kernel, with the pool's help if `cost` (ns, known here or at run time) is worth it."""
        fb = self.fb
        if isinstance(cost, int) and cost < LEAST_SHARED_NS:
            fb.call(function, "void", self.arguments, self.scratch, fb.i64(0), fb.i64(1))
            return
        self.shared += 1
        waited = emit_parallel(fb, self.ctx, function, self.arguments, emit_size(fb, cost, self.symbols))
        with fb.if_(self.profiling, "waited"):
            fb.store(fb.add(fb.load("i64", self.since), waited), self.since)
            self._add_time(len(self.slots), waited)

    def _bind(self, op: Bind) -> None:
        value = self.fb.smax(self.fb.load("i64", self.pointer(op.value)), self.fb.i64(0))
        self.symbols.bind(op.symbol, value)
        self.fb.store(value, self.symbols.slot(op.symbol))

    def _check(self, op: Check) -> None:
        message = f"{op.location}: {op.message}" if op.location else op.message
        self.fail_unless(control_flow.load_condition(self, op.condition), Status.VALUE, message)

    def _return(self, terminator: Operation) -> None:
        fb = self.fb
        for index, (value, how) in enumerate(zip(terminator.operands, self.buffers.outputs, strict=True)):
            slot = fb.gep("ptr", self.output_array, fb.i64(index))
            if how is Output.COPY:
                self.copy(self._entry.outputs[index], self.pointer(value), value.type.bytes)
            elif how is Output.HANDED_OVER:
                mine = self._slot(self.plan.slots[self.buffers.own[_root(value)].find()])
                fb.store(fb.load("ptr", mine), slot)
                fb.store(V("ptr", "null"), mine)
            elif how is Output.ALLOCATED_COPY:
                target = self.allocated(value.type.bytes, f"output {index}")
                fb.store(target, slot)
                self.copy(target, self.pointer(value), value.type.bytes)

    # -- memory -------------------------------------------------------------------------------
    def pointer(self, value: Value) -> V:
        """Where `value` is now."""
        value = _root(value)
        known_pointer = self.pointers.get(value)
        if isinstance(known_pointer, Variable):
            return self.fb.load("ptr", known_pointer.address)
        return known_pointer if known_pointer is not None else self.address(self.buffers.own[value])

    def address(self, buffer: Buffer) -> V:
        """Where a value made now in `buffer` goes."""
        buffer, fb = buffer.find(), self.fb
        if buffer.where is Where.SLICE:
            assert buffer.base is not None and buffer.loop is not None
            return self.slice(self.address(buffer.base), buffer.size, buffer.loop)
        if buffer.alternating and buffer in self.alternations:
            return fb.load("ptr", self.alternations[buffer].following)
        match buffer.where:
            case Where.INPUT:
                return self._entry.inputs[buffer.index]
            case Where.OUTPUT:
                return self._entry.outputs[buffer.index]
            case Where.CONSTANT:
                assert buffer.constant is not None
                return self.constant(self.constants.offset(buffer.constant))
            case Where.HEAP:
                return fb.load("ptr", self._heap[buffer].address)
            case Where.PRIVATE:
                if buffer not in self._private:
                    self._private[buffer] = fb.alloca("i64", 1, align=8)
                return self._private[buffer]
        offset = buffer.offset
        return fb.gep("i8", self.arena, fb.i64(offset) if isinstance(offset, int) else self._entry.offsets[offset])

    def slice(self, base: V, size: Dim, loop: Operation) -> V:
        """The part of `base` that belongs to the current iteration of a scan."""
        return self.fb.gep("i8", base, self.fb.mul(self.scans[loop].index, emit_size(self.fb, size, self.symbols)))

    def constant(self, offset: int) -> V:
        """Address in the constant block."""
        return self.fb.gep("i8", self.constant_block, self.fb.i64(offset))

    def variable(self, initial: V | None = None) -> Variable:
        """A pointer variable."""
        variable = Variable(self.fb.alloca("ptr", 1, align=8))
        if initial is not None:
            self.fb.store(initial, variable.address)
        return variable

    def allocate(self, op: Operation) -> None:
        """Allocate the buffers of `op` whose sizes depend on data; what they held before is freed."""
        fb = self.fb
        for buffer in _allocated_by(op, self.buffers):
            slot = self._slot(self.plan.slots[buffer])
            self.call_free(fb.load("ptr", slot))
            fb.store(V("ptr", "null"), slot)
            size = 2 * half_size(buffer) if buffer.alternating else buffer.size
            address = self.allocated(size, f"{op.location or op.mnemonic}")
            fb.store(address, slot)
            if buffer not in self._heap:
                self._heap[buffer] = self.variable()
            fb.store(address, self._heap[buffer].address)

    def base(self, buffer: Buffer) -> V:
        """The first half of an alternating buffer."""
        if buffer.where is Where.HEAP:
            return self.fb.load("ptr", self._heap[buffer].address)
        return self.address(buffer)

    def copy(self, target: V, source: V, size: Dim) -> None:
        """Copy `size` bytes."""
        _define_copy(self.fb.module)
        emit_arguments(self.fb, self.arguments, [target, source, emit_size(self.fb, size, self.symbols)])
        self._run("dsc_copy", size // _COPIED_A_NS)

    def allocated(self, size: Dim, where: str) -> V:
        """New memory of `size` bytes; the program fails where there is not that much, even if `size` has no i64."""
        fb, message = self.fb, f"{where}: out of memory for {size} bytes"
        fits = fb.emit("i1", f"fcmp ole double {emit_magnitude(fb, size, self.symbols).ref}, {_MOST_BYTES!r}")
        self.fail_unless(fits, Status.MEMORY, message)
        address = fb.emit("ptr", f"call ptr {self.alloc.ref}({emit_size(fb, size, self.symbols)})")
        self.fail_unless(fb.icmp("ne", address, V("ptr", "null")), Status.MEMORY, message)
        return address

    def call_free(self, pointer: V) -> None:
        self.fb.void(f"call void {self.free.ref}({pointer})")

    def heap_slot(self, buffer: Buffer) -> V:
        """Where the pointer to memory that the program allocates is kept."""
        return self._slot(self.plan.slots[buffer])

    def _slot(self, offset: int) -> V:
        return self.fb.gep("i8", self.arena, self.fb.i64(offset))

    # -- failures, time -----------------------------------------------------------------------
    def fail_unless(self, condition: V, code: Status, message: str) -> None:
        """Leave the program unless `condition` holds."""
        fb = self.fb
        self.messages.append(message)
        good, bad = fb.label("good"), fb.label("bad")
        fb.void(f"br i1 {condition.ref}, label %{good}, label %{bad}")
        fb.place(bad)
        status = emit_context_word(fb, self.ctx, Word.STATUS)
        fb.store(fb.i64(status_word(code, len(self.messages) - 1)), status)
        fb.void(f"br label %{self._exit}")
        fb.place(good)

    @contextmanager
    def _timed(self, slot: int) -> Iterator[None]:
        """Add the time that the body takes, beyond `since`, to a profile slot, when a profile is wanted."""
        fb = self.fb
        with fb.if_(self.profiling, "start"):
            fb.store(emit_ticks(fb), self.since)
        yield
        with fb.if_(self.profiling, "stop"):
            self._add_time(slot, fb.sub(emit_ticks(fb), fb.load("i64", self.since)))

    def _add_time(self, slot: int, ticks: V) -> None:
        place = self.fb.gep("i64", self.profile, self.fb.i64(slot))
        self.fb.store(self.fb.add(self.fb.load("i64", place), ticks), place)


def _allocated_by(op: Operation, buffers: Buffers) -> list[Buffer]:
    """Buffers that are allocated at run time right in front of `op`."""
    found: dict[Buffer, None] = {}
    if isinstance(op, Fusion):
        for result in op.results:
            buffer = buffers.own[result].find()
            if buffer.where is Where.HEAP and not buffer.alternating:
                found[buffer] = None
    elif isinstance(op, While | Scan):
        for stacked in buffers.stacked[op]:
            buffer = stacked.buffer.find()
            if buffer.where is Where.HEAP and not buffer.alternating:
                found[buffer] = None
        for carried in buffers.carried[op]:
            if carried.buffer is not None and carried.buffer.where is Where.HEAP:
                found[carried.buffer] = None
    return list(found)


def _root(value: Value) -> Value:
    while isinstance(value.defining_op, Reshape):
        value = value.defining_op.operand
    return value


def _define_copy(module: ModuleBuilder) -> None:
    """A kernel that copies: arguments to, from, bytes; chunks are whole cache lines, the last one has the rest."""
    if "dsc_copy" in module.functions:
        return
    module.declare("llvm.memcpy.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1 immarg"])
    parameters = [("ptr", "arguments"), ("ptr", "scratch"), ("i64", "chunk"), ("i64", "chunks")]
    fb = module.function("dsc_copy", parameters, internal=True)
    arguments, _, chunk, chunks = fb.args
    to, source = (fb.load("ptr", fb.gep("i64", arguments, fb.i64(i))) for i in range(2))
    size = fb.load("i64", fb.gep("i64", arguments, fb.i64(2)))
    lines = fb.sdiv(fb.add(size, fb.i64(63)), fb.i64(64))

    def edge(of: V) -> V:
        return fb.smin(size, fb.mul(fb.sdiv(fb.mul(lines, of), chunks), fb.i64(64)))

    start, stop = edge(chunk), edge(fb.add(chunk, fb.i64(1)))
    length = fb.sub(stop, start)
    to, source = fb.gep("i8", to, start), fb.gep("i8", source, start)
    fb.void(f"call void @llvm.memcpy.p0.p0.i64({to}, {source}, {length}, i1 false)")
    fb.ret()
    fb.finish()
