"""NumPy's own functions on traced arrays: ``np.sum(x)`` and ``np.exp(x)`` are those of `ds.numpy`.

NumPy asks each argument's class first (NEP 13 and NEP 18). What has no counterpart is an error at the user's line.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import TracedArray, is_number, is_unknown_number, read, wrap
from ds_compiler.frontends.trace.dtypes import element_type
from ds_compiler.frontends.trace.frame import located

_Function = Callable[..., Any]

_UFUNCS = {
    "absolute": xp.abs, "fabs": xp.abs, "arccos": xp.acos, "arccosh": xp.acosh, "arcsin": xp.asin, "arcsinh": xp.asinh,
    "arctan": xp.atan, "arctan2": xp.atan2, "arctanh": xp.atanh, "invert": xp.bitwise_invert, "power": xp.pow,
    "float_power": xp.pow, "true_divide": xp.divide, "left_shift": xp.bitwise_left_shift,
    "right_shift": xp.bitwise_right_shift, "rint": xp.round, "fmax": xp.maximum, "fmin": xp.minimum,
}  # fmt: skip
_REDUCED = {
    "add": xp.sum, "multiply": xp.prod, "maximum": xp.max, "minimum": xp.min,
    "logical_and": xp.all, "logical_or": xp.any,
}  # fmt: skip


def apply_ufunc(ufunc: Any, method: str, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """What ``ufunc(*inputs)`` or ``ufunc.reduce(x, axis)`` gives.

    Raises:
        TraceError: there is no such function, or it is to write into an array.
    """
    name = str(ufunc.__name__)
    if any(isinstance(out, TracedArray) or out is not None for out in options.pop("out", None) or ()):
        raise located(f"np.{name} is to write a traced array into another array", help="use its result instead")
    if method == "reduce" and name in _REDUCED:
        axis, keepdims = options.pop("axis", 0), options.pop("keepdims", False)
        if not any(v is not None for v in options.values()):
            return _REDUCED[name](*inputs, axis=axis, keepdims=keepdims)
    function: Any = _UFUNCS.get(name) or getattr(xp, name, None)
    if method != "__call__" or function is None or any(v is not None for v in options.values()):
        shown = f"np.{name}" + ("" if method == "__call__" else f".{method}")
        given = f" with {', '.join(options)}=" if options else ""
        raise located(f"{shown}{given} does not trace", help="compose it from the functions of ds.numpy")
    return function(*(_as_numpy_does(ufunc, inputs) if all(map(is_number, inputs)) else inputs))


def _as_numpy_does(ufunc: Any, numbers: Sequence[Any]) -> Sequence[Any]:
    """Python numbers and sizes in the element types that NumPy gives them alone: ``np.sqrt(size)`` is of float64."""
    kinds = [
        type(x.example) if is_unknown_number(x) else type(x) if isinstance(x, bool | float) else int for x in numbers
    ]
    try:
        types = ufunc.resolve_dtypes((*kinds, *[None] * ufunc.nout))
    except TypeError as error:
        raise located(f"np.{ufunc.__name__}: {error}") from None
    return [wrap(read(x, element_type(t))) for x, t in zip(numbers, types)]


def apply_function(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a function of NumPy's gives that is no ufunc.

    Raises:
        TraceError: it has no counterpart, or an argument has none.
    """
    name = str(function.__name__)
    shown = f"{function.__module__.replace('numpy', 'np')}.{name}"
    found = FUNCTIONS.get(name) if function.__module__ in ("numpy", "numpy.linalg") else None
    if found is None:
        raise located(f"{shown} does not trace", help="compose it from the functions of ds.numpy")
    try:
        inspect.signature(found).bind(*args, **kwargs)
    except TypeError as error:
        raise located(f"{shown}: {error}", help="use the function of ds.numpy") from None
    return found(*args, **kwargs)


def _no_output(out: Any) -> None:
    if out is not None:
        raise located(
            "a function of NumPy is to write a traced array into another array", help="use its result instead"
        )


