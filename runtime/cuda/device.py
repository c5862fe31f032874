"""A GPU as programs share it: one stream, memory that is used again, and the order among streams.

Memory that comes back is given out again without waiting: what the next owner does is put behind what the last one did,
on the stream or by an event. So nothing here ever waits for the device, except when its memory is full.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from typing import Any, Final

from ds_compiler.runtime.cuda.driver import Driver, OutOfMemory, system_driver
from ds_compiler.runtime.errors import ExecutionError

_GRAIN: Final = 512  # sizes are rounded up to this, so that small ones can stand in for another


class Block:
    """Memory on the device that belongs to whoever holds this object.

    Attributes:
        stream: the one that last wrote it; `readers`: others that read it since.
    """

    def __init__(self, device: Device, address: int, size: int, stream: int) -> None:
        self.device, self.address, self.size, self.stream = device, address, size, stream
        self.readers: set[int] = set()

    def __del__(self) -> None:
        self.device.give_back(self)


class Device:
    """One GPU. Several threads may use it.

    Args:
        driver: of that GPU.

    Attributes:
        stream: where programs run unless they are told otherwise.
        capture_stream: where graphs are recorded: nothing ever runs there.
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        driver.enter()
        self.stream = driver.stream()
        self.capture_stream = driver.stream()
        self.lock = threading.RLock()
        self._free: dict[int, list[tuple[int, int]]] = {}  # by size: address and stream
        self._returned: deque[tuple[int, int, int, frozenset[int]]] = deque()
        self._held: deque[tuple[int, Any]] = deque()

    # -- memory --------------------------------------------------------------------------------
    def take(self, size: int, stream: int) -> Block:
        """Memory to be written on `stream`.

        Raises:
            OutOfMemory: there is no more, not even after all that lay idle was returned to the driver.
        """
        size = -(-max(size, 1) // _GRAIN) * _GRAIN
        with self.lock:
            self._sort_returned()
            idle = self._free.get(size)
            if idle:
                # The lowest address: results that replace one another then alternate between two sets of places,
                # and calls are launches of two graphs.
                index = min(range(len(idle)), key=lambda n: (idle[n][1] != stream, idle[n][0]))
                address, last = idle.pop(index)
                self.driver.order(last, stream)
                return Block(self, address, size, stream)
            try:
                address = self.driver.allocate(size)
            except OutOfMemory:
                if not self.trim():
                    raise
                address = self.driver.allocate(size)
            return Block(self, address, size, stream)

    def give_back(self, block: Block) -> None:
        """Memory whose owner is gone. Takes no lock and calls no driver: the collector may come at any moment."""
        self._returned.append((block.address, block.size, block.stream, frozenset(block.readers)))

    def _sort_returned(self) -> None:
        while self._returned:
            address, size, stream, readers = self._returned.popleft()
            for reader in readers - {stream}:
                try:
                    self.driver.order(reader, stream)
                except ExecutionError:  # a stream that its owner has destroyed may still have work
                    self.driver.synchronize_all()
            self._free.setdefault(size, []).append((address, stream))

    def trim(self) -> int:
        """Return memory that lies idle to the driver; the number of bytes."""
        with self.lock:
            self.driver.enter()
            self._sort_returned()
            if not self._free:
                return 0
            self.driver.synchronize_all()
            total = 0
            for size, idle in self._free.items():
                for address, _ in idle:
                    self.driver.free(address)
                total += size * len(idle)
            self._free.clear()
            return total

    @property
    def idle_bytes(self) -> int:
        """Bytes that are kept for later."""
        with self.lock:
            self.driver.enter()
            self._sort_returned()
            return sum(size * len(idle) for size, idle in self._free.items())

    # -- lifetimes of others' memory -------------------------------------------------------------
    def hold(self, objects: Any, stream: int) -> None:
        """Keep objects alive until `stream` has done what is on it now."""
        with self.lock:
            while self._held and self.driver.happened(self._held[0][0]):
                self.driver.destroy_event(self._held.popleft()[0])
            self._held.append((self.driver.record(stream), objects))


@functools.cache
def system_device(number: int = 0) -> Device:
    """GPU `number` of this machine.

    Raises:
        LoadError: there is no driver, or no such GPU.
    """
    return Device(system_driver(number))
