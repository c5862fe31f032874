"""Python's operators on traced arrays; importing this gives them to `TracedArray`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ds_compiler.frontends.trace import elementwise as e
from ds_compiler.frontends.trace import linear
from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.frame import located
from ds_compiler.ir import Expr

_Function = Callable[[Any, Any], TracedArray]

_BOTH: dict[str, _Function] = {
    "add": e.add, "sub": e.subtract, "mul": e.multiply, "truediv": e.divide, "floordiv": e.floor_divide,
    "mod": e.remainder, "pow": e.pow, "matmul": linear.matmul, "and": e.bitwise_and, "or": e.bitwise_or,
    "xor": e.bitwise_xor, "lshift": e.bitwise_left_shift, "rshift": e.bitwise_right_shift,
}  # fmt: skip
_COMPARISONS: dict[str, _Function] = {
    "eq": e.equal, "ne": e.not_equal, "lt": e.less, "le": e.less_equal, "gt": e.greater, "ge": e.greater_equal,
}  # fmt: skip
_ONE: dict[str, Callable[[Any], TracedArray]] = {
    "neg": e.negative, "pos": e.positive, "abs": e.abs, "invert": e.bitwise_invert,
}  # fmt: skip
_NO_OPERANDS = (str, bytes, list, tuple, dict, set, type(None))
_KNOWN = (TracedArray, np.ndarray, np.generic, bool, int, float, Expr)


def _unknown(other: Any) -> Any:
    """An operand that is no array: an error if no class of its own can take the operator over."""
    if isinstance(other, _NO_OPERANDS):
        raise located(
            f"a traced array and a {type(other).__name__} have no operators", help="make it an array: ds.numpy.asarray"
        )
    return NotImplemented


def _forward(function: _Function) -> Callable[[TracedArray, Any], Any]:
    def operator(self: TracedArray, other: Any, /) -> Any:
        return function(self, other) if isinstance(other, _KNOWN) else _unknown(other)

    return operator


def _reflected(function: _Function) -> Callable[[TracedArray, Any], Any]:
    def operator(self: TracedArray, other: Any, /) -> Any:
        return function(other, self) if isinstance(other, _KNOWN) else _unknown(other)

    return operator


def _comparison(name: str, function: _Function) -> Callable[[TracedArray, Any], Any]:
    def operator(self: TracedArray, other: Any, /) -> Any:
        if isinstance(other, _KNOWN):
            return function(self, other)
        raise located(f"a traced array is compared with a {type(other).__name__}")

    return operator


def _alone(function: Callable[[Any], TracedArray]) -> Callable[[TracedArray], TracedArray]:
    def operator(self: TracedArray) -> TracedArray:
        return function(self)

    return operator


for _name, _function in _BOTH.items():
    setattr(TracedArray, f"__{_name}__", _forward(_function))
    setattr(TracedArray, f"__r{_name}__", _reflected(_function))
for _name, _function in _COMPARISONS.items():
    setattr(TracedArray, f"__{_name}__", _comparison(_name, _function))
for _name, _single in _ONE.items():
    setattr(TracedArray, f"__{_name}__", _alone(_single))
