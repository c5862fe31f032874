"""Functions that change their surroundings while they are traced: an error, since a program would not do it again."""

from __future__ import annotations

import dis
import re
import types
from collections.abc import Iterator
from typing import Any

from ds_compiler.frontends.trace import tree
from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.errors import TraceError
from ds_compiler.frontends.trace.places import shown_file
from ds_compiler.guards import Surroundings, Watch
from ds_compiler.ir import Location

_STORES = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_NAME")
_CHANGING = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "remove", "clear", "appendleft"}


def refuse_side_effects(name: str, surroundings: Surroundings) -> None:
    """Check, after a function was traced, that it left its surroundings as they were.

    What is set for the first time (a value that is computed once and kept) is no side effect, unless it is traced.

    Raises:
        TraceError: it stored a traced array, or changed a variable, an attribute or a container.
    """
    stored = _stored(surroundings.codes)
    for prefix, held, before in surroundings.owners:
        for key, now in list(held.items()):
            was = before.get(key)
            array = _traced(now) if now is not was else None
            if array is not None or (key in stored and was is not None and now is not was):
                raise _error(name, f"{prefix}{key}", array, surroundings.codes)
    for watch in surroundings.watches:
        array = _traced(watch.value) if watch.kind == "same" and tree.is_registered(type(watch.value)) else None
        if array is not None:  # a model whose parts set buffers
            raise _error(name, watch.path, array, surroundings.codes)
        if not watch.failure():
            continue
        now = _now(watch)
        array = _traced(now)
        if array is not None or not _is_first(watch, now):
            raise _error(name, watch.path, array, surroundings.codes)
        watch.renew(now)


def _stored(codes: list[types.CodeType]) -> set[str]:
    """Names of globals and attributes that the code assigns to."""
    found = (i for code in codes for i in dis.get_instructions(code) if i.opname in ("STORE_GLOBAL", "STORE_ATTR"))
    return {str(i.argval) for i in found}


def _now(watch: Watch) -> Any:
    try:
        now = watch.fetch()
        return watch.container() if watch.kind == "length" else now
    except (LookupError, AttributeError, ValueError):
        return None


def _traced(value: Any) -> TracedArray | None:
    """A traced array in `value`."""
    is_tree = isinstance(value, dict | list | tuple | TracedArray) or tree.is_registered(type(value))
    leaves = tree.tree_leaves(value) if is_tree else ()
    return next((leaf for leaf in leaves if isinstance(leaf, TracedArray)), None)


def _is_first(watch: Watch, now: Any) -> bool:
    """Whether something is kept that was not there: None became a value, a dict got an entry."""
    return watch.value is None or (watch.kind == "length" and isinstance(now, dict))


def _error(name: str, path: str, array: TracedArray | None, codes: list[types.CodeType]) -> TraceError:
    place = next(_lines(path, codes), None)
    what = f"{name} stores a traced array in '{path}'" if array is not None else f"{name} changes '{path}'"
    made = f"; it was made at {array.made}" if array is not None else ""
    return TraceError(
        f"{what}, outside of the function: the program would not do that again when it runs{made}",
        location=Location((place,) if place else (array.made.names if array is not None else ())),
        help="return it as a result, and store it where the function is called",
    )


def _lines(path: str, codes: list[types.CodeType]) -> Iterator[str]:
    """Lines that may have changed what is called `path`, the likeliest first."""
    names = re.findall(r"[^\W\d]\w*", re.sub(r"\[.*?\]", "", path))
    likely, possible = [], []
    for code in codes:
        by_line: dict[int, list[dis.Instruction]] = {}
        line = code.co_firstlineno
        for instruction in dis.get_instructions(code):
            line = instruction.starts_line or line
            by_line.setdefault(line, []).append(instruction)
        for line, instructions in by_line.items():
            shown = f"{shown_file(code.co_filename)}:{line}"
            stored = any(i.opname in _STORES and i.argval == names[-1] for i in instructions)
            loaded = any(i.argval == names[-1] for i in instructions)
            changed = any(i.opname == "STORE_SUBSCR" or i.argval in _CHANGING for i in instructions)
            if stored or (loaded and changed):
                likely.append(shown)
            elif loaded:
                possible.append(shown)
    yield from likely
    yield from possible
