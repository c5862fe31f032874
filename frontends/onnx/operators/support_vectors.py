"""Support vector machines: one product with all vectors, the kernel's curve, one product with the coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.contraction import matmul
from ds_compiler.frontends.onnx.operators.machine_learning import DOMAIN, class_labels, post_transform
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Region, TensorType, Value
from ds_compiler.ir.dtypes import f32, f64, i64
from ds_compiler.ops import ArgReduce, DotGeneral, Gather, Iota, Scan, While, Yield

Array = np.ndarray[Any, Any]

_KERNELS = ("LINEAR", "POLY", "RBF", "SIGMOID")
_MOST_ROUNDS = 100
_LEAST = 1e-7
"""Pairwise probabilities stay this far from 0 and 1."""


# -- kernels ------------------------------------------------------------------------------------------------------
def _kernel(e: Emitter, n: Node, x: Value, vectors: Array) -> Value:
    """The kernel of each row [rows, features] and each vector [vectors, features]: [rows, vectors]."""
    kind = n.choice("kernel_type", "LINEAR", _KERNELS)
    parameters = [float(v) for v in n.attribute("kernel_params", ())]
    if parameters and len(parameters) != 3:
        n.fail(f"attribute kernel_params holds {len(parameters)} numbers, expected gamma, coef0 and degree")
    gamma, shift, degree = parameters or (0.0, 0.0, 0.0)
    if kind == "RBF":
        return e.unary("exp", e.binary("mul", _square_distances(e, x, vectors), -gamma))
    dot = matmul(e, x, e.constant(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return dot
    inner = e.binary("add", e.binary("mul", dot, gamma), shift)
    return e.unary("tanh", inner) if kind == "SIGMOID" else e.binary("pow", inner, degree)


def _square_distances(e: Emitter, x: Value, vectors: Array) -> Value:
    """Sums of squared differences: squares less twice the product would lose the digits of close points."""
    rows, features = x.type.shape
    shape = (rows, len(vectors), features)
    difference = e.binary("sub", e.broadcast(x, shape, (0, 2)), e.broadcast(e.constant(vectors), shape, (1, 2)))
    return e.reduce(e.binary("mul", difference, difference), (2,), "sum")


def _rows(e: Emitter, n: Node, features: int) -> Value:
    """The input as f32 [rows, features]."""
    x = e.cast(n.input(0), f32)
    if x.type.rank == 1:
        x = e.reshape(x, (1, *x.type.shape))
    if x.type.rank != 2 or (isinstance(x.type.shape[1], int) and x.type.shape[1] != features):
        n.fail(f"the input is {n.input(0).type}, expected rows of {features} features")
    if x.type.shape[1] != features:
        e.assume(x.type.shape[1], features)
        x = e.reshape(x, (x.type.shape[0], features))
    return x


def _floats(n: Node, name: str) -> Array:
    return np.asarray(n.attribute(name, ()), np.float32)


def _vectors(n: Node, count: int) -> Array:
    """Attribute ``support_vectors`` as [count, features]."""
    flat = _floats(n, "support_vectors")
    if not len(flat) or len(flat) % count:
        n.fail(f"attribute support_vectors holds {len(flat)} numbers for {count} vectors")
    return flat.reshape(count, -1)


def _long_sum(e: Emitter, a: Value, b: Array) -> Value:
    """Product [rows, k] · [k, columns] summed in f64: coefficients of both signs cancel."""
    return matmul(e, e.cast(a, f64), e.constant(b.astype(np.float64)))


# -- regression ---------------------------------------------------------------------------------------------------
@onnx_op("SVMRegressor", domain=DOMAIN)
def svm_regressor(e: Emitter, n: Node) -> Value:
    """One number a row, or with ``one_class`` on which side (1, -1) it lies; without vectors a linear function."""
    count, coefficients, rho = n.int("n_supports", 0), _floats(n, "coefficients"), _floats(n, "rho")
    if not len(rho) or not len(coefficients):
        n.fail("attributes coefficients and rho must not be empty")
    if count > 0:
        vectors = _vectors(n, count)
        if len(coefficients) != count:
            n.fail(f"{len(coefficients)} coefficients for {count} vectors")
        known = _kernel(e, n, _rows(e, n, vectors.shape[1]), vectors)
    else:
        known = _rows(e, n, len(coefficients))
    score = e.cast(e.binary("add", _long_sum(e, known, coefficients[:, None]), float(rho[0])), f32)
    if n.int("one_class", 0):
        return e.select(e.compare("gt", score, 0), e.scalar(1, f32), e.scalar(-1, f32))
    return post_transform(e, n, score)


# -- classification -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Machine:
    """A classifier between each two classes.

    Attributes:
        pairs: the two classes of each, in the order of `coefficients`' columns.
        coefficients: [vectors, pairs]; 0 where a vector belongs to neither class.
    """

    vectors: Array
    pairs: list[tuple[int, int]]
    coefficients: Array
    rho: Array


def _machine(n: Node, counts: list[int]) -> _Machine:
    total, classes = sum(counts), len(counts)
    given, rho = _floats(n, "coefficients"), _floats(n, "rho")
    pairs = list(combinations(range(classes), 2))
    if len(given) != (classes - 1) * total or len(rho) < len(pairs):
        n.fail(f"{len(given)} coefficients and {len(rho)} rho for {classes} classes and {total} vectors")
    rows, starts = given.reshape(classes - 1, total), np.cumsum([0, *counts])
    columns = np.zeros((total, len(pairs)), np.float32)
    for index, (i, j) in enumerate(pairs):  # a class has a row for each other one, without one for itself
        for own, row in ((i, j - 1), (j, i)):
            place = slice(starts[own], starts[own + 1])
            columns[place, index] = rows[row, place]
    return _Machine(_vectors(n, total), pairs, columns, rho[: len(pairs)])


@onnx_op("SVMClassifier", domain=DOMAIN)
def svm_classifier(e: Emitter, n: Node) -> list[Value | None]:
    """The class that wins most duels, and the duels' scores or, with ``prob_a``, the classes' probabilities.

    Without vectors each class has a linear function, the largest of which wins. Of two classes, the one duel's score
    is given with both signs, or as ``1 - s`` and ``s`` where it should have gone through a softmax; so onnxruntime.
    """
    labels = class_labels(n, "classlabels_ints")
    counts = list(n.ints("vectors_per_class"))
    if not sum(counts):
        return _linear(e, n, labels)
    if len(counts) != len(labels) or len(labels) < 2:
        n.fail(f"{len(counts)} counts of vectors for {len(labels)} classes")
    machine = _machine(n, counts)
    kernel = _kernel(e, n, _rows(e, n, machine.vectors.shape[1]), machine.vectors)
    sums = e.binary("add", _long_sum(e, kernel, machine.coefficients), e.constant(machine.rho, f64))
    chosen = e.emit(Gather(e.constant(labels), _winner(e, sums, machine.pairs, len(labels)), 0))
    scores = e.cast(sums, f32)
    if n.has("prob_a"):
        return [chosen, post_transform(e, n, _probabilities(e, n, scores, machine.pairs, len(labels)))]
    if len(labels) > 2:
        return [chosen, post_transform(e, n, scores)]
    if n.string("post_transform", "NONE") in ("NONE", "LOGISTIC"):
        return [chosen, post_transform(e, n, e.concat([e.unary("neg", scores), scores], 1))]
    return [chosen, e.concat([e.binary("sub", e.full(1, scores.type), scores), scores], 1)]


def _linear(e: Emitter, n: Node, labels: Array) -> list[Value | None]:
    coefficients, rho = _floats(n, "coefficients"), _floats(n, "rho")
    if not len(rho) or not len(coefficients) or len(coefficients) % len(labels):
        n.fail(f"{len(coefficients)} coefficients and {len(rho)} rho for {len(labels)} classes")
    weights = coefficients.reshape(len(labels), -1)
    x = _rows(e, n, weights.shape[1])
    scores = e.binary("add", matmul(e, x, e.constant(np.ascontiguousarray(weights.T))), float(rho[0]))
    best = e.emit(ArgReduce(scores, 1, "max"))
    if len(labels) == 2:  # the second class wins by a positive score, whichever class has it
        enough = e.compare("ge", scores, 0.5) if (coefficients >= 0).all() else e.compare("gt", scores, 0)
        best = e.select(e.reduce(enough, (1,), "any"), e.scalar(1, i64), best)
    return [e.emit(Gather(e.constant(labels), best, 0)), post_transform(e, n, scores)]


def _winner(e: Emitter, sums: Value, pairs: list[tuple[int, int]], classes: int) -> Value:
    """The class with the most votes, the first of equals; a positive sum is a vote for the pair's first class."""
    first = np.zeros((len(pairs), classes), np.float32)
    second = np.zeros_like(first)
    for index, (i, j) in enumerate(pairs):
        first[index, i] = second[index, j] = 1
    positive = e.cast(e.compare("gt", sums, 0), f32)
    votes = matmul(e, positive, e.constant(first - second))
    votes = e.binary("add", votes, e.constant(second.sum(0)))
    return e.emit(ArgReduce(votes, 1, "max"))


