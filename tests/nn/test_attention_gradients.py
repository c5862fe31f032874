"""Attention in training: one kernel forward, one backward, equal to PyTorch in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ds_compiler as ds
from ds_compiler import nn

torch = pytest.importorskip("torch", reason="PyTorch is the reference")

Array = np.ndarray[Any, Any]


def attended(q: Any, k: Any, v: Any, g: Any, mask: Any, causal: bool) -> Any:
    y = nn.scaled_dot_product_attention(q, k, v, mask, causal)
    return ds.numpy.sum(y * g), y


def gradients(q: Any, k: Any, v: Any, g: Any, mask: Any, causal: bool) -> Any:
    (_, y), parts = ds.value_and_grad(attended, argnums=(0, 1, 2), has_aux=True)(q, k, v, g, mask, causal)
    return y, *parts


def reference(q: Array, k: Array, v: Array, g: Array, mask: Array | None, causal: bool) -> list[Array]:
    """PyTorch's result and gradients in float64."""
    leaves = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in (q, k, v)]
    seen = torch.tensor(np.tri(q.shape[2], k.shape[2], dtype=bool)) if causal else torch.tensor(True)
    if mask is not None and mask.dtype == bool:
        given: torch.Tensor | None = torch.tensor(mask) & seen
    elif mask is not None:
        given = torch.tensor(mask.astype(np.float64)).masked_fill(~seen, -torch.inf)
    else:
        given = seen if causal else None
    y = torch.nn.functional.scaled_dot_product_attention(*leaves, attn_mask=given)
    return [x.detach().numpy() for x in (y, *torch.autograd.grad(y, leaves, torch.tensor(g.astype(np.float64))))]


def inputs(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> tuple[Array, Array, Array, Array]:
    batch, heads, queries, keys, size, width = shape
    rng = np.random.default_rng([seed, *shape])
    shapes = [(queries, size), (keys, size), (keys, width), (queries, width)]
    q, k, v, g = (rng.standard_normal((batch, heads, *s)).astype(dtype) for s in shapes)
    return q, k, v, g


def some_mask(kind: str, shape: tuple[int, ...], dtype: Any) -> Array | None:
    """A mask in which the last row of queries sees nothing."""
    batch, _, queries, keys, *_ = shape
    rng = np.random.default_rng(3)
    if kind == "bool":
        mask = rng.random((batch, 1, queries, keys)) < 0.7
        mask[..., -1, :] = False
        return mask
    if kind == "added":
        mask = rng.standard_normal((queries, keys)).astype(dtype)
        mask[-1] = -np.inf
        return mask
    return None


def check(shape: tuple[int, ...], mask: str, causal: bool, dtype: Any, threads: int = 1, **options: Any) -> str:
    function = ds.compile(threads=threads, cache=False, **options)(gradients)
    arrays = inputs(shape, dtype)
    given = some_mask(mask, shape, dtype)
    got = function(*arrays, given, causal)
    expected = reference(*arrays, given, causal)
    tolerance = 2e-5 if dtype is np.float32 else 1e-12
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=tolerance, atol=tolerance)
    return function.ir()


SHAPES = st.tuples(
    st.integers(1, 2),
    st.integers(1, 3),
    st.one_of(st.integers(1, 20), st.integers(60, 150)),
    st.one_of(st.integers(1, 20), st.integers(60, 170)),
    st.integers(8, 128),
    st.integers(1, 40),
)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.sampled_from(["none", "bool", "added"]), st.booleans(), st.sampled_from([1, 2]), st.booleans())
def test_any_shape_and_mask(shape: tuple[int, ...], mask: str, causal: bool, threads: int, wide: bool) -> None:
    check(shape, mask, causal, np.float64 if wide else np.float32, threads)


@pytest.mark.parametrize("mask", ["none", "bool", "added"])
@pytest.mark.parametrize("causal", [False, True])
def test_forward_and_backward_are_a_kernel_each(mask: str, causal: bool) -> None:
    text = check((2, 3, 100, 130, 16, 24), mask, causal, np.float32)
    assert text.count('strategy="attention"') == text.count('strategy="attention_backward"') == 1
    assert text.count("= dot_general ") == 2 + 5


def test_one_program_for_all_lengths() -> None:
    lengths = dict.fromkeys("qg", ("batch", None, "queries", None)) | dict.fromkeys("kv", ("batch", None, "keys", None))
    function = ds.compile(gradients, cache=False, threads=2, dynamic=lengths)
    for shape in ((1, 2, 1, 1, 16, 8), (2, 2, 5, 90, 16, 8), (3, 2, 150, 81, 16, 8), (1, 2, 73, 200, 16, 8)):
        arrays = inputs(shape, np.float32)
        for ours, theirs in zip(function(*arrays, None, True), reference(*arrays, None, True), strict=True):
            np.testing.assert_allclose(np.asarray(ours), theirs, rtol=2e-5, atol=2e-5)
    assert len(function.report().programs) == 1
    assert 'strategy="attention_backward"' in function.ir()


