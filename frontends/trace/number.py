"""Python numbers that only running the program tells: scalar arguments, and what is calculated from open sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

from ds_compiler.frontends.trace import array, compose
from ds_compiler.frontends.trace import elementwise as e
from ds_compiler.frontends.trace.array import TracedArray, wrap
from ds_compiler.frontends.trace.errors import NumberNeeded, TraceError
from ds_compiler.frontends.trace.frame import located
from ds_compiler.ir import Expr, TensorType, Value
from ds_compiler.ir.dtypes import f64, i64

_Plain = bool | int | float | Expr


class Number(TracedArray):
    """An int or float as Python has them: calculated with in 64 bits, and beside an array of the array's type.

    Attributes:
        sources: what it was calculated from: arguments by the number of their leaf, variables by name.
    """

    __slots__ = ("sources",)
    is_number: ClassVar[bool] = True

    def __init__(self, value: Value, sources: frozenset[int | str] = frozenset()) -> None:
        super().__init__(value)
        self.sources = sources

    @property
    def is_float(self) -> bool:
        return self.type.dtype.is_float

    @property
    def example(self) -> int | float:
        """A Python number of its kind."""
        return 1.0 if self.is_float else 1

    def __repr__(self) -> str:
        return f"a Python {'float' if self.is_float else 'int'} that is an input of the program"

    def __neg__(self) -> Number:
        return calculated("mul", self, -1)

    def __pos__(self) -> Number:
        return self

    def __abs__(self) -> Number:
        return Number(e.abs(wrap(self.read())).read(), self.sources)

    def _unknown(self, what: str, help: str) -> NoReturn:
        error = located(f"the value of {self!r} is not known while the function is traced", help)
        raise NumberNeeded(error, self.sources)

    def __getattr__(self, name: str) -> Any:
        self._unknown(name, "a Python number that is changed at each call is an input of the program")


class Answer(TracedArray):
    """Whether a comparison of numbers holds.

    Attributes:
        sources: as of `Number`.
    """

    __slots__ = ("sources",)

    def __init__(self, value: Value, sources: frozenset[int | str]) -> None:
        super().__init__(value)
        self.sources = sources

    def _unknown(self, what: str, help: str) -> NoReturn:
        try:
            super()._unknown(what, help)
        except TraceError as error:
            raise NumberNeeded(error, self.sources) from None


def type_of(kind: type) -> TensorType:
    """How a Python number is passed to a program."""
    return TensorType((), f64 if kind is float else i64)


def number_of(x: Any) -> Number:
    """A Python number or size, to be calculated with."""
    if isinstance(x, Number):
        return x
    if isinstance(x, Expr):
        return Number(compose.size(x, i64))
    return Number(compose.scalar(x, f64 if isinstance(x, float) else i64))


def _exact(kind: str, a: Number, b: Number, exponent: Any) -> bool:
    """Whether the operator of two ints gives an int."""
    if a.is_float or b.is_float or kind == "truediv":
        return False
    if kind == "pow" and not (isinstance(exponent, int) and exponent >= 0):
        a._unknown("its power", "use a float as base: the result's kind depends on the exponent's sign")
    return True


def calculated(kind: str, left: Any, right: Any) -> Number:
    """``left kind right`` of numbers."""
    a, b = number_of(left), number_of(right)
    common = i64 if _exact(kind, a, b, right) else f64
    operands = (wrap(compose.cast(x.read(), common)) for x in (a, b))
    return Number(_FUNCTIONS[kind](*operands).read(), a.sources | b.sources)


def _compared(kind: str, left: Any, right: Any) -> TracedArray:
    a, b = number_of(left), number_of(right)
    common = f64 if a.is_float or b.is_float else i64
    holds = _FUNCTIONS[kind](*(wrap(compose.cast(x.read(), common)) for x in (a, b)))
    return Answer(holds.read(), a.sources | b.sources)


_FUNCTIONS: dict[str, Callable[[Any, Any], TracedArray]] = {
    "add": e.add, "sub": e.subtract, "mul": e.multiply, "truediv": e.divide, "floordiv": e.floor_divide,
    "mod": e.remainder, "pow": e.pow,
    "eq": e.equal, "ne": e.not_equal, "lt": e.less, "le": e.less_equal, "gt": e.greater, "ge": e.greater_equal,
}  # fmt: skip
_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


def apply(kind: str, left: Any, right: Any) -> TracedArray:
    """``left kind right`` of numbers, NumPy's too (which are arrays without axes)."""
    if array.is_array(left) or array.is_array(right):
        return _FUNCTIONS[kind](left, right)
    return calculated(kind, left, right)


def _operator(kind: str, reflected: bool = False) -> Callable[[Number, Any], Any]:
    work: Callable[[str, Any, Any], Any] = _compared if kind in _COMPARISONS else calculated

    def operator(self: Number, other: Any, /) -> Any:
        pair = (other, self) if reflected else (self, other)
        if array.is_array(other):
            return _FUNCTIONS[kind](*pair)
        return work(kind, *pair) if isinstance(other, Number | _Plain) else NotImplemented

    return operator


for _kind in _FUNCTIONS:
    setattr(Number, f"__{_kind}__", _operator(_kind))
    if _kind not in _COMPARISONS:
        setattr(Number, f"__r{_kind}__", _operator(_kind, reflected=True))
