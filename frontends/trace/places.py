"""Where in the user's program the tracer is called from."""

from __future__ import annotations

import functools
import os
import sys
import types

from ds_compiler.ir import Location

_ROOMS = tuple(
    os.path.abspath(path) + os.sep
    for path in (
        os.path.dirname(os.path.dirname(__file__)),
        os.path.dirname(os.path.abspath(sys.modules["ds_compiler"].__file__ or "")),
    )
)


@functools.cache
def shown_file(file: str) -> str | None:
    """How a file is named in messages; None if it is the compiler's own."""
    path = os.path.abspath(file)
    if path.startswith(_ROOMS) or file.startswith("<frozen"):
        return None
    here = os.getcwd() + os.sep
    return path[len(here) :] if path.startswith(here) else file


def is_users(frame: types.FrameType) -> bool:
    """Whether `frame` runs code that is not the compiler's."""
    return shown_file(frame.f_code.co_filename) is not None


def here(kind: str = "") -> Location:
    """The innermost line of code that is not the compiler's, as ``file.py:12``."""
    frame = sys._getframe(1)
    while frame is not None:
        shown = shown_file(frame.f_code.co_filename)
        if shown is not None:
            return Location((f"{shown}:{frame.f_lineno}",), kind)
        if frame.f_back is None:
            break
        frame = frame.f_back
    return Location((), kind)
