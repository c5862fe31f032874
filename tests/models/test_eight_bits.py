"""Published models with 8-bit weights against NumPy's evaluation in exact arithmetic.

onnxruntime alone would not do as the reference: on processors without VNNI its sums saturate, on which these models'
weights, which use all 8 bits, come to depend.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import ds_compiler as ds
from tests.models import eight_bits
from tests.models.fetch import ModelUnavailable, fetch

onnxruntime = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]

NAMES = ("tashkeel_bilstm", "tashkeel_rawi", "tashkeel_rawi_v2", "tashkeel_rawi_v3", "tashkeel_rawi_ensemble")
SIZES = ((1, 20), (2, 7))


def loaded(name: str) -> onnx.ModelProto:
    try:
        return onnx.load(fetch(name))
    except ModelUnavailable as error:
        pytest.skip(str(error))


def letters(model: onnx.ModelProto, batch: int, length: int) -> dict[str, Array]:
    return {model.graph.input[0].name: np.random.default_rng(batch).integers(4, 30, (batch, length))}


def distance(found: list[Array], expected: list[Array]) -> float:
    """Of floats the largest error over the largest magnitude, of integers how many of all differ.

    Raises:
        AssertionError: types or shapes differ.
    """
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if b.dtype.kind != "f":
            worst = max(worst, float((a != b).mean()))
        else:
            worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


@pytest.mark.parametrize("name", NAMES)
def test_exact_products(name: str) -> None:
    model = loaded(name)
    compiled = ds.compile(model, threads=1)
    for size in SIZES:
        feeds = letters(model, *size)
        assert distance(compiled.run(None, feeds), eight_bits.run(model, feeds, eight_bits.exact)) <= 1e-6, size


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_explains_onnxruntime(name: str) -> None:
    """It computes one or the other: what the reference says of these models is what they are, but for the products.

    It is five times nearer to one of them than they are to each other: a state next to a tie, which one evaluation
    rounds up and the other down, keeps it from being equal.
    """
    model = loaded(name)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # with more, a batch's states are quantised in parts
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for size in SIZES:
        feeds = letters(model, *size)
        exact, saturating = (eight_bits.run(model, feeds, how) for how in (eight_bits.exact, eight_bits.saturating))
        nearest = min(distance(session.run(None, feeds), result) for result in (exact, saturating))
        assert nearest <= max(1e-6, distance(exact, saturating) / 5), size
