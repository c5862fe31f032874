"""`check_nan`: results that are infinite or no number, traced back to the operation that made them so.

The check itself reads the results once. Only when it fails, the traced program is run again by the interpreter, which
follows where each value that is not finite came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.ir import Module, Operation, Value
from ds_compiler.ops import Call, CustomCall, If, Scan, Select, While
from ds_compiler.runtime.errors import NonFiniteError

Array = np.ndarray[Any, Any]


def check_finite(module: Module, inputs: Sequence[Any], outputs: Mapping[str, Array]) -> None:
    """
    Args:
        module: the program as it was traced; `inputs` are its arguments as they were in the call.

    Raises:
        NonFiniteError: an output holds NaN or an infinity; names the line of the operation that was the first to make
            one which reaches the output, out of finite operands.
    """
    for index, (name, array) in enumerate(outputs.items()):
        if not _bad(array):
            continue
        raise NonFiniteError(f"{name} {_kinds(array)}; {_origin(module, inputs, index)}")


def _bad(array: Array) -> bool:
    return array.dtype.kind in "fV" and not bool(np.isfinite(array).all())


def _kinds(array: Array) -> str:
    nan, infinite = (int(np.count_nonzero(test(array))) for test in (np.isnan, np.isinf))
    found = [f"{count} {kind}" for count, kind in ((nan, "NaN"), (infinite, "infinite")) if count]
    return f"holds {' and '.join(found)} of {array.size} elements"


def _origin(module: Module, inputs: Sequence[Any], output: int) -> str:
    """What made result number `output` not finite."""
    from ds_compiler.passes.grad import expand_derivatives
    from ds_compiler.reference import interpret

    module = module.clone()
    expand_derivatives(module)
    arrays = list(map(np.asarray, inputs))
    follower = _Follower(module, arrays)
    with np.errstate(all="ignore"):
        results = interpret(module, arrays, trace=follower)
    if not _bad(results[output]):
        return "operation by operation it is finite: rounding, or the order of a sum, decides"
    found = follower.find(module.main.body.block.terminator.operands[output])
    return "what made it is not known" if found is None else found.text


@dataclass(frozen=True)
class _Source:
    """Where a value that is not finite came from, and the value."""

    text: str
    array: Array

    @property
    def has_nan(self) -> bool:
        return bool(np.isnan(self.array).any())


class _Follower:
    """Keeps the sources of all values that are not finite, while the interpreter runs."""

    def __init__(self, module: Module, inputs: Sequence[Array]) -> None:
        self.module = module
        self.enters = _entering(module)
        self.sources: dict[Value, _Source] = {}
        for argument, array in zip(module.main.arguments, inputs, strict=True):
            if _bad(array):
                self.sources[argument] = _Source(f"the input '{argument.hint}' {_kinds(array)}", array)

    def __call__(self, operation: Operation, results: Sequence[Array]) -> None:
        """After each operation that was run."""
        for index, (value, array) in enumerate(zip(operation.results, results, strict=True)):
            self.sources.pop(value, None)
            if _bad(array):
                self.sources[value] = _Source(self._text(operation, index, array), array)

    def find(self, value: Value, seen: frozenset[Value] = frozenset()) -> _Source | None:
        """The source of a value; None if it is finite."""
        if value in self.sources or value in seen:
            return self.sources.get(value)
        return next((s for outer in self.enters.get(value, ()) if (s := self.find(outer, seen | {value}))), None)

    def _text(self, operation: Operation, index: int, result: Array) -> str:
        candidates = [s for v in _comes_from(self.module, operation, index) if (s := self.find(v)) is not None]
        if isinstance(operation, Select):  # what is not selected does no harm
            wrong = ~np.isfinite(result)
            candidates = [s for s in candidates if bool((wrong & ~np.isfinite(s.array)).any())]
        made_nan = bool(np.isnan(result).any())
        if made_nan:
            same = [s for s in candidates if s.has_nan]
            if not same and candidates and not operation.regions:
                return f"NaN is made by {_shown(operation)} from infinities; {candidates[0].text}"
            candidates = same or candidates
        if candidates:
            return candidates[0].text
        made = "NaN is made" if made_nan else "an infinity is made"
        return f"{made} by {_shown(operation)}" + (" from finite operands" if operation.operands else "")


def _shown(operation: Operation) -> str:
    return f"'{operation.mnemonic}' at {operation.location}"


def _comes_from(module: Module, operation: Operation, index: int) -> list[Value]:
    """The values that may have given a result its elements."""
    inner = [region.block.terminator.operands for region in operation.regions]
    match operation:
        case If():
            return [yielded[index] for yielded in inner]
        case While():
            return [inner[1][index], operation.inits[index]]
        case Scan():
            return [inner[0][index], *(operation.inits[index : index + 1])]
        case Call() | CustomCall():
            return [module.functions[operation.callee].body.block.terminator.operands[index]]
    return list(operation.operands)


def _entering(module: Module) -> dict[Value, list[Value]]:
    """For each block argument the values that it may stand for."""
    enters: dict[Value, list[Value]] = {}

    def enter(arguments: Sequence[Value], *values: Sequence[Value]) -> None:
        for position, argument in enumerate(arguments):
            enters.setdefault(argument, []).extend(v[position] for v in values if position < len(v))

    for operation in module.walk():
        match operation:
            case While():
                states = operation.body.block.terminator.operands, operation.inits
                enter(operation.body.block.arguments, *states)
                enter(operation.condition.block.arguments, *states)
            case Scan():
                carried = len(operation.inits)
                body = operation.body.block
                enter(body.arguments[:carried], body.terminator.operands, operation.inits)
                enter(body.arguments[carried:], operation.operands[carried:])
            case Call() | CustomCall():
                enter(module.functions[operation.callee].arguments, operation.operands)
    return enters
