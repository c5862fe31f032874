"""Pools of native worker threads, one for each thread count, shared by all programs of the process.

The workers' loop is machine code from the pool object (`ds_compiler.runtime.abi.POOL_SYMBOLS`), so the
interpreter lock is never involved. Workers claim chunks of the kernel that a caller has published, look for more for a
moment, and then sleep in the kernel. A caller never waits for a worker that has claimed nothing, so that one which the
system does not schedule costs nothing. Calls from several Python threads to one pool take turns.

A child made by `fork` starts with no pools and makes its own. At interpreter exit the workers are
stopped and joined.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ds_compiler.runtime import abi
from ds_compiler.runtime.elf import LoadedObject, process_symbol
from ds_compiler.runtime.errors import LoadError
from ds_compiler.runtime.memory import Region

_SPIN_SECONDS: Final = 40e-6  # longer than the Python between two calls of a loop, far shorter than a time slice
# Estimated times on one thread. Handing out a kernel costs 0.3 to 1 us, and the other core must first fetch what it
# reads; a wake-up takes 3 us of the caller's time, and tens of us pass until the worker runs. Chunks are small enough
# to even out threads of different speed, large enough that what each repeats (packing, reading weights) does not count.
_LEAST_NS: Final = abi.LEAST_SHARED_NS
_WAKE_NS: Final = 60_000
_CHUNK_NS: Final = 25_000
_STACK_BYTES: Final = 8 << 20  # glibc's usual default; other libcs default to much less
_MAX_THREADS: Final = 1024


@dataclass(frozen=True)
class PoolCode:
    """The loaded pool object: entry points that every pool uses."""

    object: LoadedObject
    parallel: int
    ticks: Callable[[], int]
    worker: int
    alloc: int
    addresses: Callable[[list[Any], int, int, int, int], int]
    python: int
    ticks_per_second: float


class ThreadPool:
    """`threads` - 1 workers that help whoever holds `lock` and calls a program with `address` in `Word.POOL`.

    Raises:
        LoadError: the system refuses to start the threads.
    """

    def __init__(self, code: PoolCode, threads: int) -> None:
        self.threads = threads
        self.lock = threading.Lock()
        self._code = code
        self._block = Region(abi.POOL_BYTES)
        self.address = base = self._block.address
        ctypes.c_int32.from_address(base + abi.POOL_WORKERS).value = threads - 1
        ctypes.c_int64.from_address(base + abi.POOL_SPIN_TICKS).value = int(_SPIN_SECONDS * code.ticks_per_second)
        for offset, name in ((abi.POOL_SYSCALL, "syscall"), (abi.POOL_GETCPU, "sched_getcpu")):
            ctypes.c_int64.from_address(base + offset).value = required_symbol(name)
        self.stress(None)
        self._arguments = Region(abi.WORKER_BYTES * threads)
        self._threads: list[ctypes.c_ulong] = []
        self._start()

    def _start(self) -> None:
        libc = ctypes.CDLL(None)
        attributes = ctypes.create_string_buffer(256)  # pthread_attr_t: 56 bytes on x86-64
        libc.pthread_attr_init(attributes)
        libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(_STACK_BYTES))
        # Workers inherit a full signal mask: signals belong to threads that run Python.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            for number in range(1, self.threads):
                argument = self._arguments.address + abi.WORKER_BYTES * number
                ctypes.c_int64.from_address(argument + abi.WORKER_POOL).value = self.address
                ctypes.c_int64.from_address(argument + abi.WORKER_NUMBER).value = number
                thread = ctypes.c_ulong()
                error = libc.pthread_create(
                    ctypes.byref(thread), attributes, ctypes.c_void_p(self._code.worker), ctypes.c_void_p(argument)
                )
                if error:
                    self.stop()
                    raise LoadError(f"cannot start thread {number + 1} of {self.threads}: {os.strerror(error)}")
                self._threads.append(thread)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            libc.pthread_attr_destroy(attributes)

    def stress(self, seconds: float | None) -> None:
        """For tests: share all work, however small, and let workers pause up to `seconds` around each chunk.

        None brings the usual behaviour back.
        """
        usual = seconds is None
        for offset, value in (
            (abi.POOL_LEAST_NS, _LEAST_NS if usual else 0),
            (abi.POOL_WAKE_NS, _WAKE_NS if usual else 0),
            (abi.POOL_CHUNK_NS, _CHUNK_NS if usual else 0),
            (abi.POOL_DELAY_TICKS, int((seconds or 0) * self._code.ticks_per_second)),
        ):
            ctypes.c_int64.from_address(self.address + offset).value = value

    def stop(self) -> None:
        """Let the workers return and wait for them; the pool cannot be used afterwards."""
        if not self._threads or not self.lock.acquire(timeout=1.0):
            return  # a daemon thread is in the middle of a call: the process is ending, leave it be
        ctypes.c_int32.from_address(self.address + abi.POOL_STOP).value = 1
        number = ctypes.c_uint32.from_address(self.address + abi.POOL_WORK)
        number.value += 1  # no chunks are left, so nobody else writes to the word
        libc = ctypes.CDLL(None)
        sleepers = ctypes.c_void_p(self.address + abi.POOL_WORK)
        libc.syscall(ctypes.c_long(202), sleepers, 129, 2**31 - 1)  # futex, FUTEX_WAKE_PRIVATE
        for thread in self._threads:
            libc.pthread_join(thread, None)
        self._threads = []


_python_functions = (ctypes.c_void_p * len(abi.PYTHON_FUNCTIONS))(
    *[ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value for name in abi.PYTHON_FUNCTIONS]
)
_creation = threading.Lock()
_pools: dict[int, ThreadPool] = {}
_code: PoolCode | None = None


def required_symbol(name: str) -> int:
    """Address of a libc function.

    Raises:
        LoadError: this libc does not have it.
    """
    address = process_symbol(name)
    if address is None:
        raise LoadError(f"this system's libc has no {name}")
    return address


def pool_code(pool_object: bytes) -> PoolCode:
    """The entry points of the pool object; the first one loaded serves the whole process.

    Raises:
        LoadError: the object is damaged.
    """
    global _code
    if _code is None:
        loaded = LoadedObject(pool_object)
        ticks = loaded.function("dsc_ticks", ctypes.c_int64)
        pointer, i64 = ctypes.c_void_p, ctypes.c_int64
        # PYFUNCTYPE: unlike all others, this one is called with the interpreter lock held.
        kind = ctypes.PYFUNCTYPE(i64, ctypes.py_object, i64, i64, pointer, pointer)
        with _creation:
            if _code is None:
                _code = PoolCode(
                    loaded,
                    loaded.address("dsc_parallel"),
                    ticks,
                    loaded.address("dsc_worker"),
                    loaded.address("dsc_alloc"),
                    kind(loaded.address("dsc_addresses")),
                    ctypes.addressof(_python_functions),
                    _calibrate(ticks),
                )
    return _code


def pool(code: PoolCode, threads: int) -> ThreadPool:
    """The process's pool of `threads` threads (at least 2, the caller included), made on first use.

    Raises:
        LoadError: the system refuses to start the threads.
        ValueError: `threads` is out of range.
    """
    found = _pools.get(threads)
    if found is None:
        if not 2 <= threads <= _MAX_THREADS:
            raise ValueError(f"threads must be between 1 and {_MAX_THREADS}, got {threads}")
        with _creation:
            found = _pools.get(threads)
            if found is None:
                found = _pools[threads] = ThreadPool(code, threads)
    return found


def _calibrate(ticks: Callable[[], int]) -> float:
    """Cycle counter ticks a second, against the monotonic clock over 2 ms (good to about 0.1 %)."""
    ticks()
    start, first = time.perf_counter_ns(), ticks()
    while time.perf_counter_ns() - start < 2_000_000:
        pass
    stop, last = time.perf_counter_ns(), ticks()
    return (last - first) / (stop - start) * 1e9


def _stop_all() -> None:
    while _pools:
        _pools.popitem()[1].stop()


def _after_fork_in_child() -> None:
    # The workers exist only in the parent. Their blocks stay allocated (nothing frees the pools' memory under them
    # here, since no worker runs in this process), and the lock may be held by a thread that is gone.
    global _creation
    _pools.clear()
    _creation = threading.Lock()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork_in_child)
