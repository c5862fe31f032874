"""A compiled program in memory, and how it is called."""

from __future__ import annotations

import ctypes
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from ds_compiler.runtime import abi
from ds_compiler.runtime import threads as pools
from ds_compiler.runtime.abi import Word
from ds_compiler.runtime.cpu import architecture, missing_features, thread_count
from ds_compiler.runtime.dims import compile_sizes
from ds_compiler.runtime.dtypes import dtype_of
from ds_compiler.runtime.elf import LoadedObject
from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError
from ds_compiler.runtime.manifest import Manifest
from ds_compiler.runtime.memory import ConstantBlock
from ds_compiler.runtime.plan import ALIGNED_OUTPUT_BYTES, OutputPlan, Plan, Planner, describe
from ds_compiler.runtime.workspace import Workspace

Array = np.ndarray[Any, Any]
Constants = ConstantBlock | bytes | bytearray | memoryview | Mapping[str, Array] | None

_char_from: Callable[[Any], ctypes.c_char] = ctypes.c_char.from_buffer
_addressof = ctypes.addressof
_empty = np.empty
_shape = operator.attrgetter("shape")
_PROFILE: Final = int(Word.PROFILE)
_POOL: Final = int(Word.POOL)


class KernelTime(NamedTuple):
    """One kernel's part in a profile: its median time a call, and the work it did in it."""

    name: str
    nodes: tuple[str, ...]
    seconds: float
    flops: int
    bytes: int
    tier: str


