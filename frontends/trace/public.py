"""How functions of `ds.numpy` are entered: inside of a trace, or outside of one on NumPy arrays."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numpy as np

from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.frame import Frame, Trace, placing_errors, tracing, tracing_into

_P = ParamSpec("_P")
_R = TypeVar("_R")


def public(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function of the namespace: its errors name the user's line, and outside of a trace it computes at once.

    Outside of a trace the operations are run by the interpreter, whose results are NumPy arrays; what a program
    computes and what these functions compute while one prepares its inputs is then the same by construction.
    """

    @functools.wraps(function)
    def entered(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if tracing():
            with placing_errors(function.__name__):
                return function(*args, **kwargs)
        result: _R = eagerly(lambda: function(*args, **kwargs))
        return result

    return entered


def eagerly(thunk: Callable[[], Any]) -> Any:
    """What `thunk` traces, computed by the interpreter: NumPy arrays in the places of traced ones."""
    from ds_compiler.frontends.trace import tree
    from ds_compiler.reference import interpret

    trace = Trace()
    frame = Frame(trace, ())
    with tracing_into(frame), placing_errors("call"):
        leaves, structure = tree.flatten(thunk())
        traced = [index for index, leaf in enumerate(leaves) if isinstance(leaf, TracedArray)]
        trace.module.add(frame.finish("main", [leaves[index].read() for index in traced]))
    for index, array in zip(traced, interpret(trace.module, [])):
        leaves[index] = np.array(array)
    return tree.unflatten(structure, leaves)
