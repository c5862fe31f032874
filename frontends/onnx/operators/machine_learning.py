"""Operators of ai.onnx.ml that read and rescale features; trees are in `trees`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.index_checks import check_indices
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import TensorType, Value
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ops import ArgReduce, DotGeneral, Gather, Predicate

DOMAIN = "ai.onnx.ml"

Array = np.ndarray[Any, Any]


@onnx_op("ArrayFeatureExtractor", domain=DOMAIN)
def array_feature_extractor(e: Emitter, n: Node) -> Value:
    """The elements of the last axis that the second input names; a vector counts as one row."""
    x, indices = n.input(0), n.input(1)
    if x.type.rank == 1:
        x = e.reshape(x, (1, *x.type.shape))
    flat = e.reshape(indices, (indices.type.elements,))
    check_indices(e, n, flat, x.type.shape[-1], x.type.rank - 1, negative=False)
    return e.emit(Gather(x, flat, x.type.rank - 1))


@onnx_op("Binarizer", domain=DOMAIN)
def binarizer(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    return e.cast(e.compare("gt", x, n.float("threshold", 0.0)), x.type.dtype)


@onnx_op("Scaler", domain=DOMAIN)
def scaler(e: Emitter, n: Node) -> Value:
    """``(x - offset) * scale``, each one number or one a feature."""
    x = e.cast(n.input(0), f32)
    offset, scale = (
        e.constant(n.attribute(name, [default]), f32) for name, default in (("offset", 0.0), ("scale", 1.0))
    )
    return e.binary("mul", e.binary("sub", x, offset), scale)


@onnx_op("Normalizer", domain=DOMAIN)
def normalizer(e: Emitter, n: Node) -> Value:
    """Rows divided by their largest element, their sum of magnitudes or their length; rows of zeros stay."""
    x = e.cast(n.input(0), f32)
    norm = n.choice("norm", "MAX", ("MAX", "L1", "L2"))
    last = (x.type.rank - 1,)
    if norm == "L2":
        size = e.unary("sqrt", e.reduce(e.binary("mul", x, x), last, "sum", keepdims=True))
    else:
        kind = "max" if norm == "MAX" else "sum"
        size = e.reduce(x if norm == "MAX" else e.unary("abs", x), last, kind, keepdims=True)
    empty = e.compare("eq", size, 0)
    return e.binary("div", x, e.select(empty, e.scalar(1, f32), size))


@onnx_op("Imputer", domain=DOMAIN)
def imputer(e: Emitter, n: Node) -> Value:
    """Elements that are missing (equal to a number, or NaN) replaced by one number, or one a feature."""
    x = n.input(0)
    kind = "floats" if x.type.dtype.is_float else "int64s"
    missing = n.attribute("replaced_value_float" if kind == "floats" else "replaced_value_int64", 0)
    values = e.constant(n.required(f"imputed_value_{kind}"), x.type.dtype)
    gone = e.emit(Predicate(x, "isnan")) if missing != missing else e.compare("eq", x, missing)
    return e.select(gone, values, x)


@onnx_op("LinearRegressor", domain=DOMAIN)
def linear_regressor(e: Emitter, n: Node) -> Value:
    targets = n.int("targets", 1)
    scores = _scores(e, n, targets)
    return post_transform(e, n, scores)


@onnx_op("LinearClassifier", domain=DOMAIN)
def linear_classifier(e: Emitter, n: Node) -> list[Value | None]:
    """The class of the largest score for each row, and all scores."""
    labels = class_labels(n, "classlabels_ints")
    scores = _scores(e, n, len(labels))
    best = e.emit(ArgReduce(scores, 1, "max"))
    return [e.emit(Gather(e.constant(labels), best, 0)), post_transform(e, n, scores)]


def _scores(e: Emitter, n: Node, rows: int) -> Value:
    x = e.cast(n.input(0), f32)
    if x.type.rank == 1:
        x = e.reshape(x, (1, *x.type.shape))
    coefficients = np.asarray(n.required("coefficients"), np.float32)
    if len(coefficients) % max(rows, 1):
        n.fail(f"{len(coefficients)} coefficients for {rows} rows of scores")
    weights = e.constant(coefficients.reshape(rows, -1).T)
    scores = e.emit(DotGeneral(x, weights, (), (), (1,), (0,)))
    intercepts = n.attribute("intercepts", [0.0] * rows)
    return e.binary("add", scores, e.constant(intercepts, f32))


def class_labels(n: Node, name: str) -> Array:
    """Class numbers; where labels are strings, the host looks them up by these."""
    labels = np.asarray(n.attribute(name, ()), np.int64)
    if not len(labels):
        n.fail(f"attribute {name} is missing")
    return labels


def post_transform(e: Emitter, n: Node, scores: Value) -> Value:
    """What the attribute of that name does to scores [rows, classes]."""
    kind = n.choice("post_transform", "NONE", ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"))
    if kind == "NONE":
        return scores
    if kind == "LOGISTIC":
        return e.unary("sigmoid", scores)
    powers = e.unary("exp", e.binary("sub", scores, e.reduce(scores, (1,), "max", keepdims=True)))
    if kind == "SOFTMAX_ZERO":  # scores of 0 stay 0
        powers = e.select(e.compare("gt", e.unary("abs", scores), 1e-7), powers, e.scalar(0, f32))
    return e.binary("div", powers, e.reduce(powers, (1,), "sum", keepdims=True))


@onnx_op("LabelEncoder", domain=DOMAIN)
def label_encoder(e: Emitter, n: Node) -> Value:
    """The value of each element's key, or the default."""
    x = n.input(0)
    keys, values = _table(n, "keys"), _table(n, "values")
    if keys.size != values.size or not keys.size:
        n.fail(f"{keys.size} keys, {values.size} values")
    if "s" in (x.type.dtype.kind,) or keys.dtype.kind in "OUS" or values.dtype.kind in "OUS":
        n.fail("strings are the host's")
    names = {np.dtype(np.float32): "default_float", np.dtype(np.int64): "default_int64"}
    default = n.attribute(names.get(values.dtype, "default_float"), -1 if values.dtype.kind == "i" else -0.0)
    default = np.asarray(n.attribute("default_tensor", default)).astype(values.dtype).reshape(())
    flat = e.reshape(x, (x.type.elements, 1))
    table = e.constant(keys.reshape(1, -1).astype(x.type.dtype.numpy))
    equal = e.compare("eq", flat, table)
    if x.type.dtype.is_float:
        nan = e.binary("and", e.emit(Predicate(flat, "isnan")), e.constant(np.isnan(keys).reshape(1, -1)))
        equal = e.binary("or", equal, nan)
    found = e.reduce(equal, (1,), "any")
    place = e.emit(ArgReduce(e.cast(equal, i64), 1, "max"))  # the first of equal keys
    value = e.emit(Gather(e.constant(values.reshape(-1)), place, 0))
    return e.reshape(e.select(found, value, e.constant(default)), x.type.shape)