class Executable:
    """A program, callable with NumPy arrays. Several threads may call it at once.

    Args:
        program: the object file that defines ``dsc_main``.
        manifest: its description.
        constants: the constant block, its bytes, or the constants by name.
        pool_object: the pool object (`ds_compiler.runtime.abi.POOL_SYMBOLS`).
        threads: how many threads a call uses; by default one for each core this process may use.

    Raises:
        LoadError: the code cannot be loaded, or not run on this CPU, or constants are missing.
        ValueError: `threads` is out of range.
    """

    def __init__(
        self,
        program: bytes,
        manifest: Manifest,
        constants: Constants = None,
        *,
        pool_object: bytes,
        threads: int | None = None,
    ) -> None:
        check_machine(manifest)
        manifest.validate()
        self.manifest = manifest
        self._planner = Planner(manifest)
        self._constants = constant_block(manifest, constants)
        self._object = LoadedObject(program)
        self._main = self._object.function(abi.MAIN_SYMBOL, None, ctypes.c_void_p)
        self._pool_code = pools.pool_code(pool_object)
        self.threads = threads
        self._input_names = tuple(t.name for t in manifest.inputs)
        self._output_names = tuple(t.name for t in manifest.outputs)
        self._dtypes = [dtype_of(t.dtype) for t in manifest.inputs]
        self._mask = max([dtype.alignment for dtype in self._dtypes], default=1) - 1
        self._addresses, self._python = self._pool_code.addresses, self._pool_code.python
        self._late_outputs = self._planner.late_outputs
        self._idle: list[Workspace] = []

    # -- calling ------------------------------------------------------------------------------
    def __call__(
        self,
        /,
        *inputs: Any,
        out: Mapping[str, Array] | None = None,
        donated: frozenset[int] = frozenset(),
        **named: Any,
    ) -> dict[str, Array]:
        """Run on one dict, on arrays in the inputs' order, or on keyword arguments; returns outputs by name.

        Args:
            out: arrays to write outputs into instead of new ones; exact type and shape, contiguous, not overlapping.
            donated: numbers of inputs whose arrays outputs may be written into, where the program allows it and the
                array is contiguous, aligned, writeable and shares no memory with another input.

        Raises:
            InputError: names, element types or shapes do not match.
            ExecutionError: a check inside of the program failed, or memory does not suffice.
        """
        if len(inputs) == 1 and not named and (type(inputs[0]) is dict or isinstance(inputs[0], Mapping)):
            arrays = self._by_name(inputs[0])
        elif inputs:
            if named or len(inputs) != len(self._input_names):
                raise InputError(
                    f"expected {len(self._input_names)} inputs ({self._signature()}), got {len(inputs)} in order"
                    + (f" and {len(named)} by name" if named else "")
                )
            arrays = list(inputs)
        else:
            arrays = self._by_name(named)
        return dict(zip(self._output_names, self._execute(arrays, out, donated)))

    def run(self, names: Sequence[str] | None, inputs: Mapping[str, Any]) -> list[Array]:
        """onnxruntime's convention: the outputs called `names`, or all, as a list.

        Raises:
            InputError: as for a call; or an output does not exist.
            ExecutionError: a check inside of the program failed, or memory does not suffice.
        """
        if names is None:
            return self._execute(self._by_name(inputs), None)
        for name in names:
            if name not in self._output_names:
                raise InputError(f"unknown output {name!r}{_suggest(name, self._output_names)}")
        results = dict(zip(self._output_names, self._execute(self._by_name(inputs), None)))
        return [results[name] for name in names]

    def profile(self, inputs: Mapping[str, Any], repeat: int = 10) -> list[KernelTime]:
        """Time of every kernel in program order, the median over `repeat` calls after one to warm up.

        Raises:
            ValueError: `repeat` is less than 1.
            InputError, ExecutionError: as for a call.
        """
        if repeat < 1:
            raise ValueError(f"repeat must be at least 1, got {repeat}")
        count = len(self.manifest.kernels)
        ticks = (ctypes.c_int64 * count)()
        arrays = self._by_name(inputs)
        samples: list[list[int]] = []
        out: dict[str, Array] = {}
        for _ in range(repeat + 1):
            ctypes.memset(ticks, 0, ctypes.sizeof(ticks))
            results = self._execute(list(arrays), out, profile=_addressof(ticks))
            # Later rounds write into the first one's arrays: pages that are new would be counted as a kernel's time.
            known = (n for n in range(len(results)) if n not in self._late_outputs)
            out = {self._output_names[n]: results[n] for n in known}
            samples.append(list(ticks))
        medians = np.median(np.array(samples[1:], np.float64).reshape(repeat, count), axis=0)
        shapes = tuple(np.shape(a) for a in arrays)
        symbols = self._planner.plan(shapes).symbols
        names = [s.name for s in self.manifest.symbols]
        result = []
        for kernel, median in zip(self.manifest.kernels, medians):
            flops, moved = compile_sizes([kernel.flops, kernel.bytes], names)(symbols)
            seconds = float(median) / self._pool_code.ticks_per_second
            result.append(KernelTime(kernel.name, kernel.nodes, seconds, flops, moved, kernel.tier))
        return result

    @property
    def threads(self) -> int:
        """Threads a call uses; may be set."""
        return self._threads

    @threads.setter
    def threads(self, count: int | None) -> None:
        count = thread_count() if count is None else count
        if count < 1:
            raise ValueError(f"threads must be at least 1, got {count}")
        if count > 1:
            pools.pool(self._pool_code, count)
        self._threads = count

    def memory(self) -> dict[str, int]:
        """Bytes held now: ``code``, ``constants``, and ``arena`` (with scratch) over all idle workspaces."""
        arena = sum(w.arena.size + w.scratch.size for w in list(self._idle))
        return {"code": self._object.size, "constants": self._constants.size, "arena": arena}

    # -- one call -----------------------------------------------------------------------------
    def _by_name(self, inputs: Mapping[str, Any]) -> list[Any]:
        try:
            arrays = [inputs[name] for name in self._input_names]
            if len(arrays) == len(inputs):
                return arrays
        except KeyError:
            pass
        for name in inputs:
            if name not in self._input_names:
                raise InputError(f"unknown input {name!r}{_suggest(str(name), self._input_names)}")
        missing = [repr(n) for n in self._input_names if n not in inputs]
        raise InputError(f"missing input {', '.join(missing)}; the program takes {self._signature()}")

    def _signature(self) -> str:
        return ", ".join(f"{t.name}: {t}" for t in self.manifest.inputs) or "none"

    def _execute(
        self,
        arrays: list[Any],
        out: Mapping[str, Array] | None,
        donated: frozenset[int] = frozenset(),
        profile: int = 0,
    ) -> list[Array]:
        # Written for its cost: a small model runs in less time than careless Python around it takes. The common case
        # is tried first; whatever does not fit it (or raises on the way) is looked at one by one.
        try:
            fits = [array.dtype for array in arrays] == self._dtypes
            shapes = tuple(map(_shape, arrays))
        except (AttributeError, TypeError):
            fits = False
        if not fits:
            arrays = [self._converted(index, array) for index, array in enumerate(arrays)]
            shapes = tuple(map(_shape, arrays))
        plan = self._planner.plan(shapes)
        if donated:
            given = self._overwritten(arrays, donated)
            results: list[Any] = [
                given[n] if n in given else None if output.shape is None else _new_output(output, output.shape)
                for n, output in enumerate(plan.outputs)
            ]
        elif plan.small:
            results = [_empty(shape, dtype) for shape, dtype in plan.small]
        else:
            results = [None if output.shape is None else _new_output(output, output.shape) for output in plan.outputs]
        if out:
            self._redirect(out, plan, arrays, results)

        try:
            workspace = self._idle.pop()  # taken and given back in one step each: no lock among calling threads
        except IndexError:
            workspace = self._new_workspace()
        threads = self._threads
        if workspace.plan is not plan or workspace.threads != threads:
            try:
                workspace.adapt(plan, threads)
            except MemoryError as error:
                raise ExecutionError(f"out of memory for intermediate values: {error}") from None
        everything = arrays + results
        count = len(everything)
        if self._addresses(everything, count, self._mask, workspace.pointers_address, self._python) != count:
            arrays = [self._converted(index, array) for index, array in enumerate(arrays)]
            workspace.pointers[:] = [0 if array is None else _address(array) for array in arrays + results]
        workspace.context[_PROFILE] = profile
        self._launch(workspace, threads)
        try:
            if workspace.status.value:
                raise self._failure(workspace.status.value)
            if self._late_outputs:
                self._collect_late(plan, workspace, results)
        finally:
            for index in self._late_outputs:
                _libc_free()(workspace.pointers[len(arrays) + index])
        self._idle.append(workspace)
        return results

    def _launch(self, workspace: Workspace, threads: int) -> None:
        if threads == 1:
            self._main(workspace.address)
        else:
            pool = pools.pool(self._pool_code, threads)
            workspace.context[_POOL] = pool.address
            with pool.lock:
                self._main(workspace.address)

    def plan(self, shapes: tuple[tuple[int, ...], ...]) -> Plan:
        """What a call with inputs of these shapes needs; for `run_at`.

        Raises:
            InputError: a shape does not fit.
        """
        return self._planner.plan(shapes)

    def run_at(self, plan: Plan, pointers: list[ctypes.c_int64 | int]) -> None:
        """Run on memory that the caller answers for: addresses of all inputs, then of all outputs, each of the type and
        shape that `plan` was made for, row-major, aligned to its elements, outputs apart from all else.

        For callers whose arrays are not NumPy's, and for whom every microsecond counts: nothing is checked.

        Raises:
            ExecutionError: a check inside of the program failed, or memory does not suffice.
            ValueError: the shape of an output depends on data.
        """
        if self._late_outputs:
            raise ValueError("an output's shape depends on data, so that nobody can have given its memory")
        try:
            workspace = self._idle.pop()
        except IndexError:
            workspace = self._new_workspace()
        threads = self._threads
        if workspace.plan is not plan or workspace.threads != threads:
            try:
                workspace.adapt(plan, threads)
            except MemoryError as error:
                raise ExecutionError(f"out of memory for intermediate values: {error}") from None
        workspace.pointers[:] = pointers
        workspace.context[_PROFILE] = 0
        self._launch(workspace, threads)
        if workspace.status.value:
            raise self._failure(workspace.status.value)
        self._idle.append(workspace)

    def _new_workspace(self) -> Workspace:
        manifest = self.manifest
        counts = len(manifest.inputs), len(manifest.outputs), len(manifest.symbols)
        return Workspace(*counts, self._constants.address, self._pool_code)

    def _converted(self, index: int, value: Any) -> Array:
        """`value` as a contiguous, aligned array of input `index`'s element type; no number is ever changed."""
        tensor, dtype = self.manifest.inputs[index], self._dtypes[index]
        try:
            array = np.asarray(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"input {tensor.name!r}: expected {tensor}, got {type(value).__name__}: {error}") from None
        if array.dtype == dtype:
            return np.require(array, requirements=("C", "A"))
        got = describe(array.dtype, array.shape) if array.dtype.kind not in "OSU" else f"{type(value).__name__}[]"
        text = f"input {tensor.name!r}: expected {tensor}, got {got}"
        if array.dtype.kind in "OSU":
            raise InputError(text)
        if array.dtype.newbyteorder("=") == dtype:
            raise InputError(f"{text} in foreign byte order; convert it with .astype(array.dtype.newbyteorder('='))")
        raise InputError(f"{text}; convert it with .astype({dtype.name!r}) if that is what you mean")

    def _redirect(self, out: Mapping[str, Array], plan: Plan, inputs: list[Array], results: list[Any]) -> None:
        """Let outputs go to the caller's arrays."""
        used: list[Array] = []
        for name, array in out.items():
            if name not in self._output_names:
                raise InputError(f"unknown output {name!r}{_suggest(name, self._output_names)}")
            index = self._output_names.index(name)
            expected = plan.outputs[index]
            if expected.shape is None:
                raise InputError(f"out {name!r}: the shape of this output depends on data, so it cannot be given")
            if type(array) is not np.ndarray or array.dtype != expected.dtype or array.shape != expected.shape:
                got = describe(array.dtype, array.shape) if isinstance(array, np.ndarray) else type(array).__name__
                raise InputError(f"out {name!r}: expected {describe(expected.dtype, expected.shape)}, got {got}")
            if not (array.flags.c_contiguous and array.flags.aligned and array.flags.writeable):
                raise InputError(f"out {name!r}: the array must be contiguous, aligned and writeable")
            for other in (*inputs, *used):
                if np.may_share_memory(array, other):
                    raise InputError(f"out {name!r}: the array shares memory with an input or another output")
            used.append(array)
            results[index] = array

    def _overwritten(self, arrays: list[Array], donated: frozenset[int]) -> dict[int, Array]:
        """Which outputs go to which donated inputs' arrays."""
        spans = sorted((_address(a), a.nbytes, n) for n, a in enumerate(arrays) if a.nbytes)
        usable = {n for _, _, n in spans if n in donated and type(arrays[n]) is np.ndarray and arrays[n].flags.carray}
        end, owner = 0, -1
        for start, size, index in spans:
            if start < end:
                usable -= {index, owner}
            if start + size > end:
                end, owner = start + size, index
        given: dict[int, Array] = {}
        for pair in self.manifest.overwritable:
            if pair.input in usable and pair.output not in given:
                given[pair.output] = arrays[pair.input]
                usable.remove(pair.input)
        return given

    def _collect_late(self, plan: Plan, workspace: Workspace, results: list[Any]) -> None:
        """Copy outputs that the program has allocated itself into arrays."""
        for index in self._late_outputs:
            output, address = plan.outputs[index], workspace.pointers[len(self._dtypes) + index]
            shape = self._planner.late_shape(index, list(workspace.symbols))
            if min(shape, default=0) < 0:
                raise ExecutionError(f"output {output.name!r}: the program computed the shape {shape}")
            results[index] = array = _new_output(output, shape)
            if array.nbytes and not address:
                raise ExecutionError(f"output {output.name!r}: the program did not produce it")
            ctypes.memmove(_address(array), address, array.nbytes)

    def _failure(self, word: int) -> ExecutionError:
        code, check = abi.unpack_status(word)
        known = 0 <= check < len(self.manifest.checks)
        return ExecutionError(self.manifest.checks[check] if known else f"{code.name.lower()} check {check} failed")


