"""Sizes as Triton expressions over the kernel's integer parameters."""

from __future__ import annotations

from ds_compiler.ir.dims import Atom, Dim, is_non_negative


def symbol_parameter(name: str) -> str:
    """The kernel parameter that holds a symbol's value."""
    return f"s_{name}"


def size_text(dim: Dim) -> str:
    """The value of `dim`; in parentheses where it is a sum."""
    if isinstance(dim, int):
        return str(dim) if dim >= 0 else f"({dim})"
    parts: list[str] = []
    for monomial, coefficient in dim.terms:
        factors = [_atom(a) for a in monomial]
        if abs(coefficient) != 1 or not factors:
            factors.append(str(abs(coefficient)))
        sign = "-" if coefficient < 0 else "+" if parts else ""
        parts.append(f"{sign} {' * '.join(factors)}" if parts else f"{sign}{' * '.join(factors)}")
    text = " ".join(parts)
    return f"({text})" if len(parts) > 1 or text.startswith("-") or " " in text else text


def _atom(atom: Atom) -> str:
    if not atom.function:
        return symbol_parameter(atom.text)
    a, b = (size_text(x) for x in atom.arguments)
    match atom.function:
        case "max" | "min":
            return f"tl.{atom.function}imum({a}, {b})"
        case "bcast":
            return f"tl.where({a} == 1, {b}, {a})"
    # A divisor of zero (an empty dimension) must not trap: the result is never used then.
    divisor = atom.arguments[1]
    if not (isinstance(divisor, int) and divisor > 0):
        b = f"tl.maximum({b}, 1)"
    # Triton divides towards zero: right as it is unless the dividend may be negative.
    rest = f"{a} % {b}" if is_non_negative(atom.arguments[0]) else f"({a} % {b} + {b}) % {b}"
    if atom.function == "mod":
        return f"({rest})"
    return f"({a} // {b})" if is_non_negative(atom.arguments[0]) else f"(({a} - {rest}) // {b})"
