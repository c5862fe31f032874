"""The register tile against NumPy."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from ds_compiler.backends.llvm.builder import ModuleBuilder, V
from ds_compiler.backends.llvm.target import host
from ds_compiler.backends.llvm.tile import (
    accumulate,
    for_column_tiles,
    for_row_tiles,
    split_rows,
    tile_shape,
    zero_tile,
)
from tests.backends.jit import compile_module

_P, _I = ctypes.c_void_p, ctypes.c_int64


@pytest.mark.parametrize("element", ["float", "double"])
@pytest.mark.parametrize("k_known", [True, False])
@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("m, n, k", [(13, 37, 11), (6, 16, 4), (2, 3, 1), (8, 8, 0), (5, 21, 3)])
def test_tile_sweep(element: str, k_known: bool, dynamic: bool, m: int, n: int, k: int) -> None:
    target = host()
    lanes = target.lanes(element)
    mr, nv = tile_shape(target, element=element)
    mb = ModuleBuilder()
    fb = mb.function("f", [("ptr", "a"), ("ptr", "b"), ("ptr", "c"), ("i64", "m"), ("i64", "n"), ("i64", "k")])
    a, b, c, m_v, n_v, k_v = fb.args
    if k_known:
        k_v = fb.i64(k)
    if not dynamic:
        m_v, n_v = fb.i64(m), fb.i64(n)

    def columns(col: V, vectors: int, tail: V | None) -> None:
        def rows(row: V, height: int) -> None:
            a_rows = [fb.gep(element, a, fb.mul(fb.add(row, fb.i64(i)), k_v)) for i in range(height)]
            acc = accumulate(
                fb,
                zero_tile(fb, element, height, vectors, lanes),
                a_rows,
                1,
                fb.gep(element, b, col),
                n_v,
                k_v,
                lanes=lanes,
                last_mask=tail,
            )
            for i in range(height):
                for j in range(vectors):
                    at = fb.add(fb.mul(fb.add(row, fb.i64(i)), n_v), fb.add(col, fb.i64(j * lanes)))
                    if tail is not None and j == vectors - 1:
                        fb.masked_store(acc[i][j], fb.gep(element, c, at), tail)
                    else:
                        fb.store(acc[i][j], fb.gep(element, c, at))

        for_row_tiles(fb, m_v, mr, rows)

    for_column_tiles(fb, n_v, nv, lanes, columns)
    fb.ret()
    fb.finish()
    call = compile_module(mb.text(), target).function("f", [_P, _P, _P, _I, _I, _I])
    dtype = np.float32 if element == "float" else np.float64
    rng = np.random.default_rng(m * n + k)
    x, w = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    out = np.full((m * n + 64,), 7, dtype)
    call(x.ctypes.data, w.ctypes.data, out.ctypes.data, m, n, k)
    expected = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(out[: m * n].reshape(m, n), expected, rtol=1e-5, atol=1e-6)
    assert (out[m * n :] == 7).all()


@pytest.mark.parametrize("mr", [1, 6, 12, 14])
def test_split_rows_covers_exactly(mr: int) -> None:
    for count in range(0, 100):
        parts = split_rows(count, mr)
        assert sum(height * times for height, times in parts) == count
        assert all(0 < height <= mr and times > 0 for height, times in parts)


def test_128_rows_end_in_two_tiles_of_four() -> None:
    assert split_rows(128, 6) == [(6, 20), (4, 2)]
