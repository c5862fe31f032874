"""Elementary functions on vectors of float and double, emitted as LLVM text.

Every function takes the `FunctionBuilder` to append to and a value `x` (scalar or vector of any number of
lanes) and returns a value of the same type; TypeError for other element types. LLVM would turn ``llvm.exp`` on a
vector into one library call a lane; these are polynomials over whole vectors. They are inline, except for the large
ones ("called out of line" in their description), which become one internal function of the module for each type.

Error bounds are in units in the last place (ulp) of the exact result, measured by the sweeps of
``tests/backends/test_math.py``. Infinities, NaN, signed zeros, subnormal arguments and results follow C99's annex F.
"""

from ds_compiler.backends.llvm.math_basic import (
    ceil,
    floor,
    floor_div,
    floor_mod,
    from_f32,
    reciprocal,
    round_half_even,
    rsqrt,
    sqrt,
    to_f32,
    trunc,
    trunc_div,
    trunc_mod,
)
from ds_compiler.backends.llvm.math_erf import erf, gelu_erf
from ds_compiler.backends.llvm.math_exp import cosh, exp, exp_nonpositive, expm1, sigmoid, sinh, tanh
from ds_compiler.backends.llvm.math_log import acosh, asinh, atanh, log, log1p, log2
from ds_compiler.backends.llvm.math_pow import pow, pow_constant, pow_integer
from ds_compiler.backends.llvm.math_trig import acos, asin, atan, atan2, cos, sin, tan

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "exp",
    "exp_nonpositive",
    "expm1",
    "floor",
    "floor_div",
    "floor_mod",
    "from_f32",
    "gelu_erf",
    "log",
    "log1p",
    "log2",
    "pow",
    "pow_constant",
    "pow_integer",
    "reciprocal",
    "round_half_even",
    "rsqrt",
    "sigmoid",
    "sin",
    "sinh",
    "sqrt",
    "tan",
    "tanh",
    "to_f32",
    "trunc",
    "trunc_div",
    "trunc_mod",
]
