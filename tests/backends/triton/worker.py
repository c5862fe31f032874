"""Runs GPU programs under Triton's interpreter: a process of its own, since interpreting is decided at import.

Reads pickled requests (program, constants, inputs) from stdin, writes pickled answers to stdout.

The interpreter of Triton 3.9 computes bfloat16 on its bit patterns and truncates in conversions, and reduces with a
function of ours one element at a time: `patch` replaces these parts by NumPy, with what the GPU computes.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import ml_dtypes
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from ds_compiler.runtime.cuda.device import Device
from ds_compiler.runtime.cuda.driver import Driver
from ds_compiler.runtime.cuda.executable import GpuExecutable
from ds_compiler.runtime.cuda.plan import Code, Copy, GpuProgram, Kernel, Launch, Place, SetSize
from ds_compiler.runtime.dims import compile_sizes
from ds_compiler.runtime.plan import Planner
from tests.runtime.cuda.fake import FakeLibrary

Array = np.ndarray[Any, Any]

CANARY = 0xA5
MARGIN = 256
_NARROW = {
    tl.bfloat16: ml_dtypes.bfloat16,
    tl.float8e4nv: ml_dtypes.float8_e4m3fn,
    tl.float8e5: ml_dtypes.float8_e5m2,
}


def patch() -> None:
    """Replace what the interpreter gets wrong or does slowly."""
    builder = interpreter.InterpreterBuilder

    def numbers(handle: Any) -> Array:
        narrow = _NARROW.get(handle.dtype.scalar)
        return np.asarray(handle.data) if narrow is None else handle.data.view(narrow)

    def convert(self: Any, source: Any, to: Any, *_: Any) -> Any:
        narrow = _NARROW.get(to.scalar)
        with np.errstate(all="ignore"):
            wide = numbers(source)
            if narrow is None:
                data = wide.astype(interpreter._get_np_dtype(to))
            else:
                data = wide.astype(np.float32).astype(narrow).view(interpreter._get_np_dtype(to))
        return interpreter.TensorHandle(data, to.scalar)

    def dot(self: Any, a: Any, b: Any, total: Any, *_: Any) -> Any:
        product = np.matmul(numbers(a).astype(total.data.dtype), numbers(b).astype(total.data.dtype))
        return interpreter.TensorHandle(product + total.data, total.dtype.scalar)

    atomic = builder.create_atomic_rmw

    def atomic_narrow(self: Any, how: Any, pointer: Any, value: Any, mask: Any, *rest: Any) -> Any:
        narrow = _NARROW.get(value.dtype.scalar)
        if narrow is None:
            return atomic(self, how, pointer, value, mask, *rest)
        values = value.data.view(narrow).astype(np.float32)
        for address, number, wanted in zip(pointer.data.flat, values.flat, mask.data.flat, strict=True):
            if wanted:  # only sums of bfloat16 are made this way
                place = np.ctypeslib.as_array(ctypes.cast(int(address), ctypes.POINTER(ctypes.c_uint16)), (1,))
                place[:] = (place.view(narrow).astype(np.float32) + number).astype(narrow).view(np.uint16)
        return value

    builder.create_atomic_rmw = atomic_narrow
    for name in ("cast_impl", "create_fp_to_fp"):
        setattr(builder, name, convert)
    builder.create_dot = dot

    simple = {"add": np.add, "multiply": np.multiply, "maximum": np.maximum, "minimum": np.minimum}
    reduce_slowly, scan_slowly = interpreter.ReduceOps.generic_reduce, interpreter.ScanOps.generic_scan

    def reduce(self: Any, values: Any) -> Any:
        name = self.combine_fn.fn.__name__
        data = [v.handle.data for v in values]
        if name in simple:
            return [self.to_tensor(simple[name].reduce(data[0], self.axis, keepdims=self.keep_dims), values[0].dtype)]
        if name.startswith(("max_", "min_")):
            value, position = _extremum(name, data[0], data[1], self.axis, self.keep_dims)
            return [self.to_tensor(value, values[0].dtype), self.to_tensor(position, values[1].dtype)]
        return reduce_slowly(self, values)

    def scan(self: Any, values: Any) -> Any:
        name = self.combine_fn.fn.__name__
        if name not in simple:
            return scan_slowly(self, values)
        return [self.to_tensor(simple[name].accumulate(values[0].handle.data, self.axis), values[0].dtype)]

    interpreter.ReduceOps.generic_reduce = reduce
    interpreter.ScanOps.generic_scan = scan


def _extremum(name: str, values: Array, positions: Array, axis: int, keep: bool) -> tuple[Array, Array]:
    """Values and positions of `ds_compiler.backends.triton.library.max_first` and the like."""
    best = (np.max if name.startswith("max") else np.min)(values, axis, keepdims=True)
    same = (values == best) | (np.isnan(values) if values.dtype.kind == "f" else False)
    if name.endswith("first"):
        found = np.where(same, positions, np.iinfo(np.int64).max).min(axis, keepdims=True)
    else:
        found = np.where(same, positions, -1).max(axis, keepdims=True)
    return (best, found) if keep else (best.squeeze(axis), found.squeeze(axis))


class Memory:
    """Bytes with canaries around them."""

    def __init__(self, size: int, fill: Array | None = None) -> None:
        self._whole = np.full(size + 2 * MARGIN + 64, CANARY, np.uint8)
        start = MARGIN + (-(self._whole.ctypes.data + MARGIN)) % 64
        self.bytes = self._whole[start : start + size]
        self._start, self._size = start, size
        if fill is not None:
            self.bytes[:] = np.ascontiguousarray(fill).reshape(-1).view(np.uint8)

    @property
    def address(self) -> int:
        return int(self._whole.ctypes.data) + self._start

    def intact(self) -> bool:
        around = self._whole[: self._start], self._whole[self._start + self._size :]
        return all(bool((part == CANARY).all()) for part in around)


class Run:
    """One call of a program."""

    def __init__(self, program: GpuProgram, constants: bytes, inputs: list[Array], functions: Functions) -> None:
        self.program, self.functions = program, functions
        plan = Planner(program.manifest).plan(tuple(a.shape for a in inputs))
        self.names = [s.name for s in program.manifest.symbols]
        self.values = plan.symbols
        self.outputs = [(o.dtype, o.shape) for o in plan.outputs]
        self.spaces: dict[str, list[Memory]] = {
            "input": [Memory(a.nbytes, a) for a in inputs],
            "output": [Memory(o.nbytes) for o in plan.outputs],
            "arena": [Memory(plan.arena)],
            "flag": [Memory(len(program.manifest.checks))],
            "constant": [Memory(len(constants), np.frombuffer(constants, np.uint8))],
        }

    def size(self, text: str) -> int:
        return compile_sizes([text], self.names)(self.values)[0]

    def view(self, place: Place, count: int) -> Array:
        start = self.size(place.offset)
        return self.spaces[place.space][place.index].bytes[start : start + count]

    def run(self) -> list[Array]:
        for step in self.program.steps:
            match step:
                case Launch():
                    self._launch(step)
                case Copy():
                    count = self.size(step.bytes)
                    self.view(step.target, count)[:] = self.view(step.source, count)
                case SetSize():
                    self.view(step.target, 8)[:] = np.array([self.size(step.value)], np.int64).view(np.uint8)
        broken = [f"{s} {n}" for s, memories in self.spaces.items() for n, m in enumerate(memories) if not m.intact()]
        if broken:
            raise AssertionError(f"a kernel wrote outside of {', '.join(broken)}")
        failed = [m for m, f in zip(self.program.manifest.checks, self.spaces["flag"][0].bytes, strict=True) if not f]
        if failed:
            raise AssertionError(failed[0])
        results = zip(self.spaces["output"], self.outputs, strict=True)
        return [m.bytes.view(dtype).reshape(shape or ()).copy() for m, (dtype, shape) in results]

    def _launch(self, step: Launch) -> None:
        kernel = self.program.kernels[step.kernel]
        arguments = []
        for argument, (_, signature) in zip(step.arguments, kernel.signature, strict=True):
            if isinstance(argument, str):
                value = np.array([self.values[self.names.index(argument)]], np.int64)
                arguments.append(tl.tensor(interpreter.TensorHandle(value, tl.int64), tl.int64))
                continue
            memory = self.spaces[argument.space][argument.index]
            address = np.array([memory.address + self.size(argument.offset)], np.uint64)
            type_ = tl.str_to_ty(signature, None)
            arguments.append(tl.tensor(interpreter.TensorHandle(address, type_), type_))
        grid = self.size(step.grid)
        if grid:
            with np.errstate(all="ignore"):
                self.functions(kernel.name, kernel.source)[(grid,)](*arguments)


def launcher(kernels: Mapping[str, Kernel], functions: Functions) -> Callable[[str, int, list[int]], None]:
    """What a launch does: interpret the kernel of that name."""

    def launch(name: str, grid: int, parameters: list[int]) -> None:
        kernel = kernels[name]
        arguments = []
        for (_, signature), address in zip(kernel.signature, parameters):
            word = ctypes.c_uint64.from_address(address).value
            type_ = tl.str_to_ty(signature, None)
            data = np.array([word], np.uint64)
            arguments.append(
                tl.tensor(interpreter.TensorHandle(data if signature[0] == "*" else data.view(np.int64), type_), type_)
            )
        with np.errstate(all="ignore"):
            functions(name, kernel.source)[(grid,)](*arguments)

    return launch


def run_through_driver(program: GpuProgram, constants: bytes, inputs: list[Array], functions: Functions) -> list[Array]:
    """The same by way of the runtime: a driver library whose memory is this process's, and whose launches interpret.

    The second of two calls is the replay of a graph.
    """
    launch = launcher({k.name: k for k in program.kernels}, functions)
    codes = [Code(k.name, "", k.name.encode(), 32 * k.num_warps, 0) for k in program.kernels]
    run = GpuExecutable(program, codes, constants, Device(Driver(FakeLibrary(launch))))
    first = run(*inputs) if inputs else run({})
    again = run(*inputs) if inputs else run({})
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    return list(again.values())


class Functions:
    """Kernels' functions, each source loaded once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._loaded = folder, dict[str, Any]()

    def __call__(self, name: str, source: str) -> Any:
        if name not in self._loaded:
            path = self._folder / f"{name}.py"
            path.write_text(source)
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            self._loaded[name] = getattr(module, name)
        return self._loaded[name]


def serve(read: Callable[[], Any], write: Callable[[Any], None]) -> None:
    """Answer requests until there are no more."""
    with tempfile.TemporaryDirectory() as folder:
        functions = Functions(Path(folder))
        while True:
            try:
                request = read()
            except EOFError:
                return
            try:
                *call, through_driver = request
                if through_driver:
                    write(("ok", run_through_driver(*call, functions)))
                else:
                    write(("ok", Run(*call, functions).run()))
            except Exception:
                write(("error", traceback.format_exc()))


def main() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what kernels or libraries print must not get between the answers

    def write(answer: Any) -> None:
        pickle.dump(answer, answers)
        answers.flush()

    patch()
    serve(lambda: pickle.load(sys.stdin.buffer), write)


if __name__ == "__main__":
    main()
