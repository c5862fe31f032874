"""The calling convention between the runtime and generated code: the one description both sides use.

A program is one function ``void dsc_main(ptr ctx)`` that the caller's thread runs from end to end. Other threads never
follow the program: they help with single kernels, which the program hands to the pool chunk by chunk. `ctx` is an array
of 8-byte words, indexed by `Word`. Pointers are absolute addresses.

A kernel is ``void kernel(ptr arguments, ptr scratch, i64 chunk, i64 chunks)``: it computes one of `chunks` parts of its
results, each part exactly once, in any order, on any thread. `arguments` is an array of 8-byte words.

The pool object (`ds_compiler.backends.llvm.parallel`) is a second relocatable object, shared by all programs
of a process. It holds the worker threads' loop and a few helpers; `POOL_SYMBOLS` lists them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

#: Raised whenever anything in this file changes meaning; artifacts of another version are rejected.
ABI_VERSION: Final = 2

#: Alignment in bytes of the arena, the constants, each constant, and every thread's scratch: a cache line.
ALIGNMENT: Final = 64

MAIN_SYMBOL: Final = "dsc_main"


class Word(IntEnum):
    """Index of each word of `ctx`."""

    INPUTS = 0  #: ptr to an array of the inputs' data pointers
    OUTPUTS = 1  #: ptr to an array of the outputs' data pointers; null entries are filled in by the program
    ARENA = 2  #: ptr to the arena for intermediate values
    CONSTANTS = 3  #: ptr to the constant block
    SYMBOLS = 4  #: ptr to an i64 array: the value of each symbolic dimension; data-dependent ones are stored here
    POOL = 5  #: ptr to the block of the pool whose workers help with this call; null: the caller works alone
    PROFILE = 6  #: ptr to an i64 array of ticks, one a kernel and one for waiting, to add to; or null
    STATUS = 7  #: ptr to an i64: 0, or what `status_word` packs
    SCRATCH = 8  #: ptr to the private scratch of the caller; worker t's begins t * SCRATCH_BYTES later
    SCRATCH_BYTES = 9  #: i64, bytes of scratch a thread, a multiple of `ALIGNMENT`
    ALLOC = 10  #: ``ptr alloc(i64 bytes)``: `ALIGNMENT`-aligned memory for data-dependent buffers, or null
    FREE = 11  #: ``void free(ptr)`` for what `ALLOC` returned
    PARALLEL = 12  #: `POOL_SYMBOLS`' parallel


CONTEXT_WORDS: Final = 16

# The pool block: what the caller and the workers of one thread pool share, in bytes from its base. Fields that are
# written by different threads at different times are on cache lines of their own.
#
# The work word says which chunks of the current kernel nobody has claimed yet: those from `next` to `end`. The caller
# claims the first one, workers the last one (so that with equal kernels in a row each core finds its own data in its
# cache), by a compare-and-swap of the whole word. The kernel's number changes with each kernel, and wakes sleepers.
POOL_WORK: Final = 0  # i64: number of the kernel (low 32 bits, the futex word of workers) | next << 32 | end << 48
WORK_NEXT_SHIFT: Final = 32
WORK_END_SHIFT: Final = 48
# Valid while a claimed chunk is unfinished: written by the caller in front of the work word.
POOL_CONTEXT: Final = 64  # ptr: ctx of the call
POOL_KERNEL: Final = 72  # ptr: the kernel
POOL_ARGUMENTS: Final = 80  # ptr: its arguments
POOL_CHUNKS: Final = 88  # i64: into how many chunks it is cut
POOL_CPU: Final = 112  # i32: the CPU that the caller was on when it woke workers
# The caller's own account of the current call, see `ds_compiler.backends.llvm.parallel`.
POOL_EXPECTED: Final = 96  # i64: ns of work met while workers sleep, and at the start the work foreseen
POOL_WAKE_AT: Final = 104  # i64: the value of EXPECTED at which sleepers are woken
# Constant for a pool.
POOL_WORKERS: Final = 128  # i32: threads besides the caller
POOL_STOP: Final = 132  # i32: workers return when this is 1
POOL_SPIN_TICKS: Final = 136  # i64: ticks that a thread looks for work, or for the last chunks, before it sleeps
POOL_SYSCALL: Final = 144  # ptr: libc's syscall
POOL_GETCPU: Final = 160  # ptr: libc's sched_getcpu
POOL_LEAST_NS: Final = 168  # i64: estimated ns of a kernel (on one thread) under which the caller keeps it for itself
POOL_WAKE_NS: Final = 176  # i64: ns of work in a call for which sleeping workers are woken
POOL_CHUNK_NS: Final = 184  # i64: ns of a chunk for which a kernel is cut into more than one a thread
POOL_DELAY_TICKS: Final = 152  # i64: for tests: workers pause up to this long before and after each chunk
POOL_DONE: Final = 192  # i32, the caller's futex word: chunks that workers have finished
POOL_WAITING: Final = 196  # i32: 1 while the caller sleeps, or is about to, until DONE changes
POOL_SLEEPERS: Final = 256  # i32: workers in, or on their way into or out of, the futex wait
POOL_BYTES: Final = 320

#: A kernel known to take less than this many ns is called without asking the pool.
LEAST_SHARED_NS: Final = 6_000

MAX_CHUNKS: Final = (1 << 16) - 1

# A worker's argument block: ptr to the pool, i64 number of the worker, from 1.
WORKER_POOL: Final = 0
WORKER_NUMBER: Final = 8
WORKER_BYTES: Final = 16

#: What the pool object exports:
#: parallel(ptr ctx, ptr kernel, ptr arguments, i64 cost) -> i64 runs all chunks of a kernel that takes about `cost` ns
#: on one thread, and returns the ticks spent waiting for others; worker(ptr arg) -> ptr, a pthread start routine;
#: ticks() -> i64, the cycle counter that profiles use; alloc(i64 bytes) -> ptr;
#: addresses(ptr list, i64 count, i64 mask, ptr out, ptr python) -> i64,
#: which stores the address of each array in a Python list's first `count` items and stops at the first that is not
#: contiguous or has a bit of `mask` in its address (the result is how many it stored). `python` points to the addresses
#: of the functions in `PYTHON_FUNCTIONS`; the caller holds the interpreter lock.
POOL_SYMBOLS: Final = ("dsc_parallel", "dsc_worker", "dsc_ticks", "dsc_alloc", "dsc_addresses")
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
