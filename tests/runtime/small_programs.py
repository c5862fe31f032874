"""Small programs in LLVM text, for tests of the runtime; each comes with its manifest."""

from __future__ import annotations

import functools

import llvmlite.binding as llvm

from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V
from ds_compiler.backends.llvm.parallel import emit_barrier, emit_context_word, emit_ticks
from ds_compiler.backends.llvm.target import host
from ds_compiler.runtime import abi
from ds_compiler.runtime.abi import Word
from ds_compiler.runtime.manifest import Constant, Constraint, Kernel, Manifest, Symbol, Tensor


def assemble(text: str) -> bytes:
    """LLVM text to an object, as the back end does it."""
    machine = host().machine()
    parsed = llvm.parse_assembly(text)
    parsed.verify()
    return bytes(machine.emit_object(parsed))


def start() -> tuple[ModuleBuilder, FunctionBuilder, V, V, V]:
    module = ModuleBuilder(host().triple)
    fb = module.function("dsc_main", [("ptr", "ctx"), ("i64", "task"), ("i64", "tasks")])
    ctx, task, tasks = fb.args
    return module, fb, ctx, task, tasks


def word_item(fb: FunctionBuilder, ctx: V, word: Word, index: int, type_: str = "ptr") -> V:
    return fb.load(type_, fb.gep("i64", emit_context_word(fb, ctx, word), fb.i64(index)))


def share(fb: FunctionBuilder, n: V, task: V, tasks: V) -> tuple[V, V]:
    """This task's half-open part of range(n)."""
    return fb.sdiv(fb.mul(n, task), tasks), fb.sdiv(fb.mul(n, fb.add(task, fb.i64(1))), tasks)


def _record(fb: FunctionBuilder, ctx: V, task: V, kernel: int, since: V) -> V:
    now = emit_ticks(fb)
    profile = emit_context_word(fb, ctx, Word.PROFILE, "i64")
    wanted = fb.binary("and", fb.icmp("ne", profile, fb.i64(0)), fb.icmp("eq", task, fb.i64(0)))
    with fb.if_(wanted):
        slot = fb.gep("i64", fb.cast("inttoptr", profile, "ptr"), fb.i64(kernel))
        fb.store(fb.add(fb.load("i64", slot), fb.sub(now, since)), slot)
    return now


@functools.cache
def reverse_scaled() -> tuple[bytes, Manifest]:
    """y = (2*x + c)[::-1] in two kernels over the arena; x: f32[n], c a constant f32[4] used cyclically.

    Kernel 2 reads what other tasks wrote in kernel 1, so a wrong barrier shows. Each task also writes to its scratch.
    """
    module, fb, ctx, task, tasks = start()
    x, y = word_item(fb, ctx, Word.INPUTS, 0), word_item(fb, ctx, Word.OUTPUTS, 0)
    n = word_item(fb, ctx, Word.SYMBOLS, 0, "i64")
    arena, constants = emit_context_word(fb, ctx, Word.ARENA), emit_context_word(fb, ctx, Word.CONSTANTS)
    scratch_bytes = emit_context_word(fb, ctx, Word.SCRATCH_BYTES, "i64")
    scratch = fb.gep("i8", emit_context_word(fb, ctx, Word.SCRATCH), fb.mul(scratch_bytes, task))
    fb.store(task, scratch)
    begin, end = share(fb, n, task, tasks)
    since = emit_ticks(fb)
    with fb.loop(begin, end) as loop:
        c = fb.load("float", fb.gep("float", constants, fb.srem(loop.index, fb.i64(4))))
        v = fb.fadd(fb.fmul(fb.load("float", fb.gep("float", x, loop.index)), fb.const("float", 2.0)), c)
        fb.store(v, fb.gep("float", arena, loop.index))
    emit_barrier(fb, ctx, task, tasks)
    since = _record(fb, ctx, task, 0, since)
    with fb.loop(begin, end) as loop:
        source = fb.sub(fb.sub(n, fb.i64(1)), loop.index)
        fb.store(fb.load("float", fb.gep("float", arena, source)), fb.gep("float", y, loop.index))
    emit_barrier(fb, ctx, task, tasks)
    _record(fb, ctx, task, 1, since)
    fb.ret()
    fb.finish()
    manifest = Manifest(
        inputs=(Tensor("x", "float32", ("n",)),),
        outputs=(Tensor("y", "float32", ("n",)),),
        symbols=(Symbol("n", 0, 0),),
        constraints=(Constraint("n <= 1000000"),),
        arena="4*n",
        scratch="8",
        kernels=(Kernel("scale", ("Mul_1", "Add_2"), "2*n", "8*n"), Kernel("reverse", ("Slice_3",), "0", "8*n")),
        constants=(Constant("c", "float32", (4,), 0),),
        name="reverse_scaled",
    )
    return assemble(module.text()), manifest


