"""Training steps as GPU programs: forward, derivative and update, under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import ds_compiler as ds
from ds_compiler import nn
from ds_compiler import numpy as dnp
from ds_compiler.backends.triton.program import lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.build import pipeline
from ds_compiler.ir.parser import parse_module
from ds_compiler.nn.spatial import conv2d
from ds_compiler.passes import run as run_passes
from tests.backends.triton.interpreting import INTERPRETER, needs_triton

pytestmark = needs_triton
Array = np.ndarray[Any, Any]


def check_step(loss: Callable[..., Any], parameters: list[Array], data: list[Array], tolerance: float = 1e-5) -> None:
    """A step of gradient descent must be what the compiled CPU program computes."""

    def step(*arguments: Any) -> Any:
        grads = ds.grad(loss, tuple(range(len(parameters))))(*arguments)
        return tuple(p - 0.1 * g for p, g in zip(arguments, grads))

    function = ds.compile(step)
    expected = function(*parameters, *data)
    module = parse_module(function.ir("import"))
    run_passes(module, pipeline("grad,inline,gpu"))
    lowered = lower(module, parse_target("cuda:90"))
    got = INTERPRETER(lowered, b"".join(lowered.constants.pieces()), [*parameters, *data], True)
    for ours, reference in zip(got, expected, strict=True):
        scale = float(np.abs(reference).max())
        np.testing.assert_allclose(ours / scale, np.asarray(reference) / scale, rtol=0, atol=tolerance)


def real(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_two_layers() -> None:
    def loss(w: Any, v: Any, x: Any, y: Any) -> Any:
        return dnp.mean((dnp.tanh(x @ w) @ v - y) ** 2)

    check_step(loss, [real(20, 32), real(32, 10)], [real(64, 20), real(64, 10)])


def test_convolution_and_pooling() -> None:
    def loss(w: Any, v: Any, x: Any) -> Any:
        hidden = conv2d(x, w, padding=1)
        hidden = conv2d(dnp.maximum(hidden, 0.0), v, stride=2)
        return dnp.mean(hidden**2)

    check_step(loss, [real(16, 3, 3, 3) / 3, real(8, 16, 3, 3, seed=1) / 12], [real(2, 3, 12, 12, seed=2)])


def test_embedding_and_dropout() -> None:
    """Equal rows add up in the table's gradient; random bits are those of the CPU."""

    def loss(table: Any, w: Any, rows: Any, key: Any) -> Any:
        return dnp.mean((nn.functional.dropout(dnp.take(table, rows, axis=0), 0.5, key) @ w) ** 2)

    rows = np.array([[0, 3, 3], [5, 0, 3]])
    check_step(loss, [real(7, 24), real(24, 16, seed=1)], [rows, ds.random.key(3)])


def test_attention_and_layer_norm() -> None:
    heads = 2

    def loss(wq: Any, wk: Any, wv: Any, gain: Any, x: Any) -> Any:
        mean = dnp.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        normal = centred / dnp.sqrt(dnp.mean(centred * centred, axis=-1, keepdims=True) + 1e-5) * gain

        def split(t: Any) -> Any:
            return dnp.permute_dims(dnp.reshape(t, (2, 24, heads, 16)), (0, 2, 1, 3))

        q, k, v = (split(normal @ w) for w in (wq, wk, wv))
        scores = q @ dnp.permute_dims(k, (0, 1, 3, 2)) / 4.0
        e = dnp.exp(scores - dnp.max(scores, axis=-1, keepdims=True))
        return dnp.mean((e / dnp.sum(e, axis=-1, keepdims=True) @ v) ** 2)

    weights = [real(32, 32, seed=n) / 4 for n in range(3)]
    check_step(loss, [*weights, np.ones(32, np.float32)], [real(2, 24, 32, seed=5)])
