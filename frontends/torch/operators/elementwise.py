"""Functions of single elements. PyTorch's promotion rules have been applied by it: results have the types it states."""

from __future__ import annotations

import math

from ds_compiler.frontends.torch.emitter import Emitter, Operand
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import DType, Value
from ds_compiler.ir.dtypes import bool_
from ds_compiler.ops import Predicate

_FLOAT_UNARY = (
    "acos acosh asin asinh atan atanh cos cosh erf exp expm1 log log1p reciprocal rsqrt sigmoid sin sinh sqrt tan tanh"
)


def _operand(e: Emitter, value: Operand, dtype: DType) -> Value:
    """An operand as a tensor of `dtype`, of the result's shape."""
    return e.broadcast_to(e.scalar(value, dtype), e.result.shape)


def _register_unary(name: str) -> None:
    @aten(f"aten.{name}.default")
    def unary(e: Emitter, x: Value) -> Value:
        return e.unary(name, e.cast(x, e.result.dtype))


for _name in _FLOAT_UNARY.split():
    _register_unary(_name)


def _register_rounding(name: str) -> None:
    @aten(f"aten.{name}.default")
    def rounding(e: Emitter, x: Value) -> Value:
        return e.unary(name, x) if x.type.dtype.is_float else x


for _name in ("floor", "ceil", "round", "trunc"):
    _register_rounding(_name)


@aten("aten.neg.default")
def neg(e: Emitter, x: Value) -> Value:
    return e.binary("sub", e.full(0, x.type), x) if x.type.dtype.kind == "u" else e.unary("neg", x)


@aten("aten.abs.default")
def absolute(e: Emitter, x: Value) -> Value:
    return x if x.type.dtype.kind in "ub" else e.unary("abs", x)


@aten("aten.sign.default", "aten.sgn.default")
def sign(e: Emitter, x: Value) -> Value:
    if x.type.dtype == bool_:
        return x
    result = e.unary("sign", x)
    # NumPy's sign of NaN is NaN, PyTorch's is 0.
    return e.select(e.emit(Predicate(x, "isnan")), e.full(0, x.type), result) if x.type.dtype.is_float else result


@aten("aten.relu.default")
def relu(e: Emitter, x: Value) -> Value:
    return e.binary("max", x, 0)


@aten("aten.log2.default")
def log2(e: Emitter, x: Value) -> Value:
    return e.binary("mul", e.unary("log", e.cast(x, e.result.dtype)), 1 / math.log(2))


@aten("aten.log10.default")
def log10(e: Emitter, x: Value) -> Value:
    return e.binary("mul", e.unary("log", e.cast(x, e.result.dtype)), 1 / math.log(10))


@aten("aten.exp2.default")
def exp2(e: Emitter, x: Value) -> Value:
    return e.binary("pow", e.full(2, e.result), e.cast(x, e.result.dtype))


@aten("aten.erfc.default")
def erfc(e: Emitter, x: Value) -> Value:
    return e.binary("sub", e.full(1, e.result), e.unary("erf", e.cast(x, e.result.dtype)))


@aten("aten.silu.default")
def silu(e: Emitter, x: Value) -> Value:
    wide = e.wide(x)
    return e.cast(e.binary("mul", wide, e.unary("sigmoid", wide)), x.type.dtype)


@aten("aten.gelu.default")
def gelu(e: Emitter, x: Value, approximate: str = "none") -> Value:
    wide = e.wide(x)
    half = e.binary("mul", wide, 0.5)
    if approximate == "tanh":
        cube = e.binary("mul", e.binary("mul", wide, wide), wide)
        inner = e.binary("mul", e.binary("add", wide, e.binary("mul", cube, 0.044715)), math.sqrt(2 / math.pi))
        bent = e.unary("tanh", inner)
    else:
        bent = e.unary("erf", e.binary("mul", wide, math.sqrt(0.5)))
    return e.cast(e.binary("mul", half, e.binary("add", bent, 1)), x.type.dtype)


@aten("aten.logical_not.default")
def logical_not(e: Emitter, x: Value) -> Value:
    return e.unary("not", e.truth(x))