@onnx_op("OneHotEncoder", domain=DOMAIN)
def one_hot_encoder(e: Emitter, n: Node) -> Value:
    """A row of zeros with a one at the place of the element's category, on a new last axis; without one, of zeros."""
    if n.has("cats_strings"):
        n.fail("strings are the host's")
    categories = np.asarray(n.required("cats_int64s"), np.int64)
    if not len(categories):
        n.fail("attribute cats_int64s is empty")
    x = n.input(0)
    if not n.int("zeros", 1):
        n.fail("zeros=0 (an unknown category is an error) is not supported")
    last = {
        int(category): place for place, category in enumerate(categories)
    }  # of equal categories the last one counts
    single = np.array([last[int(c)] == place for place, c in enumerate(categories)])
    whole = e.cast(e.reshape(x, (*x.type.shape, 1)), i64)
    equal = e.binary("and", e.compare("eq", whole, e.constant(categories)), e.constant(single))
    return e.cast(equal, f32)


@onnx_op("FeatureVectorizer", domain=DOMAIN)
def feature_vectorizer(e: Emitter, n: Node) -> Value:
    """Columns of all inputs side by side, as f32; ``inputdimensions`` says how many each gives: fewer are cut off, more
    are filled with zeros."""
    parts = []
    for x, width in zip(n.present(), n.ints("inputdimensions"), strict=True):
        if x.type.rank not in (1, 2):
            n.fail(f"an input is {x.type}, expected one or two axes")
        x = e.cast(e.reshape(x, (1, *x.type.shape)) if x.type.rank == 1 else x, f32)
        rows, columns = x.type.shape
        if not isinstance(columns, int):
            n.fail(f"the number of columns of {x.type} must be known")
        x = e.slice(x, 1, 0, min(columns, width))
        if width > columns:
            x = e.concat([x, e.full(0, TensorType((rows, width - columns), f32))], 1)
        parts.append(x)
    return e.concat(parts, 1)


def _table(n: Node, side: str) -> Array:
    for name, dtype in (("floats", np.float32), ("int64s", np.int64), ("strings", object)):
        if n.has(f"{side}_{name}"):
            return np.asarray(n.attribute(f"{side}_{name}"), dtype)
    return np.asarray(n.required(f"{side}_tensor"))
