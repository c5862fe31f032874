"""Cases whose expected values are wrong, and why each case that needs `strict` needs it."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ds_compiler import onnx_backend
from tests.conformance.cases import Case, cases, compare, exclusions, strict

NODE = {case.name: case for case in cases("node")}


@pytest.mark.parametrize("name", [name for name in exclusions() if name.startswith("test_dft")])
def test_the_inverse_transform_is_exactly_zero_where_another_number_is_expected(name: str) -> None:
    """Of N numbers, N even, element N/2 of the transform is the sum of x * (-1)**n / N: it has no imaginary part."""
    case = NODE[name]
    ((inputs, (expected,)),) = case.data_sets()
    x = inputs[0]
    axis = next(a for a in range(x.ndim - 1) if x.shape[a] == 10)
    n = x.shape[axis]
    assert x.shape[-1] == 1 or not x[..., 1].any()
    middle = np.take(expected, n // 2, axis)
    rows = np.moveaxis(x[..., 0], axis, 0).reshape(n, -1).T
    exact = [sum(Fraction(float(v)) * (-1) ** i for i, v in enumerate(row)) / n for row in rows]
    np.testing.assert_allclose(middle[..., 0].reshape(-1), [float(v) for v in exact], case.rtol, case.atol)
    assert (np.abs(middle[..., 1]) > case.atol).all()  # the imaginary part, which is 0


QUICK = ("test_attention_3d_causal_bf16", "test_resize_downsample_scales_linear_align_corners")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in strict()])
def test_strict_case_differs_by_default(name: str) -> None:
    """A case that passes without `strict` loses its line."""
    case: Case = NODE[name]
    ((inputs, expected),) = case.data_sets()
    strictly = onnx_backend.run_model(case.model, inputs, cache=False, threads=1, strict=True)
    compare(list(strictly), expected, case)
    results = onnx_backend.run_model(case.model, inputs, cache=False, threads=1)
    with pytest.raises(AssertionError):
        compare(list(results), expected, case)