@aten("aten.bitwise_not.default")
def bitwise_not(e: Emitter, x: Value) -> Value:
    return e.unary("not", x)


@aten("aten.isnan.default")
def isnan(e: Emitter, x: Value) -> Value:
    return e.emit(Predicate(x, "isnan")) if x.type.dtype.is_float else e.full(False, e.result)


@aten("aten.isinf.default")
def isinf(e: Emitter, x: Value) -> Value:
    return e.emit(Predicate(x, "isinf")) if x.type.dtype.is_float else e.full(False, e.result)


# -- two operands ------------------------------------------------------------------------------------
def _scaled(e: Emitter, value: Operand, alpha: Operand, dtype: DType) -> Value:
    operand = _operand(e, value, dtype)
    return operand if isinstance(alpha, int | float) and alpha == 1 else e.binary("mul", operand, alpha)


@aten("aten.add.Tensor", "aten.add.Scalar")
def add(e: Emitter, a: Operand, b: Operand, alpha: Operand = 1) -> Value:
    dtype = e.result.dtype
    kind = "or" if dtype == bool_ else "add"
    return e.binary(kind, _operand(e, a, dtype), _scaled(e, b, alpha, dtype))


@aten("aten.sub.Tensor", "aten.sub.Scalar")
def sub(e: Emitter, a: Operand, b: Operand, alpha: Operand = 1) -> Value:
    dtype = e.result.dtype
    return e.binary("sub", _operand(e, a, dtype), _scaled(e, b, alpha, dtype))


@aten("aten.rsub.Tensor", "aten.rsub.Scalar")
def rsub(e: Emitter, a: Operand, b: Operand, alpha: Operand = 1) -> Value:
    return sub(e, b, a, alpha)


@aten("aten.mul.Tensor", "aten.mul.Scalar")
def mul(e: Emitter, a: Operand, b: Operand) -> Value:
    dtype = e.result.dtype
    return e.binary("and" if dtype == bool_ else "mul", _operand(e, a, dtype), _operand(e, b, dtype))


@aten("aten.div.Tensor", "aten.div.Scalar")
def div(e: Emitter, a: Operand, b: Operand) -> Value:
    return e.binary("div", _operand(e, a, e.result.dtype), _operand(e, b, e.result.dtype))


@aten("aten.div.Tensor_mode", "aten.div.Scalar_mode")
def div_mode(e: Emitter, a: Operand, b: Operand, rounding_mode: str | None = None) -> Value:
    dtype = e.result.dtype
    left, right = _operand(e, a, dtype), _operand(e, b, dtype)
    quotient = e.binary("div", left, right)
    if rounding_mode is None:
        return quotient
    if rounding_mode == "trunc":
        return e.unary("trunc", quotient) if dtype.is_float else quotient
    rest = e.binary("mod", left, right)  # has the divisor's sign, so that what remains divides evenly
    exact = e.binary("div", e.binary("sub", left, rest), right)
    if not dtype.is_float:
        return exact
    rounded = e.unary("round", exact)
    whole = e.unary("floor", quotient)
    return e.select(e.emit(Predicate(rounded, "isfinite")), rounded, whole)


@aten("aten.floor_divide.default")
def floor_divide(e: Emitter, a: Operand, b: Operand) -> Value:
    return div_mode(e, a, b, "floor")


@aten("aten.remainder.Tensor", "aten.remainder.Scalar", "aten.remainder.Scalar_Tensor")
def remainder(e: Emitter, a: Operand, b: Operand) -> Value:
    return e.binary("mod", _operand(e, a, e.result.dtype), _operand(e, b, e.result.dtype))


def _register_binary(name: str, kind: str) -> None:
    @aten(f"aten.{name}.default", f"aten.{name}.Tensor", f"aten.{name}.Scalar")
    def binary(e: Emitter, a: Operand, b: Operand) -> Value:
        return e.binary(kind, _operand(e, a, e.result.dtype), _operand(e, b, e.result.dtype))


for _name, _kind in {
    "maximum": "max",
    "minimum": "min",
    "atan2": "atan2",
    "fmod": "fmod",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_xor": "xor",
}.items():
    _register_binary(_name, _kind)


