"""Sizes: integers, and integer expressions over symbolic dimensions.

A dimension of a tensor type is an `int` or an `Expr`. An `Expr` is a polynomial with integer
coefficients over *atoms*: symbols (``batch``) and the functions ``floordiv``, ``mod``, ``max``,
``min`` and ``bcast`` of other expressions. Polynomials are kept in a normal form, so two sizes that
are equal by ring arithmetic compare equal (``2*(n+1) == n+n+2``); an expression without symbols
is always a plain `int`.

All symbols stand for sizes, hence are >= 0. A symbol whose name starts with an underscore is an
*unknown* size: one that no input declares, bound at run time by a ``bind`` operation.

The text form (``2*seq+1``, ``floordiv(h+1, 2)``) is what IR text and compiled manifests hold; `dim_text` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, TypeAlias

Dim: TypeAlias = "int | Expr"

_Monomial: TypeAlias = "tuple[Atom, ...]"


class Atom:
    """A symbol (`function` empty) or a function of expressions; interned by its text."""

    __slots__ = ("arguments", "function", "text")
    _interned: ClassVar[dict[str, Atom]] = {}
    function: str
    arguments: tuple[Dim, ...]
    text: str

    def __new__(cls, text: str, function: str = "", arguments: tuple[Dim, ...] = ()) -> Atom:
        atom = cls._interned.get(text)
        if atom is None:
            atom = super().__new__(cls)
            atom.text, atom.function, atom.arguments = text, function, arguments
            cls._interned[text] = atom
        return atom

    def __lt__(self, other: Atom) -> bool:
        return self.text < other.text

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[object, ...]:
        return (Atom, (self.text, self.function, self.arguments))


class Questions(Protocol):
    """Answers what Python code asks of open sizes while it is traced.

    The front end that runs Python code puts one object of this kind into `Expr.questions`; without it, sizes are
    compared by their form, and have neither order, truth nor value.
    """

    def compare(self, kind: str, left: Expr, right: Dim) -> bool:
        """Whether ``left kind right`` (``eq``, ``lt``, ``le``, ``gt``, ``ge``) holds."""

    def value(self, what: str, size: Expr) -> Any:
        """What ``int(size)`` and the like give, or an error."""

    def calculate(self, kind: str, left: Any, right: Any) -> Any:
        """The result of an operator that leaves the integers (``size / 2``, ``0.5 * size``)."""

    def ufunc(self, function: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """The result of a function of NumPy's (``np.sqrt(size)``)."""


