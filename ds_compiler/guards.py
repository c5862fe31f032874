"""What a traced function reads besides its arguments: closure cells, globals, attributes, elements of containers.

A `Watch` remembers where a value was found and what it was. The compiled program holds as long as all watches do.
Arrays are not compared: they are inputs of the program, read anew at each call, and only their types are watched.
"""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ds_compiler.frontends.trace.closure import nested

Array = np.ndarray[Any, Any]

_MOST = 20_000
"""Elements of containers that are watched; what lies beyond is not."""
_COMPARED_BYTES = 1 << 16

LARGEST_INT = int(np.iinfo(np.int64).max)
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), np.dtype, np.generic)
_MISSING = object()


@dataclass(slots=True)
class Watch:
    """A place in the function's surroundings, and the value that was found there.

    Attributes:
        path: as the user writes it (``config['rate']``).
        fetch: reads it again.
        value: what it was.
        kind: ``equal`` compares, ``same`` wants the identical object, ``array`` the same shape and element type,
            ``content`` the same elements, ``length`` the same number of elements, which `fetch` gives, ``number`` any
            number of the type `value`.
        container: of a length.
    """

    path: str
    fetch: Callable[[], Any]
    value: Any
    kind: str
    copy: Any = field(default=None)
    container: Callable[[], Any] = field(default=lambda: None)

    def renew(self, now: Any) -> None:
        """Let what is there now be what it was."""
        self.value = len(now) if self.kind == "length" else now

    def failure(self) -> str:
        """Why the watch no longer holds; nothing if it does."""
        try:
            now = self.fetch()
        except (LookupError, AttributeError, ValueError):
            return f"{self.path} is gone"
        if self.kind == "same":
            return "" if now is self.value else f"{self.path} is another object"
        if self.kind == "equal":
            if type(now) is type(self.value) and (now == self.value or (now != now and self.value != self.value)):
                return ""
            return f"{self.path} was {_short(self.value)}, now {_short(now)}"
        if self.kind == "number":
            fits = type(now) is self.value and (self.value is float or abs(now) <= LARGEST_INT)
            return "" if fits else f"{self.path} was any {self.value.__name__}, now {_short(now)}"
        if self.kind == "length":
            return "" if now == self.value else f"{self.path} has {now} elements, had {self.value}"
        if not isinstance(now, np.ndarray):
            return f"{self.path} was an array, now {_short(now)}"
        if now.dtype != self.value.dtype or now.shape != self.value.shape:
            return f"{self.path} was {self.value.dtype}{list(self.value.shape)}, now {now.dtype}{list(now.shape)}"
        if self.kind == "content":
            same = np.array_equal(now, self.copy) if self.copy is not None else now is self.value
            return "" if same else f"the elements of {self.path} have changed"
        return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def surroundings(function: Callable[..., Any], objects: dict[str, Any]) -> Surroundings:
    """What `function` and the functions that it calls read from their surroundings.

    Args:
        objects: arguments that are no arrays, by path; their attributes are read too.
    """
    walk = Surroundings()
    walk.callable(getattr(function, "__name__", "function"), function)
    for path, value in objects.items():
        if not isinstance(value, _PLAIN):
            walk.value(path, lambda value=value: value, value)  # type: ignore[misc]
    return walk


