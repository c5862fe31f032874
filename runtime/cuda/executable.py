"""A GPU program in memory, and how it is called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ds_compiler.runtime.cuda.arrays import Borrowed, DeviceArray, borrow, described, on_device, put, stream_for
from ds_compiler.runtime.cuda.device import Block, Device, system_device
from ds_compiler.runtime.cuda.dlpack import Imported
from ds_compiler.runtime.cuda.driver import Driver, OutOfMemory
from ds_compiler.runtime.cuda.launch import Prepared
from ds_compiler.runtime.cuda.plan import Code, GpuProgram
from ds_compiler.runtime.dims import compile_sizes
from ds_compiler.runtime.dtypes import dtype_of
from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError
from ds_compiler.runtime.plan import Plan, Planner, describe

Array = np.ndarray[Any, Any]

_ALIGNMENT = 16  # of pointers that kernels get
_MOST_PREPARED = 16


class GpuExecutable:
    """A program, callable with host arrays or arrays on the device.

    Weights are uploaded once, here. Calls take turns.

    Args:
        constants: the constant block's bytes.
        device: the one to run on; by default the first of this machine.

    Raises:
        LoadError: no driver, no GPU, or one that cannot run the code.
        ExecutionError: the constants do not fit into the device's memory.
    """

    def __init__(
        self, program: GpuProgram, codes: Sequence[Code], constants: bytes, device: Device | None = None
    ) -> None:
        self.program, self.manifest = program, program.manifest
        self.device = system_device() if device is None else device
        driver = self._driver = self.device.driver
        check_device(program, driver)
        driver.enter()
        self._codes = tuple(codes)
        self._functions = [driver.function(c.image, c.name, c.shared) for c in codes]
        self._planner = Planner(program.manifest)
        self._dtypes = [dtype_of(t.dtype) for t in program.manifest.inputs]
        self._constants = self._take(len(constants), "constants", self.device.stream)
        source = np.frombuffer(constants, np.uint8)
        driver.upload(self._constants.address, source.ctypes.data, source.nbytes, self.device.stream)
        driver.synchronize(self.device.stream)
        self._flags = np.ones(max(len(program.manifest.checks), 1), np.uint8)
        self._flag = self._take(self._flags.nbytes, "flags", self.device.stream)
        self._arena: Block | None = None
        self._prepared: dict[tuple[tuple[int, ...], ...], Prepared] = {}
        self._staging: dict[tuple[str, int], Block] = {}
        self._stream = self.device.stream  # where the last call ran

    # -- calling -------------------------------------------------------------------------------
    def __call__(
        self,
        /,
        *inputs: Any,
        stream: int | None = None,
        donated: frozenset[int] = frozenset(),
        keep: bool = False,
        **named: Any,
    ) -> dict[str, Any]:
        """Outputs by name, for one dict, arrays in order, or keywords.

        Arrays on the host give NumPy arrays. If any input lies on the device (`DeviceArray`, PyTorch's, CuPy's, JAX's),
        results are `DeviceArray`s that nobody has waited for.

        Args:
            stream: the CUDA stream to launch on. By default PyTorch's current one if there are tensors of it, else the
                one that all programs share.
            donated: numbers of inputs that the caller gives up: outputs may take their memory. A `DeviceArray` cannot
                be read any more then.
            keep: leave results on the device whatever the inputs are.

        Raises:
            InputError: names, element types or shapes do not match.
            ExecutionError: the driver reports an error, memory does not suffice, or a check of the program failed.
        """
        arrays = self._in_order(inputs, named)
        with self.device.lock:
            self._driver.enter()
            return self._run(arrays, stream, donated, keep)

    def plan(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        """What a call with inputs of these shapes needs; for `run_at`.

        Raises:
            InputError: a shape does not fit.
        """
        return self._planner.plan(shapes)

    def run_at(
        self, plan: Plan, shapes: tuple[tuple[int, ...], ...], pointers: Sequence[int], stream: int | None = None
    ) -> None:
        """Run on memory that the caller answers for: addresses of all inputs, then of all outputs, each of the type and
        shape that `plan` was made for, row-major, aligned to 16 bytes, in order on `stream`. Nothing is checked.

        Raises:
            ExecutionError: the driver reports an error, memory does not suffice, or a check of the program failed.
        """
        with self.device.lock:
            self._driver.enter()
            self._launch(plan, shapes, pointers, self.device.stream if stream is None else stream)

    def memory(self) -> dict[str, int]:
        """Bytes held on the device: ``code``, ``constants``, ``arena``, and ``staging`` for arrays of the host."""
        return {
            "code": sum(len(c.image) for c in self._codes),
            "constants": self._constants.size,
            "arena": self._arena.size if self._arena else 0,
            "staging": sum(b.size for b in self._staging.values()),
        }

    # -- one call ------------------------------------------------------------------------------
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

    def _run(self, arrays: list[Any], stream: int | None, donated: frozenset[int], keep: bool) -> dict[str, Any]:
        there = [on_device(a) for a in arrays]
        keep = keep or any(there)
        arrays = [a if t else np.asarray(a) for a, t in zip(arrays, there, strict=True)]
        shapes = tuple([described(a)[1] if t else a.shape for a, t in zip(arrays, there, strict=True)])
        plan = self._planner.plan(shapes)
        self._check_types(arrays, there)
        stream = stream_for(arrays, self.device) if stream is None else stream
        self._continue_on(stream)
        try:
            for index in donated:
                if not there[index]:  # a place of its own, which an output then takes
                    arrays[index], there[index] = put(self.device, arrays[index]), True
        except OutOfMemory as error:
            raise self._out_of_memory(error, "a donated input", plan) from None
        pointers: list[int] = []
        borrowed: list[Borrowed] = []
        for index, (array, is_there) in enumerate(zip(arrays, there, strict=True)):
            if is_there:
                borrowed.append(self._borrow(index, array, stream))
                pointers.append(self._aligned(index, borrowed[-1], array, stream))
            else:
                pointers.append(self._upload(index, array, stream, plan))
        owners = self._outputs(plan, arrays, pointers, donated, keep, stream)
        self._launch(plan, shapes, [*pointers, *[address for address, _ in owners]], stream)
        for lent in borrowed:
            if lent.writer is not None:
                self._driver.order(stream, lent.writer)
        # Whoever names a stream answers for what is on it; a capsule is nobody's but ours.
        own = (Imported,) if stream != self.device.stream else object
        kept = [b.owner for b in borrowed if not isinstance(b.owner, Block) and isinstance(b.owner, own)]
        if kept:
            self.device.hold(kept, stream)
        for index in donated:
            if isinstance(arrays[index], DeviceArray):
                arrays[index].give_up()
        if not keep:
            return self._download(plan, [address for address, _ in owners], stream)
        pairs = zip(plan.outputs, owners, strict=True)
        return {o.name: DeviceArray(self.device, a, o.shape or (), o.dtype, stream, owner) for o, (a, owner) in pairs}

    def _check_types(self, arrays: Sequence[Any], there: Sequence[bool]) -> None:
        for index, (array, is_there, dtype) in enumerate(zip(arrays, there, self._dtypes, strict=True)):
            found, shape = described(array) if is_there else (array.dtype, array.shape)
            if found != dtype:
                tensor = self.program.manifest.inputs[index]
                raise InputError(f"input {tensor.name!r}: expected {tensor}, got {describe(found, shape)}")

    def _continue_on(self, stream: int) -> None:
        """The arena and the staging memory are those of the last call, which may have run on another stream."""
        self._driver.order(self._stream, stream)
        self._stream = stream

    def _launch(self, plan: Plan, shapes: tuple[tuple[int, ...], ...], pointers: Sequence[int], stream: int) -> None:
        self._continue_on(stream)
        self._ready(shapes, plan).run(pointers, stream)
        checks = self.program.manifest.checks
        if checks:
            self._driver.download(self._flags.ctypes.data, self._flag.address, len(checks), stream)
            self._driver.synchronize(stream)
            failed = [m for m, flag in zip(checks, self._flags) if not flag]
            if failed:
                raise ExecutionError(failed[0])

    def _borrow(self, index: int, array: Any, stream: int) -> Borrowed:
        name = self.program.manifest.inputs[index].name
        try:
            found = borrow(array, self.device, stream)
        except InputError as error:
            raise InputError(f"input {name!r}: {error}") from None
        if not found.contiguous:
            raise InputError(f"input {name!r} lies on the device with gaps or in another order: make it contiguous")
        return found

    def _aligned(self, index: int, found: Borrowed, array: Any, stream: int) -> int:
        """The address of a caller's array, or of an aligned copy."""
        if found.address % _ALIGNMENT == 0:
            return found.address
        dtype, shape = described(array)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        copy = self._stage("input", index, size, stream)
        self._driver.copy(copy, found.address, size, stream)
        return copy

    def _upload(self, index: int, array: Array, stream: int, plan: Plan) -> int:
        data = np.asarray(array, order="C")
        address = self._stage("input", index, data.nbytes, stream, plan)
        self._driver.upload(address, data.ctypes.data, data.nbytes, stream)
        return address

    def _outputs(
        self,
        plan: Plan,
        arrays: Sequence[Any],
        pointers: Sequence[int],
        donated: frozenset[int],
        keep: bool,
        stream: int,
    ) -> list[tuple[int, Any]]:
        """Address and owner of each output: memory of a donated input, new memory, or memory to download from."""
        if not keep:
            return [(self._stage("output", n, o.nbytes, stream, plan), None) for n, o in enumerate(plan.outputs)]
        given: dict[int, Block] = {}
        if donated:
            shared = Counter(pointers)
            usable = {
                n: a.owner
                for n in donated
                if isinstance(a := arrays[n], DeviceArray) and isinstance(a.owner, Block) and shared[pointers[n]] == 1
            }
            for pair in self.program.manifest.overwritable:
                if pair.output not in given and pair.input in usable:
                    given[pair.output] = usable.pop(pair.input)
        found: list[tuple[int, Any]] = []
        for index, output in enumerate(plan.outputs):
            block = given.get(index) or self._take(output.nbytes, f"the result {output.name!r}", stream, plan)
            if index in given:  # as if taken anew: later owners wait for this stream, which waits for all readers
                for reader in block.readers - {stream}:
                    self._driver.order(reader, stream)
                block.readers.clear()
                block.stream = stream
            found.append((block.address, block))
        return found

    def _download(self, plan: Plan, addresses: Sequence[int], stream: int) -> dict[str, Any]:
        outputs = {o.name: np.empty(o.shape or (), o.dtype) for o in plan.outputs}
        for address, array in zip(addresses, outputs.values(), strict=True):
            self._driver.download(array.ctypes.data, address, array.nbytes, stream)
        self._driver.synchronize(stream)
        return outputs

    # -- memory --------------------------------------------------------------------------------
    def _ready(self, shapes: tuple[tuple[int, ...], ...], plan: Plan) -> Prepared:
        if self._arena is None or plan.arena > self._arena.size:
            for other in self._prepared.values():
                other.release()
            self._prepared.clear()
            self._arena = None
            self._arena = self._take(plan.arena, "intermediate values", self._stream, plan)
        found = self._prepared.get(shapes)
        if found is None:
            while len(self._prepared) >= _MOST_PREPARED:
                self._prepared.pop(next(iter(self._prepared))).release()
            places = {"arena": self._arena, "constant": self._constants, "flag": self._flag}
            found = self._prepared[shapes] = Prepared(
                self.device, self.program, self._codes, self._functions, {k: b.address for k, b in places.items()},
                plan.symbols, lambda size: self._take(size, "scratch", self._stream, plan),
            )  # fmt: skip
        return found

    def _take(self, size: int, what: str, stream: int, plan: Plan | None = None) -> Block:
        try:
            return self.device.take(size, stream)
        except OutOfMemory as error:
            raise self._out_of_memory(error, f"{size} bytes for {what}", plan) from None

    def _out_of_memory(self, error: OutOfMemory, what: str, plan: Plan | None) -> ExecutionError:
        free, total = self._driver.memory()
        manifest = self.program.manifest
        message = (
            f"out of memory on the device {self._driver.name}: {what}, {free} of {total} are free; "
            f"the program's constants are {manifest.constant_block_bytes()} bytes"
        )
        if plan is not None:
            names = [s.name for s in manifest.symbols]
            sizes = compile_sizes([b for _, b in self.program.largest], names)(plan.symbols)
            parts = ", ".join(f"{n} ({b})" for (n, _), b in zip(self.program.largest, sizes, strict=True))
            outputs = sum(o.nbytes for o in plan.outputs)
            message += f", its results {outputs}, the plan's peak is {plan.arena}"
            message += f", its largest buffers: {parts or 'none'}"
        return OutOfMemory(f"{message} ({error})")

    def _stage(self, side: str, index: int, size: int, stream: int, plan: Plan | None = None) -> int:
        """Memory of its own for an input or output that comes from or goes to the host."""
        block = self._staging.get((side, index))
        if block is None or block.size < size:
            self._staging.pop((side, index), None)
            block = self._staging[side, index] = self._take(size, f"{side} {index}", stream, plan)
        block.stream = stream
        return block.address


def check_device(program: GpuProgram, driver: Driver) -> None:
    """Machine code runs on its own compute capability, and on later ones with the same first digit.

    Raises:
        LoadError: not on this device.
    """
    backend, _, arch = program.target.partition(":")
    if backend != "cuda":
        raise LoadError(f"programs for {backend} cannot be run yet, only compiled")
    wanted, has = int(arch), driver.capability
    if wanted // 10 != has // 10 or wanted > has:
        raise LoadError(
            f"the program is compiled for cuda:{wanted}, this GPU ({driver.name}) is cuda:{has}: compile for that, "
            "or with target='cuda'"
        )