def check_machine(manifest: Manifest) -> None:
    """Check that this CPU can run the code.

    Raises:
        LoadError: naming the instruction set or the features it lacks.
    """
    if manifest.arch != architecture():
        raise LoadError(f"unsupported architecture: compiled for {manifest.arch}, this CPU is {architecture()}")
    missing = missing_features(manifest.features)
    if missing:
        raise LoadError(
            f"needs {', '.join(missing)}, this CPU lacks {'it' if len(missing) == 1 else 'them'}; "
            "compile for an older target such as x86-64-v2"
        )


def constant_block(manifest: Manifest, constants: Constants) -> ConstantBlock:
    """The constant block that a manifest describes, from any of the forms in which constants may be given.

    Raises:
        LoadError: a constant is missing, or of another type or shape.
    """
    size = manifest.constant_block_bytes()
    if isinstance(constants, Mapping):
        block, view = ConstantBlock.empty(size)
        for entry in manifest.constants:
            array = constants.get(entry.name)
            if array is None or array.shape != entry.shape or array.dtype != dtype_of(entry.dtype):
                got = "nothing" if array is None else describe(array.dtype, array.shape)
                expected = describe(dtype_of(entry.dtype), entry.shape)
                raise LoadError(f"constant {entry.name!r}: expected {expected}, got {got}")
            flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            view[entry.offset : entry.offset + entry.nbytes] = flat.data
        return block
    if constants is None:
        constants = b""
    if not isinstance(constants, ConstantBlock):
        constants = ConstantBlock.copy_of(constants)
    if constants.size < size:
        raise LoadError(f"constants: the program needs {size} bytes, got {constants.size}")
    return constants


def _address(array: Array) -> int:
    try:
        return _addressof(_char_from(array))
    except (TypeError, ValueError, BufferError):  # empty, or of a type that buffers do not know
        return int(array.__array_interface__["data"][0])


def _new_output(output: OutputPlan, shape: tuple[int, ...]) -> Array:
    nbytes = math.prod(shape) * output.dtype.itemsize
    try:
        if nbytes < ALIGNED_OUTPUT_BYTES:
            return np.empty(shape, output.dtype)
        raw = np.empty(nbytes + abi.ALIGNMENT, np.uint8)
    except (MemoryError, ValueError):  # too large for this machine, or for any
        what = describe(output.dtype, shape)
        raise ExecutionError(f"output {output.name!r}: out of memory for {what}, {nbytes} bytes") from None
    return np.ndarray(shape, output.dtype, raw, -_address(raw) % abi.ALIGNMENT)


@functools.cache
def _libc_free() -> Callable[[int], None]:
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(pools.required_symbol("free"))


def _suggest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known) or 'none'}"