# -- probabilities ------------------------------------------------------------------------------------------------
def _probabilities(e: Emitter, n: Node, scores: Value, pairs: list[tuple[int, int]], classes: int) -> Value:
    """Classes' probabilities from those of the pairs (Wu, Lin, Weng: Probability estimates for multi-class
    classification by pairwise coupling, second method), by the iteration of LIBSVM, whose end decides the digits.

    p minimises the sum of (r_ji p_i - r_ij p_j)²: ``Q p = (p'Qp) 1`` with Q_ii = Σ r_ji², Q_ij = -r_ji r_ij.
    """
    a, b = _floats(n, "prob_a"), _floats(n, "prob_b")
    if len(a) != len(pairs) or len(b) != len(pairs):
        n.fail(f"{len(a)} prob_a and {len(b)} prob_b for {len(pairs)} pairs of classes")
    curve = e.binary("add", e.binary("mul", scores, e.constant(a)), e.constant(b))
    won = e.clamp(e.unary("sigmoid", e.unary("neg", curve)), _LEAST, 1 - _LEAST)
    both = e.concat([won, e.binary("sub", e.full(1, won.type), won), e.full(0, won.type)], 1)
    place = np.full((classes, classes), 2 * len(pairs), np.int64)
    for index, (i, j) in enumerate(pairs):
        place[i, j], place[j, i] = index, len(pairs) + index
    r = e.emit(Gather(both, e.constant(place), 1))  # [rows, i, j]: that i wins against j
    turned = e.transpose(r, (0, 2, 1))
    own = e.reduce(e.binary("mul", r, r), (1,), "sum", keepdims=True)
    unit = e.constant(np.eye(classes, dtype=np.float32))
    q = e.binary("sub", e.binary("mul", own, unit), e.binary("mul", r, turned))
    return _coupled(e, q, classes)


