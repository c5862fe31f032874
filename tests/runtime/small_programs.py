"""Small programs in LLVM text, for tests of the runtime; each comes with its manifest."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import llvmlite.binding as llvm

from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V
from ds_compiler.backends.llvm.parallel import emit_arguments, emit_begin, emit_context_word, emit_parallel, emit_ticks
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


def start() -> tuple[ModuleBuilder, FunctionBuilder, V]:
    module = ModuleBuilder(host().triple)
    fb = module.function("dsc_main", [("ptr", "ctx")])
    return module, fb, fb.args[0]


def word_item(fb: FunctionBuilder, ctx: V, word: Word, index: int, type_: str = "ptr") -> V:
    return fb.load(type_, fb.gep("i64", emit_context_word(fb, ctx, word), fb.i64(index)))


@contextmanager
def kernel(module: ModuleBuilder, name: str, pointers: int) -> Iterator[tuple[FunctionBuilder, list[V], V, V]]:
    """A kernel of `pointers` pointers and n: its builder, arguments, and the chunk's part [begin, end) of range(n)."""
    parameters = [("ptr", "arguments"), ("ptr", "scratch"), ("i64", "chunk"), ("i64", "chunks")]
    fb = module.function(name, parameters, internal=True)
    arguments, scratch, chunk, chunks = fb.args
    fb.store(chunk, scratch)
    *given, n = (fb.load(t, fb.gep("i64", arguments, fb.i64(i))) for i, t in enumerate(["ptr"] * pointers + ["i64"]))
    begin = fb.sdiv(fb.mul(n, chunk), chunks)
    yield fb, [*given, n], begin, fb.sdiv(fb.mul(n, fb.add(chunk, fb.i64(1))), chunks)
    fb.ret()
    fb.finish()


def _record(fb: FunctionBuilder, ctx: V, number: int, since: V) -> V:
    now = emit_ticks(fb)
    profile = emit_context_word(fb, ctx, Word.PROFILE, "i64")
    with fb.if_(fb.icmp("ne", profile, fb.i64(0))):
        slot = fb.gep("i64", fb.cast("inttoptr", profile, "ptr"), fb.i64(number))
        fb.store(fb.add(fb.load("i64", slot), fb.sub(now, since)), slot)
    return now


@functools.cache
def reverse_scaled() -> tuple[bytes, Manifest]:
    """y = (2*x + c)[::-1] in two kernels over the arena; x: f32[n], c a constant f32[4] used cyclically.

    Both are shared, however small. Kernel 2 reads what other threads wrote in kernel 1, so that one begun too early
    shows. Each chunk also writes to its thread's scratch.
    """
    module, fb, ctx = start()
    with kernel(module, "scale", 3) as (inner, (x, constants, arena, _), begin, end), inner.loop(begin, end) as loop:
        c = inner.load("float", inner.gep("float", constants, inner.srem(loop.index, inner.i64(4))))
        doubled = inner.fmul(inner.load("float", inner.gep("float", x, loop.index)), inner.const("float", 2.0))
        inner.store(inner.fadd(doubled, c), inner.gep("float", arena, loop.index))
    with kernel(module, "reverse", 2) as (inner, (arena, y, n), begin, end), inner.loop(begin, end) as loop:
        source = inner.sub(inner.sub(n, inner.i64(1)), loop.index)
        value = inner.load("float", inner.gep("float", arena, source))
        inner.store(value, inner.gep("float", y, loop.index))
    x, y = word_item(fb, ctx, Word.INPUTS, 0), word_item(fb, ctx, Word.OUTPUTS, 0)
    n = word_item(fb, ctx, Word.SYMBOLS, 0, "i64")
    arena, constants = emit_context_word(fb, ctx, Word.ARENA), emit_context_word(fb, ctx, Word.CONSTANTS)
    arguments, cost = fb.alloca("i64", 4), fb.i64(1_000_000)
    emit_begin(fb, ctx, cost)
    since = emit_ticks(fb)
    emit_arguments(fb, arguments, [x, constants, arena, n])
    emit_parallel(fb, ctx, "scale", arguments, cost)
    since = _record(fb, ctx, 0, since)
    emit_arguments(fb, arguments, [arena, y, n])
    emit_parallel(fb, ctx, "reverse", arguments, cost)
    _record(fb, ctx, 1, since)
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
    module, fb, ctx = start()
    x, n = word_item(fb, ctx, Word.INPUTS, 0), word_item(fb, ctx, Word.SYMBOLS, 0, "i64")
    with fb.if_(fb.icmp("eq", n, fb.i64(0))):
        fb.store(fb.i64(abi.status_word(abi.Status.INDEX, 0)), emit_context_word(fb, ctx, Word.STATUS))
    alloc = emit_context_word(fb, ctx, Word.ALLOC)
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
    module, fb, ctx = start()
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
