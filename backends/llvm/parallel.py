"""Threads, as seen by generated code: handing out a kernel's chunks, and the workers' loop.

`emit_begin` and `emit_parallel` are for whoever emits `dsc_main`. `pool_object` gives the second object of every
artifact, which the runtime loads once a process (`ds_compiler.runtime.threads`). Its functions are plain LLVM
text, since they consist of atomics and control flow. Offsets come from `ds_compiler.runtime.abi`.

Only the caller follows the program. For each kernel worth sharing it publishes the kernel and its chunks; it and the
workers claim chunks until none is left, and it goes on when all claimed ones are done. A worker touches nothing but the
pool's block unless it has claimed a chunk, and the caller cannot leave the kernel before that chunk is finished: so a
late worker finds no chunk and has read nothing that could have moved on, and one that sleeps is not waited for.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import llvmlite.binding as llvm

from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V
from ds_compiler.backends.llvm.target import initialize
from ds_compiler.runtime import abi
from ds_compiler.runtime.abi import Word

# Workers that sleep on when woken (other processes have the cores) are woken again after so much more work.
_WAKE_AGAIN_NS = 500_000

_PAUSE = "llvm.x86.sse2.pause"
_SYS_SETAFFINITY, _SYS_GETAFFINITY, _CPU_MASK_BYTES = 203, 204, 128
_SYS_FUTEX, _FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 202, 128, 129


def emit_context_word(fb: FunctionBuilder, ctx: V, word: Word, type_: str = "ptr") -> V:
    """Load one word of `ctx` as an LLVM ``ptr`` or ``i64``."""
    return fb.load(type_, fb.gep("i64", ctx, fb.i64(int(word))), align=8)


def emit_ticks(fb: FunctionBuilder) -> V:
    """The cycle counter (i64) that profiles are made of."""
    fb.module.declare("llvm.readcyclecounter", "i64", [])
    return fb.call("llvm.readcyclecounter", "i64")


def emit_begin(fb: FunctionBuilder, ctx: V, cost: V) -> None:
    """Open a call whose kernels are expected to take `cost` ns in all on one thread."""
    pool = emit_context_word(fb, ctx, Word.POOL)
    with fb.if_(fb.icmp("ne", pool, V("ptr", "null")), "begin"):
        wake = fb.load("i64", fb.gep("i8", pool, fb.i64(abi.POOL_WAKE_NS)))
        foreseen = fb.select(fb.icmp("sge", cost, wake), wake, fb.i64(0))
        fb.store(foreseen, fb.gep("i8", pool, fb.i64(abi.POOL_EXPECTED)))
        fb.store(wake, fb.gep("i8", pool, fb.i64(abi.POOL_WAKE_AT)))


def emit_arguments(fb: FunctionBuilder, block: V, arguments: Sequence[V]) -> None:
    """Store a kernel's arguments (``ptr`` and ``i64``) in the array of words at `block`."""
    for index, argument in enumerate(arguments):
        fb.store(argument, fb.gep("i64", block, fb.i64(index)), align=8)


def emit_parallel(fb: FunctionBuilder, ctx: V, kernel: str, arguments: V, cost: V) -> V:
    """Run a kernel on the arguments at `arguments` with the pool's help, if any; `cost`: estimated ns on one thread.

    All of its results are visible when it returns. The result (i64) is the ticks spent waiting for other threads.
    Kernels with non-temporal stores need their own ``sfence`` at their end.
    """
    parallel = emit_context_word(fb, ctx, Word.PARALLEL)
    return fb.emit("i64", f"call i64 {parallel.ref}({ctx}, ptr @{kernel}, {arguments}, {cost})")


def _fields(*names: str) -> str:
    """Addresses of fields of the pool block: ``%work.at`` for ``WORK``."""
    return "\n".join(
        f"  %{name.lower()}.at = getelementptr i8, ptr %pool, i64 {getattr(abi, f'POOL_{name}')}" for name in names
    )


def _claim(own: str, free: str, none: str) -> str:
    """Blocks from label ``claim`` on: claim a chunk by storing the work word `own`, go on at `free` or `none`."""
    return f"""
claim:
  %work = load atomic i64, ptr %work.at monotonic, align 8
  br label %try
try:
  %word = phi i64 [ %work, %claim ], [ %found, %swap ]
  %shifted = lshr i64 %word, {abi.WORK_NEXT_SHIFT}
  %next = and i64 %shifted, {abi.MAX_CHUNKS}
  %end = lshr i64 %word, {abi.WORK_END_SHIFT}
  %left = icmp ult i64 %next, %end
  br i1 %left, label %swap, label %{none}
swap:
  %taken = {own}
  %pair = cmpxchg weak ptr %work.at, i64 %word, i64 %taken acquire monotonic, align 8
  %found = extractvalue {{ i64, i1 }} %pair, 0
  %won = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %won, label %{free}, label %try"""


