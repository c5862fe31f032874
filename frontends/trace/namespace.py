"""``ds.numpy``: the functions of the Python array API standard (2024.12) that the compiler has.

Inside of a traced function they add operations to the program; outside they compute at once and give NumPy arrays.
Functions whose result's shape depends on data (``nonzero``, ``unique_*``) take known arrays only.
"""

from __future__ import annotations

import builtins as _builtins
import math as _math
from types import SimpleNamespace as _SimpleNamespace
from typing import Any as _Any

import ml_dtypes as _ml_dtypes
import numpy as _np

from ds_compiler.frontends.trace import operators as _operators
from ds_compiler.frontends.trace.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    meshgrid,
    ones,
    ones_like,
    tril,
    triu,
    zeros,
    zeros_like,
)
from ds_compiler.frontends.trace.data_shaped import (
    from_dlpack,
    nonzero,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from ds_compiler.frontends.trace.dtypes import DTYPES as _DTYPES
from ds_compiler.frontends.trace.elementwise import (
    abs,
    acos,
    acosh,
    add,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    ceil,
    clip,
    conj,
    copysign,
    cos,
    cosh,
    divide,
    equal,
    erf,
    exp,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    hypot,
    imag,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    nextafter,
    not_equal,
    positive,
    pow,
    real,
    reciprocal,
    remainder,
    round,
    rsqrt,
    sigmoid,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    trunc,
    where,
)
from ds_compiler.frontends.trace.linear import einsum, matmul, matrix_transpose, outer, tensordot, vecdot
from ds_compiler.frontends.trace.manipulation import (
    astype,
    broadcast_arrays,
    broadcast_to,
    concat,
    expand_dims,
    flip,
    moveaxis,
    pad,
    permute_dims,
    repeat,
    reshape,
    result_type,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    take,
    tile,
    unstack,
)
from ds_compiler.frontends.trace.reduction import (
    all,
    any,
    argmax,
    argmin,
    argsort,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    diff,
    logsumexp,
    max,
    mean,
    min,
    prod,
    searchsorted,
    sort,
    std,
    sum,
    take_along_axis,
    top_k,
    var,
    vector_norm,
)

__all__ = [
    "abs",
    "acos",
    "acosh",
    "add",
    "all",
    "any",
    "arange",
    "argmax",
    "argmin",
    "argsort",
    "asarray",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bfloat16",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "bool",
    "broadcast_arrays",
    "broadcast_to",
    "can_cast",
    "ceil",
    "clip",
    "concat",
    "conj",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "divide",
    "e",
    "einsum",
    "empty",
    "empty_like",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "finfo",
    "flip",
    "float16",
    "float32",
    "float64",
    "floor",
    "floor_divide",
    "from_dlpack",
    "full",
    "full_like",
    "greater",
    "greater_equal",
    "hypot",
    "iinfo",
    "imag",
    "inf",
    "int8",
    "int16",
    "int32",
    "int64",
    "isdtype",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "linspace",
    "log",
    "log1p",
    "log2",
    "log10",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "logsumexp",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "meshgrid",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "nan",
    "negative",
    "newaxis",
    "nextafter",
    "nonzero",
    "not_equal",
    "ones",
    "ones_like",
    "outer",
    "pad",
    "permute_dims",
    "pi",
    "positive",
    "pow",
    "prod",
    "real",
    "reciprocal",
    "remainder",
    "repeat",
    "reshape",
    "result_type",
    "roll",
    "round",
    "rsqrt",
    "searchsorted",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sort",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "swapaxes",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "tile",
    "top_k",
    "tril",
    "triu",
    "trunc",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "vector_norm",
    "where",
    "zeros",
    "zeros_like",
]

__array_api_version__ = "2024.12"
_INSTALLED = _operators  # importing it gives traced arrays their operators
e, inf, nan, newaxis, pi = _math.e, _math.inf, _math.nan, None, _math.pi
bool, bfloat16 = _DTYPES["bool"], _DTYPES["bfloat16"]
int8, int16, int32, int64 = (_DTYPES[f"int{n}"] for n in (8, 16, 32, 64))
uint8, uint16, uint32, uint64 = (_DTYPES[f"uint{n}"] for n in (8, 16, 32, 64))
float16, float32, float64 = (_DTYPES[f"float{n}"] for n in (16, 32, 64))


def finfo(type: _Any, /) -> _Any:
    """Limits of a floating-point type (or of an array's)."""
    known: _Any = _ml_dtypes
    dtype = _np.dtype(getattr(type, "dtype", type))
    found = known.finfo(dtype)
    names = ("eps", "max", "min", "smallest_normal")
    return _SimpleNamespace(bits=int(found.bits), dtype=dtype, **{name: float(getattr(found, name)) for name in names})


def iinfo(type: _Any, /) -> _Any:
    """Limits of an integer type (or of an array's)."""
    return _np.iinfo(getattr(type, "dtype", type))


def isdtype(dtype: _Any, kind: _Any) -> _Any:
    """Whether a dtype is of a kind (``bool``, ``real floating``, ``numeric`` …), is a dtype, or is one of several."""
    if isinstance(kind, tuple):
        return _builtins.any(isdtype(dtype, k) for k in kind)
    if not isinstance(kind, str):
        return _np.dtype(dtype) == _np.dtype(kind)
    kinds = {
        "bool": "b",
        "signed integer": "i",
        "unsigned integer": "u",
        "integral": "iu",
        "real floating": "f",
        "complex floating": "",
        "numeric": "iuf",
    }
    if kind not in kinds:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(kinds)}")
    found = _np.dtype(dtype)
    return ("f" if found == bfloat16 else found.kind) in kinds[kind]


def can_cast(from_: _Any, to: _Any, /) -> _Any:
    """Whether a type holds all values of another (for types of one kind: whether promotion leads there)."""
    return _np.can_cast(getattr(from_, "dtype", from_), to)


class _Info:
    """What ``__array_namespace_info__`` tells."""

    def capabilities(self) -> dict[str, _Any]:
        return {"boolean indexing": False, "data-dependent shapes": False, "max dimensions": 64}

    def default_device(self) -> str:
        return "cpu"

    def devices(self) -> list[str]:
        return ["cpu"]

    def default_dtypes(self, *, device: _Any = None) -> dict[str, _Any]:
        return {"real floating": float32, "integral": int64, "indexing": int64}

    def dtypes(self, *, device: _Any = None, kind: _Any = None) -> dict[str, _Any]:
        standard = {name: dtype for name, dtype in _DTYPES.items() if name not in ("bfloat16", "float16")}
        return {name: dtype for name, dtype in standard.items() if kind is None or isdtype(dtype, kind)}


def __array_namespace_info__() -> _Info:
    """The namespace's inspection object."""
    return _Info()


def __getattr__(name: str) -> _Any:
    from ds_compiler.frontends.trace.numpy_functions import FUNCTIONS

    hint = "random numbers are made by ds.random" if name == "random" else ""
    if name in FUNCTIONS and hasattr(_np, name):
        hint = f"np.{name} traces too"
    raise AttributeError(f"ds.numpy has no attribute '{name}'" + (f"; {hint}" if hint else ""))
