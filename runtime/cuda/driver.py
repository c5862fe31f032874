"""NVIDIA's driver library through ctypes: the few functions that running a program takes, errors as exceptions.

No package stands between: a machine with a driver has ``libcuda.so.1``. Tests give `Driver` a library of their own.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Final

from ds_compiler.runtime.errors import ExecutionError, LoadError

_OUT_OF_MEMORY: Final = 2
_NOT_READY: Final = 600
_NO_TIMING: Final = 2  # CU_EVENT_DISABLE_TIMING
_SHARED_BYTES: Final = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
_NON_BLOCKING: Final = 1
_CAPTURE_THREAD: Final = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
#: More shared memory than this a function must ask for.
FREE_SHARED_BYTES: Final = 48 << 10

_P, _S, _U, _I = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int
_ARGUMENTS: Final[dict[str, list[Any]]] = {
    "cuInit": [_U],
    "cuDeviceGet": [_P, _I],
    "cuDeviceGetCount": [_P],
    "cuDeviceGetName": [_P, _I, _I],
    "cuDeviceGetAttribute": [_P, _I, _I],
    "cuDevicePrimaryCtxRetain": [_P, _I],
    "cuCtxSetCurrent": [_P],
    "cuCtxSynchronize": [],
    "cuModuleLoadData": [_P, _P],
    "cuModuleGetFunction": [_P, _P, ctypes.c_char_p],
    "cuFuncSetAttribute": [_P, _I, _I],
    "cuMemAlloc_v2": [_P, _S],
    "cuMemFree_v2": [_P],
    "cuMemGetInfo_v2": [_P, _P],
    "cuMemcpyHtoDAsync_v2": [_P, _P, _S, _P],
    "cuMemcpyDtoHAsync_v2": [_P, _P, _S, _P],
    "cuMemcpyDtoDAsync_v2": [_P, _P, _S, _P],
    "cuMemsetD32Async": [_P, _U, _S, _P],
    "cuStreamCreate": [_P, _U],
    "cuStreamSynchronize": [_P],
    "cuStreamWaitEvent": [_P, _P, _U],
    "cuEventCreate": [_P, _U],
    "cuEventRecord": [_P, _P],
    "cuEventQuery": [_P],
    "cuEventDestroy_v2": [_P],
    "cuLaunchKernel": [_P, _U, _U, _U, _U, _U, _U, _U, _P, _P, _P],
    "cuStreamBeginCapture_v2": [_P, _I],
    "cuStreamEndCapture": [_P, _P],
    "cuGraphInstantiateWithFlags": [_P, _P, ctypes.c_ulonglong],
    "cuGraphLaunch": [_P, _P],
    "cuGraphExecDestroy": [_P],
    "cuGraphDestroy": [_P],
    "cuGetErrorName": [_I, _P],
    "cuGetErrorString": [_I, _P],
}


#: What to do about some errors.
_ADVICE: Final = {
    35: "; the driver is older than the CUDA version that the code needs",
    100: "; is a GPU there, and not hidden by CUDA_VISIBLE_DEVICES?",
    209: "; the kernel was compiled for another architecture: compile for this GPU with target='cuda'",
    700: "; the context is unusable from now on: start a new process",
    701: "; the kernel needs more registers or shared memory than this GPU has",
    719: "; the context is unusable from now on: start a new process",
}


class OutOfMemory(ExecutionError):
    """The device has no room for an allocation."""


@functools.cache
def system_driver(number: int = 0) -> Driver:
    """The driver of this machine, for GPU `number` of those it shows (``CUDA_VISIBLE_DEVICES`` chooses).

    Raises:
        LoadError: there is none, or it finds no such GPU.
    """
    return Driver(load_library(), number)


def load_library() -> Any:
    """The driver's library.

    Raises:
        LoadError: there is none.
    """
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise LoadError(
            "no CUDA driver: this machine has no libcuda.so.1, so that no GPU can run the program; "
            "compile for a GPU elsewhere with target='cuda:90', or run on target='cpu'"
        ) from None


class Driver:
    """One device's primary context, which PyTorch and others share.

    Raises:
        LoadError: the driver finds no such device.
    """

    def __init__(self, library: Any, device: int = 0) -> None:
        self._library = library
        for name, types in _ARGUMENTS.items():
            function = getattr(library, name, None)
            if function is None:
                raise LoadError(f"the CUDA driver is too old: it has no {name}")
            function.argtypes, function.restype = types, ctypes.c_int
        self.number = device
        try:
            self._call("cuInit", 0)
            if device >= (count := self._made("cuDeviceGetCount", ctypes.c_int)):
                raise LoadError(f"no GPU number {device}: the CUDA driver finds {count}")
            self._device = self._made("cuDeviceGet", ctypes.c_int, device)
            text = ctypes.create_string_buffer(128)
            self._call("cuDeviceGetName", text, len(text), self._device)
            major, minor = (self._made("cuDeviceGetAttribute", ctypes.c_int, a, self._device) for a in (_MAJOR, _MINOR))
            self._context = self._made("cuDevicePrimaryCtxRetain", ctypes.c_void_p, self._device)
        except ExecutionError as error:
            raise LoadError(f"no usable GPU: {error}") from None
        #: What people call the device, and its compute capability (90: 9.0).
        self.name, self.capability = text.value.decode(errors="replace"), 10 * major + minor
        self.launch_kernel = library.cuLaunchKernel

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            self.fail(name, code)

    def fail(self, name: str, code: int) -> None:
        """Raise what an error code of a function means: its name, its number, and the driver's words for it."""
        texts = [ctypes.c_char_p(), ctypes.c_char_p()]
        self._library.cuGetErrorName(code, ctypes.byref(texts[0]))
        self._library.cuGetErrorString(code, ctypes.byref(texts[1]))
        symbol, words = (t.value.decode() if t.value else "" for t in texts)
        reason = f"{symbol or 'error'} ({code}){f': {words}' if words else ''}"
        kind = OutOfMemory if code == _OUT_OF_MEMORY else ExecutionError
        raise kind(f"CUDA: {name}: {reason}{_ADVICE.get(code, '')}")

    def _made(self, name: str, type_: Any, *arguments: Any) -> int:
        """The handle that a function writes to its first argument."""
        made = type_()
        self._call(name, ctypes.byref(made), *arguments)
        return int(made.value or 0)

    def enter(self) -> None:
        """Make the context this thread's."""
        self._call("cuCtxSetCurrent", self._context)

    # -- memory --------------------------------------------------------------------------------
    def allocate(self, size: int) -> int:
        """Address of new memory. Raises OutOfMemory."""
        return self._made("cuMemAlloc_v2", ctypes.c_uint64, max(size, 1))

    def free(self, address: int) -> None:
        self._call("cuMemFree_v2", address)

    def memory(self) -> tuple[int, int]:
        """Bytes free, and in all."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def upload(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy from the host."""
        if size:
            self._call("cuMemcpyHtoDAsync_v2", target, source, size, stream)

    def download(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy to the host."""
        if size:
            self._call("cuMemcpyDtoHAsync_v2", target, source, size, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy on the device."""
        if size:
            self._call("cuMemcpyDtoDAsync_v2", target, source, size, stream)

    def set_word(self, target: int, value: int, stream: int) -> None:
        """Write 64 bits; reads no memory of the host, so that it may be part of a graph."""
        for offset in (0, 4):
            self._call("cuMemsetD32Async", target + offset, value >> 8 * offset & 0xFFFFFFFF, 1, stream)

    # -- code ----------------------------------------------------------------------------------
    def function(self, image: bytes, name: str, shared: int) -> int:
        """A kernel of a module's image, allowed `shared` bytes of shared memory."""
        module = self._made("cuModuleLoadData", ctypes.c_void_p, ctypes.cast(ctypes.c_char_p(image), _P))
        function = self._made("cuModuleGetFunction", ctypes.c_void_p, module, name.encode())
        if shared > FREE_SHARED_BYTES:
            self._call("cuFuncSetAttribute", function, _SHARED_BYTES, shared)
        return function

    # -- streams and graphs --------------------------------------------------------------------
    def stream(self) -> int:
        """A new stream, which does not wait for the default one."""
        return self._made("cuStreamCreate", ctypes.c_void_p, _NON_BLOCKING)

    def synchronize(self, stream: int) -> None:
        """Wait for all work of a stream."""
        self._call("cuStreamSynchronize", stream)

    def synchronize_all(self) -> None:
        """Wait for all work of the context."""
        self._call("cuCtxSynchronize")

    def order(self, before: int, after: int) -> None:
        """Let stream `after` wait for what is on stream `before` now."""
        if before != after:
            event = self.record(before)
            try:
                self._call("cuStreamWaitEvent", after, event, 0)
            finally:
                self.destroy_event(event)

    def record(self, stream: int) -> int:
        """A new event that happens when the stream has done what is on it now."""
        event = self._made("cuEventCreate", ctypes.c_void_p, _NO_TIMING)
        try:
            self._call("cuEventRecord", event, stream)
        except ExecutionError:
            self.destroy_event(event)
            raise
        return event

    def happened(self, event: int) -> bool:
        """Whether an event has happened."""
        code = self._library.cuEventQuery(event)
        if code not in (0, _NOT_READY):
            self.fail("cuEventQuery", code)
        return bool(code == 0)

    def destroy_event(self, event: int) -> None:
        """Forget an event; waits that were asked for stay."""
        self._call("cuEventDestroy_v2", event)

    def begin_capture(self, stream: int) -> None:
        self._call("cuStreamBeginCapture_v2", stream, _CAPTURE_THREAD)

    def end_capture(self, stream: int) -> int:
        """What was launched since `begin_capture`, ready to be launched as a whole."""
        graph = ctypes.c_void_p()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        executable = self._made("cuGraphInstantiateWithFlags", ctypes.c_void_p, graph.value, 0)
        self._call("cuGraphDestroy", graph.value)
        return executable

    def launch_graph(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)
