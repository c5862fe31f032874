"""Python numbers that a function reads from its closure and its globals, and how traced ones are put in their places.

The function's surroundings stay as they are, since other threads use them: what is traced is a copy of the function.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_WRITES = ("STORE_GLOBAL", "DELETE_GLOBAL", "STORE_DEREF", "DELETE_DEREF")
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME")


class _Globals(dict[str, Any]):
    """A few names, and behind them a module's own globals as they are now."""

    def __init__(self, names: Mapping[str, Any], behind: Mapping[str, Any]) -> None:
        super().__init__(names)
        self.behind = behind

    def __missing__(self, name: str) -> Any:
        return self.behind[name]


def plain(function: Any) -> types.FunctionType | None:
    """The function itself if it is one, or that of a bound method."""
    found = function.__func__ if isinstance(function, types.MethodType) else function
    return found if isinstance(found, types.FunctionType) else None


def nested(code: types.CodeType) -> Iterator[types.CodeType]:
    """Code, and that of the functions defined in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested(constant)


def _instructions(function: types.FunctionType) -> list[dis.Instruction]:
    return [i for code in nested(function.__code__) for i in dis.get_instructions(code)]


def numbers_read(function: Any, others: Iterable[Any]) -> dict[str, str]:
    """Names of ints and floats in a function's closure and globals. With each why it cannot be replaced, or "".

    Args:
        others: what else may run; a number that it reads too would be replaced in one place only.
    """
    found = plain(function)
    if found is None:
        return {}
    instructions = _instructions(found)
    cells = dict(zip(found.__code__.co_freevars, found.__closure__ or ()))
    names: dict[str, str] = {}
    for name in dict.fromkeys((*cells, *(str(i.argval) for i in instructions if i.opname in _LOADS))):
        try:
            value = cells[name].cell_contents if name in cells else found.__globals__.get(name)
        except ValueError:
            continue
        if type(value) in (int, float):
            names[name] = ""
    if any(i.opname in _WRITES and i.argval in {*names, *found.__code__.co_freevars} for i in instructions):
        return dict.fromkeys(names, f"{found.__name__} assigns to variables outside of it")
    if any(i.opname in _LOADS and i.argval in ("globals", "eval", "exec") for i in instructions):
        return dict.fromkeys(names, f"{found.__name__} reads its globals as a whole")
    for other in others:
        if isinstance(other, types.FunctionType) and other is not found:
            for name in _shared(other, found, cells, names):
                names[name] = f"{other.__name__} reads it too"
    return names


def _shared(
    other: types.FunctionType, found: types.FunctionType, cells: Mapping[str, Any], names: Iterable[str]
) -> list[str]:
    held = [id(cell) for cell in other.__closure__ or ()]
    same_module = other.__globals__ is found.__globals__
    loaded = {i.argval for i in _instructions(other) if i.opname in _LOADS} if same_module else set()
    return [n for n in names if (id(cells[n]) in held if n in cells else n in loaded)]


def rebound(function: Callable[..., Any], numbers: Mapping[str, Any]) -> Callable[..., Any]:
    """A copy of a function (or bound method) that reads `numbers` in the places of what it finds under these names."""
    found = plain(function)
    if found is None or not numbers:
        return function
    closure = tuple(
        types.CellType(numbers[name]) if name in numbers else cell
        for name, cell in zip(found.__code__.co_freevars, found.__closure__ or ())
    )
    builtins = found.__globals__.get("__builtins__")
    variables = _Globals({**numbers, "__builtins__": builtins}, found.__globals__)
    copy = types.FunctionType(found.__code__, variables, found.__name__, found.__defaults__, closure)
    copy.__kwdefaults__, copy.__qualname__, copy.__module__ = found.__kwdefaults__, found.__qualname__, found.__module__
    copy.__dict__.update(found.__dict__)
    return types.MethodType(copy, function.__self__) if isinstance(function, types.MethodType) else copy
