"""Pools of native worker threads, one for each thread count, shared by all programs of the process.

The workers' loop is machine code from the pool object (`ds_compiler.runtime.abi.POOL_SYMBOLS`), so the
interpreter lock is never involved. Between calls they spin for a moment, in case the next call follows at
once, and then sleep in the kernel. Calls from several Python threads to one pool take turns.

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
_STACK_BYTES: Final = 8 << 20  # glibc's usual default; other libcs default to much less
_MAX_THREADS: Final = 1024


@dataclass(frozen=True)
class PoolCode:
    """The loaded pool object: entry points that every pool uses."""

    object: LoadedObject
    run: Callable[[int, int, int], None]
    ticks: Callable[[], int]
    worker: int
    alloc: int
    addresses: Callable[[list[Any], int, int, int, int], int]
    python: int
    ticks_per_second: float


class ThreadPool:
    """`tasks` - 1 workers that wait for calls; the caller is the remaining task.

    Raises:
        LoadError: the system refuses to start the threads.
    """

    def __init__(self, code: PoolCode, tasks: int) -> None:
        self.tasks = tasks
        self._code = code
        self._lock = threading.Lock()
        self._block = Region(abi.POOL_BYTES)
        self._base = base = self._block.address
        ctypes.c_int64.from_address(base + abi.POOL_TASKS).value = tasks
        ctypes.c_int64.from_address(base + abi.POOL_SPIN_TICKS).value = int(_SPIN_SECONDS * code.ticks_per_second)
        for offset, name in ((abi.POOL_SYSCALL, "syscall"), (abi.POOL_YIELD, "sched_yield")):
            ctypes.c_int64.from_address(base + offset).value = required_symbol(name)
        self._arguments = Region(abi.WORKER_BYTES * tasks)
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
            for task in range(1, self.tasks):
                argument = self._arguments.address + abi.WORKER_BYTES * task
                ctypes.c_int64.from_address(argument + abi.WORKER_POOL).value = self._base
                ctypes.c_int64.from_address(argument + abi.WORKER_TASK).value = task
                thread = ctypes.c_ulong()
                error = libc.pthread_create(
                    ctypes.byref(thread), attributes, ctypes.c_void_p(self._code.worker), ctypes.c_void_p(argument)
                )
                if error:
                    self.stop()
                    raise LoadError(f"cannot start thread {task + 1} of {self.tasks}: {os.strerror(error)}")
                self._threads.append(thread)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            libc.pthread_attr_destroy(attributes)

    def run(self, context: int, main: int) -> None:
        """Run ``main(context, task, tasks)`` on every task; returns when all are done."""
        with self._lock:
            self._code.run(self._base, context, main)

    def stop(self) -> None:
        """Let the workers return and wait for them; the pool cannot be used afterwards."""
        if not self._threads or not self._lock.acquire(timeout=1.0):
            return  # a daemon thread is in the middle of a call: the process is ending, leave it be
        ctypes.c_int32.from_address(self._base + abi.POOL_STOP).value = 1
        epoch = ctypes.c_int32.from_address(self._base + abi.POOL_EPOCH)
        epoch.value = (epoch.value + 1) & 0x7FFFFFFF
        libc = ctypes.CDLL(None)
        libc.syscall(ctypes.c_long(202), ctypes.c_void_p(self._base), 129, 2**31 - 1)  # futex, FUTEX_WAKE_PRIVATE
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
                    loaded.function("dsc_run", None, pointer, pointer, pointer),
                    ticks,
                    loaded.address("dsc_worker"),
                    loaded.address("dsc_alloc"),
                    kind(loaded.address("dsc_addresses")),
                    ctypes.addressof(_python_functions),
                    _calibrate(ticks),
                )
    return _code


def pool(code: PoolCode, tasks: int) -> ThreadPool:
    """The process's pool of `tasks` threads (at least 2), made on first use.

    Raises:
        LoadError: the system refuses to start the threads.
        ValueError: `tasks` is out of range.
    """
    found = _pools.get(tasks)
    if found is None:
        if not 2 <= tasks <= _MAX_THREADS:
            raise ValueError(f"threads must be between 1 and {_MAX_THREADS}, got {tasks}")
        with _creation:
            found = _pools.get(tasks)
            if found is None:
                found = _pools[tasks] = ThreadPool(code, tasks)
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
