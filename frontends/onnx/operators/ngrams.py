"""N-grams counted in sequences of integers (those of strings are the host's)."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Value
from ds_compiler.ir.dims import maximum
from ds_compiler.ir.dtypes import f32
from ds_compiler.ops import Gather

Array = np.ndarray[Any, Any]


@onnx_op("TfIdfVectorizer", since=9)
def tf_idf_vectorizer(e: Emitter, n: Node) -> Value:
    """All n-grams of one length and stride are compared with all of the pool of that length at once, and summed."""
    mode = n.choice("mode", "", ("TF", "IDF", "TFIDF"))
    x = n.input(0)
    if x.type.rank not in (1, 2):
        n.fail(f"the input is {x.type}, expected one or two axes")
    rows = e.reshape(x, (1, *x.type.shape)) if x.type.rank == 1 else x
    columns = n.ints("ngram_indexes")
    if len(set(columns)) != len(columns) or min(columns, default=0) < 0:
        n.fail("attribute 'ngram_indexes' names a column twice, or a negative one")
    grams = _pool(n)
    if len(grams) != len(columns):
        n.fail(f"{len(grams)} n-grams and {len(columns)} columns")
    weights = n.attribute("weights") or [1.0] * len(columns)
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, gram in enumerate(grams):
        by_length[len(gram)].append(index)
    shortest, longest = int(n.required("min_gram_length")), int(n.required("max_gram_length"))
    skips = int(n.required("max_skip_count"))
    counts: list[Value] = []
    places: list[int] = []
    for length in range(shortest, longest + 1):
        chosen = by_length.get(length, [])
        if not chosen:
            continue
        pool = np.array([grams[i] for i in chosen], np.int64)
        strides = range(1, (0 if length == 1 else skips) + 2)  # a single item has nothing to skip
        total = _matches(e, rows, pool, 1)
        for stride in strides[1:]:
            total = e.binary("add", total, _matches(e, rows, pool, stride))
        counts.append(total)
        places += [columns[i] for i in chosen]
    width = max(columns, default=-1) + 1
    counts.append(e.full(0, rows.type.with_shape((rows.type.shape[0], 1)).with_dtype(f32)))
    source = np.full(width, len(places), np.int64)  # the column of zeros
    source[places] = np.arange(len(places))
    result = e.emit(Gather(e.concat(counts, 1), e.constant(source), 1))
    factors = np.zeros(width, np.float32)
    factors[list(columns)] = weights
    if mode == "IDF":
        result = e.clamp(result, 0, 1)
    if mode != "TF":
        result = e.binary("mul", result, e.constant(factors))
    return e.reshape(result, (width,)) if x.type.rank == 1 else result


def _pool(n: Node) -> list[list[int]]:
    """The pool's n-grams: attribute 'ngram_counts' tells where those of each length begin."""
    flat = n.ints("pool_int64s")
    if not flat:
        n.fail("attribute 'pool_int64s' is missing (a pool of strings needs an input of strings)")
    starts = [*n.ints("ngram_counts"), len(flat)]
    grams = []
    for length, (start, stop) in enumerate(pairwise(starts), 1):
        if not 0 <= start <= stop <= len(flat) or (stop - start) % length:
            n.fail(f"attribute 'ngram_counts': {length}-grams do not fill [{start}, {stop})")
        grams += [list(flat[i : i + length]) for i in range(start, stop, length)]
    return grams


def _matches(e: Emitter, rows: Value, pool: Array, stride: int) -> Value:
    """How often each n-gram of `pool` stands in each row, its items `stride` apart: f32, rows x n-grams."""
    length, size = pool.shape[1], rows.type.shape[1]
    windows = maximum(size - (length - 1) * stride, 0)
    equal: Value | None = None
    for item in range(length):
        start = item * stride
        part = e.slice(rows, 1, start, start + windows)
        part = e.reshape(part, (*part.type.shape, 1))
        found = e.compare("eq", part, e.constant(pool[:, item].astype(rows.type.dtype.numpy)))
        equal = found if equal is None else e.binary("and", equal, found)
    assert equal is not None
    return e.reduce(e.cast(equal, f32), (1,), "sum")