def _futex(name: str, address: str, operation: int, value: str) -> str:
    return (
        f"  %{name} = call i64 (i64, ...) %syscall(i64 {_SYS_FUTEX}, ptr {address}, i32 {operation}, {value}, ptr null)"
    )


def emit_pool_functions(module: ModuleBuilder) -> None:
    """Define what `ds_compiler.runtime.abi.POOL_SYMBOLS` lists."""
    module.declare(_PAUSE, "void", [])
    module.declare("llvm.readcyclecounter", "i64", [])
    _emit_parallel_function(module)
    _emit_worker(module)
    _emit_helpers(module)


def _emit_parallel_function(module: ModuleBuilder) -> None:
    """The caller's part.

    The work word is swapped with sequential consistency, then `SLEEPERS` is read; a worker raises `SLEEPERS` and then
    lets the system compare the word: either the caller sees the sleeper, or the sleeper sees the new word. The same
    holds for `WAITING` and `DONE` at the end.
    """
    module.functions["dsc_parallel"] = f"""\
define i64 @dsc_parallel(ptr %ctx, ptr %kernel, ptr %arguments, i64 %cost) nounwind {{
entry:
  %pool.in = getelementptr i64, ptr %ctx, i64 {int(Word.POOL)}
  %pool = load ptr, ptr %pool.in, align 8
  %scratch.in = getelementptr i64, ptr %ctx, i64 {int(Word.SCRATCH)}
  %scratch = load ptr, ptr %scratch.in, align 8
{_fields("WORK", "CONTEXT", "KERNEL", "ARGUMENTS", "CHUNKS", "CPU", "EXPECTED", "WAKE_AT", "WORKERS")}
{_fields("SPIN_TICKS", "SYSCALL", "GETCPU", "LEAST_NS", "WAKE_NS", "CHUNK_NS", "DONE", "WAITING", "SLEEPERS")}
  %helped = icmp ne ptr %pool, null
  br i1 %helped, label %weigh, label %alone
weigh:
  %least = load i64, ptr %least_ns.at, align 8
  %large = icmp sge i64 %cost, %least
  br i1 %large, label %look, label %alone
alone:
  call void %kernel(ptr %arguments, ptr %scratch, i64 0, i64 1)
  ret i64 0
look:
  %workers = load i32, ptr %workers.at, align 4
  %sleepers = load atomic i32, ptr %sleepers.at monotonic, align 4
  %awake = icmp eq i32 %sleepers, 0
  br i1 %awake, label %publish, label %count
count:
  %expected.old = load i64, ptr %expected.at, align 8
  %expected = add i64 %expected.old, %cost
  store i64 %expected, ptr %expected.at, align 8
  %wake_at = load i64, ptr %wake_at.at, align 8
  %due = icmp sge i64 %expected, %wake_at
  %wake_at.new = add i64 %expected, {_WAKE_AGAIN_NS}
  %wake_at.next = select i1 %due, i64 %wake_at.new, i64 %wake_at
  store i64 %wake_at.next, ptr %wake_at.at, align 8
  %wake_ns = load i64, ptr %wake_ns.at, align 8
  %early = icmp slt i64 %expected, %wake_ns
  %nobody = icmp eq i32 %sleepers, %workers
  %vain = and i1 %early, %nobody
  br i1 %vain, label %alone, label %publish
publish:
  %wakes = phi i1 [ false, %look ], [ %due, %count ]
  %workers64 = zext i32 %workers to i64
  %threads = add i64 %workers64, 1
  %each = udiv i64 %cost, %threads
  %chunk_ns = load i64, ptr %chunk_ns.at, align 8
  %half = lshr i64 %each, 1
  %quarter = lshr i64 %each, 2
  %two = icmp uge i64 %half, %chunk_ns
  %four = icmp uge i64 %quarter, %chunk_ns
  %shift.2 = zext i1 %two to i64
  %shift.4 = zext i1 %four to i64
  %shift = add i64 %shift.2, %shift.4
  %chunks = shl i64 %threads, %shift
  store ptr %ctx, ptr %context.at, align 8
  store ptr %kernel, ptr %kernel.at, align 8
  store ptr %arguments, ptr %arguments.at, align 8
  store i64 %chunks, ptr %chunks.at, align 8
  store atomic i32 0, ptr %done.at monotonic, align 4
  %old = load atomic i32, ptr %work.at monotonic, align 8
  %number = add i32 %old, 1
  %number64 = zext i32 %number to i64
  %end.bits = shl i64 %chunks, {abi.WORK_END_SHIFT}
  %offer = or i64 %end.bits, %number64
  %before = atomicrmw xchg ptr %work.at, i64 %offer seq_cst, align 8
  %syscall = load ptr, ptr %syscall.at, align 8
  br i1 %wakes, label %wake, label %work.first
wake:
  %getcpu = load ptr, ptr %getcpu.at, align 8
  %cpu = call i32 %getcpu()
  store atomic i32 %cpu, ptr %cpu.at monotonic, align 4
{_futex("woken", "%work.at", _FUTEX_WAKE_PRIVATE, "i32 2147483647")}
  br label %work.first
work.first:
  br label %again
again:
  %mine = phi i32 [ 0, %work.first ], [ %mine.next, %run ]
  br label %claim{_claim(f"add i64 %word, {1 << abi.WORK_NEXT_SHIFT}", "run", "drained")}
run:
  call void %kernel(ptr %arguments, ptr %scratch, i64 %next, i64 %chunks)
  %mine.next = add i32 %mine, 1
  br label %again
drained:
  %chunks32 = trunc i64 %chunks to i32
  %theirs = sub i32 %chunks32, %mine
  %done.first = load atomic i32, ptr %done.at acquire, align 4
  %finished = icmp eq i32 %done.first, %theirs
  br i1 %finished, label %at_once, label %late
at_once:
  ret i64 0
late:
  %since = call i64 @llvm.readcyclecounter()
  %spin_ticks = load i64, ptr %spin_ticks.at, align 8
  br label %spin
spin:
  %done.seen = load atomic i32, ptr %done.at acquire, align 4
  %ready = icmp eq i32 %done.seen, %theirs
  br i1 %ready, label %over, label %pause
pause:
  call void @{_PAUSE}()
  %ticks = call i64 @llvm.readcyclecounter()
  %elapsed = sub i64 %ticks, %since
  %tired = icmp ugt i64 %elapsed, %spin_ticks
  br i1 %tired, label %announce, label %spin
announce:
  %w0 = atomicrmw xchg ptr %waiting.at, i32 1 seq_cst, align 4
  br label %check
check:
  %done.now = load atomic i32, ptr %done.at seq_cst, align 4
  %ready.now = icmp eq i32 %done.now, %theirs
  br i1 %ready.now, label %awaited, label %sleep
sleep:
{_futex("slept", "%done.at", _FUTEX_WAIT_PRIVATE, "i32 %done.now")}
  br label %check
awaited:
  store atomic i32 0, ptr %waiting.at monotonic, align 4
  br label %over
over:
  %until = call i64 @llvm.readcyclecounter()
  %waited = sub i64 %until, %since
  ret i64 %waited
}}"""


