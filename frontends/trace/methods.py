"""Methods of NumPy's arrays that the standard does not have, and what to use instead of other libraries' methods."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

from ds_compiler.frontends.trace.errors import NoSuchAttribute
from ds_compiler.frontends.trace.places import here

if TYPE_CHECKING:
    from ds_compiler.frontends.trace.array import TracedArray

_METHODS = (
    "all", "any", "argmax", "argmin", "argsort", "clip", "cumprod", "cumsum", "dot", "max", "mean", "min", "prod",
    "repeat", "round", "squeeze", "std", "sum", "swapaxes", "take", "var",
)  # fmt: skip

_INSTEAD = {
    "view": "x.reshape(…)",
    "unsqueeze": "x[:, None] or ds.numpy.expand_dims(x, axis=…)",
    "permute": "x.transpose(…)",
    "contiguous": "nothing: arrays have no strides here",
    "detach": "ds.stop_gradient(x)",
    "grad": "ds.grad(function)(x), which gives the gradient",
    "backward": "ds.grad(function)(x), which gives the gradient",
    "requires_grad": "ds.grad(function)(x): the argument is what is differentiated by",
    "requires_grad_": "ds.grad(function)(x): the argument is what is differentiated by",
    "float": "x.astype(ds.numpy.float32)",
    "double": "x.astype(ds.numpy.float64)",
    "half": "x.astype(ds.numpy.float16)",
    "int": "x.astype(ds.numpy.int32)",
    "long": "x.astype(ds.numpy.int64)",
    "bool": "x.astype(bool)",
    "to": "x.astype(dtype); the target is an option of ds.compile",
    "cuda": "the option target= of ds.compile",
    "cpu": "the result of the compiled function, which is a NumPy array",
    "numpy": "the result of the compiled function, which is a NumPy array",
    "block_until_ready": "the result of the compiled function, which is ready when the call ends",
    "masked_fill": "ds.where(mask, value, x)",
    "norm": "ds.numpy.vector_norm(x)",
    "expand": "ds.numpy.broadcast_to(x, shape)",
    "scatter_add": "x.at[index].add(y)",
    "gather": "ds.numpy.take_along_axis(x, indices, axis=…)",
    "fill": "ds.numpy.full_like(x, value)",
    "sort": "ds.numpy.sort(x)",
}


def find(x: TracedArray, name: str) -> Any:
    """A method of NumPy's arrays, bound to `x`.

    Raises:
        NoSuchAttribute: there is none; says what to use.
    """
    from ds_compiler.frontends.trace.numpy_functions import FUNCTIONS

    if name in _METHODS:
        return functools.partial(FUNCTIONS[name], x)
    if name == "copy":
        return lambda: x
    if name.startswith("__"):
        raise AttributeError(name)
    raise NoSuchAttribute(f"a traced array has no attribute '{name}'", location=here(), help=_instead(name))


def _instead(name: str) -> str:
    from ds_compiler.frontends.trace import namespace

    networks = sys.modules.get("ds_compiler.nn")  # a front end does not import it

    if name in _INSTEAD:
        return f"use {_INSTEAD[name]}"
    if name in namespace.__all__:
        return f"use ds.numpy.{name}(x, …)"
    if callable(getattr(networks, name, None)):
        return f"use ds.nn.{name}(x, …)"
    if name.endswith("_"):
        return "a traced array is not changed in place; use the function that gives a new one"
    return "it has those of the Python array API standard; functions are in ds.numpy"
