"""The oracle: runs any tensor-level module on NumPy, one operation at a time.

Each operation computes itself (`Operation.evaluate`); control flow, calls and the binding of sizes are done here.
Derivatives of functions are expanded first.
Every result is checked against its stated type, so a wrong type rule shows at the operation that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ds_compiler.ir import CompileError, Function, Module, Operation, Region, TensorType, Value
from ds_compiler.ir.dims import Expr, evaluate, substitute, symbols_of
from ds_compiler.ops import Bind, Call, Composite, CustomCall, Fusion, If, Jvp, Scan, Vjp, While
from ds_compiler.passes.grad import expand_derivatives

Array: TypeAlias = np.ndarray[Any, Any]
Trace: TypeAlias = Callable[[Operation, Sequence[Array]], None]


def interpret(
    program: Module | Function,
    inputs: Mapping[str, Any] | Sequence[Any],
    symbols: Mapping[str, int] | None = None,
    *,
    trace: Trace | None = None,
) -> list[Array]:
    """Results of `program` (a module's ``main``, or a function that calls no other) for `inputs`.

    Args:
        inputs: arrays by argument name, or in the arguments' order.
        symbols: values of symbolic sizes that no argument's shape determines.
        trace: called after each operation with its results, nested operations included.

    Raises:
        CompileError: an input is missing, unknown or does not fit its type; an operation failed, or its result
            does not fit the type stated for it (the error names the operation and its location).
    """
    if isinstance(program, Module) and any(isinstance(op, Vjp | Jvp) for op in program.walk()):
        program = program.clone()
        expand_derivatives(program)
    functions = program.functions if isinstance(program, Module) else {}
    function = program.main if isinstance(program, Module) else program
    arguments = function.arguments
    if isinstance(inputs, Mapping):
        names = [a.hint for a in arguments]
        if unknown := sorted(inputs.keys() - set(names)):
            raise CompileError(f"no input called '{unknown[0]}'", help=f"inputs: {', '.join(names)}")
        if missing := [name for name in names if name not in inputs]:
            raise CompileError(f"input '{missing[0]}' is missing", help=f"inputs: {', '.join(names)}")
        inputs = [inputs[name] for name in names]
    if len(inputs) != len(arguments):
        raise CompileError(f"{len(inputs)} inputs given, '{function.name}' takes {len(arguments)}")
    return _Interpreter(functions, trace).call(function, [np.asarray(x) for x in inputs], dict(symbols or {}))


class _Interpreter:
    """Values of one run: `sizes` holds the symbols in force, `values` every SSA value computed so far."""

    def __init__(self, functions: Mapping[str, Function], trace: Trace | None) -> None:
        self.functions, self.trace = functions, trace
        self.sizes: dict[str, int] = {}
        self.values: dict[Value, Array] = {}

    def call(self, function: Function, inputs: Sequence[Array], sizes: dict[str, int]) -> list[Array]:
        """Run `function` with symbols of its own."""
        outer, self.sizes = self.sizes, sizes
        try:
            for argument, array in zip(function.arguments, inputs, strict=True):
                self._bind_shape(argument.type, array, argument.hint)
            for argument, array in zip(function.arguments, inputs, strict=True):
                if problem := self._misfit(argument.type, array):
                    raise CompileError(f"input '{argument.hint}' {problem}")
            return self.run(function.body, inputs)
        finally:
            self.sizes = outer

    def _bind_shape(self, type_: TensorType, array: Array, name: str) -> None:
        if array.ndim != type_.rank:
            raise CompileError(f"input '{name}' has rank {array.ndim}, expected {type_}")
        for dim, extent in zip(type_.shape, array.shape, strict=True):
            if not isinstance(dim, Expr):
                continue
            text = str(dim)
            if text.isidentifier() and self.sizes.setdefault(text, extent) != extent:
                raise CompileError(
                    f"input '{name}' has shape {array.shape}, expected {type_} with {text} = {self.sizes[text]}"
                )

    def _misfit(self, type_: TensorType, array: Array) -> str:
        """Why `array` is not of `type_`, or nothing."""
        if array.dtype != type_.dtype.numpy and not (type_.dtype.kind == "s" and array.dtype.kind in "OUS"):
            return f"has element type {array.dtype}, expected {type_}"
        known = [substitute(d, self.sizes) for d in type_.shape]
        if len(known) != array.ndim or any(
            isinstance(d, int) and d != extent for d, extent in zip(known, array.shape, strict=True)
        ):
            return f"has shape {array.shape}, expected {type_} = {known}"
        if unknown := sorted(frozenset[str]().union(*(symbols_of(d) for d in known))):
            return f"has type {type_}, in which '{unknown[0]}' has no value"
        return ""

    def run(self, region: Region, arguments: Sequence[Array]) -> list[Array]:
        """What the region's terminator hands out."""
        values = self.values
        values.update(zip(region.block.arguments, arguments, strict=True))
        for operation in region.block:
            operands = [values[v] for v in operation.operands]
            if operation.is_terminator:
                return operands
            try:
                results = self._compute(operation, operands)
            except CompileError:
                raise
            except Exception as error:
                what = error.args[0] if isinstance(error, KeyError) and error.args else error
                raise CompileError(f"{operation.mnemonic}: {what}", location=operation.location) from error
            for result, array in zip(operation.results, results, strict=True):
                if problem := self._misfit(result.type, array):
                    raise CompileError(f"{operation.mnemonic}: the result {problem}", location=operation.location)
                values[result] = array
            if self.trace is not None:
                self.trace(operation, results)
        raise CompileError("a block ends without a terminator")

    def _compute(self, operation: Operation, operands: list[Array]) -> Sequence[Array]:
        match operation:
            case Bind():
                self.sizes[operation.symbol] = max(0, int(operands[0]))
                return []
            case If():
                return self.run(operation.then if operands[0] else operation.orelse, [])
            case While():
                state = operands
                while self.run(operation.condition, state)[0]:
                    state = self.run(operation.body, state)
                return state
            case Scan():
                return self._scan(operation, operands)
            case Fusion() | Composite():
                return self.run(operation.body, operands)
            case Call() | CustomCall():
                callee = self.functions.get(operation.callee)
                if callee is None:
                    raise CompileError(
                        f"{operation.name}: no function '{operation.callee}'", location=operation.location
                    )
                return self.call(callee, operands, {})
        computed = operation.evaluate(self.sizes, *operands)
        return computed if isinstance(computed, tuple) else (computed,)

    def _scan(self, scan: Scan, operands: list[Array]) -> list[Array]:
        carried = len(scan.inits)
        state, inputs = operands[:carried], operands[carried:]
        length = evaluate(scan.length, self.sizes)
        for index, x in enumerate(inputs):
            if x.shape[0] != length:
                raise CompileError(
                    f"scan: input {index} has {x.shape[0]} slices, length is {length}", location=scan.location
                )
        stacked: list[list[Array]] = [[] for _ in scan.results[carried:]]
        for step in reversed(range(length)) if scan.reverse else range(length):
            results = self.run(scan.body, [*state, *(x[step] for x in inputs)])
            state = results[:carried]
            for pieces, piece in zip(stacked, results[carried:], strict=True):
                pieces.append(piece)
        joined = []
        for pieces, result in zip(stacked, scan.results[carried:], strict=True):
            if scan.reverse:
                pieces.reverse()
            shape = [evaluate(d, self.sizes) for d in result.type.shape]
            joined.append(np.stack(pieces) if pieces else np.zeros(shape, result.type.dtype.numpy))
        return [*state, *joined]
