"""From the shapes of a call's inputs to everything that depends on them: symbols, output shapes, memory."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ds_compiler.runtime.abi import ALIGNMENT
from ds_compiler.runtime.dims import compile_sizes, is_static, symbols_in
from ds_compiler.runtime.dtypes import dtype_of, short_name
from ds_compiler.runtime.errors import InputError, LoadError
from ds_compiler.runtime.manifest import Manifest, Tensor

Shape = tuple[int, ...]

#: From this size on an output starts on a cache line; below, the arithmetic costs more than split lines do.
ALIGNED_OUTPUT_BYTES: Final = 64 << 10

_MAX_PLANS: Final = 256
_MAX_BYTES: Final = 1 << 47  # the address space of a process


@dataclass(frozen=True)
class OutputPlan:
    """One output: `shape` is None when it depends on data, and is known only after the run."""

    name: str
    dtype: np.dtype[np.generic]
    shape: Shape | None
    nbytes: int


@dataclass(frozen=True, eq=False)
class Plan:
    """What one combination of input shapes needs.

    Attributes:
        symbols: value of each symbol; 0 where the program stores it itself.
        arena, scratch: bytes of the arena, and of scratch a task (a multiple of 64).
        small: shape and type of all outputs when each is known and small; otherwise empty.
    """

    symbols: tuple[int, ...]
    outputs: tuple[OutputPlan, ...]
    arena: int
    scratch: int
    small: tuple[tuple[Shape, np.dtype[np.generic]], ...]


def describe(dtype: np.dtype[np.generic], shape: Sequence[int]) -> str:
    """How messages write an array's type: ``f32[1,3,224,224]``."""
    return f"{short_name(dtype.name)}[{','.join(map(str, shape))}]"


