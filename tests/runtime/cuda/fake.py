"""A CUDA driver library that is none: its memory is the host's, and it records what it is asked for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

#: Runs a kernel: its function's name, the number of programs, the addresses that its parameters lie at.
Run = Callable[[str, int, list[int]], None]


class _Function:
    def __init__(self, library: FakeLibrary, name: str) -> None:
        self.library, self.name = library, name
        self.argtypes: Any = None
        self.restype: Any = None

    def __call__(self, *arguments: Any) -> int:
        library = self.library
        library.calls.append((self.name, arguments))
        if self.name in library.failing:
            return library.failing[self.name]
        return int(getattr(library, f"do_{self.name}", lambda *_: 0)(*arguments) or 0)


def _set(reference: Any, value: int) -> None:
    reference._obj.value = value


class FakeLibrary:
    """What `ds_compiler.runtime.cuda.driver.Driver` takes for ``libcuda``.

    Args:
        run: what a launch does; nothing by default.
        capability: of the device.
        memory: bytes that it has.
        devices: how many there are.
    """

    def __init__(self, run: Run | None = None, capability: int = 90, memory: int = 1 << 30, devices: int = 1) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.failing: dict[str, int] = {}
        self._run, self._capability, self._left = run, capability, memory
        self._memory: dict[int, np.ndarray[Any, Any]] = {}
        self._names: dict[int, str] = {}
        self._handles = 1000
        self._recording: list[tuple[Any, ...]] | None = None
        self._capturing = 0
        self._devices = devices
        self._graphs: dict[int, list[tuple[Any, ...]]] = {}
        self.images: dict[int, bytes] = {}

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        function = _Function(self, name)
        setattr(self, name, function)
        return function

    def named(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of all calls of a function."""
        return [arguments for called, arguments in self.calls if called == name]

    def _handle(self) -> int:
        self._handles += 1
        return self._handles

    def ordered(self) -> list[tuple[int, int]]:
        """Pairs of streams: the second was told to wait for the first, by way of an event."""
        recorded: dict[int, int] = {}
        pairs = []
        for name, arguments in self.calls:
            if name == "cuEventRecord":
                recorded[arguments[0]] = arguments[1]
            elif name == "cuStreamWaitEvent":
                pairs.append((recorded[arguments[1]], arguments[0]))
        return pairs

    # -- what functions do ---------------------------------------------------------------------
    def do_cuDeviceGetCount(self, out: Any) -> None:
        _set(out, self._devices)

    def do_cuDeviceGetName(self, out: Any, size: int, device: int) -> None:
        out.value = b"Fake GPU"

    def do_cuMemsetD32Async(self, target: int, value: int, count: int, stream: int) -> None:
        assert count == 1
        self._do(("set", target, value), stream)

    def do_cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> None:
        _set(out, {75: self._capability // 10, 76: self._capability % 10}[attribute])

    def do_cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> None:
        _set(out, self._handle())

    do_cuStreamCreate = do_cuDevicePrimaryCtxRetain

    def do_cuEventCreate(self, out: Any, flags: int) -> None:
        _set(out, self._handle())

    def do_cuModuleLoadData(self, out: Any, image: Any) -> None:
        _set(out, self._handle())

    def do_cuModuleGetFunction(self, out: Any, module: int, name: bytes) -> None:
        handle = self._handle()
        self._names[handle] = name.decode()
        _set(out, handle)

    def do_cuMemAlloc_v2(self, out: Any, size: int) -> int:
        if size > self._left:
            return 2
        self._left -= size
        memory = np.full(size + 256, 0xA5, np.uint8)
        address = -(-memory.ctypes.data // 256) * 256
        self._memory[address] = memory
        _set(out, address)
        return 0

    def do_cuMemFree_v2(self, address: int) -> None:
        self._left += self._memory.pop(address).size - 256

    def do_cuMemGetInfo_v2(self, free: Any, total: Any) -> None:
        _set(free, self._left)
        _set(total, 1 << 30)

    def _do(self, action: tuple[Any, ...], stream: int) -> None:
        if self._recording is not None and stream == self._capturing:
            self._recording.append(action)
            return
        kind, *arguments = action
        if kind == "copy":
            ctypes.memmove(*arguments)
        elif kind == "set":
            ctypes.c_uint32.from_address(arguments[0]).value = arguments[1]
        elif self._run is not None:
            name, grid, parameters = arguments
            self._run(name, grid, [ctypes.addressof(p) for p in parameters])

    def do_cuMemcpyHtoDAsync_v2(self, target: int, source: int, size: int, stream: int) -> None:
        self._do(("copy", target, source, size), stream)

    do_cuMemcpyDtoHAsync_v2 = do_cuMemcpyDtoDAsync_v2 = do_cuMemcpyHtoDAsync_v2

    def do_cuLaunchKernel(self, function: int, grid: int, *rest: Any) -> None:
        # The driver copies arguments when it is called, and so does a graph when it is captured.
        values = [ctypes.c_uint64(ctypes.c_uint64.from_address(int(p)).value) for p in rest[-2]]
        self._do(("launch", self._names[function], grid, values), rest[-3])

    def do_cuStreamBeginCapture_v2(self, stream: int, mode: int) -> None:
        self._recording, self._capturing = [], stream

    def do_cuStreamEndCapture(self, stream: int, out: Any) -> None:
        handle = self._handle()
        assert self._recording is not None
        self._graphs[handle], self._recording = self._recording, None
        _set(out, handle)

    def do_cuGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> None:
        handle = self._handle()
        self._graphs[handle] = self._graphs[graph]
        _set(out, handle)

    def do_cuGraphLaunch(self, graph: int, stream: int) -> None:
        for action in self._graphs[graph]:
            self._do(action, stream)

    def do_cuGetErrorName(self, code: int, out: Any) -> None:
        _set(out, {2: b"CUDA_ERROR_OUT_OF_MEMORY", 700: b"CUDA_ERROR_ILLEGAL_ADDRESS"}.get(code))

    def do_cuGetErrorString(self, code: int, out: Any) -> None:
        _set(out, {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(code))
