"""Kernels read nothing outside of their operands: these stand against pages that may not be touched."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import Builder, Value
from ds_compiler.ir.dims import symbol
from ds_compiler.ops import Binary, Concat, Constant, Pad, Slice, Unary
from tests.backends.fused import run_fused
from tests.backends.test_fused import expected, module_of, real, t

Array = np.ndarray[Any, Any]
n = symbol("n")
PAGE = mmap.PAGESIZE


def fenced(array: Array, at_end: bool) -> Array:
    """A copy between two protected pages, touching the first or the last of them."""
    room = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for fence in (base, base + PAGE + room):
        assert mprotect(fence, PAGE, 0) == 0, ctypes.get_errno()
    offset = PAGE + (room - array.nbytes if at_end else 0)
    copy: Array = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy


def part(b: Builder, x: Value, start: int, size: int) -> Value:
    return b.emit(Slice(x, (0, start), (x.type.shape[0], size), (1, 1)))


def rotated(b: Builder, x: Value) -> Value:
    """The halves change places, one of them negated: a rotary embedding."""
    turned = b.emit(Concat((b.emit(Unary(part(b, x, 4, 4), "neg")), part(b, x, 0, 4)), 1))
    return b.emit(Unary(b.emit(Binary(turned, x, "mul")), "tanh"))


def joined_rows(b: Builder, x: Value) -> Value:
    rows = b.emit(Concat((b.emit(Unary(x, "neg")), x), 0))
    return b.emit(Unary(rows, "tanh"))


def padded(b: Builder, x: Value) -> Value:
    zero = b.emit(Constant(np.array(0, np.float32)))
    return b.emit(Unary(b.emit(Pad(x, zero, (3, 5), (2, 7))), "tanh"))


@pytest.mark.parametrize("at_end", [False, True], ids=["start", "end"])
@pytest.mark.parametrize("rows", [1, 3, 512])
@pytest.mark.parametrize("make", [rotated, joined_rows, padded])
def test_nothing_outside_is_read(make: Any, rows: int, at_end: bool) -> None:
    module = module_of([t(n, 8)], make)
    x = fenced(real(rows, 8), at_end)
    (wanted,) = expected(module, [x])
    (found,) = run_fused(module, [x])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
