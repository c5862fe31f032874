"""Threads, as seen by generated code: the barrier between kernels, and the pool's worker loop.

`emit_barrier` is called by whoever emits `dsc_main`. `pool_object` gives the second object of every
artifact, which the runtime loads once a process (`ds_compiler.runtime.threads`). Both are plain LLVM
text, since they consist of atomics and control flow. Offsets come from `ds_compiler.runtime.abi`.
"""

from __future__ import annotations

import functools

import llvmlite.binding as llvm

from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V
from ds_compiler.backends.llvm.target import initialize
from ds_compiler.runtime import abi
from ds_compiler.runtime.abi import Word

# Pauses before a thread that waits for others begins to give its core away: 15 to 40 us, several times the usual
# imbalance between tasks, and little against the time slice that a descheduled task would cost anyway.
_SPINS_BEFORE_YIELD = 1024

_PAUSE = "llvm.x86.sse2.pause"


def emit_context_word(fb: FunctionBuilder, ctx: V, word: Word, type_: str = "ptr") -> V:
    """Load one word of `ctx` as an LLVM ``ptr`` or ``i64``."""
    return fb.load(type_, fb.gep("i64", ctx, fb.i64(int(word))), align=8)


def emit_ticks(fb: FunctionBuilder) -> V:
    """The cycle counter (i64) that profiles are made of."""
    fb.module.declare("llvm.readcyclecounter", "i64", [])
    return fb.call("llvm.readcyclecounter", "i64")


def emit_barrier(fb: FunctionBuilder, ctx: V, task: V, tasks: V) -> None:
    """Wait until all tasks have come here; writes before it are visible to every task after it.

    Costs one comparison when there is one task. `task` is not needed yet; it is part of the signature so
    that a tree barrier can replace this one where there are many cores. Non-temporal stores need their own
    ``sfence`` before it.
    """
    _define_barrier(fb.module)
    several = fb.icmp("ne", tasks, fb.i64(1))
    with fb.if_(several, "barrier"):
        state = emit_context_word(fb, ctx, Word.BARRIER)
        give_way = emit_context_word(fb, ctx, Word.YIELD)
        count = fb.cast("trunc", tasks, "i32")
        fb.call("dsc_barrier", "void", state, count, give_way)


def _wait_loop(name: str, address: str, condition: str, give_way: str, then: str) -> str:
    """Blocks that spin until the i32 at `address` satisfies `condition` (about ``%{name}.value``)."""
    return f"""
  br label %{name}
{name}:
  %{name}.n = phi i32 [ 0, %{name}.from ], [ %{name}.next, %{name}.again ]
  %{name}.value = load atomic i32, ptr {address} acquire, align 4
  %{name}.ready = icmp {condition}
  br i1 %{name}.ready, label %{then}, label %{name}.wait
{name}.wait:
  call void @{_PAUSE}()
  %{name}.next = add i32 %{name}.n, 1
  %{name}.long = icmp ugt i32 %{name}.n, {_SPINS_BEFORE_YIELD}
  br i1 %{name}.long, label %{name}.yield, label %{name}.again
{name}.yield:
  call i32 {give_way}()
  br label %{name}.again
{name}.again:
  br label %{name}"""


def _define_barrier(module: ModuleBuilder) -> None:
    if "dsc_barrier" in module.functions:
        return
    module.declare(_PAUSE, "void", [])
    # The generation is read before arriving: it cannot move on until this task has arrived. The last one
    # resets the count before it publishes the next generation, so the barrier can be entered again at once.
    module.functions["dsc_barrier"] = f"""\
define internal void @dsc_barrier(ptr %state, i32 %tasks, ptr %yield) noinline nounwind {{
entry:
  %epoch.at = getelementptr i8, ptr %state, i64 {abi.BARRIER_EPOCH}
  %arrived.at = getelementptr i8, ptr %state, i64 {abi.BARRIER_ARRIVED}
  %epoch = load atomic i32, ptr %epoch.at monotonic, align 4
  %before = atomicrmw add ptr %arrived.at, i32 1 acq_rel, align 4
  %arrived = add i32 %before, 1
  %last = icmp eq i32 %arrived, %tasks
  br i1 %last, label %release, label %spin.from
release:
  store atomic i32 0, ptr %arrived.at monotonic, align 4
  %following = add i32 %epoch, 1
  store atomic i32 %following, ptr %epoch.at release, align 4
  ret void
spin.from:{_wait_loop("spin", "%epoch.at", "ne i32 %spin.value, %epoch", "%yield", "done")}
done:
  ret void
}}"""


_SYS_FUTEX, _FUTEX_WAIT_PRIVATE, _FUTEX_WAKE_PRIVATE = 202, 128, 129


