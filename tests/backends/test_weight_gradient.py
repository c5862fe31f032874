"""Gradients of convolutions' weights against float64 sums on NumPy and against PyTorch, on any number of threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.backends.llvm.builder import V
from ds_compiler.backends.llvm.target import host
from ds_compiler.backends.llvm.weight_plan import WeightPlan, weight_plan
from ds_compiler.backends.llvm.window import ConvShape
from ds_compiler.ops import ConvWeightGradient
from tests.backends.programs import compiled, executable
from tests.passes.helpers import module_of, tensor

Array = np.ndarray[Any, Any]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A convolution, without its numbers."""

    n: int
    size: Pair
    ci: int
    co: int
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    low: Pair = (0, 0)
    high: Pair = (0, 0)
    groups: int = 1

    @property
    def windows(self) -> Pair:
        rows, columns = (
            (s + a + b - (k - 1) * d - 1) // t + 1
            for s, a, b, k, d, t in zip(
                self.size, self.low, self.high, self.kernel, self.dilation, self.stride, strict=True
            )
        )
        return rows, columns

    def arrays(self, dtype: Any) -> tuple[Array, Array]:
        random = np.random.default_rng(sum((self.n, *self.size, self.ci, self.co)))
        x = random.standard_normal((self.n, *self.size, self.ci))
        return x.astype(dtype), random.standard_normal((self.n, *self.windows, self.co)).astype(dtype)

    def expected(self, x: Array, g: Array) -> tuple[Array, Array]:
        """The sums in float64, and those of the terms' magnitudes: what rounding is relative to."""
        pads = [(0, 0), *((a, b) for a, b in zip(self.low, self.high, strict=True)), (0, 0)]
        x = np.pad(x.astype(np.float64), pads)
        ci, co = self.ci // self.groups, self.co // self.groups
        sums, magnitudes = (np.zeros((self.co, ci, *self.kernel)) for _ in range(2))
        (rows, columns), (down, right) = self.windows, self.stride
        for i, j in np.ndindex(*self.kernel):
            top, left = i * self.dilation[0], j * self.dilation[1]
            met = x[:, top : top + rows * down : down, left : left + columns * right : right][:, :rows, :columns]
            for group in range(self.groups):
                a = met[..., group * ci : (group + 1) * ci].reshape(-1, ci)
                b = g[..., group * co : (group + 1) * co].reshape(-1, co).astype(np.float64)
                sums[group * co : (group + 1) * co, :, i, j] = b.T @ a
                magnitudes[group * co : (group + 1) * co, :, i, j] = abs(b).T @ abs(a)
        return sums, magnitudes

    def check(self, dtype: str = "f32", symbolic: bool = False) -> Array:
        """Compile, run on one to three threads, compare."""
        x, g = self.arrays(np.float32 if dtype == "f32" else np.float64)
        sizes = [f"n h w {self.ci}", f"n p q {self.co}"] if symbolic else [" ".join(map(str, a.shape)) for a in (x, g)]

        def body(b, x, g):  # type: ignore[no-untyped-def]
            rest = (self.kernel, self.stride, self.low, self.high, self.dilation, self.groups, "nhwc")
            return b.emit(ConvWeightGradient(x, g, *rest))

        _, result = compiled(module_of(body, *(tensor(s, dtype) for s in sizes)))
        found = [next(iter(executable(result, count)(x, g).values())) for count in (1, 2, 3)]
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])
        sums, magnitudes = self.expected(x, g)
        assert found[0].shape == sums.shape
        terms = self.n * self.windows[0] * self.windows[1]
        bound = np.finfo(x.dtype).eps * (2 + terms**0.5) * magnitudes
        assert (abs(found[0] - sums) <= bound).all()
        return found[0]