@functools.cache
def positives() -> tuple[bytes, Manifest]:
    """values = x[x > 0], whose length only the data tells; status INDEX when x is empty."""
    module, fb, ctx, task, _ = start()
    x, n = word_item(fb, ctx, Word.INPUTS, 0), word_item(fb, ctx, Word.SYMBOLS, 0, "i64")
    with fb.if_(fb.icmp("eq", n, fb.i64(0))):
        fb.store(fb.i64(abi.status_word(abi.Status.INDEX, 0)), emit_context_word(fb, ctx, Word.STATUS))
    alloc = emit_context_word(fb, ctx, Word.ALLOC)
    with fb.if_(fb.icmp("eq", task, fb.i64(0))):
        buffer = fb.emit("ptr", f"call ptr {alloc.ref}(i64 {fb.mul(n, fb.i64(4)).ref})")
        with fb.loop(fb.i64(0), n, carried=[fb.i64(0)]) as loop:
            value = fb.load("float", fb.gep("float", x, loop.index))
            positive = fb.fcmp("ogt", value, fb.const("float", 0.0))
            with fb.if_(positive):
                fb.store(value, fb.gep("float", buffer, loop.carried[0]))
            loop.carry(fb.add(loop.carried[0], fb.cast("zext", positive, "i64")))
        fb.store(buffer, emit_context_word(fb, ctx, Word.OUTPUTS))
        fb.store(loop.results[0], fb.gep("i64", emit_context_word(fb, ctx, Word.SYMBOLS), fb.i64(1)))
    fb.ret()
    fb.finish()
    manifest = Manifest(
        inputs=(Tensor("x", "float32", ("n",)),),
        outputs=(Tensor("values", "float32", ("count",)),),
        symbols=(Symbol("n", 0, 0), Symbol("count")),
        checks=("Gather_7: the input must not be empty",),
    )
    return assemble(module.text()), manifest


@functools.cache
def four_in_two_out() -> tuple[bytes, Manifest]:
    """Static shapes, next to no work: a = x0 + x1, b = x2 + x3, each f32[2,2]."""
    module, fb, ctx, _, _ = start()
    for out in range(2):
        left, right = (word_item(fb, ctx, Word.INPUTS, 2 * out + i) for i in range(2))
        target = word_item(fb, ctx, Word.OUTPUTS, out)
        with fb.loop(fb.i64(0), fb.i64(4)) as loop:
            a, b = (fb.load("float", fb.gep("float", p, loop.index)) for p in (left, right))
            fb.store(fb.fadd(a, b), fb.gep("float", target, loop.index))
    fb.ret()
    fb.finish()
    manifest = Manifest(
        inputs=tuple(Tensor(f"x{i}", "float32", ("2", "2")) for i in range(4)),
        outputs=tuple(Tensor(name, "float32", ("2", "2")) for name in "ab"),
    )
    return assemble(module.text()), manifest
