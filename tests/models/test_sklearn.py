"""scikit-learn's estimators, exported by skl2onnx, against onnxruntime, on rows that they were not fitted to."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("sklearn")
skl2onnx = pytest.importorskip("skl2onnx")

from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType  # noqa: E402

from tests.models.pipelines import CASES, EXPORT_FAILS, NOT_COMPILED, USUAL, data  # noqa: E402

Array = np.ndarray[Any, Any]

_OPSETS = {"": 21, "ai.onnx.ml": 3}
_INPUTS = {"f": FloatTensorType, "i": Int64TensorType, "O": StringTensorType}


def exported(name: str) -> tuple[Any, Array]:
    """The fitted estimator as a model, with probabilities as a tensor, and rows for it."""
    source, make = CASES[name]
    x, y = data(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's on convergence and what it will remove
        estimator = make().fit(x[::2], y[::2])
        kind = [("X", _INPUTS[x.dtype.kind]([None, x.shape[1]]))]
        try:
            model = skl2onnx.to_onnx(estimator, initial_types=kind, target_opset=_OPSETS, options={"zipmap": False})
        except NameError:  # skl2onnx's error for an option that an estimator does not have
            model = skl2onnx.to_onnx(estimator, initial_types=kind, target_opset=_OPSETS)
    return model, x[1::2]


def check(name: str) -> None:
    """Labels are equal; scores are within 1e-5 of the largest, or of 1."""
    model, rows = exported(name)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    compiled = ds.compile(model, threads=1)
    for x in (rows, rows[:1]):
        for got, want in zip(compiled.run(None, {"X": x}), session.run(None, {"X": x}), strict=True):
            assert got.shape == want.shape
            if want.dtype.kind == "f":
                assert got.dtype == want.dtype
                error = float(np.abs(got.astype(np.float64) - want).max())
                assert error <= 1e-5 * max(float(np.abs(want).max()), 1.0), f"error {error:.2g}"
            else:
                np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", USUAL)
def test_usual(name: str) -> None:
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in (*USUAL, *EXPORT_FAILS, *NOT_COMPILED)])
def test_estimator(name: str) -> None:
    check(name)


@pytest.mark.parametrize("name", EXPORT_FAILS)
def test_what_skl2onnx_fails_on_still_fails(name: str) -> None:
    with pytest.raises(ValueError, match="Unable to create node"):
        exported(name)


@pytest.mark.parametrize("name", NOT_COMPILED)
def test_what_is_refused_says_why(name: str) -> None:
    model, _ = exported(name)
    with pytest.raises(ds.CompileError, match=NOT_COMPILED[name]):
        ds.compile(model)
