"""Random numbers: Threefry of the node's seed and the element's number, so that every run and thread count agrees.

A node without a seed has one that its name gives: a compiled program is a pure function of its inputs, and yields the
same numbers at each call. Reference implementations use other generators: values agree in distribution only.
"""

from __future__ import annotations

import zlib

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.loader import element_type
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, DType, Value
from ds_compiler.ir.dtypes import bool_, f32, f64, u32
from ds_compiler.ops import Cumulative
from ds_compiler.ops import random as rng


def _key(e: Emitter, n: Node) -> rng.Key:
    if n.has("seed"):
        seed, salt = int(np.float32(n.float("seed", 0)).view(np.uint32)), 0
    else:
        seed, salt = zlib.crc32(f"{n.location}".encode()), 1
    return e.scalar(seed, u32), e.scalar(salt, u32)


def unit(e: Emitter, n: Node, shape: tuple[Dim, ...], dtype: DType) -> Value:
    """Numbers in [0, 1), in f32 or f64."""
    return rng.uniform(e.emit, _key(e, n), shape, dtype)


@onnx_op("RandomNormal", "RandomUniform")
@onnx_op("RandomNormalLike", "RandomUniformLike")
def random_numbers(e: Emitter, n: Node) -> Value:
    like = n.optional(0)
    default = like.type.dtype if like is not None else f32
    dtype = element_type(n.int("dtype", 0), "the result") if n.has("dtype") else default
    shape = like.type.shape if like is not None else tuple(n.ints("shape"))
    if dtype not in rng.DIGITS:
        n.fail(f"gives floating-point numbers, not {dtype}")
    if like is None and (not n.has("shape") or any(isinstance(d, int) and d < 0 for d in shape)):
        n.fail(f"attribute shape={list(shape)} is no shape")
    if n.op_type.startswith("RandomNormal"):
        first, span = n.float("mean", 0.0), n.float("scale", 1.0)
        numbers = rng.normal(e.emit, _key(e, n), shape, dtype)
    else:
        first = n.float("low", 0.0)
        span = n.float("high", 1.0) - first
        numbers = unit(e, n, shape, dtype)
    return e.cast(e.binary("add", e.binary("mul", numbers, span), first), dtype)


@onnx_op("Bernoulli", since=15)
def bernoulli(e: Emitter, n: Node) -> Value:
    """1 with the probability that the input gives."""
    chance = n.input(0)
    dtype = element_type(n.int("dtype", 0), "the result") if n.has("dtype") else chance.type.dtype
    numbers = unit(e, n, chance.type.shape, f64 if chance.type.dtype == f64 else f32)
    return e.cast(e.compare("lt", numbers, e.wide(chance)), dtype)


@onnx_op("Multinomial", since=7)
def multinomial(e: Emitter, n: Node) -> Value:
    """Classes drawn by their logarithmic weights [batch, classes]: [batch, samples]."""
    weights = e.wide(n.input(0))
    if weights.type.rank != 2:
        n.fail(f"the weights are {weights.type}, expected [batch, classes]")
    batch, classes = weights.type.shape
    samples = n.int("sample_size", 1)
    shifted = e.binary("sub", weights, e.reduce(weights, (1,), "max", keepdims=True))
    until = e.emit(Cumulative(e.unary("exp", shifted), 1, "sum"))
    whole = e.slice(until, 1, classes - 1, classes)
    drawn = e.binary("mul", unit(e, n, (batch, samples), weights.type.dtype), whole)
    shape = (batch, samples, classes)
    passed = e.compare("le", e.broadcast(until, shape, (0, 2)), e.broadcast(drawn, shape, (0, 1)))
    dtype = element_type(n.int("dtype", 6), "the result")
    index = e.reduce(e.cast(passed, dtype), (2,), "sum")
    return e.binary("min", index, e.cast(e.size(classes - 1), dtype))


@onnx_op("Dropout")
def dropout(e: Emitter, n: Node) -> list[Value | None]:
    """In training, each element is 0 with probability `ratio`, and others grow by ``1 / (1 - ratio)``; the mask says
    what is kept. Inference leaves the input as it is."""
    x = n.input(0)
    training = n.optional(2)
    known = e.array(training)
    if n.opset < 12:
        on = n.opset < 7 and not n.int("is_test", 0)
        ratio = e.scalar(n.float("ratio", 0.5), f32)
        choice = None
    else:
        on = training is not None and (known is None or bool(known.reshape(-1)[0]))
        given = n.optional(1)
        ratio = e.scalar(0.5, f32) if given is None else e.reshape(e.wide(given), ())
        choice = e.reshape(training, ()) if on and training is not None and known is None else None
    if not on:
        return [x, e.full(True, x.type.with_dtype(bool_)) if n.wants(1) else None]
    wide = e.wide(x)
    dtype = wide.type.dtype
    kept = e.compare("ge", unit(e, n, x.type.shape, dtype), e.cast(ratio, dtype))
    rest = e.binary("sub", e.scalar(1, dtype), e.cast(ratio, dtype))
    grown = e.select(kept, e.binary("div", wide, rest), e.scalar(0, dtype))
    if choice is not None:
        kept = e.binary("or", kept, e.unary("not", choice))
        grown = e.select(choice, grown, wide)
    return [e.cast(grown, x.type.dtype), kept]
