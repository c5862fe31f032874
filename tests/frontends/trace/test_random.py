"""Random numbers: the published generator, its distributions, and that threads do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

N = 20_000


def test_the_generator_is_threefry() -> None:
    """The known answers that the authors publish with their implementation (kat_vectors, 20 rounds)."""
    from ds_compiler.frontends.trace.array import read, wrap
    from ds_compiler.frontends.trace.frame import current
    from ds_compiler.frontends.trace.public import eagerly
    from ds_compiler.ops.random import threefry

    def words(*numbers: int) -> Any:
        def run() -> Any:
            k0, k1, x0, x1 = (read(np.uint32(n)) for n in numbers)
            return tuple(map(wrap, threefry(current().emit, (k0, k1), x0, x1)))

        return eagerly(run)

    assert [int(w) for w in words(0, 0, 0, 0)] == [0x6B200159, 0x99BA4EFE]
    assert [int(w) for w in words(*[0xFFFFFFFF] * 4)] == [0x1CB996FC, 0xBB002BE7]
    assert [int(w) for w in words(0x13198A2E, 0x03707344, 0x243F6A88, 0x85A308D3)] == [0xC4923A9C, 0x483DF7A0]


def test_numbers_do_not_depend_on_threads_nor_on_how_they_are_computed() -> None:
    def f(key: Any) -> Any:
        a, b = ds.numpy.unstack(ds.random.split(key))
        return ds.random.uniform(a, (1000,)), ds.random.normal(b, (50, 20)), ds.random.fold_in(key, 7)

    key = ds.random.key(3)
    one, two = (ds.compile(f, cache=False, threads=n)(key) for n in (1, 2))
    direct = f(key)
    for a, b, c in zip(one, two, direct):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=2e-5, atol=1e-6)
    np.testing.assert_array_equal(one[2], direct[2])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_distributions(dtype: str) -> None:
    key = ds.random.key(1)
    u = ds.random.uniform(key, (N,), dtype=dtype)
    assert u.dtype == dtype and u.min() >= 0 and u.max() < 1
    assert abs(u.astype(np.float64).mean() - 0.5) < 0.01 and abs(u.astype(np.float64).var() - 1 / 12) < 0.005
    z = ds.random.normal(key, (N,), dtype=dtype).astype(np.float64)
    assert np.isfinite(z).all() and abs(z.mean()) < 0.03 and abs(z.std() - 1) < 0.02
    assert abs((z**3).mean()) < 0.1 and abs((z**4).mean() - 3) < 0.2
    scaled = ds.random.uniform(key, (N,), minval=-2.0, maxval=5.0)
    assert scaled.min() >= -2 and scaled.max() < 5 and abs(scaled.mean() - 1.5) < 0.05


def test_integers_and_flags() -> None:
    key = ds.random.key(2)
    i = ds.random.randint(key, (N,), -3, 4, dtype="int8")
    assert i.dtype == np.int8
    counts = np.bincount(i.astype(np.int64) + 3, minlength=7)
    assert len(counts) == 7 and abs(counts / N - 1 / 7).max() < 0.01
    flags = ds.random.bernoulli(key, 0.3, (N,))
    assert flags.dtype == np.bool_ and abs(flags.mean() - 0.3) < 0.02


def test_keys_differ() -> None:
    key = ds.random.key(2**40 + 5)
    assert list(key) == [256, 5]
    derived = [tuple(k) for k in ds.random.split(key, 50)] + [tuple(ds.random.fold_in(key, n)) for n in range(50)]
    assert len(set(derived)) == 100
    np.testing.assert_array_equal(ds.random.key(np.int64(2**40 + 5)), key)


def test_misuse() -> None:
    with pytest.raises(ds.TraceError, match=r"a random key is uint32\[2\].*test_random\.py"):
        ds.random.uniform(np.zeros(3), (2,))
    with pytest.raises(ds.TraceError, match="does not fit int8"):
        ds.random.randint(ds.random.key(0), (2,), 0, 1000, dtype="int8")
