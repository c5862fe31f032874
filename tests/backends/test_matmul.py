"""Emitted matrix products against NumPy in float64."""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.backends.llvm.builder import ModuleBuilder
from ds_compiler.backends.llvm.gemm_schedule import choose_schedule
from ds_compiler.backends.llvm.matmul import Matrix, PackedMatrix, emit_matmul, packed_width
from ds_compiler.backends.llvm.packing import pack_b
from ds_compiler.backends.llvm.target import Target, host, parse_target
from tests.backends.products import Case, aligned, compile_product, module_text

_GUARD = 7.5


def _lay_out(x: npt.NDArray[Any], layout: str, nr: int, step: int) -> npt.NDArray[Any]:
    """The memory of matrices [batch, rows, columns] in a layout of `products.Case`."""
    if layout == "packed":
        return pack_b(x, nr)
    if layout == "columns":
        return np.ascontiguousarray(x.swapaxes(-1, -2))
    if layout == "strided":
        spread = np.full((*x.shape, step), np.nan, x.dtype)
        spread[..., 0] = x
        return spread
    return np.ascontiguousarray(x)


def run(
    case: Case,
    tasks: int,
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    target: Target | None = None,
) -> npt.NDArray[Any]:
    target = target or host()
    call, scratch_bytes = compile_product(case, target)
    dtype = a.dtype
    nr = packed_width(target, case.n if "n" in case.constant else None, case.element)
    left, right = _lay_out(a, case.a, nr, 2), _lay_out(b, case.b, nr, 3)
    # Exactly as much memory as the operands have, so that a read past the end has a chance to fault or show.
    size = case.batch * case.m * case.n
    out = aligned(size + 32, dtype, _GUARD)
    scratch = aligned(scratch_bytes // dtype.itemsize + 16, dtype, np.nan)
    scratch[-16:] = _GUARD
    for task in range(tasks):
        call(
            left.ctypes.data,
            right.ctypes.data,
            bias.ctypes.data,
            out.ctypes.data,
            scratch.ctypes.data,
            case.batch,
            case.m,
            case.n,
            case.k,
            task,
            tasks,
        )
    assert (out[size:] == _GUARD).all(), "wrote past C"
    assert (scratch[-16:] == _GUARD).all(), "wrote past the scratch"
    return out[:size].reshape(case.batch, case.m, case.n).copy()


def check(case: Case, tasks: int = 1, target: Target | None = None) -> None:
    dtype = np.float32 if case.element == "float" else np.float64
    rng = np.random.default_rng([case.batch, case.m, case.n, case.k])
    a = rng.standard_normal((case.batch, case.m, case.k)).astype(dtype)
    b = rng.standard_normal((1 if case.shared_b else case.batch, case.k, case.n)).astype(dtype)
    bias = rng.standard_normal(case.n).astype(dtype)
    got = run(case, tasks, a, b, bias, target)
    expected: npt.NDArray[Any] = a.astype(np.float64) @ b.astype(np.float64)
    # |error| <= k * eps * (|A| @ |B|) holds for every order of summation.
    eps = float(np.finfo(dtype).eps)
    bound: npt.NDArray[Any] = (case.k + 2) * eps * (np.abs(a).astype(np.float64) @ np.abs(b).astype(np.float64)) + eps
    if case.bias_relu:
        expected = np.maximum(expected + bias, 0)
        bound = bound + 2 * eps * np.abs(bias)
    assert (np.abs(got - expected) <= bound).all()
    if tasks > 1:
        np.testing.assert_array_equal(got, run(case, 1, a, b, bias, target))


_extent = st.one_of(st.integers(0, 20), st.integers(0, 70))


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        Case,
        batch=st.integers(0, 3), m=_extent, n=_extent, k=_extent,
        a=st.sampled_from(["rows", "columns", "strided"]),
        b=st.sampled_from(["packed", "rows", "columns", "strided"]),
        element=st.sampled_from(["float", "double"]),
        constant=st.sampled_from(["mnk", "nk", "mk", "n", "k", "m", ""]),
        shared_b=st.booleans(), bias_relu=st.booleans(),
    ),
    st.integers(1, 3),
)  # fmt: skip
def test_any_product(case: Case, tasks: int) -> None:
    check(case, tasks)


@pytest.mark.parametrize("b", ["packed", "rows", "columns"])
@pytest.mark.parametrize("constant", ["mnk", "nk", ""])
@pytest.mark.parametrize("m, n, k", [(1, 300, 200), (2, 130, 33), (128, 96, 1500), (37, 1100, 530), (200, 40, 64)])
def test_blocks(b: str, constant: str, m: int, n: int, k: int) -> None:
    check(Case(1, m, n, k, b=b, constant=constant, bias_relu=True), tasks=2)


