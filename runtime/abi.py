"""The calling convention between the runtime and generated code: the one description both sides use.

A program is one function ``void dsc_main(ptr ctx, i64 task, i64 tasks)``. All `tasks` threads call it
with the same `ctx` and their own `task` in ``[0, tasks)``; they meet at barriers. `ctx` is an array of
8-byte words, indexed by `Word`. Pointers are absolute addresses.

The pool object (`ds_compiler.backends.llvm.parallel`) is a second relocatable object, shared by all programs
of a process. It holds the worker threads' loop and a few helpers; `POOL_SYMBOLS` lists them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: Raised whenever anything in this file changes meaning; artifacts of another version are rejected.
ABI_VERSION: Final = 1

#: Alignment in bytes of the arena, the constants, each constant, and every task's scratch: a cache line.
ALIGNMENT: Final = 64

MAIN_SYMBOL: Final = "dsc_main"


class Word(IntEnum):
    """Index of each word of `ctx`."""

    INPUTS = 0  #: ptr to an array of the inputs' data pointers
    OUTPUTS = 1  #: ptr to an array of the outputs' data pointers; null entries are filled in by the program
    ARENA = 2  #: ptr to the arena for intermediate values
    CONSTANTS = 3  #: ptr to the constant block
    SYMBOLS = 4  #: ptr to an i64 array: the value of each symbolic dimension; data-dependent ones are stored here
    BARRIER = 5  #: ptr to the barrier block, see `BARRIER_*`
    PROFILE = 6  #: ptr to an i64 array of ticks, one a kernel, that task 0 adds to; or null
    STATUS = 7  #: ptr to an i64: 0, or what `status_word` packs
    SCRATCH = 8  #: ptr to the private scratch of task 0; task t's begins t * SCRATCH_BYTES later
    SCRATCH_BYTES = 9  #: i64, bytes of scratch a task, a multiple of `ALIGNMENT`
    ALLOC = 10  #: ``ptr alloc(i64 bytes)``: `ALIGNMENT`-aligned memory for data-dependent buffers, or null
    FREE = 11  #: ``void free(ptr)`` for what `ALLOC` returned
    YIELD = 12  #: ``i32 sched_yield()``


CONTEXT_WORDS: Final = 16

# The barrier block: two counters on separate cache lines, so that arriving does not disturb those who spin.
BARRIER_ARRIVED: Final = 0  # i32: tasks that have arrived in this generation
BARRIER_EPOCH: Final = 64  # i32: generation
BARRIER_BYTES: Final = 128

# The pool block: what the caller and the workers of one thread pool share, in bytes from its base.
POOL_EPOCH: Final = 0  # i32, futex word: raised once a call
POOL_CONTEXT: Final = 64  # ptr: ctx of the current call
POOL_MAIN: Final = 72  # ptr: dsc_main of the current call
POOL_TASKS: Final = 80  # i64: tasks, the caller included; fixed for a pool
POOL_STOP: Final = 88  # i32: workers return when this is 1
POOL_SPIN_TICKS: Final = 96  # i64: ticks a worker spins for work before it sleeps
POOL_SYSCALL: Final = 104  # ptr: libc's syscall
POOL_YIELD: Final = 112  # ptr: libc's sched_yield
POOL_PENDING: Final = 128  # i32: workers that have not finished the current call
POOL_SLEEPERS: Final = 192  # i32: workers in, or on their way into, the futex wait
POOL_BYTES: Final = 256

# A worker's argument block: ptr to the pool, i64 task.
WORKER_POOL: Final = 0
WORKER_TASK: Final = 8
WORKER_BYTES: Final = 16

#: What the pool object exports:
#: run(ptr pool, ptr ctx, ptr main); worker(ptr arg) -> ptr, a pthread start routine; ticks() -> i64, the cycle counter
#: that profiles use; alloc(i64 bytes) -> ptr; addresses(ptr list, i64 count, i64 mask, ptr out, ptr python) -> i64,
#: which stores the address of each array in a Python list's first `count` items and stops at the first that is not
#: contiguous or has a bit of `mask` in its address (the result is how many it stored). `python` points to the addresses
#: of the functions in `PYTHON_FUNCTIONS`; the caller holds the interpreter lock.
POOL_SYMBOLS: Final = ("dsc_run", "dsc_worker", "dsc_ticks", "dsc_alloc", "dsc_addresses")
PYTHON_FUNCTIONS: Final = ("PyList_GetItem", "PyObject_GetBuffer", "PyBuffer_Release", "PyErr_Clear")
PY_BUFFER_BYTES: Final = 96  # Python's Py_buffer takes 80 and begins with the address


class Status(IntEnum):
    """Why a program stopped; the low 8 bits of the status word."""

    OK = 0
    SHAPE = 1  #: sizes known only at run time do not fit together
    INDEX = 2  #: an index is out of range
    MEMORY = 3  #: `ALLOC` returned null
    VALUE = 4  #: an operand's value is not allowed here


def status_word(code: Status, check: int) -> int:
    """The i64 that generated code stores on failure: `code`, and the index of the manifest's `checks` entry."""
    return int(code) | check << 8


def unpack_status(word: int) -> tuple[Status, int]:
    """Inverse of `status_word`; a code this version does not know reads as `Status.VALUE`."""
    code = word & 0xFF
    return (Status(code) if code in Status._value2member_map_ else Status.VALUE), word >> 8
