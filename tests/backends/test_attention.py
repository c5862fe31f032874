"""Emitted attention against softmax(Q·Kᵀ * scale + bias)·V in NumPy float64."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.backends.llvm.attention import attention_scratch_bytes, emit_attention
from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V, vector_of
from ds_compiler.backends.llvm.math_exp import exp_nonpositive
from ds_compiler.backends.llvm.operands import Matrix
from ds_compiler.backends.llvm.target import host
from tests.backends.jit import compile_module
from tests.backends.products import aligned

_GUARD = 7.5


@dataclass(frozen=True)
class Case:
    """Sizes of one attention over [batch, seq, heads, dim] operands; `known` names the lengths given as constants."""

    batch: int
    heads: int
    q: int
    kv: int
    d: int
    dv: int
    known: str = "qk"
    bias: bool = False
    element: str = "float"
    zero: bool = False


def build(case: Case) -> str:
    fb = ModuleBuilder().function(
        "attend",
        [("ptr", x) for x in ("q", "k", "v", "bias", "out", "scratch")]
        + [("i64", x) for x in ("batch_heads", "q_len", "kv_len", "task", "tasks")],
    )
    q, k, v, bias, out, scratch, batch_heads, q_len, kv_len, task, tasks = fb.args
    if "q" in case.known:
        q_len = fb.i64(case.q)
    if "k" in case.known:
        kv_len = fb.i64(case.kv)
    element, one, heads = case.element, fb.i64(1), fb.i64(case.heads)

    def in_place(base: V, length: V, dim: int) -> Matrix:
        def entry(fb: FunctionBuilder, index: V) -> V:
            sequence = fb.mul(fb.sdiv(index, heads), fb.mul(length, fb.i64(case.heads * dim)))
            return fb.gep(element, base, fb.add(sequence, fb.mul(fb.srem(index, heads), fb.i64(dim))))

        return Matrix(base, fb.i64(case.heads * dim), one, entry)

    def add_bias(fb: FunctionBuilder, index: V, row: V, col: V, lanes: int, mask: V | None, scores: V) -> V:
        at = fb.gep(element, bias, fb.add(fb.mul(fb.add(fb.mul(index, q_len), row), kv_len), col))
        type_ = vector_of(element, lanes)
        return fb.fadd(scores, fb.load(type_, at) if mask is None else fb.masked_load(type_, at, mask))

    target_at = in_place(out, q_len, case.dv)

    def store(fb: FunctionBuilder, index: V, row: V, col: V, lanes: int, mask: V | None, value: V) -> None:
        at = fb.gep(element, target_at.at(fb, element, index), fb.add(fb.mul(row, target_at.row), col))
        if mask is None:
            fb.store(value, at)
        else:
            fb.masked_store(value, at, mask)

    emit_attention(
        fb,
        host(),
        batch_heads=batch_heads,
        q_len=q_len,
        kv_len=kv_len,
        head_dim=case.d,
        v_dim=case.dv,
        q=in_place(q, q_len, case.d),
        k=in_place(k, kv_len, case.d),
        v=in_place(v, kv_len, case.dv),
        scale=case.d**-0.5,
        bias=add_bias if case.bias else None,
        task=task,
        tasks=tasks,
        scratch=scratch,
        store=store,
        element=element,
        nan_rows_are_zero=case.zero,
    )
    fb.ret()
    fb.finish()
    return fb.module.text()


def run(case: Case, tasks: int, q: Any, k: Any, v: Any, bias: Any) -> npt.NDArray[Any]:
    arguments = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 5
    call = compile_module(build(case)).function("attend", arguments)
    size = case.batch * case.q * case.heads * case.dv
    out = aligned(size + 32, q.dtype, _GUARD)
    words = attention_scratch_bytes(host(), case.d, case.dv, case.element) // q.dtype.itemsize
    scratch = aligned(words + 16, q.dtype, np.nan)
    scratch[-16:] = _GUARD
    pointers = [x.ctypes.data for x in (q, k, v, bias, out, scratch)]
    for task in range(tasks):
        call(*pointers, case.batch * case.heads, case.q, case.kv, task, tasks)
    assert (out[size:] == _GUARD).all(), "wrote past the output"
    assert (scratch[-16:] == _GUARD).all(), "wrote past the scratch"
    return out[:size].reshape(case.batch, case.q, case.heads, case.dv).copy()


def inputs(case: Case) -> tuple[npt.NDArray[Any], ...]:
    dtype = np.float32 if case.element == "float" else np.float64
    rng = np.random.default_rng([case.q, case.kv, case.d])
    shapes = [(case.q, case.d), (case.kv, case.d), (case.kv, case.dv)]
    q, k, v = (rng.standard_normal((case.batch, s, case.heads, d)).astype(dtype) for s, d in shapes)
    bias = rng.standard_normal((case.batch * case.heads, case.q, case.kv)).astype(dtype)
    bias[rng.random(bias.shape) < 0.3] = -np.inf
    return q, k, v, bias


def reference(case: Case, q: Any, k: Any, v: Any, bias: Any) -> npt.NDArray[Any]:
    q, k, v = (np.moveaxis(x.astype(np.float64), 2, 1) for x in (q, k, v))
    scores = q @ k.swapaxes(-1, -2) * case.d**-0.5
    if case.bias:
        scores = scores + bias.reshape(scores.shape)
    with np.errstate(all="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
        weights /= weights.sum(-1, keepdims=True)
        if case.zero:
            weights = np.nan_to_num(weights)
        result: npt.NDArray[Any] = np.moveaxis(weights @ v, 1, 2)
    return result


def check(case: Case, tasks: int = 1) -> None:
    q, k, v, bias = inputs(case)
    got = run(case, tasks, q, k, v, bias)
    # Weights sum to 1, so the error is a few eps of the largest |V|, times log-like growth of the scores' own error.
    tolerance = 4e-6 if case.element == "float" else 1e-14
    np.testing.assert_allclose(got, reference(case, q, k, v, bias), rtol=0, atol=tolerance)
    if tasks > 1:
        np.testing.assert_array_equal(got, run(case, 1, q, k, v, bias))


_length = st.one_of(st.integers(0, 20), st.integers(0, 70))


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        Case,
        batch=st.integers(0, 2), heads=st.integers(1, 3), q=_length, kv=_length,
        d=st.integers(1, 40), dv=st.integers(1, 40), known=st.sampled_from(["qk", "q", "k", ""]),
        bias=st.booleans(), element=st.sampled_from(["float", "double"]), zero=st.booleans(),
    ),
    st.integers(1, 3),
)  # fmt: skip
def test_any_attention(case: Case, tasks: int) -> None:
    check(case, tasks)


@pytest.mark.parametrize("known", ["qk", ""])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("q, kv", [(37, 1300), (800, 100), (1, 700), (2, 1024)])
def test_several_blocks(known: str, bias: bool, q: int, kv: int) -> None:
    check(Case(1, 2, q, kv, 64, 64, known, bias), tasks=2)


@pytest.mark.parametrize("q", [1, 9])
@pytest.mark.parametrize("zero", [False, True])
def test_rows_without_keys(q: int, zero: bool) -> None:
    case = Case(1, 1, q, 1200, 16, 16, "", True, zero=zero)
    operands = inputs(case)
    operands[3][0, 0, :] = -np.inf
    got = run(case, 1, *operands)
    np.testing.assert_allclose(got, reference(case, *operands), rtol=0, atol=4e-6)
    assert (got[0, 0] == 0).all() if zero else np.isnan(got[0, 0]).all()


@pytest.mark.parametrize("q", [1, 9])
@pytest.mark.parametrize("zero", [False, True])
def test_late_maximum_and_nan(q: int, zero: bool) -> None:
    case = Case(1, 1, q, 1100, 16, 16, "", True, zero=zero)
    operands = inputs(case)
    operands[3][...] = 0
    operands[3][0, :, 1099] = 300.0  # the last block raises the maximum far beyond exp's range
    np.testing.assert_allclose(run(case, 1, *operands), reference(case, *operands), rtol=0, atol=4e-6)
    operands[0][0, q - 1, 0, 3] = np.nan
    got = run(case, 1, *operands)
    assert (got[0, q - 1] == 0).all() if zero else np.isnan(got[0, q - 1]).all()
    assert np.isfinite(got[0, : q - 1]).all()


@pytest.mark.parametrize("element, dtype, lowest", [("float", np.float32, -87.0), ("double", np.float64, -708.0)])
def test_exp_of_nonpositive_arguments(element: str, dtype: Any, lowest: float) -> None:
    fb = ModuleBuilder().function("exps", [("ptr", "x"), ("ptr", "y"), ("i64", "n")])
    x, y, n = fb.args
    lanes = host().lanes(element)
    with fb.loop(fb.i64(0), n, lanes) as loop:
        value = fb.load(vector_of(element, lanes), fb.gep(element, x, loop.index))
        fb.store(exp_nonpositive(fb, value), fb.gep(element, y, loop.index))
    fb.ret()
    fb.finish()
    call = compile_module(fb.module.text()).function("exps", [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64])
    rng = np.random.default_rng(0)
    count = 1 << 18
    edges = [0.0, -0.0, -np.inf, np.nan, lowest, lowest * 1.01, -1e30, -1e-30, *[-1.0] * 8]
    spread = -np.exp(rng.uniform(-40, 4, count))
    arguments = np.concatenate([rng.uniform(lowest, 0, count), spread, edges]).astype(dtype)
    got = np.empty_like(arguments)
    call(arguments.ctypes.data, got.ctypes.data, arguments.size)
    normal = arguments >= lowest
    exact = np.exp(arguments[normal].astype(np.longdouble))
    ulp = np.abs(got[normal] - exact) / np.spacing(exact.astype(dtype))
    assert float(ulp.max()) < 1.02
    assert (got[arguments < lowest] == 0).all()
    assert np.isnan(got[np.isnan(arguments)]).all()
