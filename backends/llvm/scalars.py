"""Scalar and vector code of the elementwise operations, on values in registers.

Element types compute as: f32 and f64 as themselves, narrower floats as f32 (rounded at each cast and store), integers
as themselves (those below 8 bits as i8), bool as i1.
"""

from __future__ import annotations

from ds_compiler.backends.llvm import math, narrow
from ds_compiler.backends.llvm.builder import FunctionBuilder, V, constant, vector_of
from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.errors import CompileError

_COMPUTE = {"f64": "double", "f32": "float", "f16": "float", "bf16": "float", "bool": "i1"}
# 16-bit floats are loaded and stored as integers: LLVM would call library routines to move a bfloat.
_MEMORY = {"f64": "double", "f32": "float", "f16": "i16", "bf16": "i16", "bool": "i8"}
_NARROW = {"f16": "half", "bf16": "bfloat"}

_ROUNDING = {"floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "round": math.round_half_even}
_FUNCTIONS = {
    "sqrt": math.sqrt,
    "rsqrt": math.rsqrt,
    "reciprocal": math.reciprocal,
    "exp": math.exp,
    "exp_nonpositive": math.exp_nonpositive,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "asin": math.asin,
    "acos": math.acos,
    "atan": math.atan,
    "sinh": math.sinh,
    "cosh": math.cosh,
    "tanh": math.tanh,
    "asinh": math.asinh,
    "acosh": math.acosh,
    "atanh": math.atanh,
    "erf": math.erf,
    "sigmoid": math.sigmoid,
    **_ROUNDING,
}
_FLOAT_PREDICATE = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def compute_type(dtype: DType) -> str:
    """LLVM type that values of `dtype` have in registers.

    Raises:
        CompileError: the back end has no code for the type yet.
    """
    if dtype.is_integer:
        return f"i{max(dtype.bits, 8)}"
    if narrow.is_narrow(dtype):
        return "float"
    if dtype.name not in _COMPUTE:
        raise CompileError(f"element type {dtype} is not supported by the CPU back end")
    return _COMPUTE[dtype.name]


def memory_type(dtype: DType) -> str:
    """LLVM type that elements of `dtype` have in memory."""
    return "i8" if narrow.is_narrow(dtype) else _MEMORY.get(dtype.name) or compute_type(dtype)


def from_memory(fb: FunctionBuilder, value: V, dtype: DType) -> V:
    """What was loaded as `memory_type`, as `compute_type`."""
    if dtype.kind == "b":
        return fb.icmp("ne", value, constant(value.type, 0))
    if narrow.is_narrow(dtype):
        return narrow.from_byte(fb, value, dtype)
    if dtype.name not in _NARROW:
        return value
    half = fb.cast("bitcast", value, vector_of(_NARROW[dtype.name], value.lanes))
    return math.to_f32(fb, half, f16c=fb.module.half_conversions)


def to_memory(fb: FunctionBuilder, value: V, dtype: DType) -> V:
    """The inverse of `from_memory`."""
    if dtype.kind == "b":
        return fb.cast("zext", value, vector_of("i8", value.lanes))
    if narrow.is_narrow(dtype):
        return narrow.to_byte(fb, value, dtype)
    if dtype.name not in _NARROW:
        return value
    half = math.from_f32(fb, value, _NARROW[dtype.name], f16c=fb.module.half_conversions)
    return fb.cast("bitcast", half, vector_of("i16", value.lanes))


def select_max(fb: FunctionBuilder, kind: str, a: V, b: V, dtype: DType) -> V:
    """``max``/``min`` of two values; NaN if either is NaN."""
    if dtype.kind == "b":
        return fb.binary("or" if kind == "max" else "and", a, b)
    if not dtype.is_float:
        signed = "s" if dtype.kind == "i" else "u"
        return fb.intrinsic(f"{signed}{kind}", a, b)
    predicate = "ogt" if kind == "max" else "olt"
    for known, other in ((a, b), (b, a)):
        if _is_number(known):  # one instruction: the second operand of maxps survives when it is NaN
            return fb.select(fb.fcmp(predicate, known, other), known, other)
    chosen = fb.select(fb.fcmp(predicate, a, b), a, b)
    return fb.select(fb.fcmp("uno", a, a), a, chosen)


def _is_number(value: V) -> bool:
    """A constant that is not NaN."""
    text = value.ref.lstrip("<").split(",")[0].split(" ")[-1].rstrip(">")
    return text.startswith("0x") and not text[2:].upper().startswith(("7FF8", "FFF8"))


def combine(fb: FunctionBuilder, how: str, a: V, b: V, dtype: DType) -> V:
    """One step of a reduction or scatter: `how` of `ds_compiler.ops.reduction`, or ``mul``, ``add``."""
    match how:
        case "sum" | "add" | "mean":
            return fb.emit(a.type, f"fadd contract {a.type} {a.ref}, {b.ref}") if dtype.is_float else fb.add(a, b)
        case "prod" | "mul":
            return fb.fmul(a, b) if dtype.is_float else fb.mul(a, b)
        case "any":
            return fb.binary("or", a, b)
        case "all":
            return fb.binary("and", a, b)
    return select_max(fb, how, a, b, dtype)


def unary(fb: FunctionBuilder, kind: str, x: V, dtype: DType) -> V:
    """A kind of `ds_compiler.ops.elementwise.UNARY`."""
    if dtype.is_float:
        if kind in _FUNCTIONS:
            return _FUNCTIONS[kind](fb, x)
        match kind:
            case "neg":
                return fb.fneg(x)
            case "abs":
                return fb.intrinsic("fabs", x)
            case "sign":
                one, zero = constant(x.type, 1.0), constant(x.type, 0.0)
                low = fb.select(fb.fcmp("olt", x, zero), constant(x.type, -1.0), x)  # x: zero or NaN stays
                return fb.select(fb.fcmp("ogt", x, zero), one, low)
    zero = constant(x.type, 0)
    match kind:
        case "not":
            return fb.binary("xor", x, constant(x.type, 1 if dtype.kind == "b" else -1))
        case "neg":
            return fb.binary("sub", zero, x)
        case "abs":
            return x if dtype.kind == "u" else fb.select(fb.icmp("slt", x, zero), fb.binary("sub", zero, x), x)
        case "sign":
            one = constant(x.type, 1)
            nonzero = fb.select(fb.icmp("ne", x, zero), one, zero)
            return nonzero if dtype.kind == "u" else fb.select(fb.icmp("slt", x, zero), constant(x.type, -1), nonzero)
    raise CompileError(f"'{kind}' has no code for element type {dtype}")


def predicate(fb: FunctionBuilder, kind: str, x: V) -> V:
    """``isnan``, ``isinf``, ``isfinite``."""
    if kind == "isnan":
        return fb.fcmp("uno", x, x)
    infinity = constant(x.type, float("inf"))
    return fb.fcmp("oeq" if kind == "isinf" else "olt", fb.intrinsic("fabs", x), infinity)


def binary(fb: FunctionBuilder, kind: str, a: V, b: V, dtype: DType) -> V:
    """A kind of `ds_compiler.ops.elementwise.BINARY`."""
    if kind in ("max", "min"):
        return select_max(fb, kind, a, b, dtype)
    if dtype.is_float:
        if kind in ("add", "sub", "mul", "div"):
            # contract: a product and a sum become one FMA, rounded once
            flag = "" if kind == "div" else "contract "
            return fb.emit(a.type, f"f{kind} {flag}{a.type} {a.ref}, {b.ref}")
        if kind == "pow":
            return math.pow(fb, a, b)
        if kind == "atan2":
            return math.atan2(fb, a, b)
        if kind in ("mod", "fmod"):
            rest = fb.binary("frem", a, b)
            if kind == "fmod":
                return rest
            zero = constant(a.type, 0.0)
            differs = fb.binary("xor", fb.fcmp("olt", rest, zero), fb.fcmp("olt", b, zero))
            wrong = fb.binary("and", fb.fcmp("une", rest, zero), differs)
            return fb.select(wrong, fb.fadd(rest, b), rest)
    signed = dtype.kind == "i"
    match kind:
        case "add" | "sub" | "mul":
            if kind == "add" and not a.lanes:
                return fb.add(a, b)
            return fb.binary(kind, a, b)
        case "div":
            return math.trunc_div(fb, a, b, signed=signed)
        case "mod":
            return math.floor_mod(fb, a, b, signed=signed)
        case "fmod":
            return math.trunc_mod(fb, a, b, signed=signed)
        case "pow":
            return math.pow_integer(fb, a, b)
        case "and" | "or" | "xor":
            return fb.binary(kind, a, b)
        case "shl" | "shr":
            bits = dtype.bits
            opcode = "shl" if kind == "shl" else "ashr" if signed else "lshr"
            if opcode == "ashr":  # beyond the width the sign is left
                return fb.binary(opcode, a, fb.intrinsic("umin", b, constant(b.type, bits - 1)))
            inside = fb.icmp("ult", b, constant(b.type, bits))
            amount = fb.select(inside, b, constant(b.type, 0))
            return fb.select(inside, fb.binary(opcode, a, amount), constant(a.type, 0))
    raise CompileError(f"'{kind}' has no code for element type {dtype}")


def compare(fb: FunctionBuilder, kind: str, a: V, b: V, dtype: DType) -> V:
    """A kind of `ds_compiler.ops.elementwise.COMPARE`, as i1."""
    if dtype.is_float:
        return fb.fcmp(_FLOAT_PREDICATE[kind], a, b)
    if kind in ("eq", "ne"):
        return fb.icmp(kind, a, b)
    return fb.icmp(("s" if dtype.kind == "i" else "u") + kind, a, b)


def cast(fb: FunctionBuilder, x: V, source: DType, to: DType) -> V:
    """Conversion as `ds_compiler.ops.Cast` defines it."""
    type_ = vector_of(compute_type(to), x.lanes)
    if to.kind == "b":
        if source.kind == "b":
            return x
        zero = constant(x.type, 0)
        return fb.fcmp("une", x, zero) if source.is_float else fb.icmp("ne", x, zero)
    if source.kind == "b":
        return fb.cast("uitofp" if to.is_float else "zext", x, type_)
    if source.is_float and to.is_float:
        if compute_type(source) != compute_type(to):
            x = fb.cast("fpext" if to.bits > source.bits else "fptrunc", x, type_)
        return _rounded(fb, x, to)
    if source.is_float:
        # Below 32 bits by way of i32, whose vectors one instruction converts: of narrower ones LLVM takes lane by lane.
        narrow = to.bits < 32
        name = "fptosi" if to.kind == "i" or narrow else "fptoui"
        between = vector_of("i32", x.lanes) if narrow else type_
        from ds_compiler.backends.llvm.builder import intrinsic_suffix

        full = f"llvm.{name}.sat.{intrinsic_suffix(between)}.{intrinsic_suffix(x.type)}"
        result = fb.call(fb.module.declare(full, between, [x.type]), between, x)
        if not narrow:
            return result
        low, high = (constant(between, limit) for limit in to.limits)
        return fb.cast("trunc", fb.intrinsic("smin", fb.intrinsic("smax", result, low), high), type_)
    if to.is_float:
        x = fb.cast("sitofp" if source.kind == "i" else "uitofp", x, type_)
        return _rounded(fb, x, to)
    if max(to.bits, 8) < source.bits:
        x = fb.cast("trunc", x, type_)
    elif to.bits > max(source.bits, 8):
        x = fb.cast("sext" if source.kind == "i" else "zext", x, type_)
    return _rounded(fb, x, to) if to.bits < 8 else x


def bitcast(fb: FunctionBuilder, x: V, source: DType, to: DType) -> V:
    """What memory that holds `x` holds as another element type."""
    stored = to_memory(fb, x, source)
    memory = vector_of(memory_type(to), x.lanes)
    return from_memory(fb, stored if stored.type == memory else fb.cast("bitcast", stored, memory), to)


def _rounded(fb: FunctionBuilder, x: V, dtype: DType) -> V:
    """What remains of a value in registers when memory has held it."""
    if compute_type(dtype) == memory_type(dtype) and dtype.bits >= 8:
        return x
    return from_memory(fb, to_memory(fb, x, dtype), dtype)
