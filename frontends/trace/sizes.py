"""Open sizes in the user's Python: comparisons are guards, values are refused, arithmetic gives numbers.

A program with open sizes serves all of them, unless the code that is traced asks about one (``x.shape[0] == 32``). The
answer is that of the call for which it is traced, and the program is kept for the sizes that give the same answer.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ds_compiler.frontends.trace import places
from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.frame import current, located, tracing
from ds_compiler.frontends.trace.number import apply
from ds_compiler.ir import Dim, Expr
from ds_compiler.ir.dims import evaluate, is_non_negative, symbols_of

_RELATIONS: Final[dict[str, tuple[str, str, Callable[[Any, Any], bool]]]] = {
    "eq": ("==", "!=", operator.eq),
    "lt": ("<", ">=", operator.lt),
    "le": ("<=", ">", operator.le),
    "gt": (">", "<=", operator.gt),
    "ge": (">=", "<", operator.ge),
}


@dataclass(frozen=True)
class SizeGuard:
    """What a traced function asked about open sizes, and was told.

    Attributes:
        place: the line that asked.
    """

    kind: str
    left: Dim
    right: Dim
    answer: bool
    place: str

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether the answer is the same for `sizes`."""
        return _RELATIONS[self.kind][2](evaluate(self.left, sizes), evaluate(self.right, sizes)) == self.answer

    def __str__(self) -> str:
        yes, no, _ = _RELATIONS[self.kind]
        return f"{self.left} {yes if self.answer else no} {self.right} ({self.place})"


class _Sizes:
    """See `ds_compiler.ir.dims.Questions`."""

    def compare(self, kind: str, left: Expr, right: Dim) -> bool:
        """The compiler's own code compares forms, the user's code sizes."""
        depth = 2 if kind == "eq" else 3
        if sys._getframe(depth).f_code is Expr.__array_ufunc__.__code__:  # NumPy has passed the question on
            depth += 1
        theirs = tracing() and places.is_users(sys._getframe(depth))
        if not theirs:
            if kind == "eq":
                return False
            raise TypeError(f"'{left}' is a symbolic size, which has no order at compile time")
        known = _known(kind, left, right)
        if known is not None:
            return known
        trace = current().trace
        symbols = symbols_of(left) | symbols_of(right)
        if not symbols <= trace.sizes.keys():
            sign = _RELATIONS[kind][0]
            raise located(
                f"whether {left} {sign} {right} is not known while the function is traced",
                help="compare arrays and use ds.where or ds.cond: xp.asarray(x.shape[0]) == …",
            )
        answer = _RELATIONS[kind][2](evaluate(left, trace.sizes), evaluate(right, trace.sizes))
        place = ", ".join(places.here().names)
        guard = SizeGuard(kind, left, right, answer, place)
        if guard not in trace.guards:
            trace.guards.append(guard)
        return answer

    def value(self, what: str, size: Expr) -> NoReturn:
        raise located(
            f"the value of the open size '{size}' as {what} is not known while the function is traced",
            help="calculate with the size itself (x.shape[0] ** 0.5, xp.zeros), repeat with ds.fori_loop or ds.scan, "
            "or leave it out of dynamic=, for one program for each size",
        )

    def calculate(self, kind: str, left: Any, right: Any) -> TracedArray:
        if not tracing():
            raise TypeError(f"{left} and {right}: a symbolic size is calculated with in a traced function only")
        return apply(kind, left, right)

    def ufunc(self, function: Any, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        from ds_compiler.frontends.trace.numpy_functions import apply_ufunc

        if not tracing():
            raise TypeError(f"np.{function.__name__}: symbolic sizes are calculated with in a traced function only")
        return apply_ufunc(function, method, inputs, options)


def _known(kind: str, left: Dim, right: Dim) -> bool | None:
    """The answer that holds for all sizes, if there is one."""
    difference = right - left
    if kind in ("le", "gt"):
        at_most: bool | None = (
            True if is_non_negative(difference) else False if is_non_negative(-difference - 1) else None
        )
        return at_most if kind == "le" or at_most is None else not at_most
    below: bool | None = True if is_non_negative(difference - 1) else False if is_non_negative(-difference) else None
    if kind == "eq":
        apart = below or is_non_negative(-difference - 1)
        return False if apart else None
    return below if kind == "lt" or below is None else not below


Expr.questions = _Sizes()