def _reduction(function: _Function) -> _Function:
    def reduced(a: Any, axis: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        _no_output(out)
        return function(a, axis=axis, keepdims=keepdims)

    return reduced


def _sum(function: _Function) -> _Function:
    def reduced(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        _no_output(out)
        if dtype is None or function is not xp.mean:
            return function(a, axis=axis, keepdims=keepdims, **({} if dtype is None else {"dtype": dtype}))
        return function(xp.asarray(a).astype(dtype), axis=axis, keepdims=keepdims)

    return reduced


def _spread(function: _Function) -> _Function:
    def reduced(
        a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: bool = False
    ) -> Any:
        _no_output(out)
        a = xp.asarray(a) if dtype is None else xp.asarray(a).astype(dtype)
        return function(a, axis=axis, correction=ddof, keepdims=keepdims)

    return reduced


def _running(function: _Function) -> _Function:
    def run(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        _no_output(out)
        a = xp.asarray(a)
        return function(a if axis is not None else a.reshape(-1), axis=0 if axis is None else axis, dtype=dtype)

    return run


def _transpose(a: Any, axes: Any = None) -> Any:
    a = xp.asarray(a)
    return a.T if axes is None else xp.permute_dims(a, axes)


def _dot(a: Any, b: Any) -> Any:
    a, b = xp.asarray(a), xp.asarray(b)
    if not a.ndim or not b.ndim:
        return a * b
    return xp.tensordot(a, b, axes=((a.ndim - 1,), (max(b.ndim - 2, 0),)))


def _squeeze(a: Any, axis: Any = None) -> Any:
    a = xp.asarray(a)
    alone = tuple(i for i, n in enumerate(a.type.shape) if n == 1)
    return xp.squeeze(a, axis=alone if axis is None else axis)


def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    return xp.repeat(a, repeats, axis=axis)


def _take(a: Any, indices: Any, axis: Any = None) -> Any:
    a = xp.asarray(a)
    return xp.take(a.reshape(-1) if axis is None else a, indices, axis=0 if axis is None else axis)


def _reshape(a: Any, shape: Any) -> Any:
    return xp.reshape(a, shape)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord not in (None, 2) or (ord == 2 and axis is None and xp.asarray(x).ndim > 1):
        raise located(f"np.linalg.norm with ord={ord} does not trace", help="compose it from the functions of ds.numpy")
    return xp.vector_norm(x, axis=axis, keepdims=keepdims)


def _stacked(least: int, axis: int) -> _Function:
    def joined(tup: Any) -> Any:
        parts = [xp.asarray(x) for x in tup]
        parts = [xp.reshape(x, (1,) * (least - x.ndim) + x.type.shape) if x.ndim < least else x for x in parts]
        return xp.concat(parts, axis=axis if parts[0].ndim > axis else 0)

    return joined


def _like(function: _Function) -> _Function:
    def made(a: Any, dtype: Any = None, order: Any = None, subok: Any = None, shape: Any = None) -> Any:
        return function(a, dtype=dtype)

    return made


def _sorted(function: _Function) -> _Function:
    def ordered(a: Any, axis: int = -1, kind: Any = None) -> Any:
        return function(a, axis=axis)

    return ordered


def _clip(a: Any, a_min: Any = None, a_max: Any = None, *, min: Any = None, max: Any = None) -> Any:
    return xp.clip(a, a_min if min is None else min, a_max if max is None else max)


def _round(a: Any, decimals: int = 0) -> Any:
    return xp.round(a) if not decimals else xp.round(xp.multiply(a, 10.0**decimals)) / 10.0**decimals


FUNCTIONS: dict[str, _Function] = {
    "sum": _sum(xp.sum), "prod": _sum(xp.prod), "mean": _sum(xp.mean),
    "max": _reduction(xp.max), "amax": _reduction(xp.max), "min": _reduction(xp.min), "amin": _reduction(xp.min),
    "all": _reduction(xp.all), "any": _reduction(xp.any),
    "argmax": _reduction(xp.argmax), "argmin": _reduction(xp.argmin),
    "var": _spread(xp.var), "std": _spread(xp.std),
    "cumsum": _running(xp.cumulative_sum), "cumprod": _running(xp.cumulative_prod),
    "transpose": _transpose, "permute_dims": _transpose, "dot": _dot, "squeeze": _squeeze, "repeat": _repeat,
    "take": _take, "reshape": _reshape, "ravel": lambda a: xp.reshape(a, (-1,)), "clip": _clip, "round": _round,
    "norm": _norm, "vstack": _stacked(2, 0), "hstack": _stacked(1, 1),
    "sort": _sorted(xp.sort), "argsort": _sorted(xp.argsort),
    "zeros_like": _like(xp.zeros_like), "ones_like": _like(xp.ones_like), "empty_like": _like(xp.empty_like),
    "full_like": lambda a, fill_value, dtype=None: xp.full_like(a, fill_value, dtype=dtype),
    "concatenate": lambda arrays, axis=0: xp.concat(arrays, axis=axis),
    "concat": lambda arrays, axis=0: xp.concat(arrays, axis=axis),
    "stack": lambda arrays, axis=0: xp.stack(arrays, axis=axis),
    "where": xp.where, "einsum": lambda *operands: xp.einsum(*operands),
    "expand_dims": lambda a, axis: xp.expand_dims(a, axis=axis),
    "moveaxis": lambda a, source, destination: xp.moveaxis(a, source, destination),
    "swapaxes": lambda a, axis1, axis2: xp.swapaxes(a, axis1, axis2),
    "flip": lambda m, axis=None: xp.flip(m, axis=axis),
    "roll": lambda a, shift, axis=None: xp.roll(a, shift, axis=axis),
    "tile": lambda a, reps: xp.tile(a, (reps,) if isinstance(reps, int) else reps),
    "pad": lambda array, pad_width, constant_values=0: xp.pad(array, pad_width, constant_values=constant_values),
    "broadcast_to": lambda array, shape: xp.broadcast_to(array, shape),
    "tril": lambda m, k=0: xp.tril(m, k=k), "triu": lambda m, k=0: xp.triu(m, k=k),
    "tensordot": lambda a, b, axes=2: xp.tensordot(a, b, axes=axes),
    "outer": lambda a, b: xp.multiply(xp.reshape(a, (-1, 1)), xp.reshape(b, (1, -1))),
    "shape": lambda a: a.shape, "ndim": lambda a: a.ndim,
    "take_along_axis": lambda arr, indices, axis=-1: xp.take_along_axis(arr, indices, axis=axis),
    "diff": lambda a, n=1, axis=-1: xp.diff(a, axis=axis, n=n),
}  # fmt: skip
"""By name; parameters are NumPy's."""