def _coupled(e: Emitter, q: Value, classes: int) -> Value:
    """The fixed point for q [rows, classes, classes]; a row that has arrived moves no more."""
    rows = q.type.shape[0]
    start = e.full(1 / classes, TensorType((rows, classes), f32))
    inits = (e.constant(0, i64), start, e.full(True, TensorType((rows, 1), e.truth(e.scalar(0, i64)).type.dtype)))
    condition = Block([v.type for v in inits])
    with e.into(condition):
        round_, _, moving = condition.arguments
        more = e.compare("lt", round_, _MOST_ROUNDS)
        e.insert(Yield((e.binary("and", more, e.reduce(moving, (0, 1), "any")),)))
    body = Block([v.type for v in inits])
    with e.into(body):
        round_, p, moving = body.arguments
        qp = e.emit(DotGeneral(q, p, (0,), (0,), (2,), (1,)))
        pqp = e.reduce(e.binary("mul", p, qp), (1,), "sum", keepdims=True)
        error = e.reduce(e.unary("abs", e.binary("sub", qp, pqp)), (1,), "max", keepdims=True)
        still = e.binary("and", moving, e.compare("ge", error, 0.005 / classes))
        moved = _swept(e, q, p, qp, pqp, classes)
        e.insert(Yield((e.binary("add", round_, 1), e.select(still, moved, p), still)))
    return e.insert(While(inits, Region(condition), Region(body)))[1]


def _swept(e: Emitter, q: Value, p: Value, qp: Value, pqp: Value, classes: int) -> Value:
    """One round over the classes: each is set to its best value, and all are divided by their sum."""
    inits = (p, qp, pqp)
    by_class = e.transpose(q, (1, 0, 2))
    body = Block([*(v.type for v in inits), by_class.type.with_shape(by_class.type.shape[1:]), TensorType((), i64)])
    with e.into(body):
        p_, qp_, pqp_, row, t = body.arguments
        own = e.cast(e.compare("eq", e.emit(Iota((classes,), 0, i64)), t), f32)
        diagonal, at = (e.reduce(e.binary("mul", v, own), (1,), "sum", keepdims=True) for v in (row, qp_))
        step = e.binary("div", e.binary("sub", pqp_, at), diagonal)
        total = e.binary("add", step, 1)
        gain = e.binary("mul", step, e.binary("add", e.binary("mul", step, diagonal), e.binary("mul", at, 2)))
        next_pqp = e.binary("div", e.binary("div", e.binary("add", pqp_, gain), total), total)
        next_p = e.binary("div", e.binary("add", p_, e.binary("mul", step, own)), total)
        next_qp = e.binary("div", e.binary("add", qp_, e.binary("mul", step, row)), total)
        e.insert(Yield((next_p, next_qp, next_pqp)))
    steps = e.emit(Iota((classes,), 0, i64))
    return e.insert(Scan(inits, (by_class, steps), classes, Region(body)))[0]