def test_a_nan_is_not_hidden() -> None:
    q, k, v, g = inputs((1, 1, 5, 7, 8, 8), np.float32)
    q[0, 0, 2, 0] = np.nan
    y, dq, dk, dv = ds.compile(gradients, cache=False)(q, k, v, g, some_mask("bool", (1, 1, 5, 7), np.float32), False)
    assert np.isnan(y[0, 0, 2]).all() and np.isnan(dq[0, 0, 2]).all()
    assert not np.isnan(np.asarray(y)[0, 0, [0, 1, 3, 4]]).any() and np.isnan(dv).any() and np.isnan(dk).any()


def test_keys_that_are_values() -> None:
    q, k, _, g = inputs((2, 2, 9, 12, 8, 8), np.float32)
    dq, dk = ds.compile(
        lambda q, k: ds.grad(lambda q, k: attended(q, k, k, g, None, False)[0], argnums=(0, 1))(q, k), cache=False
    )(q, k)
    _, first, second, third = reference(q, k, k, g, None, False)
    np.testing.assert_allclose(dq, first, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(dk, second + third, rtol=2e-5, atol=2e-5)


def test_a_trained_bias_keeps_the_matrix() -> None:
    q, k, v, g = inputs((1, 2, 6, 7, 8, 8), np.float32)
    bias = np.random.default_rng(0).standard_normal((2, 6, 7)).astype(np.float32)
    function = ds.compile(lambda b: ds.grad(lambda b: attended(q, k, v, g, b, False)[0])(b), cache=False)
    got = function(bias)
    assert "attention_backward" not in function.ir()
    leaf = torch.tensor(bias.astype(np.float64), requires_grad=True)
    y = torch.nn.functional.scaled_dot_product_attention(*(torch.tensor(x.astype(np.float64)) for x in (q, k, v)), leaf)
    np.testing.assert_allclose(got, torch.autograd.grad(y, leaf, torch.tensor(g).double())[0], rtol=2e-5, atol=2e-5)


def test_dropout_is_told() -> None:
    q, k, v, g = inputs((1, 2, 6, 7, 8, 8), np.float32)
    key = ds.random.key(0)

    def loss(q: Any) -> Any:
        y = nn.scaled_dot_product_attention(q, k, v, dropout_p=0.5, dropout_key=key)
        return ds.numpy.sum(y * g)

    function = ds.compile(ds.grad(loss), cache=False)
    function(q)
    assert "attention_backward" not in function.ir()
    (report,) = function.report().programs
    assert any("dropout between the softmax and the product" in str(r) for r in report.remarks)


def test_second_order() -> None:
    q, k, v, g = (x.astype(np.float64) for x in inputs((1, 2, 4, 5, 8, 8), np.float64))
    direction = np.random.default_rng(1).standard_normal(q.shape)

    def slope(q: Any) -> Any:
        return ds.numpy.sum(ds.grad(lambda q: attended(q, k, v, g * g, None, True)[0])(q) * direction)

    got = ds.compile(ds.grad(slope), cache=False)(q)
    seen = torch.tensor(np.tri(4, 5, dtype=bool))
    leaf = torch.tensor(q, requires_grad=True)
    scores = (leaf @ torch.tensor(k).mT / np.sqrt(8)).masked_fill(~seen, -torch.inf)
    y = (torch.softmax(scores, -1) @ torch.tensor(v) * torch.tensor(g * g)).sum()
    (first,) = torch.autograd.grad(y, leaf, create_graph=True)
    (second,) = torch.autograd.grad((first * torch.tensor(direction)).sum(), leaf)
    np.testing.assert_allclose(got, second, rtol=1e-10, atol=1e-12)


def test_heads_are_read_and_written_in_place() -> None:
    """[batch, positions, heads, size] to and from the kernels, K transposed in front of its product."""
    q, k, v, g = (np.ascontiguousarray(x.swapaxes(1, 2)) for x in inputs((2, 3, 20, 20, 12, 12), np.float32))

    def loss(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (ds.numpy.permute_dims(x, (0, 2, 1, 3)) for x in (q, k, v))
        scores = ds.numpy.matmul(q, ds.numpy.permute_dims(k, (0, 1, 3, 2))) / 4
        y = ds.numpy.matmul(nn.softmax(scores), v)
        return ds.numpy.sum(ds.numpy.permute_dims(y, (0, 2, 1, 3)) * g)

    function = ds.compile(ds.grad(loss, argnums=(0, 1, 2)), cache=False, threads=1)
    got = function(q, k, v)
    assert function.ir().count('strategy="attention_backward"') == 1
    leaves = [torch.tensor(x.astype(np.float64), requires_grad=True) for x in (q, k, v)]
    heads = [x.transpose(1, 2) for x in leaves]
    y = torch.softmax(heads[0] @ heads[1].mT / 4, -1) @ heads[2]
    expected = torch.autograd.grad(y.transpose(1, 2), leaves, torch.tensor(g.astype(np.float64)))
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(np.asarray(ours), theirs.numpy(), rtol=2e-5, atol=2e-5)
