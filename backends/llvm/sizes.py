"""Size expressions as i64 instructions; integer sizes are constants and leave none."""

from __future__ import annotations

from collections.abc import Mapping

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.ir.dims import Atom, Dim, Expr, is_non_negative


def emit_size(fb: FunctionBuilder, dim: Dim, symbols: Mapping[str, V]) -> V:
    """The value of `dim`, given its symbols' values.

    Raises:
        KeyError: a symbol has no value here.
    """
    if isinstance(dim, int):
        return fb.i64(dim)
    total = fb.i64(0)
    for monomial, coefficient in dim.terms:
        product = fb.i64(abs(coefficient))
        for atom in monomial:
            product = fb.mul(product, _atom(fb, atom, symbols))
        total = fb.add(total, product) if coefficient > 0 else fb.sub(total, product)
    return total


def emit_magnitude(fb: FunctionBuilder, dim: Dim, symbols: Mapping[str, V]) -> V:
    """About the value of `dim`, as a double: right where the i64 of `emit_size` would wrap around."""
    if isinstance(dim, int):
        return V("double", repr(float(dim)))
    total = V("double", "0.0")
    for monomial, coefficient in dim.terms:
        product = V("double", repr(float(coefficient)))
        for atom in monomial:
            factor = fb.emit("double", f"sitofp {_atom(fb, atom, symbols)} to double")
            product = fb.emit("double", f"fmul double {product.ref}, {factor.ref}")
        total = fb.emit("double", f"fadd double {total.ref}, {product.ref}")
    return total


def _atom(fb: FunctionBuilder, atom: Atom, symbols: Mapping[str, V]) -> V:
    if not atom.function:
        return symbols[atom.text]
    a, b = (emit_size(fb, x, symbols) for x in atom.arguments)
    match atom.function:
        case "max":
            return fb.smax(a, b)
        case "min":
            return fb.smin(a, b)
        case "bcast":
            return fb.select(fb.icmp("eq", a, fb.i64(1)), b, a)
    # A divisor of zero (an empty dimension) must not trap: the result is never used then.
    if not (isinstance(atom.arguments[1], int) and atom.arguments[1] > 0):
        b = fb.smax(b, fb.i64(1))
    exact = isinstance(atom.arguments[0], int | Expr) and is_non_negative(atom.arguments[0])
    if atom.function == "floordiv":
        if exact:
            return fb.sdiv(a, b)
        rest = fb.srem(fb.add(fb.srem(a, b), b), b)
        return fb.sdiv(fb.sub(a, rest), b)
    if atom.function == "mod":
        return fb.srem(a, b) if exact else fb.srem(fb.add(fb.srem(a, b), b), b)
    raise ValueError(f"unknown size function '{atom.function}'")
