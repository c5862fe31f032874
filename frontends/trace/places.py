"""Where in the user's program the tracer is called from."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import sysconfig
import types

from ds_compiler.ir import Location


def _folders(*packages: str) -> tuple[str, ...]:
    specs = [importlib.util.find_spec(name) for name in packages]
    places = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return tuple(os.path.abspath(place) + os.sep for place in places)


_ROOMS = _folders("ds_compiler", *(f"ds_compiler.{room}" for room in ("frontends", "passes", "backends", "runtime")))
_PYTHON = sysconfig.get_path("stdlib") + os.sep
_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))
_NUMPY = _folders("numpy")


@functools.cache
def shown_file(file: str) -> str | None:
    """How a file is named in messages; None if it is the compiler's own."""
    path = os.path.abspath(file)
    if path.startswith(_ROOMS) or file.startswith("<frozen"):
        return None
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else file


@functools.cache
def _named_file(file: str) -> str | None:
    """As `shown_file`; None for files of Python's and NumPy's, too, which only pass the user's mistake on."""
    passed_on = file.startswith(_NUMPY) or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))
    return None if passed_on else shown_file(file)


def is_users(frame: types.FrameType) -> bool:
    """Whether `frame` runs code that is not the compiler's."""
    return shown_file(frame.f_code.co_filename) is not None


def here(kind: str = "") -> Location:
    """The innermost line of code that is not the compiler's, NumPy's or Python's own, as ``file.py:12``."""
    frame = sys._getframe(1)
    while frame is not None:
        shown = _named_file(frame.f_code.co_filename)
        if shown is not None:
            return Location((f"{shown}:{frame.f_lineno}",), kind)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return Location((), kind)


def place_of(error: BaseException) -> str:
    """The innermost such line that an error came through; nothing if there is none."""
    found = ""
    entry = error.__traceback__
    while entry is not None:
        shown = _named_file(entry.tb_frame.f_code.co_filename)
        if shown is not None:
            found = f"{shown}:{entry.tb_lineno}"
        entry = entry.tb_next
    return found
