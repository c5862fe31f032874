"""Dropout: which elements, how many, and what is asked for."""

from __future__ import annotations

from typing import Any

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


def test_dropout_is_the_same_on_every_thread_count() -> None:
    def loss(x: Any, key: Any) -> Any:
        return ds.numpy.sum(nn.dropout(x, 0.3, key) ** 2)

    x = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)
    key = ds.random.key(5)
    kept = None
    for threads in (1, 2, 3):
        gradient = ds.compile(ds.grad(loss), cache=False, threads=threads)(x, key)
        kept = gradient if kept is None else kept
        np.testing.assert_array_equal(gradient, kept)
    np.testing.assert_array_equal(kept != 0, nn.dropout(x, 0.3, key) != 0)
    assert abs((kept == 0).mean() - 0.3) < 0.01