class Surroundings:
    """Follows references from a function.

    Attributes:
        watches: what was found.
        codes: the code that may run; `names` are the attribute names that it may read.
        owners: namespaces that the code may write to, with what they hold before it runs.
    """

    def __init__(self) -> None:
        self.watches: list[Watch] = []
        self.codes: list[types.CodeType] = []
        self.owners: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        self.seen: dict[int, Any] = {}
        self.names: set[str] = set()

    def watch(self, path: str, fetch: Callable[[], Any], value: Any, kind: str) -> None:
        self.watches.append(Watch(path, fetch, value, kind))

    def length(self, path: str, fetch: Callable[[], Any], value: Any) -> None:
        self.watches.append(Watch(path, lambda: len(fetch()), len(value), "length", container=fetch))

    def callable(self, path: str, function: Any) -> None:
        """Code that may run while tracing."""
        while isinstance(function, functools.partial):
            for key, item in (*enumerate(function.args), *function.keywords.items()):
                self.value(f"{path}({key})", lambda item=item: item, item)  # type: ignore[misc]
            function = function.func
        if isinstance(function, types.MethodType):
            self.code(path, function.__func__)
            owner = function.__self__
            self.value(f"{path}.__self__", lambda: owner, owner)
        elif isinstance(function, types.FunctionType):
            self.code(path, function)
        elif callable(function) and not isinstance(function, type):
            wrapped = getattr(function, "__wrapped__", None)
            if wrapped is not None:
                self.callable(path, wrapped)
            self.value(path, lambda: function, function)

    def code(self, path: str, function: Any) -> None:
        if (
            not isinstance(function, types.FunctionType)
            or id(function) in self.seen
            or not _is_users(function.__module__)
        ):
            return
        self.seen[id(function)] = function
        variables = function.__globals__
        loaded: list[str] = []
        for code in nested(function.__code__):
            self.names.update(code.co_names)
            self.codes.append(code)
            loaded += [i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
        self.owners.append(("", variables, dict(variables)))
        wrapped = getattr(function, "__wrapped__", None)
        if isinstance(wrapped, types.FunctionType):
            self.code(path, wrapped)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            self.value(name, lambda cell=cell: cell.cell_contents, value)  # type: ignore[misc]
        for name in dict.fromkeys(loaded):
            if name in variables:
                self.value(name, lambda name=name: variables[name], variables[name])  # type: ignore[misc]
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            if not isinstance(default, _PLAIN):
                self.value(f"a default of {path}", lambda default=default: default, default)  # type: ignore[misc]

    def value(self, path: str, fetch: Callable[[], Any], value: Any) -> None:
        if isinstance(value, _PLAIN):
            return self.watch(path, fetch, value, "equal")
        if isinstance(value, np.ndarray):
            return self.watch(path, fetch, value, "array")
        self.watch(path, fetch, value, "same")
        if id(value) in self.seen or len(self.watches) > _MOST:
            return
        if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            return self.callable(path, value)
        self.seen[id(value)] = value
        if isinstance(value, dict):
            self.length(path, fetch, value)
            for key, item in list(value.items()):
                self.value(f"{path}[{key!r}]", lambda key=key: value[key], item)  # type: ignore[misc]
        elif isinstance(value, list | tuple):
            self.length(path, fetch, value)
            for index, item in enumerate(value):
                self.value(f"{path}[{index}]", lambda index=index: value[index], item)  # type: ignore[misc]
        elif isinstance(value, types.ModuleType):
            if _is_users(value.__name__):
                self.attributes(path, value, vars(value))
        elif isinstance(value, type):
            if _is_users(value.__module__):
                self.methods(path, value)
        else:
            self.methods(path, type(value))
            held = getattr(value, "__dict__", None)
            if isinstance(held, dict):
                self.attributes(path, value, held)

    def methods(self, path: str, cls: type) -> None:
        """Code and values of a class, which any of its objects may reach."""
        for base in cls.__mro__:
            if not _is_users(base.__module__) or id(base) in self.seen:
                continue
            self.seen[id(base)] = base
            for name, item in list(vars(base).items()):
                if isinstance(item, property):
                    item = item.fget
                if isinstance(item, staticmethod | classmethod):
                    item = item.__func__
                if isinstance(item, types.FunctionType):
                    self.code(f"{path}.{name}", item)

    def attributes(self, path: str, owner: Any, held: dict[str, Any]) -> None:
        inherited = {n: v for base in reversed(type(owner).__mro__) for n, v in vars(base).items() if n in self.names}
        self.owners.append((f"{path}.", held, inherited | held))
        for name, item in list(held.items()):
            if name in self.names:
                self.value(f"{path}.{name}", lambda name=name: getattr(owner, name), item)  # type: ignore[misc]


_INSTALLED = tuple({p for n in ("stdlib", "platstdlib", "purelib", "platlib") if (p := sysconfig.get_path(n))})


@functools.cache
def _is_users(module: str | None) -> bool:
    """Whether code of a module may read what changes: it is not the compiler's, Python's or an installed package's."""
    if module is None or module.split(".")[0] in ("ds_compiler", "builtins", "numpy"):
        return module is None
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not file.startswith(_INSTALLED)


def watch_type(watch: Watch) -> Watch:
    """A watch of an array that is an input; it keeps the type, not the elements."""
    return Watch(watch.path, watch.fetch, np.broadcast_to(np.zeros((), watch.value.dtype), watch.value.shape), "array")


def watch_number(watch: Watch) -> Watch:
    """A watch of a Python number that is an input."""
    return Watch(watch.path, watch.fetch, type(watch.value), "number")


def watch_content(watch: Watch) -> Watch:
    """A watch of an array's elements, for one that Python code reads while the function is traced."""
    small = watch.value.nbytes <= _COMPARED_BYTES
    return Watch(watch.path, watch.fetch, watch.value, "content", watch.value.copy() if small else None)
