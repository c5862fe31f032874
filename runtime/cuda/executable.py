"""A GPU program in memory, and how it is called."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ds_compiler.runtime.cuda.arrays import DeviceArray, foreign
from ds_compiler.runtime.cuda.driver import Driver, OutOfMemory, system_driver
from ds_compiler.runtime.cuda.launch import Prepared
from ds_compiler.runtime.cuda.plan import Code, GpuProgram
from ds_compiler.runtime.dims import compile_sizes
from ds_compiler.runtime.dtypes import dtype_of
from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError
from ds_compiler.runtime.plan import Plan, Planner

Array = np.ndarray[Any, Any]

_ALIGNMENT = 16  # of pointers that kernels get
_MOST_PREPARED = 16


class GpuExecutable:
    """A program, callable with host arrays or arrays on the device.

    Weights are uploaded once, here. Calls take turns.

    Args:
        constants: the constant block's bytes.
        driver: the device to run on; by default the first one of this machine.

    Raises:
        LoadError: no driver, no GPU, or one that cannot run the code.
        ExecutionError: the constants do not fit into the device's memory.
    """

    def __init__(
        self, program: GpuProgram, codes: Sequence[Code], constants: bytes, driver: Driver | None = None
    ) -> None:
        self.program = program
        self._driver = driver = system_driver() if driver is None else driver
        _check_device(program, driver)
        driver.enter()
        self._codes = tuple(codes)
        self._functions = [driver.function(c.image, c.name, c.shared) for c in codes]
        self._stream = driver.stream()
        self._planner = Planner(program.manifest)
        self._dtypes = [dtype_of(t.dtype) for t in program.manifest.inputs]
        self._constants = self._allocate(len(constants), "constants")
        source = np.frombuffer(constants, np.uint8)
        driver.upload(self._constants, source.ctypes.data, source.nbytes, self._stream)
        driver.synchronize(self._stream)
        self._flags = np.ones(max(len(program.manifest.checks), 1), np.uint8)
        self._flag = self._allocate(self._flags.nbytes, "flags")
        self._arena, self._arena_size = 0, -1
        self._prepared: dict[tuple[tuple[int, ...], ...], Prepared] = {}
        self._staging: dict[tuple[str, int], tuple[int, int]] = {}
        self._free: dict[int, list[int]] = {}
        self._sizes: dict[int, int] = {}
        self._lock = threading.RLock()

    def __call__(self, /, *inputs: Any, stream: int | None = None, **named: Any) -> dict[str, Any]:
        """Outputs by name, for one dict, arrays in order, or keywords.

        Arrays on the host give NumPy arrays. If any input lies on the device (PyTorch, CuPy and other arrays with
        ``__cuda_array_interface__``), results are `DeviceArray`s that nobody has waited for.

        Args:
            stream: the CUDA stream to launch on; its owner's arrays are in order then. By default one of its own.

        Raises:
            InputError: names, element types or shapes do not match.
            ExecutionError: the driver reports an error, memory does not suffice, or a check of the program failed.
        """
        arrays = self._in_order(inputs, named)
        with self._lock:
            self._driver.enter()
            return self._run(arrays, self._stream if stream is None else stream)

    def _in_order(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        names = [t.name for t in self.program.manifest.inputs]
        if len(inputs) == 1 and not named and isinstance(inputs[0], Mapping):
            named, inputs = inputs[0], ()
        if inputs and (named or len(inputs) != len(names)):
            raise InputError(f"expected {len(names)} inputs ({', '.join(names)}), got {len(inputs)} in order")
        if inputs:
            return list(inputs)
        if set(named) != set(names):
            raise InputError(f"expected the inputs {', '.join(names)}, got {', '.join(named) or 'none'}")
        return [named[n] for n in names]

    def _run(self, arrays: list[Any], stream: int) -> dict[str, Any]:
        driver, manifest = self._driver, self.program.manifest
        on_device = [foreign(a) for a in arrays]
        host = [a if f is not None else np.asarray(a) for a, f in zip(arrays, on_device, strict=True)]
        shapes = tuple(f.shape if f is not None else a.shape for a, f in zip(host, on_device, strict=True))
        plan = self._planner.plan(shapes)
        pointers: list[int] = []
        for index, (array, there, dtype) in enumerate(zip(host, on_device, self._dtypes, strict=True)):
            found = there.dtype if there is not None else array.dtype
            if found != dtype:
                raise InputError(f"input {manifest.inputs[index].name!r}: expected {dtype}, got {found}")
            if there is not None:
                pointers.append(self._on_device(index, there.address, there.contiguous, shapes[index], dtype, stream))
                continue
            data = np.ascontiguousarray(array)
            pointers.append(self._stage("input", index, data.nbytes))
            driver.upload(pointers[-1], data.ctypes.data, data.nbytes, stream)
        keep = any(f is not None for f in on_device)
        results = [
            self._take(o.nbytes) if keep else self._stage("output", n, o.nbytes) for n, o in enumerate(plan.outputs)
        ]
        self._ready(shapes, plan).run([*pointers, *results], stream)
        if manifest.checks:
            driver.download(self._flags.ctypes.data, self._flag, len(manifest.checks), stream)
            driver.synchronize(stream)
            failed = [m for m, flag in zip(manifest.checks, self._flags) if not flag]
            if failed:
                raise ExecutionError(failed[0])
        if keep:
            pairs = zip(plan.outputs, results, strict=True)
            return {
                o.name: DeviceArray(address, o.shape or (), o.dtype, stream, self._give, self._fetch)
                for o, address in pairs
            }
        outputs = {o.name: np.empty(o.shape or (), o.dtype) for o in plan.outputs}
        for address, array in zip(results, outputs.values(), strict=True):
            driver.download(array.ctypes.data, address, array.nbytes, stream)
        driver.synchronize(stream)
        return outputs

    def _on_device(
        self, index: int, address: int, contiguous: bool, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int
    ) -> int:
        """The address of a caller's array, or of an aligned copy."""
        name = self.program.manifest.inputs[index].name
        if not contiguous:
            raise InputError(f"input {name!r} lies on the device with gaps or in another order: make it contiguous")
        if address % _ALIGNMENT == 0:
            return address
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        copy = self._stage("input", index, size)
        self._driver.copy(copy, address, size, stream)
        return copy

    # -- memory --------------------------------------------------------------------------------
    def _ready(self, shapes: tuple[tuple[int, ...], ...], plan: Plan) -> Prepared:
        if plan.arena > self._arena_size:
            for other in self._prepared.values():
                other.release()
            self._prepared.clear()
            if self._arena_size >= 0:
                self._driver.synchronize(self._stream)
                self._driver.free(self._arena)
            self._arena_size = -1
            self._arena = self._allocate(plan.arena, "intermediate values", plan)
            self._arena_size = plan.arena
        found = self._prepared.get(shapes)
        if found is None:
            while len(self._prepared) >= _MOST_PREPARED:
                self._prepared.pop(next(iter(self._prepared))).release()
            bases = {"arena": self._arena, "constant": self._constants, "flag": self._flag}
            found = self._prepared[shapes] = Prepared(
                self._driver, self.program, self._codes, self._functions, bases, plan.symbols,
                lambda size: self._allocate(size, "scratch"),
            )  # fmt: skip
        return found

    def _allocate(self, size: int, what: str, plan: Plan | None = None) -> int:
        try:
            return self._driver.allocate(size)
        except OutOfMemory:
            free, total = self._driver.memory()
            message = f"out of memory on the device: {size} bytes for {what}, {free} of {total} are free"
            if plan is not None:
                names = [s.name for s in self.program.manifest.symbols]
                sizes = compile_sizes([b for _, b in self.program.largest], names)(plan.symbols)
                parts = ", ".join(f"{n} ({b})" for (n, _), b in zip(self.program.largest, sizes, strict=True))
                message += f"; the plan's peak is {plan.arena}, its largest buffers: {parts or 'none'}"
            raise ExecutionError(message) from None

    def _stage(self, side: str, index: int, size: int) -> int:
        """Memory of its own for an input or output that comes from or goes to the host."""
        address, have = self._staging.get((side, index), (0, -1))
        if have < size:
            if have >= 0:
                self._driver.synchronize(self._stream)
                self._driver.free(address)
            address = self._allocate(size, f"{side} {index}")
            self._staging[side, index] = address, size
        return address

    def _take(self, size: int) -> int:
        """Memory for a result that the caller keeps."""
        waiting = self._free.get(size)
        address = waiting.pop() if waiting else self._allocate(size, "a result")
        self._sizes[address] = size
        return address

    def _give(self, address: int) -> None:
        """A result's memory comes back; later launches on the stream may overwrite it."""
        self._free.setdefault(self._sizes.pop(address), []).append(address)

    def _fetch(self, array: DeviceArray) -> Array:
        result = np.empty(array.shape, array.dtype)
        with self._lock:
            self._driver.enter()
            self._driver.download(result.ctypes.data, array.address, result.nbytes, array.stream)
            self._driver.synchronize(array.stream)
        return result


def _check_device(program: GpuProgram, driver: Driver) -> None:
    """Machine code runs on its own compute capability, and on later ones with the same first digit."""
    backend, _, arch = program.target.partition(":")
    if backend != "cuda":
        raise LoadError(f"programs for {backend} cannot be run yet, only compiled")
    wanted, has = int(arch), driver.capability
    if wanted // 10 != has // 10 or wanted > has:
        raise LoadError(f"the program is compiled for cuda:{wanted}, this GPU is cuda:{has}: compile for that")