_OF_NUMPY = {
    "add": "add", "subtract": "sub", "multiply": "mul", "floor_divide": "floordiv", "remainder": "mod",
    "divide": "truediv", "true_divide": "truediv", "power": "pow",
    "equal": "eq", "not_equal": "ne", "less": "lt", "less_equal": "le", "greater": "gt", "greater_equal": "ge",
}  # fmt: skip
_REFLECTED = {"eq": "eq", "ne": "ne", "lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


class Expr:
    """A polynomial in normal form; build it with `symbol`, operators and the functions below."""

    __slots__ = ("_hash", "terms")
    questions: ClassVar[Questions | None] = None

    def __init__(self, terms: Mapping[_Monomial, int]) -> None:
        self.terms: tuple[tuple[_Monomial, int], ...] = tuple(sorted(terms.items(), key=lambda t: _order(t[0])))
        self._hash = hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Expr) and self.terms == other.terms:
            return True
        if Expr.questions is None or not isinstance(other, Integral | Expr):
            return False if isinstance(other, int | float | str | Expr) or other is None else NotImplemented
        return Expr.questions.compare("eq", self, _whole(other))

    def _compared(self, kind: str, other: object) -> Any:
        if not isinstance(other, Integral | float | Expr):
            return NotImplemented
        if Expr.questions is None or isinstance(other, float):
            raise TypeError(f"'{self}' is a symbolic size, which has no order at compile time")
        return Expr.questions.compare(kind, self, _whole(other))

    def __lt__(self, other: object) -> Any:
        return self._compared("lt", other)

    def __le__(self, other: object) -> Any:
        return self._compared("le", other)

    def __gt__(self, other: object) -> Any:
        return self._compared("gt", other)

    def __ge__(self, other: object) -> Any:
        return self._compared("ge", other)

    # Other classes' operands are left to those classes (a traced array takes sizes as numbers).
    def __add__(self, other: Any) -> Any:
        if not isinstance(other, Integral | Expr):
            return _calculated("add", self, other)
        total = dict(self.terms)
        for monomial, coefficient in _terms(_whole(other)):
            total[monomial] = total.get(monomial, 0) + coefficient
        return _expr(total)

    def __radd__(self, other: Any) -> Any:
        return self + other if isinstance(other, Integral) else _calculated("add", other, self)

    def __neg__(self) -> Dim:
        return _expr({m: -c for m, c in self.terms})

    def __pos__(self) -> Dim:
        return self

    def __sub__(self, other: Any) -> Any:
        return self + -_whole(other) if isinstance(other, Integral | Expr) else _calculated("sub", self, other)

    def __rsub__(self, other: Any) -> Any:
        return -self + other if isinstance(other, Integral) else _calculated("sub", other, self)

    def __mul__(self, other: Any) -> Any:
        if not isinstance(other, Integral | Expr):
            return _calculated("mul", self, other)
        total: dict[_Monomial, int] = {}
        for m1, c1 in self.terms:
            for m2, c2 in _terms(_whole(other)):
                monomial = tuple(sorted(m1 + m2))
                total[monomial] = total.get(monomial, 0) + c1 * c2
        return _expr(total)

    def __rmul__(self, other: Any) -> Any:
        return self * other if isinstance(other, Integral) else _calculated("mul", other, self)

    def __floordiv__(self, other: Any) -> Any:
        return floordiv(self, _whole(other)) if isinstance(other, Integral | Expr) else NotImplemented

    def __rfloordiv__(self, other: Any) -> Any:
        return floordiv(int(other), self) if isinstance(other, Integral) else NotImplemented

    def __mod__(self, other: Any) -> Any:
        return mod(self, _whole(other)) if isinstance(other, Integral | Expr) else NotImplemented

    def __rmod__(self, other: Any) -> Any:
        return mod(int(other), self) if isinstance(other, Integral) else NotImplemented

    def __truediv__(self, other: Any) -> Any:
        return _calculated("truediv", self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _calculated("truediv", other, self)

    def __pow__(self, other: Any) -> Any:
        if not isinstance(other, int) or other < 0:
            return _calculated("pow", self, other)
        result: Dim = 1
        for _ in range(other):
            result = result * self
        return result

    def __rpow__(self, other: Any) -> Any:
        return _calculated("pow", other, self)

    def __abs__(self) -> Dim:
        return maximum(self, -self)

    def __round__(self, digits: int = 0) -> Dim:
        return self

    def __divmod__(self, other: Any) -> tuple[Dim, Dim]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Dim, Dim]:
        return other // self, other % self

    def __array_ufunc__(self, function: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """NumPy's numbers leave operators with sizes to this class; other functions are the front end's."""
        inputs = tuple([x[()] if getattr(x, "shape", None) == () else x for x in inputs])
        operator = _OF_NUMPY.get(function.__name__)
        if operator and method == "__call__" and not options and all(isinstance(x, Real | Expr) for x in inputs):
            left, right = inputs
            name = f"__{operator}__" if left is self else f"__{_REFLECTED.get(operator, 'r' + operator)}__"
            return getattr(self, name)(right if left is self else left)
        if Expr.questions is None:
            raise TypeError(f"'{self}' is a symbolic size, which has no value at compile time")
        return Expr.questions.ufunc(function, method, inputs, options)

    def __format__(self, form: str) -> str:
        return format(self._value("text") if form else str(self), form)

    def __bool__(self) -> bool:
        if Expr.questions is None:
            raise TypeError(f"the truth of the symbolic size '{self}' is not known at compile time")
        return not Expr.questions.compare("eq", self, 0)

    def __index__(self) -> int:
        return int(self._value("an integer"))

    def __int__(self) -> int:
        return int(self._value("an integer"))

    def __float__(self) -> float:
        return float(self._value("a float"))

    def _value(self, what: str) -> Any:
        if Expr.questions is None:
            raise TypeError(f"'{self}' is a symbolic size, which has no value at compile time")
        return Expr.questions.value(what, self)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in self.terms:
            factors = "*".join(a.text for a in monomial)
            magnitude = abs(coefficient)
            body = str(magnitude) if not monomial else factors if magnitude == 1 else f"{magnitude}*{factors}"
            sign = "-" if coefficient < 0 else "+" if parts else ""
            parts.append(sign + body)
        return "".join(parts)


def _whole(size: Any) -> Dim:
    """A size as given by the user: integers of NumPy become Python's."""
    return size if isinstance(size, Expr) else int(size)


def _calculated(kind: str, left: Any, right: Any) -> Any:
    """An operator whose result is no size."""
    if Expr.questions is None or not all(isinstance(x, Real | Expr) for x in (left, right)):
        return NotImplemented
    return Expr.questions.calculate(kind, left, right)


def _order(monomial: _Monomial) -> tuple[int, tuple[str, ...]]:
    return (-len(monomial), tuple(a.text for a in monomial))


def _terms(dim: Dim) -> tuple[tuple[_Monomial, int], ...]:
    return dim.terms if isinstance(dim, Expr) else (((), dim),)


def _expr(terms: dict[_Monomial, int]) -> Dim:
    terms = {m: c for m, c in terms.items() if c}
    if not terms:
        return 0
    if len(terms) == 1 and () in terms:
        return terms[()]
    return Expr(terms)


def symbol(name: str) -> Expr:
    """The symbolic dimension called `name` (a Python identifier).

    Raises:
        ValueError: the name is not an identifier, or is the name of a dimension function.
    """
    if not name.isidentifier() or name in DIM_FUNCTIONS:
        raise ValueError(f"'{name}' is not a valid name of a symbolic dimension")
    return Expr({(Atom(name),): 1})


def _call(function: str, *arguments: Dim) -> Dim:
    text = f"{function}({', '.join(str(a) for a in arguments)})"
    return Expr({(Atom(text, function, arguments),): 1})


def floordiv(a: Dim, b: Dim) -> Dim:
    """⌊a / b⌋; terms that divide evenly are taken out of the floor."""
    if isinstance(a, int) and isinstance(b, int) and b:
        return a // b
    if b == 1:
        return a
    if a == b:
        return 1
    exact, rest = _split_divisible(a, b)
    if rest == 0:
        return exact
    if isinstance(rest, int) and isinstance(b, int) and 0 <= rest < b:
        return exact
    return exact + _call("floordiv", rest, b)


def mod(a: Dim, b: Dim) -> Dim:
    """a - b*⌊a / b⌋ (the sign of the divisor, as in Python)."""
    if isinstance(a, int) and isinstance(b, int) and b:
        return a % b
    if b == 1:
        return 0
    _, rest = _split_divisible(a, b)
    if rest == 0 or (isinstance(rest, int) and isinstance(b, int) and 0 <= rest < b):
        return rest
    return _call("mod", rest, b)


def _split_divisible(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """(q, r) with a = q*b + r, r holding the terms of `a` that are not multiples of `b`."""
    if isinstance(b, Expr) and len(b.terms) != 1:
        return (1, 0) if a == b else (0, a)
    ((divisor, scale),) = _terms(b)
    if scale == 0:
        return 0, a
    quotient: dict[_Monomial, int] = {}
    rest: dict[_Monomial, int] = {}
    for monomial, coefficient in _terms(a):
        remaining = list(monomial)
        whole = True
        for atom in divisor:
            if atom in remaining:
                remaining.remove(atom)
            else:
                whole = False
        if whole and (coefficient % scale == 0 or (not divisor and not monomial)):
            quotient[tuple(remaining)] = coefficient // scale
            if coefficient % scale:
                rest[monomial] = coefficient % scale
        else:
            rest[monomial] = coefficient
    return _expr(quotient), _expr(rest)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """⌈a / b⌉."""
    return floordiv(a + b - 1, b)


def maximum(a: Dim, b: Dim) -> Dim:
    """The larger of two sizes; decided now when their difference is a constant or has a known sign."""
    difference = a - b
    if is_non_negative(difference):
        return a
    if is_non_negative(-difference):
        return b
    return _call("max", *sorted((a, b), key=str))


def minimum(a: Dim, b: Dim) -> Dim:
    """The smaller of two sizes; decided now when possible."""
    difference = a - b
    if is_non_negative(difference):
        return b
    if is_non_negative(-difference):
        return a
    return _call("min", *sorted((a, b), key=str))


def broadcast_dim(a: Dim, b: Dim) -> Dim:
    """Size that NumPy broadcasting gives to sizes `a` and `b` (assumed compatible)."""
    if a == b or b == 1:
        return a
    if a == 1:
        return b
    if isinstance(a, int):
        return a
    if isinstance(b, int):
        return b
    return _call("bcast", *sorted((a, b), key=str))


def is_non_negative(dim: Dim) -> bool:
    """True when `dim` is >= 0 for all values of its symbols, as far as its form shows."""
    return all(c >= 0 and all(_atom_non_negative(a) for a in m) for m, c in _terms(dim))


def _atom_non_negative(atom: Atom) -> bool:
    if atom.function in ("", "bcast"):
        return True
    if atom.function == "mod":
        return is_non_negative(atom.arguments[1])
    if atom.function == "max":
        return any(is_non_negative(a) for a in atom.arguments)
    return all(is_non_negative(a) for a in atom.arguments)


def symbols_of(dim: Dim) -> frozenset[str]:
    """Names of the symbols in `dim`."""
    return _symbols(dim) if isinstance(dim, Expr) else frozenset()


@lru_cache(maxsize=65536)
def _symbols(expr: Expr) -> frozenset[str]:
    names: set[str] = set()
    for monomial, _ in expr.terms:
        for atom in monomial:
            if atom.function:
                for argument in atom.arguments:
                    names |= symbols_of(argument)
            else:
                names.add(atom.text)
    return frozenset(names)


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """`dim` with symbols replaced by sizes (all replaced by integers: an integer)."""
    if not isinstance(dim, Expr) or not (_symbols(dim) & values.keys()):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        product: Dim = coefficient
        for atom in monomial:
            if not atom.function:
                factor = values.get(atom.text, Expr({(atom,): 1}))
            else:
                factor = DIM_FUNCTIONS[atom.function](*(substitute(a, values) for a in atom.arguments))
            product = product * factor
        total = total + product
    return total


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The integer that `dim` is under `values`.

    Raises:
        KeyError: a symbol has no value.
    """
    missing = symbols_of(dim) - values.keys()
    if missing:
        raise KeyError(f"no value for the symbolic dimension '{min(missing)}'")
    result = substitute(dim, values)
    assert isinstance(result, int)
    return result


DIM_FUNCTIONS: dict[str, Callable[..., Dim]] = {
    "floordiv": floordiv,
    "mod": mod,
    "max": maximum,
    "min": minimum,
    "bcast": broadcast_dim,
    "ceildiv": ceildiv,
}


def product(dims: tuple[Dim, ...]) -> Dim:
    """Product of sizes (1 for none)."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total
