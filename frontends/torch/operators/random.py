"""Random numbers of PyTorch's default generator: distributed alike, but other numbers than eager PyTorch draws.

A program makes them from a key that each call draws from that generator, so that `torch.manual_seed` decides them.
Dropout comes as `aten.rand` (see `decompositions`).
"""

from __future__ import annotations

import math
from typing import Any

from ds_compiler.frontends.torch.emitter import Emitter
from ds_compiler.frontends.torch.registry import aten
from ds_compiler.ir import Dim, TensorType, Value
from ds_compiler.ir.dtypes import f64, i64
from ds_compiler.ops import Check, TopK
from ds_compiler.ops import random as rng


def _uniform(e: Emitter, like: TensorType) -> Value:
    """In [0, 1); of narrow types in f32."""
    key, stream = e.random_stream()
    return rng.uniform(e.emit, key, like.shape, like.dtype, stream)


def _normal(e: Emitter, like: TensorType) -> Value:
    key, stream = e.random_stream()
    return rng.normal(e.emit, key, like.shape, like.dtype, stream)


def _floats(node: Any) -> bool:
    return bool(node.meta["val"].dtype.is_floating_point)


@aten("aten.rand.default", "aten.rand_like.default", when=_floats)
def rand(e: Emitter, *_: object) -> Value:
    return e.cast(_uniform(e, e.result), e.result.dtype)


@aten("aten.randn.default", "aten.randn_like.default", when=_floats)
def randn(e: Emitter, *_: object) -> Value:
    return e.cast(_normal(e, e.result), e.result.dtype)


def _argument(node: Any, index: int, default: float) -> float:
    found = node.args[index] if len(node.args) > index else default
    return float(found) if isinstance(found, int | float) else math.nan


def _between(e: Emitter, like: TensorType, low: float, high: float) -> Value:
    scaled = e.binary("add", e.binary("mul", e.cast(_uniform(e, like), like.dtype), high - low), low)
    return e.binary("min", scaled, high)  # rounding may reach the bound, never pass it


# Arguments that eager PyTorch refuses are left to it.
@aten("aten.uniform.default", when=lambda node: _floats(node) and _argument(node, 1, 0) <= _argument(node, 2, 1))
def uniform(e: Emitter, x: Value, low: float = 0.0, high: float = 1.0) -> Value:
    return _between(e, e.result, low, high)


@aten("aten.normal_functional.default", when=lambda node: _floats(node) and _argument(node, 2, 1) >= 0)
def normal(e: Emitter, x: Value, mean: float = 0.0, std: float = 1.0) -> Value:
    return e.cast(e.binary("add", e.binary("mul", _normal(e, e.result), std), mean), e.result.dtype)


@aten("prims.normal.default", when=_floats)
def prims_normal(e: Emitter, shape: Any, *, mean: float, std: float, requires_grad: bool = False) -> Value:
    return e.cast(e.binary("add", e.binary("mul", _normal(e, e.result), std), mean), e.result.dtype)


def _bounds(node: Any) -> bool:
    """All of these, with numbers for bounds."""
    return all(isinstance(bound, int) for bound in _integer_arguments(node))


def _integer_arguments(node: Any) -> list[Any]:
    like = "_like" in str(node.target)
    given = list(node.args[1:] if like else node.args[:-1])
    return given if len(given) == 2 else [0, *given]


@aten("aten.randint.default", "aten.randint.low", when=_bounds)
def randint(e: Emitter, *arguments: Any) -> Value:
    *bounds, _ = arguments
    return _integers(e, *bounds)


@aten("aten.randint_like.default", "aten.randint_like.low_dtype", when=_bounds)
def randint_like(e: Emitter, x: Value, *bounds: int) -> Value:
    return _integers(e, *bounds)


def _integers(e: Emitter, *bounds: int) -> Value:
    low, high = bounds if len(bounds) == 2 else (0, bounds[0])
    key, stream = e.random_stream()
    return e.cast(rng.integers(e.emit, key, e.result.shape, low, high, i64, stream), e.result.dtype)


@aten("aten.bernoulli.p", when=lambda node: 0 <= _argument(node, 1, 0.5) <= 1)
def bernoulli_p(e: Emitter, x: Value, p: float = 0.5) -> Value:
    unit = _uniform(e, e.result.with_dtype(f64))  # of f32, a small `p` would have few values below it
    return e.cast(e.compare("lt", unit, p), e.result.dtype)


@aten("aten.bernoulli.default")
def bernoulli(e: Emitter, p: Value) -> Value:
    return bernoulli_tensor(e, p, p)


@aten("aten.bernoulli.Tensor")
def bernoulli_tensor(e: Emitter, x: Value, p: Value) -> Value:
    """The probabilities `p` are checked when the program runs."""
    p = e.wide(p)
    fits = e.binary("and", e.compare("ge", p, 0), e.compare("le", p, 1))
    e.insert(Check(e.reduce(fits, range(p.type.rank), "all"), "a probability is not in [0, 1]"))
    unit = _uniform(e, e.result.with_dtype(p.type.dtype))
    return e.cast(e.compare("lt", unit, e.broadcast_to(p, unit.type.shape)), e.result.dtype)


@aten("aten.randperm.default")
def randperm(e: Emitter, n: Dim) -> Value:
    """The order of random numbers (63 bits, so that ties, which would favour small positions, do not occur)."""
    key, stream = e.random_stream()
    bits = e.cast(e.binary("shr", rng.wide_bits(e.emit, key, n, stream), 1), i64)
    return e.cast(e.insert(TopK(bits, n, True))[1], e.result.dtype)


@aten(
    "aten.rrelu_with_noise_functional.default", when=lambda node: _argument(node, 2, 0.125) <= _argument(node, 3, 1 / 3)
)
def rrelu(
    e: Emitter, x: Value, noise: Value, lower: float = 0.125, upper: float = 1 / 3, training: bool = False
) -> tuple[Value, Value]:
    """(result, slopes): in training a random one for each element that is not positive."""
    if training:
        slopes = _between(e, x.type, lower, upper)
        noise = e.select(e.compare("gt", x, 0), e.full(1, x.type), slopes)
        return e.binary("mul", x, noise), noise
    return e.select(e.compare("gt", x, 0), x, e.binary("mul", x, (lower + upper) / 2)), noise