@aten("aten.pow.Tensor_Tensor", "aten.pow.Tensor_Scalar", "aten.pow.Scalar")
def power(e: Emitter, a: Operand, b: Operand) -> Value:
    base = _operand(e, a, e.result.dtype)
    if isinstance(b, int | float):
        if b == 2:
            return e.binary("mul", base, base)
        if b == 3:
            return e.binary("mul", e.binary("mul", base, base), base)
        if base.type.dtype.is_float and b == 0.5:
            return e.unary("sqrt", base)
        if base.type.dtype.is_float and b == -0.5:
            return e.unary("rsqrt", base)
        if base.type.dtype.is_float and b == -1:
            return e.unary("reciprocal", base)
        if b == 1:
            return base
    return e.binary("pow", base, _operand(e, b, e.result.dtype))


def _register_logical(name: str, kind: str) -> None:
    @aten(f"aten.logical_{name}.default")
    def logical(e: Emitter, a: Value, b: Value) -> Value:
        return e.binary(kind, e.truth(a), e.truth(b))


for _name in ("and", "or", "xor"):
    _register_logical(_name, _name)


def _register_comparison(kind: str) -> None:
    @aten(f"aten.{kind}.Tensor", f"aten.{kind}.Scalar")
    def comparison(e: Emitter, a: Operand, b: Operand) -> Value:
        return e.compare(kind, _operand(e, a, e.promoted), _operand(e, b, e.promoted))


for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    _register_comparison(_name)


@aten("aten.where.self")
def where(e: Emitter, condition: Value, a: Value, b: Value) -> Value:
    dtype = e.result.dtype
    return e.select(_operand(e, e.truth(condition), bool_), _operand(e, a, dtype), _operand(e, b, dtype))


@aten("aten.clamp.default", "aten.clamp.Tensor")
def clamp(e: Emitter, x: Value, low: Operand | None = None, high: Operand | None = None) -> Value:
    result = _operand(e, x, e.result.dtype)
    if low is not None:
        result = e.binary("max", result, _operand(e, low, e.result.dtype))
    if high is not None:
        result = e.binary("min", result, _operand(e, high, e.result.dtype))
    return result


@aten("aten.hardtanh.default")
def hardtanh(e: Emitter, x: Value, low: float = -1.0, high: float = 1.0) -> Value:
    return clamp(e, x, low, high)


@aten("aten.leaky_relu.default")
def leaky_relu(e: Emitter, x: Value, negative_slope: float = 0.01) -> Value:
    return e.select(e.compare("gt", x, 0), x, e.binary("mul", x, negative_slope))


@aten("aten.elu.default")
def elu(e: Emitter, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    wide = e.wide(x)
    bent = e.binary("mul", e.unary("expm1", e.binary("mul", wide, input_scale)), alpha)
    return e.cast(e.binary("mul", e.select(e.compare("gt", wide, 0), wide, bent), scale), x.type.dtype)


@aten("prims.convert_element_type.default", "aten._to_copy.default")
def convert(e: Emitter, x: Value, *_: object) -> Value:
    return e.cast(x, e.result.dtype)


@aten("aten.clone.default", "aten.alias.default", "aten.detach.default", "aten.lift_fresh_copy.default")
def identity(e: Emitter, x: Value) -> Value:
    return x


@aten("aten.copy.default")
def copy(e: Emitter, into: Value, x: Value) -> Value:
    return _operand(e, x, e.result.dtype)


@aten("aten.hypot.default")
def hypot(e: Emitter, a: Value, b: Value) -> Value:
    """Divided by the larger one, so that squares do not overflow."""
    left, right = (e.unary("abs", _operand(e, x, e.result.dtype)) for x in (a, b))
    large, small = e.binary("max", left, right), e.binary("min", left, right)
    ratio = e.binary("div", small, large)
    length = e.binary("mul", large, e.unary("sqrt", e.binary("add", e.binary("mul", ratio, ratio), 1)))
    return e.select(e.compare("eq", small, 0), large, length)