def _emit_worker(module: ModuleBuilder) -> None:
    """A worker's loop: claim and run chunks, look for more for a while, sleep until the work word changes."""
    module.declare("llvm.memset.p0.i64", "void", ["ptr", "i8", "i64", "i1 immarg"])
    module.declare("llvm.memcpy.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1 immarg"])
    module.functions["dsc_worker"] = f"""\
define ptr @dsc_worker(ptr %argument) nounwind {{
entry:
  %pool.in = getelementptr i8, ptr %argument, i64 {abi.WORKER_POOL}
  %number.in = getelementptr i8, ptr %argument, i64 {abi.WORKER_NUMBER}
  %pool = load ptr, ptr %pool.in, align 8
  %worker = load i64, ptr %number.in, align 8
{_fields("WORK", "CONTEXT", "KERNEL", "ARGUMENTS", "CHUNKS", "STOP")}
{_fields("SPIN_TICKS", "SYSCALL", "DELAY_TICKS", "DONE", "WAITING", "SLEEPERS")}
  %spin_ticks = load i64, ptr %spin_ticks.at, align 8
  %syscall = load ptr, ptr %syscall.at, align 8
  br label %idle
idle:
  %since = call i64 @llvm.readcyclecounter()
  br label %claim{_claim(f"sub i64 %word, {1 << abi.WORK_END_SHIFT}", "run", "none")}
run:
  call void @dsc_delay(ptr %delay_ticks.at)
  %context = load ptr, ptr %context.at, align 8
  %kernel = load ptr, ptr %kernel.at, align 8
  %arguments = load ptr, ptr %arguments.at, align 8
  %chunks = load i64, ptr %chunks.at, align 8
  %scratch.in = getelementptr i64, ptr %context, i64 {int(Word.SCRATCH)}
  %stride.in = getelementptr i64, ptr %context, i64 {int(Word.SCRATCH_BYTES)}
  %scratch.first = load ptr, ptr %scratch.in, align 8
  %stride = load i64, ptr %stride.in, align 8
  %offset = mul i64 %stride, %worker
  %scratch = getelementptr i8, ptr %scratch.first, i64 %offset
  %chunk = sub i64 %end, 1
  call void %kernel(ptr %arguments, ptr %scratch, i64 %chunk, i64 %chunks)
  %before = atomicrmw add ptr %done.at, i32 1 seq_cst, align 4
  %waiting = load atomic i32, ptr %waiting.at seq_cst, align 4
  %awaited = icmp ne i32 %waiting, 0
  br i1 %awaited, label %tell, label %finish
tell:
{_futex("told", "%done.at", _FUTEX_WAKE_PRIVATE, "i32 1")}
  br label %finish
finish:
  call void @dsc_delay(ptr %delay_ticks.at)
  br label %idle
none:
  %stop = load atomic i32, ptr %stop.at acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %leave, label %wait
wait:
  call void @{_PAUSE}()
  %ticks = call i64 @llvm.readcyclecounter()
  %elapsed = sub i64 %ticks, %since
  %tired = icmp ugt i64 %elapsed, %spin_ticks
  br i1 %tired, label %sleep, label %claim
sleep:
  %seen = trunc i64 %word to i32
  %s0 = atomicrmw add ptr %sleepers.at, i32 1 seq_cst, align 4
{_futex("slept", "%work.at", _FUTEX_WAIT_PRIVATE, "i32 %seen")}
  %s1 = atomicrmw sub ptr %sleepers.at, i32 1 seq_cst, align 4
  call void @dsc_part(ptr %pool)
  br label %idle
leave:
  ret ptr null
}}"""
    # Systems may wake a thread on the CPU of the thread that woke it, where the two can only take turns, and leave it
    # there for many calls. So a worker that finds itself there goes elsewhere: its affinity excludes that CPU for a
    # moment, which makes the system move it at once.
    module.functions["dsc_part"] = f"""\
define internal void @dsc_part(ptr %pool) nounwind {{
entry:
  %allowed = alloca [{_CPU_MASK_BYTES} x i8], align 8
  %others = alloca [{_CPU_MASK_BYTES} x i8], align 8
{_fields("CPU", "SYSCALL", "GETCPU")}
  %getcpu = load ptr, ptr %getcpu.at, align 8
  %mine = call i32 %getcpu()
  %callers = load atomic i32, ptr %cpu.at monotonic, align 4
  %together = icmp eq i32 %mine, %callers
  %known = icmp ult i32 %mine, {8 * _CPU_MASK_BYTES}
  %move = and i1 %together, %known
  br i1 %move, label %ask, label %stay
ask:
  %syscall = load ptr, ptr %syscall.at, align 8
  call void @llvm.memset.p0.i64(ptr %allowed, i8 0, i64 {_CPU_MASK_BYTES}, i1 false)
  %bytes = call i64 (i64, ...) %syscall(i64 {_SYS_GETAFFINITY}, i32 0, i64 {_CPU_MASK_BYTES}, ptr %allowed)
  %told = icmp sgt i64 %bytes, 0
  br i1 %told, label %leave, label %stay
leave:
  call void @llvm.memcpy.p0.p0.i64(ptr %others, ptr %allowed, i64 {_CPU_MASK_BYTES}, i1 false)
  %byte = lshr i32 %mine, 3
  %bit = and i32 %mine, 7
  %bit8 = trunc i32 %bit to i8
  %set = shl i8 1, %bit8
  %clear = xor i8 %set, -1
  %at = getelementptr i8, ptr %others, i32 %byte
  %old = load i8, ptr %at, align 1
  %new = and i8 %old, %clear
  store i8 %new, ptr %at, align 1
  ; fails, without harm, where there is no other CPU
  %r0 = call i64 (i64, ...) %syscall(i64 {_SYS_SETAFFINITY}, i32 0, i64 {_CPU_MASK_BYTES}, ptr %others)
  %r1 = call i64 (i64, ...) %syscall(i64 {_SYS_SETAFFINITY}, i32 0, i64 {_CPU_MASK_BYTES}, ptr %allowed)
  br label %stay
stay:
  ret void
}}"""
    module.functions["dsc_delay"] = f"""\
define internal void @dsc_delay(ptr %ticks.at) nounwind {{
entry:
  %ticks = load atomic i64, ptr %ticks.at monotonic, align 8
  %none = icmp eq i64 %ticks, 0
  br i1 %none, label %done, label %start
start:
  %since = call i64 @llvm.readcyclecounter()
  %mixed = mul i64 %since, -7046029254386353131
  %random = lshr i64 %mixed, 20
  %length = urem i64 %random, %ticks
  br label %spin
spin:
  call void @{_PAUSE}()
  %now = call i64 @llvm.readcyclecounter()
  %elapsed = sub i64 %now, %since
  %more = icmp ult i64 %elapsed, %length
  br i1 %more, label %spin, label %done
done:
  ret void
}}"""


