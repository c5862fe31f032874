"""DFT and STFT against NumPy's transforms in float64: lengths with and without large prime factors, open sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds_compiler.ir import CompileError
from tests.frontends.onnx.opened import check, node_model, reference, results

Array = np.ndarray[Any, Any]


def _signal(shape: tuple[int, ...], dtype: Any = np.float32) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def _complex(x: Array) -> Array:
    wide = x.astype(np.float64)
    return wide[..., 0] + 1j * wide[..., 1] if x.shape[-1] == 2 else wide[..., 0].astype(complex)


def _close(found: Array, expected: Array) -> None:
    got = _complex(found) if found.shape[-1] == 2 else found[..., 0]
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("open_sizes", [False, True])
@pytest.mark.parametrize("length", [1, 2, 7, 64, 97, 100, 127, 480, 521, 1024])
@pytest.mark.parametrize("parts", [1, 2])
def test_forward_and_back(length: int, parts: int, open_sizes: bool) -> None:
    x = _signal((2, length, parts))
    model = node_model("DFT", [x], open_sizes=False)
    if open_sizes:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "n"
    (found,) = results(model, [x])
    _close(found, np.fft.fft(_complex(x), axis=1))
    if parts == 2:
        (back,) = results(node_model("DFT", [found], inverse=1), [found])
        np.testing.assert_allclose(back, x, rtol=0, atol=2e-6 * length**0.5)


@pytest.mark.parametrize("length", [4, 5, 9, 30, 65, 200])
@pytest.mark.parametrize("wanted", [None, 3, 8, 33])
def test_one_sided(length: int, wanted: int | None) -> None:
    x = _signal((3, length, 1))
    constants = {} if wanted is None else {1: np.asarray(wanted)}
    (found,) = results(node_model("DFT", [x], constants=constants, onesided=1), [x])
    _close(found, np.fft.rfft(x[..., 0].astype(np.float64), wanted, axis=1))
    spectrum = _signal((3, length, 2))
    (back,) = results(node_model("DFT", [spectrum], constants=constants, onesided=1, inverse=1), [spectrum])
    _close(back, np.fft.irfft(_complex(spectrum), wanted, axis=1))


@pytest.mark.parametrize("axis", [0, 1, 2, -2, -4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_axes_and_types(axis: int, dtype: Any) -> None:
    x = _signal((3, 4, 5, 2), dtype)
    (found,) = results(node_model("DFT", [x], constants={2: np.asarray(axis)}), [x])
    assert found.dtype == dtype
    expected = np.fft.fft(_complex(x), axis=axis if axis >= 0 else axis + 4)
    np.testing.assert_allclose(_complex(found), expected, rtol=0, atol=5e-3 if dtype == np.float16 else 1e-5)


def test_length_given_by_each_call() -> None:
    x = _signal((2, 6, 1))
    model = node_model("DFT", [x, np.asarray(4)])
    for wanted in (4, 6, 9):
        (found,) = results(model, [x, np.asarray(wanted)])
        _close(found, np.fft.fft(_complex(x), wanted, axis=1))


def test_errors_name_the_node() -> None:
    x = _signal((2, 6, 3))
    with pytest.raises(CompileError, match=r"DFT: axis 1 of .*'node'|node"):
        results(node_model("DFT", [x]), [x])


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize(("length", "step"), [(16, 8), (15, 7), (64, 16)])
@pytest.mark.parametrize("open_sizes", [False, True])
def test_stft(length: int, step: int, onesided: int, open_sizes: bool) -> None:
    x = _signal((2, 128, 1))
    window = np.hanning(length).astype(np.float32)
    model = node_model("STFT", [x], constants={1: np.asarray(step), 2: window}, onesided=onesided)
    if open_sizes:
        for axis in (0, 1):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"n{axis}"
    (found,) = results(model, [x])
    starts = range(0, 128 - length + 1, step)
    frames = np.stack([x[:, s : s + length, 0].astype(np.float64) * window for s in starts], 1)
    _close(found, (np.fft.rfft if onesided else np.fft.fft)(frames, axis=2))


@pytest.mark.parametrize(("mels", "length", "rate"), [(8, 16, 8192), (20, 512, 16000), (40, 400, 22050)])
def test_mel_weights(mels: int, length: int, rate: int) -> None:
    numbers = [np.asarray(v) for v in (mels, length, rate)]
    edges = [np.asarray(20.0, np.float32), np.asarray(rate / 2, np.float32)]
    model = node_model("MelWeightMatrix", [], constants=dict(enumerate([*numbers, *edges])))
    check(results(model, []), reference(model, []))
