"""The measure of error: what passes, what fails, and what is said about it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from ds_compiler.cli.compare import compare


def f32(*values: float) -> np.ndarray:  # type: ignore[type-arg]
    return np.array(values, np.float32)


def test_errors_are_relative_to_the_scale_of_the_output() -> None:
    found = compare("y", f32(100.0, 1e-3, 0.005), f32(100.0, 0.0, 0.0))
    assert found.passed and found.scale == 100
    assert found.absolute == pytest.approx(5e-3) and found.relative == pytest.approx(5e-5) and found.at == (2,)
    assert not compare("y", f32(100.0, 0.02), f32(100.0, 0.0)).passed


def test_the_tolerance_can_be_given() -> None:
    assert compare("y", f32(1.0), f32(1.1), 0.2).passed
    assert not compare("y", f32(1.0), f32(1.00001), 1e-6).passed


def test_zeros_have_scale_one() -> None:
    assert compare("y", f32(1e-5, 0.0), f32(0.0, 0.0)).passed
    assert not compare("y", f32(1e-3, 0.0), f32(0.0, 0.0)).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_must_be_so_on_both_sides(bad: float) -> None:
    assert compare("y", f32(bad, 1.0), f32(bad, 1.0)).passed
    for actual, expected in (((bad, 1.0), (0.0, 1.0)), ((0.0, 1.0), (bad, 1.0)), ((bad, 1.0), (-bad, 1.0))):
        found = compare("y", f32(*actual), f32(*expected))
        if np.isnan(bad) and np.isnan(actual[0]) and np.isnan(expected[0]):
            assert found.passed
        else:
            assert not found.passed and found.at == (0,) and "[0]" in found.problem


def test_errors_are_still_seen_beside_infinities() -> None:
    found = compare("y", f32(np.inf, 1.0), f32(np.inf, 2.0))
    assert not found.passed and found.absolute == 1 and found.scale == 2 and found.at == (1,)


def test_integers_and_bools_must_be_equal() -> None:
    assert compare("y", np.array([1, 2]), np.array([1, 2])).passed
    found = compare("y", np.array([1, 2]), np.array([1, 7]))
    assert not found.passed and found.absolute == 5
    big = 2**62
    assert not compare("y", np.array([big + 1]), np.array([big])).passed
    assert not compare("y", np.array([True]), np.array([False])).passed
    assert not compare("y", np.array([1]), np.array([2]), rtol=10).passed


def test_shapes_and_types_must_be_equal() -> None:
    assert "shape is [1], expected [2]" in compare("y", f32(1), f32(1, 2)).problem
    assert "type is float64" in compare("y", np.zeros(1), f32(0)).problem


def test_narrow_types_have_tolerances_of_their_own() -> None:
    for dtype, fine, wrong in ((ml_dtypes.bfloat16, 1.01, 1.1), (np.float16, 1.002, 1.01), (np.float64, 1, 1 + 1e-8)):
        one = np.array([1.0], dtype)
        assert compare("y", np.array([fine], dtype), one).passed
        assert not compare("y", np.array([wrong], dtype), one).passed


def test_scalars_empty_arrays_and_strings() -> None:
    assert compare("y", np.float32(1), np.float32(1)).passed
    assert not compare("y", np.array(1, np.float32), np.array(2, np.float32)).passed
    assert compare("y", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).passed
    words = np.array(["a", "b"], object)
    assert compare("y", words, words.copy()).passed
    assert compare("y", words, words[::-1]).at == (0,)