@pytest.mark.parametrize("constant", ["mnk", "nk", "k"])
@pytest.mark.parametrize("b", ["packed", "rows"])
@pytest.mark.parametrize("m, n", [(1, 37), (3, 16), (13, 45)])
def test_without_scratch(constant: str, b: str, m: int, n: int) -> None:
    check(Case(2, m, n, 90, b=b, constant=constant, scratch=False), tasks=2)


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize("b", ["packed", "columns"])
@pytest.mark.parametrize("m, constant, element", [(1, "mnk", "float"), (29, "mnk", "double"), (29, "", "float")])
@pytest.mark.skipif(not host().triple.startswith("x86_64"), reason="x86-64 levels")
def test_other_levels(target: str, b: str, m: int, constant: str, element: str) -> None:
    level = parse_target(target)
    if level.vector_bits > host().vector_bits:
        pytest.skip(f"this machine doesn't run {target}")
    check(Case(2, m, 45, 37, b=b, constant=constant, element=element), tasks=2, target=level)


@pytest.mark.parametrize("constant", ["mnk", ""])
def test_512_bit_tiles_stay_in_registers(constant: str) -> None:
    level = parse_target("x86-64-v4")
    text, _ = module_text(Case(1, 140, 320, 64, constant=constant), level)
    module = llvm.parse_assembly(text)
    module.verify()
    assembly = level.machine().emit_assembly(module)
    multiply_adds = [line for line in assembly.splitlines() if "vfmadd" in line]
    assert multiply_adds
    assert all("zmm" in line for line in multiply_adds)


def test_columns_of_a_are_copied() -> None:
    check(Case(2, 50, 200, 700, a="columns", constant="nk"), tasks=3)


@pytest.mark.parametrize("a", ["rows", "columns"])
@pytest.mark.parametrize("b", ["rows", "columns"])
@pytest.mark.parametrize("m, n, k", [(997, 67, 901), (771, 1050, 1024)])
def test_row_blocks_share_the_packed_panels(a: str, b: str, m: int, n: int, k: int) -> None:
    case = Case(1, m, n, k, a=a, b=b)
    assert choose_schedule(host(), "float", m, n, k, b_layout=b, a_layout=a).pack_once
    check(case, tasks=2)


@pytest.mark.parametrize("b", ["packed", "rows", "columns"])
@pytest.mark.parametrize("m", [1, 9])
def test_nan_and_infinity_reach_their_results_only(b: str, m: int) -> None:
    case = Case(1, m, 21, 19, b=b, constant="k")
    rng = np.random.default_rng(0)
    a, w = rng.standard_normal((1, m, 19)).astype("f4"), rng.standard_normal((1, 19, 21)).astype("f4")
    a[0, 0, 3], w[0, 18, 20] = np.inf, np.nan
    got = run(case, 1, a, w, np.zeros(21, "f4"))
    expected = a.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(expected))


def test_pack_b_pads_with_zeros() -> None:
    packed = pack_b(np.arange(1, 16, dtype="f4").reshape(3, 5), 4)
    np.testing.assert_array_equal(packed[1], [[5, 0, 0, 0], [10, 0, 0, 0], [15, 0, 0, 0]])
    assert pack_b(np.zeros((2, 7, 3, 5), "f8"), 4).shape == (2, 7, 2, 3, 4)
    with pytest.raises(ValueError, match="K, N"):
        pack_b(np.zeros(3, "f4"), 4)


def _emit(b_layout: str, scratch: bool, nr: int) -> None:
    fb = ModuleBuilder().function("f", [("ptr", "a"), ("ptr", "b"), ("i64", "n")])
    a, b, n = fb.args
    one = fb.i64(1)
    right = PackedMatrix(b, nr) if b_layout == "packed" else Matrix(b, one, n)
    emit_matmul(
        fb, host(), batch=one, m=n, n=n, k=n, a=Matrix(a, n, one), b=right, task=fb.i64(0), tasks=one,
        scratch=b if scratch else None, epilogue=lambda *_: None,
    )  # fmt: skip


def test_misuse_is_named() -> None:
    with pytest.raises(ValueError, match="packed 5 wide"):
        _emit("packed", True, 5)
    with pytest.raises(ValueError, match="needs scratch"):
        _emit("columns", False, 0)