def emit_pool_functions(module: ModuleBuilder) -> None:
    """Define what `ds_compiler.runtime.abi.POOL_SYMBOLS` lists.

    A call raises the pool's epoch; workers compare it with the last one they served. A worker that has
    waited for `POOL_SPIN_TICKS` announces itself as a sleeper and waits in the kernel. Both sides
    use sequentially consistent accesses on (epoch, sleepers), so either the caller sees the sleeper and wakes
    it, or the kernel sees the new epoch and does not let it sleep.
    """
    module.declare(_PAUSE, "void", [])
    module.declare("llvm.readcyclecounter", "i64", [])
    module.declare("aligned_alloc", "ptr", ["i64", "i64"])

    def field(name: str, offset: int) -> str:
        return f"  %{name}.at = getelementptr i8, ptr %pool, i64 {offset}"

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
    module.functions["dsc_run"] = f"""\
define void @dsc_run(ptr %pool, ptr %ctx, ptr %main) nounwind {{
entry:
{field("epoch", abi.POOL_EPOCH)}
{field("ctx", abi.POOL_CONTEXT)}
{field("main", abi.POOL_MAIN)}
{field("tasks", abi.POOL_TASKS)}
{field("syscall", abi.POOL_SYSCALL)}
{field("yield", abi.POOL_YIELD)}
{field("pending", abi.POOL_PENDING)}
{field("sleepers", abi.POOL_SLEEPERS)}
  %tasks = load i64, ptr %tasks.at, align 8
  %tasks32 = trunc i64 %tasks to i32
  %workers = sub i32 %tasks32, 1
  store ptr %ctx, ptr %ctx.at, align 8
  store ptr %main, ptr %main.at, align 8
  store atomic i32 %workers, ptr %pending.at monotonic, align 4
  %old = atomicrmw add ptr %epoch.at, i32 1 seq_cst, align 4
  %sleepers = load atomic i32, ptr %sleepers.at seq_cst, align 4
  %asleep = icmp ne i32 %sleepers, 0
  br i1 %asleep, label %wake, label %work
wake:
  %syscall = load ptr, ptr %syscall.at, align 8
  %woken = call i64 (i64, ...) %syscall(i64 {_SYS_FUTEX}, ptr %epoch.at, i32 {_FUTEX_WAKE_PRIVATE}, i32 2147483647)
  br label %work
work:
  call void %main(ptr %ctx, i64 0, i64 %tasks)
  %yield = load ptr, ptr %yield.at, align 8
  br label %spin.from
spin.from:{_wait_loop("spin", "%pending.at", "eq i32 %spin.value, 0", "%yield", "done")}
done:
  ret void
}}"""
    module.functions["dsc_worker"] = f"""\
define ptr @dsc_worker(ptr %argument) nounwind {{
entry:
  %pool.at = getelementptr i8, ptr %argument, i64 {abi.WORKER_POOL}
  %task.at = getelementptr i8, ptr %argument, i64 {abi.WORKER_TASK}
  %pool = load ptr, ptr %pool.at, align 8
  %task = load i64, ptr %task.at, align 8
{field("epoch", abi.POOL_EPOCH)}
{field("ctx", abi.POOL_CONTEXT)}
{field("main", abi.POOL_MAIN)}
{field("tasks", abi.POOL_TASKS)}
{field("stop", abi.POOL_STOP)}
{field("spin_ticks", abi.POOL_SPIN_TICKS)}
{field("syscall", abi.POOL_SYSCALL)}
{field("pending", abi.POOL_PENDING)}
{field("sleepers", abi.POOL_SLEEPERS)}
  %tasks = load i64, ptr %tasks.at, align 8
  %spin_ticks = load i64, ptr %spin_ticks.at, align 8
  %syscall = load ptr, ptr %syscall.at, align 8
  br label %idle
idle:
  %served = phi i32 [ 0, %entry ], [ %now, %finish ]
  %since = call i64 @llvm.readcyclecounter()
  br label %spin
spin:
  %seen = load atomic i32, ptr %epoch.at acquire, align 4
  %new = icmp ne i32 %seen, %served
  br i1 %new, label %serve, label %wait
wait:
  call void @{_PAUSE}()
  %ticks = call i64 @llvm.readcyclecounter()
  %elapsed = sub i64 %ticks, %since
  %tired = icmp ugt i64 %elapsed, %spin_ticks
  br i1 %tired, label %sleep, label %spin
sleep:
  %s0 = atomicrmw add ptr %sleepers.at, i32 1 seq_cst, align 4
  %r = call i64 (i64, ...) %syscall(i64 {_SYS_FUTEX}, ptr %epoch.at, i32 {_FUTEX_WAIT_PRIVATE}, i32 %served, ptr null)
  %s1 = atomicrmw sub ptr %sleepers.at, i32 1 seq_cst, align 4
  br label %spin
serve:
  %now = load atomic i32, ptr %epoch.at acquire, align 4
  %stop = load atomic i32, ptr %stop.at acquire, align 4
  %stopped = icmp ne i32 %stop, 0
  br i1 %stopped, label %leave, label %run
run:
  %ctx = load ptr, ptr %ctx.at, align 8
  %main = load ptr, ptr %main.at, align 8
  call void %main(ptr %ctx, i64 %task, i64 %tasks)
  br label %finish
finish:
  %p = atomicrmw sub ptr %pending.at, i32 1 acq_rel, align 4
  br label %idle
leave:
  ret ptr null
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