class Planner:
    """Checks input shapes against a manifest and makes (and keeps the most recent) plans.

    Raises:
        LoadError: the manifest's size expressions are malformed.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._dtypes = [dtype_of(t.dtype) for t in manifest.outputs]
        names = [s.name for s in manifest.symbols]
        late = {s.name for s in manifest.symbols if s.input is None}
        # Symbols keep their position, so that one array serves all expressions; the late ones read as 0 before a run.
        early_names = [n for n in names if n not in late]
        for tensor in manifest.inputs:
            self._require_known(tensor, early_names)
        self._input_dims = compile_sizes([d for t in manifest.inputs for d in t.dims], names)
        self._constraints = compile_sizes([c.expression for c in manifest.constraints], names)
        #: Indices of the outputs whose shape depends on data.
        self.late_outputs = [i for i, t in enumerate(manifest.outputs) if late & set().union(*map(symbols_in, t.dims))]
        self._output_dims = [compile_sizes(t.dims, names) for t in manifest.outputs]
        for what, text in (("arena", manifest.arena), ("scratch", manifest.scratch)):
            if late & symbols_in(text):
                raise LoadError(f"manifest: the size of the {what} depends on data")
        self._memory = compile_sizes([manifest.arena, manifest.scratch], names)
        self._plans: OrderedDict[tuple[Shape, ...], Plan] = OrderedDict()
        self._latest: Plan | None = None

    def _require_known(self, tensor: Tensor, known: Sequence[str]) -> None:
        for dim in tensor.dims:
            unknown = symbols_in(dim) - set(known)
            if unknown:
                raise LoadError(f"manifest: input {tensor.name!r} has size {dim!r}, but nothing binds {min(unknown)!r}")

    def plan(self, shapes: tuple[Shape, ...]) -> Plan:
        """The plan for these input shapes, in the inputs' order.

        Raises:
            InputError: a shape does not fit; the message names the input.
        """
        plan = self._plans.get(shapes)
        if plan is None:
            plan = self._plans[shapes] = self._make(shapes)
            while len(self._plans) > _MAX_PLANS:
                self._plans.popitem(last=False)
        elif plan is not self._latest:
            with contextlib.suppress(KeyError):  # another thread has just dropped it
                self._plans.move_to_end(shapes)
        self._latest = plan
        return plan

    def late_shape(self, output: int, symbols: Sequence[int]) -> Shape:
        """Shape of a data-dependent output, from the symbols' values after the run."""
        return self._output_dims[output](symbols)

    # -- making a plan ------------------------------------------------------------------------
    def _make(self, shapes: tuple[Shape, ...]) -> Plan:
        manifest = self._manifest
        for tensor, shape in zip(manifest.inputs, shapes, strict=True):
            if len(shape) != len(tensor.dims):
                raise self._mismatch(tensor, shape, f"it has {len(shape)} dimensions, must have {len(tensor.dims)}")
        symbols = tuple(0 if s.input is None or s.axis is None else shapes[s.input][s.axis] for s in manifest.symbols)
        try:
            self._check_inputs(shapes, symbols)
            self._check_constraints(symbols)
            arena, scratch = self._memory(symbols)
            outputs = tuple(self._output(index, symbols) for index in range(len(manifest.outputs)))
        except ZeroDivisionError:
            raise InputError(f"a size divides by zero for {self._bindings(symbols)}") from None
        if not 0 <= arena < _MAX_BYTES or not 0 <= scratch < _MAX_BYTES:
            raise InputError(f"the program would need {arena + scratch} bytes of memory for {self._bindings(symbols)}")
        scratch = (scratch + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
        small = tuple((o.shape, o.dtype) for o in outputs if o.shape is not None and o.nbytes < ALIGNED_OUTPUT_BYTES)
        return Plan(symbols, outputs, arena, scratch, small if len(small) == len(outputs) else ())

    def _check_inputs(self, shapes: tuple[Shape, ...], symbols: tuple[int, ...]) -> None:
        expected = iter(self._input_dims(symbols))
        for index, (tensor, shape) in enumerate(zip(self._manifest.inputs, shapes, strict=True)):
            for axis, (actual, dim) in enumerate(zip(shape, tensor.dims, strict=True)):
                value = next(expected)
                if actual == value:
                    continue
                if is_static(dim):
                    reason = f"must be {value}"
                else:
                    used = [i for i, s in enumerate(self._manifest.symbols) if s.name in symbols_in(dim)]
                    origin = ", ".join(self._origin(i, symbols) for i in used)
                    reason = (
                        f"must be {value}: {origin}"
                        if dim == "".join(self._manifest.symbols[i].name for i in used)
                        else f"must be {dim} = {value}: {origin}"
                    )
                raise self._mismatch(self._manifest.inputs[index], shape, f"axis {axis} is {actual}, {reason}")

    def _origin(self, symbol: int, symbols: tuple[int, ...]) -> str:
        source = self._manifest.symbols[symbol]
        assert source.input is not None
        return f"{source.name} = {symbols[symbol]} (axis {source.axis} of {self._manifest.inputs[source.input].name!r})"

    def _mismatch(self, tensor: Tensor, shape: Shape, reason: str) -> InputError:
        got = describe(dtype_of(tensor.dtype), shape)
        return InputError(f"input {tensor.name!r}: expected {tensor}, got {got}; {reason}")

    def _check_constraints(self, symbols: tuple[int, ...]) -> None:
        for constraint, holds in zip(self._manifest.constraints, self._constraints(symbols), strict=True):
            if not holds:
                reason = constraint.message or f"{constraint.expression} must hold"
                used = [
                    index
                    for index, symbol in enumerate(self._manifest.symbols)
                    if symbol.input is not None and symbol.name in symbols_in(constraint.expression)
                ]
                got = ", ".join(self._origin(index, symbols) for index in used) or self._bindings(symbols)
                raise InputError(f"{reason}, got {got}")

    def _output(self, index: int, symbols: tuple[int, ...]) -> OutputPlan:
        tensor, dtype = self._manifest.outputs[index], self._dtypes[index]
        if index in self.late_outputs:
            return OutputPlan(tensor.name, dtype, None, 0)
        shape = self._output_dims[index](symbols)
        nbytes = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or nbytes >= _MAX_BYTES:
            raise InputError(
                f"output {tensor.name!r} would be {describe(dtype, shape)} for {self._bindings(symbols)}: "
                "the inputs are too small or too large"
            )
        return OutputPlan(tensor.name, dtype, shape, nbytes)

    def _bindings(self, symbols: tuple[int, ...]) -> str:
        pairs = [f"{s.name} = {v}" for s, v in zip(self._manifest.symbols, symbols, strict=True) if s.input is not None]
        return ", ".join(pairs) or "these inputs"