def _emit_helpers(module: ModuleBuilder) -> None:
    """What the runtime calls besides: the clock, aligned memory, addresses of arrays."""
    module.declare("aligned_alloc", "ptr", ["i64", "i64"])
    module.functions["dsc_ticks"] = """\
define i64 @dsc_ticks() nounwind {
  %t = call i64 @llvm.readcyclecounter()
  ret i64 %t
}"""
    module.functions["dsc_alloc"] = f"""\
define ptr @dsc_alloc(i64 %bytes) nounwind {{
  %positive = icmp sgt i64 %bytes, 0
  %some = select i1 %positive, i64 %bytes, i64 1
  %padded = add i64 %some, {abi.ALIGNMENT - 1}
  %rounded = and i64 %padded, -{abi.ALIGNMENT}
  %p = call ptr @aligned_alloc(i64 {abi.ALIGNMENT}, i64 %rounded)
  ret ptr %p
}}"""
    # Through Python's buffer protocol, as C extensions do it: a contiguous buffer is asked for (flags 0), its address
    # noted, and the buffer released; the caller keeps the arrays alive. From Python this takes 0.4 us an array.
    module.functions["dsc_addresses"] = f"""\
define i64 @dsc_addresses(ptr %list, i64 %count, i64 %mask, ptr %out, ptr %python) nounwind {{
entry:
  %view = alloca [{abi.PY_BUFFER_BYTES} x i8], align 16
  %item.at = getelementptr ptr, ptr %python, i64 0
  %get.at = getelementptr ptr, ptr %python, i64 1
  %release.at = getelementptr ptr, ptr %python, i64 2
  %clear.at = getelementptr ptr, ptr %python, i64 3
  %item = load ptr, ptr %item.at, align 8
  %get = load ptr, ptr %get.at, align 8
  %release = load ptr, ptr %release.at, align 8
  %clear = load ptr, ptr %clear.at, align 8
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %next, %good ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %done
body:
  %object = call ptr %item(ptr %list, i64 %i)
  %failed = call i32 %get(ptr %object, ptr %view, i32 0)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %got, label %error
error:
  call void %clear()
  br label %done
got:
  %address = load i64, ptr %view, align 8
  call void %release(ptr %view)
  %low = and i64 %address, %mask
  %aligned = icmp eq i64 %low, 0
  br i1 %aligned, label %good, label %done
good:
  %to = getelementptr i64, ptr %out, i64 %i
  store i64 %address, ptr %to, align 8
  %next = add i64 %i, 1
  br label %head
done:
  ret i64 %i
}}"""


@functools.cache
def pool_object() -> bytes:
    """The pool object for any x86-64 CPU, as the artifact stores it."""
    initialize()
    triple = "x86_64-unknown-linux-gnu"
    module = ModuleBuilder(triple)
    emit_pool_functions(module)
    machine = llvm.Target.from_triple(triple).create_target_machine(
        cpu="x86-64", opt=2, reloc="pic", codemodel="small", jit=False
    )
    parsed = llvm.parse_assembly(module.text())
    parsed.verify()
    return bytes(machine.emit_object(parsed))
