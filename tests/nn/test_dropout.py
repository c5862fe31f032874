"""Dropout: which elements, how many, and what is asked for."""

from __future__ import annotations

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn


def test_dropout_is_decided_by_its_key() -> None:
    model = nn.Sequential(nn.Dropout(0.25), nn.Identity())
    x = np.ones((100, 100), np.float32)
    first = model(x, key=ds.random.key(1))
    np.testing.assert_array_equal(first, model(x, key=ds.random.key(1)))
    assert (first != model(x, key=ds.random.key(2))).any()
    assert set(np.unique(first)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs(first.mean() - 1) < 0.02
    np.testing.assert_array_equal(model.eval()(x), x)


def test_dropout_in_training_needs_a_key() -> None:
    with pytest.raises(ds.CompileError, match=r"Dropout in training needs a key"):
        nn.Dropout(0.5)(np.ones(3, np.float32))