CASES = {
    "plain": Case(3, (9, 11), 16, 16, (3, 3), low=(1, 1), high=(1, 1)),
    "first layer": Case(2, (19, 21), 3, 20, (7, 7), (2, 2), low=(3, 3), high=(3, 3)),
    "one channel": Case(4, (10, 10), 1, 6, (5, 5)),
    "few outputs": Case(2, (8, 9), 40, 3, (3, 3), low=(1, 1), high=(1, 1)),
    "strided pixels": Case(2, (9, 12), 17, 33, (1, 1), (2, 3)),
    "strided rows of few channels": Case(2, (9, 30), 2, 5, (3, 1), (1, 4), low=(0, 2), high=(0, 1)),
    "strided columns of few channels": Case(2, (30, 9), 2, 5, (1, 3), (4, 1), low=(2, 0), high=(1, 0)),
    "dilated": Case(1, (15, 14), 5, 9, (3, 2), (2, 1), (2, 3), (2, 3), (4, 0)),
    "groups": Case(2, (7, 8), 12, 18, (3, 3), low=(1, 1), high=(1, 1), groups=3),
    "a multiplier": Case(2, (7, 8), 5, 15, (3, 3), low=(1, 0), high=(0, 1), groups=5),
    "more padding than image": Case(2, (2, 3), 4, 8, (5, 5), low=(4, 6), high=(4, 5)),
    "wide": Case(1, (1, 450), 8, 8, (1, 9), low=(0, 4), high=(0, 4)),
    "wide, few channels": Case(1, (2, 450), 2, 8, (1, 9), low=(0, 4), high=(0, 4)),
    "many channels": Case(2, (4, 4), 130, 90, (3, 3), low=(1, 1), high=(1, 1)),
    "no images": Case(0, (4, 4), 8, 8, (3, 3)),
    "no windows": Case(2, (2, 4), 8, 8, (3, 3)),
    "depthwise": Case(2, (9, 10), 40, 40, (3, 3), low=(1, 1), high=(1, 1), groups=40),
    "depthwise, strided": Case(2, (9, 10), 13, 13, (5, 5), (2, 2), low=(2, 2), high=(2, 1), groups=13),
    "depthwise, dilated": Case(1, (9, 10), 7, 7, (3, 3), (1, 2), (2, 2), (2, 2), (2, 2), groups=7),
    "depthwise, long": Case(1, (3, 70), 33, 33, (2, 27), low=(1, 13), high=(0, 13), groups=33),
    "depthwise, small image": Case(3, (1, 1), 9, 9, (3, 3), low=(1, 1), high=(1, 1), groups=9),
    "depthwise, no images": Case(0, (5, 5), 8, 8, (3, 3), groups=8),
}


@pytest.mark.parametrize("symbolic", [False, True], ids=["known", "symbolic"])
@pytest.mark.parametrize("name", CASES)
def test_sums(name: str, symbolic: bool) -> None:
    CASES[name].check(symbolic=symbolic)


@pytest.mark.parametrize("name", ["plain", "one channel", "groups", "depthwise, strided"])
def test_double(name: str) -> None:
    CASES[name].check("f64")


@pytest.mark.parametrize("name", CASES)
def test_against_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    case = CASES[name]
    if 0 in (case.n, *case.windows):
        pytest.skip("nothing to sum")
    x, g = (torch.tensor(a.transpose(0, 3, 1, 2)) for a in case.arrays(np.float32))
    padded = torch.nn.functional.pad(x, (case.low[1], case.high[1], case.low[0], case.high[0]))
    weight = torch.zeros(case.co, case.ci // case.groups, *case.kernel, requires_grad=True)
    y = torch.nn.functional.conv2d(padded, weight, None, case.stride, 0, case.dilation, case.groups)
    y.backward(g)
    _, magnitudes = case.expected(*case.arrays(np.float32))
    terms = case.n * case.windows[0] * case.windows[1]
    bound = np.finfo(np.float32).eps * (4 + 2 * terms**0.5) * magnitudes
    assert (abs(case.check() - weight.grad.numpy()) <= bound).all()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    def pair(low: int, high: int) -> Pair:
        return data.draw(st.tuples(st.integers(low, high), st.integers(low, high)))

    groups = data.draw(st.sampled_from([1, 1, 2, 5]))
    kernel, dilation = pair(1, 4), pair(1, 2)
    size = tuple(s + (k - 1) * d for s, k, d in zip(pair(1, 9), kernel, dilation, strict=True))
    channels = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 20)))
    Case(
        data.draw(st.integers(1, 3)),
        (size[0], size[1]),
        channels[0] * groups,
        channels[1] * groups if channels[0] > 1 else groups,
        kernel,
        pair(1, 3),
        dilation,
        pair(0, 2),
        pair(0, 2),
        groups,
    ).check(symbolic=data.draw(st.booleans()))


def _plan(ci: int, co: int, kernel: Pair) -> WeightPlan:
    size = V("i64", "32")
    shape = ConvShape(n=size, h=size, w=size, oh=size, ow=size, kernel=kernel, pads=(1, 1, 1, 1), ci=ci, co=co)
    return weight_plan(shape, host(), "float")


def test_plans() -> None:
    assert _plan(3, 16, (3, 3)).copied  # tiles of three rows would leave the units idle
    assert not _plan(64, 64, (3, 3)).copied
    assert _plan(64, 3, (3, 3)).swapped  # vectors of three channels would be mostly empty
