"""Attention's derivative under Triton's interpreter, against formulas in float64; and its machine code."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn
from ds_compiler import numpy as dnp
from ds_compiler.backends.triton.compile import compile_kernels
from ds_compiler.backends.triton.program import Lowered, lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.build import pipeline
from ds_compiler.ir import dtypes
from ds_compiler.ir.parser import parse_module
from ds_compiler.passes import run as run_passes
from tests.backends.triton.interpreting import INTERPRETER, needs_triton

pytestmark = needs_triton
Array = np.ndarray[Any, Any]


def lowered(function: Callable[..., Any], arrays: Sequence[Any], target: str = "cuda:90", **options: Any) -> Lowered:
    """The GPU program of a traced function."""
    compiled = ds.compile(function, **options)
    compiled(*arrays)
    module = parse_module(compiled.ir("import"))
    run_passes(module, pipeline("traced-gpu"))
    return lower(module, parse_target(target))


def run(program: Lowered, arrays: Sequence[Array]) -> list[Array]:
    return INTERPRETER(program, b"".join(program.constants.pieces()), list(arrays))


def gradients(causal: bool = False, window: int = 0, groups: int = 1) -> Callable[..., Any]:
    """dQ, dK, dV of ``sum(attention * g)``; `window`: queries see that many keys; `groups`: heads that share keys."""

    def loss(q: Any, k: Any, v: Any, g: Any, *bias: Any) -> Any:
        def repeated(x: Any) -> Any:
            b, heads, n, d = x.shape
            return dnp.reshape(dnp.broadcast_to(x[:, :, None], (b, heads, groups, n, d)), (b, heads * groups, n, d))

        if groups > 1:
            k, v = repeated(k), repeated(v)
        mask = bias[0] if bias else None
        if window:
            rows, columns = dnp.arange(q.shape[2])[:, None], dnp.arange(k.shape[2])[None, :]
            mask = columns > rows - window
        return dnp.sum(nn.scaled_dot_product_attention(q, k, v, mask, causal) * g)

    return ds.grad(loss, (0, 1, 2))


def reference(
    arrays: Sequence[Array], causal: bool = False, window: int = 0, groups: int = 1
) -> tuple[Array, Array, Array]:
    q, k, v, g, *bias = (a.astype(np.float64) if a.dtype != bool else a for a in arrays)
    b, heads, keys, _ = k.shape
    k, v = (np.repeat(x, groups, axis=1) for x in (k, v))
    scale = q.shape[-1] ** -0.5
    scores = q @ k.swapaxes(2, 3) * scale
    rows, columns = np.arange(q.shape[2])[:, None], np.arange(keys)
    seen = np.ones((q.shape[2], keys), bool)
    if causal:
        seen &= columns <= rows
    if window:
        seen &= columns > rows - window
    if bias and bias[0].dtype == bool:
        seen = seen & bias[0]
    elif bias:
        scores = scores + bias[0]
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    e = np.exp(scores - np.where(np.isinf(top), 0, top))
    total = e.sum(-1, keepdims=True)
    p = e / np.where(total == 0, 1, total)
    dp = g @ v.swapaxes(2, 3)
    ds_ = p * (dp - (dp * p).sum(-1, keepdims=True)) * scale

    def grouped(x: Array) -> Array:
        return x.reshape(b, heads, groups, *x.shape[2:]).sum(2)

    return ds_ @ k, grouped(ds_.swapaxes(2, 3) @ q), grouped(p.swapaxes(2, 3) @ g)


def inputs(q: int, keys: int, size: int, width: int, heads: int = 2, groups: int = 1, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    shapes = ((heads * groups, q, size), (heads, keys, size), (heads, keys, width), (heads * groups, q, width))
    return [rng.standard_normal((1, *s)).astype(np.float32) for s in shapes]


def check(arrays: Sequence[Array], program: Lowered, **form: Any) -> None:
    for ours, exact in zip(run(program, arrays), reference(arrays, **form), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=0, atol=1e-5 * max(np.abs(exact).max(), 1))


def backward_kernels(program: Lowered) -> list[str]:
    return [k.source for k in program.program.kernels if k.source.count("tl.trans(") == 2]


@pytest.mark.parametrize(
    ("lengths", "form"),
    [
        ((70, 70, 16, 16), {"causal": True}),
        ((70, 33, 24, 40), {}),
        ((1, 90, 16, 8), {}),
        ((90, 40, 32, 16), {"causal": True}),
        ((40, 90, 32, 16), {"causal": True}),
        ((80, 80, 16, 16), {"causal": True, "window": 20}),
        ((40, 50, 16, 16), {"groups": 3}),
    ],
)
def test_gradients(lengths: tuple[int, ...], form: dict[str, Any]) -> None:
    arrays = inputs(*lengths, groups=form.get("groups", 1))
    program = lowered(gradients(**form), arrays)
    check(arrays, program, **form)
    by_key, by_query = backward_kernels(program)
    assert by_key.count("tl.dot(") == 4 and by_query.count("tl.dot(") == 3
    if form.get("causal") and lengths[1] > 64:
        assert "in range(0," not in by_key and "tl.minimum(" in by_query


@pytest.mark.parametrize("kind", ["added", "bool"])
def test_a_mask_with_a_row_that_sees_nothing(kind: str) -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((40, 50)) < 0.7 if kind == "bool" else rng.standard_normal((40, 50)).astype(np.float32)
    mask[3] = False if kind == "bool" else -np.inf
    arrays = [*inputs(40, 50, 16, 16), mask]
    program = lowered(gradients(), arrays)
    check(arrays, program)
    assert len(backward_kernels(program)) == 2


def test_one_program_for_all_lengths() -> None:
    lengths = dict.fromkeys(("q", "k", "v", "g"), (None, None, "n", None))

    def of(q: Any, k: Any, v: Any, g: Any) -> Any:
        return gradients(causal=True)(q, k, v, g)

    program = lowered(of, inputs(48, 48, 16, 16), dynamic=lengths)
    for length in (1, 70):
        arrays = inputs(length, length, 16, 16, seed=length)
        check(arrays, program, causal=True)
    assert len(backward_kernels(program)) == 2


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_narrow_floats(dtype: str) -> None:
    """Logarithms of sums and the correction along rows are f32; factors of products are rounded."""
    kind = dtypes.dtype(dtype).numpy
    arrays = [a.astype(kind) for a in inputs(40, 70, 16, 32)]
    program = lowered(gradients(causal=True), arrays)
    error = 2.0**-7 if dtype == "bf16" else 2.0**-10
    for ours, exact in zip(run(program, arrays), reference(arrays, causal=True), strict=True):
        np.testing.assert_allclose(ours.astype(np.float64), exact, rtol=0, atol=error * np.abs(exact).max())
    kernels = backward_kernels(program)
    assert len(kernels) == 2 and all(f".to(tl.{kind.name})" in k for k in kernels)


def test_doubles_keep_the_matrix() -> None:
    """Tensor cores of the kernels do not take them."""
    arrays = [a.astype(np.float64) for a in inputs(20, 24, 16, 16)]
    program = lowered(gradients(), arrays)
    check(arrays, program)
    assert not backward_kernels(program)


@pytest.mark.parametrize(
    ("target", "instruction"),
    [("cuda:90", r"wgmma\S*bf16"), ("cuda:80", r"mma\.sync\S*bf16"), ("hip:gfx942", r"v_mfma_f32_\d+x\d+x\d+_?bf16")],
)
def test_products_run_on_tensor_cores(target: str, instruction: str) -> None:
    arrays = [a.astype(dtypes.bf16.numpy) for a in inputs(256, 256, 64, 64)]
    program = lowered(gradients(causal=True), arrays, target)
    kernels = tuple(k for k in program.program.kernels if k.source in backward_kernels(program))
    assert len(kernels) == 2
    for code in compile_kernels(replace(program.program, kernels=kernels)):
        assert re.search(instruction, code.assembly), sorted(set(re.findall(r"\S*mma\S*|v_mfma\S*", code.assembly)))
