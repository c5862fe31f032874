"""Ensembles of decision trees: all trees of all rows go down one level at a time.

Nodes of all trees lie in one table; a leaf leads to itself, so that trees of different depth end together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.operators.machine_learning import DOMAIN, class_labels, post_transform
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Region, TensorType, Value
from ds_compiler.ir.dtypes import f32, i64
from ds_compiler.ops import ArgReduce, Gather, GatherElements, Iota, Predicate, Scan, Yield

Array = np.ndarray[Any, Any]

_COMPARE = {"BRANCH_LEQ": "le", "BRANCH_LT": "lt", "BRANCH_GTE": "ge", "BRANCH_GT": "gt", "BRANCH_EQ": "eq",
            "BRANCH_NEQ": "ne", "BRANCH_MEMBER": "member"}  # fmt: skip
_MODES = tuple(_COMPARE.values())


@dataclass
class Forest:
    """Nodes of all trees.

    Attributes:
        roots: the first node of each tree.
        kinds: a comparison of `_MODES`, or "" for leaves.
        members: sets of the nodes that ask for membership, padded with NaN; no columns without such nodes.
        weights: what each node adds to each target; NaN where it says nothing about it (only leaves say something).
    """

    roots: Array
    features: Array
    splits: Array
    kinds: list[str]
    on_true: Array
    on_false: Array
    missing_true: Array
    members: Array
    weights: Array

    def depth(self, n: Node) -> int:
        """Levels under the roots.

        Raises:
            CompileError: the nodes form a cycle, or a branch leads outside.
        """
        count = len(self.kinds)
        inside = [((a >= 0) & (a < count)).all() for a in (self.roots, self.on_true, self.on_false)]
        if not all(inside):
            n.fail("a branch leads to a node that does not exist")
        level, depth = np.unique(self.roots), 0
        branches = np.asarray([bool(kind) for kind in self.kinds])
        while len(level := level[branches[level]]):
            level = np.unique(np.concatenate([self.on_true[level], self.on_false[level]]))
            depth += 1
            if depth > count:
                n.fail("its nodes form a cycle")
        return depth


def leaves(e: Emitter, n: Node, x: Value, forest: Forest) -> Value:
    """Where each row [rows, features] ends in each tree: [rows, trees]."""
    rows = x.type.shape[0]
    used = [f for f, kind in zip(forest.features, forest.kinds, strict=True) if kind]
    width = x.type.shape[1]
    if used and isinstance(width, int) and not 0 <= max(used) < width:
        n.fail(f"feature {max(used)} of {x.type}")
    start = e.broadcast(e.constant(forest.roots), (rows, len(forest.roots)), (1,))
    depth = forest.depth(n)
    if not depth:
        return start
    body = Block([start.type, TensorType((), i64)])
    with e.into(body):
        e.insert(Yield((_step(e, body.arguments[0], x, forest),)))
    return e.insert(Scan((start,), (e.emit(Iota((depth,), 0, i64)),), depth, Region(body)))[0]


def _step(e: Emitter, place: Value, x: Value, forest: Forest) -> Value:
    """The nodes below those at `place`."""

    def of(array: Array) -> Value:
        return e.emit(Gather(e.constant(array), place, 0))

    value = e.emit(GatherElements(x, of(forest.features), 1))
    dtype = x.type.dtype
    split = of(forest.splits.astype(dtype.numpy))
    kinds = [kind for kind in _MODES if kind in forest.kinds]
    holds: Value | None = None
    for kind in kinds:
        answer = _member(e, value, place, forest) if kind == "member" else e.compare(kind, value, split)
        if holds is None:
            holds = answer
        else:
            own = of(np.asarray([k == kind for k in forest.kinds]))
            holds = e.select(own, answer, holds)
    assert holds is not None
    if forest.missing_true.any():
        holds = e.binary("or", holds, e.binary("and", e.emit(Predicate(value, "isnan")), of(forest.missing_true)))
    return e.select(holds, of(forest.on_true), of(forest.on_false))


def _member(e: Emitter, value: Value, place: Value, forest: Forest) -> Value:
    sets = e.emit(Gather(e.constant(forest.members.astype(value.type.dtype.numpy)), place, 0))
    equal = e.compare("eq", sets, e.broadcast(value, sets.type.shape, (0, 1)))
    return e.reduce(equal, (2,), "any")


def aggregated(e: Emitter, ends: Value, forest: Forest, how: str, x: Value) -> Value:
    """The leaves' weights combined over the trees: [rows, targets]."""
    neutral = {"MIN": np.inf, "MAX": -np.inf}.get(how, 0.0)
    table = np.where(np.isnan(forest.weights), neutral, forest.weights).astype(x.type.dtype.numpy)
    taken = e.emit(Gather(e.constant(table), ends, 0))
    kind = {"MIN": "min", "MAX": "max"}.get(how, "sum")
    total = e.reduce(taken, (1,), kind)
    return e.binary("div", total, len(forest.roots)) if how == "AVERAGE" else total


def _features(e: Emitter, n: Node) -> Value:
    x = n.input(0)
    if x.type.rank == 1:
        x = e.reshape(x, (1, *x.type.shape))
    if x.type.rank != 2:
        n.fail(f"the input is {x.type}, expected [rows, features]")
    return x


# -- TreeEnsemble -------------------------------------------------------------------------------------------------
@onnx_op("TreeEnsemble", since=5, domain=DOMAIN)
def tree_ensemble(e: Emitter, n: Node) -> Value:
    x = _features(e, n)
    forest = _from_leaves(n)
    how = ("AVERAGE", "SUM", "MIN", "MAX")[n.int("aggregate_function", 1)]
    result = aggregated(e, leaves(e, n, x, forest), forest, how, x)
    if n.int("post_transform", 0):
        n.fail("post_transform is not supported", help="supported: 0 (none)")
    return result


def _from_leaves(n: Node) -> Forest:
    """Inner nodes come first, leaves behind them."""
    modes = np.asarray(n.required("nodes_modes")).reshape(-1)
    inner = len(modes)
    targets = np.asarray(n.required("leaf_targetids"), np.int64)
    weights = np.asarray(n.required("leaf_weights")).reshape(-1)
    total = inner + len(targets)
    table = np.full((total, n.int("n_targets", 1)), np.nan)
    table[inner + np.arange(len(targets)), targets] = weights
    sides = []
    for side in ("true", "false"):
        ids = np.asarray(n.required(f"nodes_{side}nodeids"), np.int64)
        is_leaf = np.asarray(n.required(f"nodes_{side}leafs"), bool)
        sides.append(np.concatenate([ids + inner * is_leaf, np.arange(inner, total)]))
    missing = np.asarray(n.attribute("nodes_missing_value_tracks_true", [0] * inner), bool)
    return Forest(
        roots=np.asarray(n.required("tree_roots"), np.int64),
        features=_padded(np.asarray(n.required("nodes_featureids"), np.int64), total),
        splits=_padded(np.asarray(n.required("nodes_splits")).reshape(-1), total),
        kinds=[_MODES[m] for m in modes] + [""] * len(targets),
        on_true=sides[0],
        on_false=sides[1],
        missing_true=_padded(missing, total),
        members=_member_sets(n, modes, total),
        weights=table,
    )


def _padded(array: Array, length: int) -> Array:
    return np.concatenate([array, np.zeros(length - len(array), array.dtype)])


def _member_sets(n: Node, modes: Array, total: int) -> Array:
    """``membership_values`` cut at each NaN: a set for each node that asks for membership, in order."""
    nodes = np.flatnonzero(modes == _MODES.index("member"))
    values = np.asarray(n.attribute("membership_values", np.zeros(0))).reshape(-1)
    ends = np.flatnonzero(np.isnan(values))
    if len(ends) != len(nodes):
        n.fail(f"membership_values holds {len(ends)} sets for {len(nodes)} nodes")
    sets = np.split(values, ends)
    result = np.full((total, max((len(s) for s in sets), default=0)), np.nan)
    for node, members in zip(nodes, sets, strict=False):
        kept = members[~np.isnan(members)]
        result[node, : len(kept)] = kept
    return result


# -- TreeEnsembleClassifier, TreeEnsembleRegressor ----------------------------------------------------------------
@onnx_op("TreeEnsembleRegressor", domain=DOMAIN)
def tree_ensemble_regressor(e: Emitter, n: Node) -> Value:
    x = _features(e, n)
    targets = n.int("n_targets", 1)
    forest = _from_ids(n, "target", targets)
    how = n.choice("aggregate_function", "SUM", ("SUM", "AVERAGE", "MIN", "MAX"))
    scores = aggregated(e, leaves(e, n, x, forest), forest, how, x)
    return post_transform(e, n, e.cast(_with_base(e, n, scores, targets), f32))


@onnx_op("TreeEnsembleClassifier", domain=DOMAIN)
def tree_ensemble_classifier(e: Emitter, n: Node) -> list[Value | None]:
    """The class of the largest score for each row, and all scores; weights of one class alone tell two apart by their
    sign, or by a half where none is negative."""
    x = _features(e, n)
    labels = class_labels(n, "classlabels_int64s")
    forest = _from_ids(n, "class", len(labels))
    scores = e.cast(aggregated(e, leaves(e, n, x, forest), forest, "SUM", x), f32)
    used = np.unique(np.asarray(n.required("class_ids")))
    if len(labels) == 2 and len(used) == 1:
        return _two_classes(e, n, scores, labels, int(used[0]), forest)
    scores = _with_base(e, n, scores, len(labels))
    best = e.emit(ArgReduce(scores, 1, "max"))
    return [e.emit(Gather(e.constant(labels), best, 0)), post_transform(e, n, scores)]


def _two_classes(e: Emitter, n: Node, scores: Value, labels: Array, used: int, forest: Forest) -> list[Value | None]:
    rows = scores.type.shape[0]
    score = e.slice(scores, 1, used, used + 1)
    base = n.attribute("base_values", None)
    if base is not None:
        score = e.binary("add", score, float(np.asarray(base).reshape(-1)[-1]))
    positive = bool((np.nan_to_num(forest.weights) >= 0).all())
    second = e.reshape(e.compare("gt", score, 0.5 if positive else 0.0), (rows,))
    chosen = e.select(second, e.constant(labels[1]), e.constant(labels[0]))
    kind = n.string("post_transform", "NONE")
    other = e.unary("neg", score) if kind != "NONE" else e.binary("add", e.unary("neg", score), 1.0)
    return [chosen, post_transform(e, n, e.concat([other, score], 1))]


def _with_base(e: Emitter, n: Node, scores: Value, targets: int) -> Value:
    base = n.attribute("base_values", n.attribute("base_values_as_tensor", None))
    if base is None or not len(base):
        return scores
    values = np.asarray(base, scores.type.dtype.numpy)
    if len(values) not in (1, targets):
        n.fail(f"{len(values)} base values for {targets} targets")
    return e.binary("add", scores, e.constant(values))


def _from_ids(n: Node, what: str, targets: int) -> Forest:
    """Nodes are named by (tree, node); the first one of each tree is its root."""
    trees = [int(t) for t in n.required("nodes_treeids")]
    ids = [int(i) for i in n.required("nodes_nodeids")]
    place = {key: index for index, key in enumerate(zip(trees, ids, strict=True))}
    modes = list(n.required("nodes_modes"))
    modes = [m.decode() if isinstance(m, bytes) else m for m in modes]
    kinds = ["" if m == "LEAF" else _COMPARE[m] for m in modes]
    own = np.arange(len(ids))
    sides = []
    for side in ("true", "false"):
        below = n.required(f"nodes_{side}nodeids")
        found = [own[i] if not kinds[i] else place[trees[i], int(b)] for i, b in enumerate(below)]
        sides.append(np.asarray(found, np.int64))
    weights = np.full((len(ids), targets), np.nan)
    added = n.attribute(f"{what}_weights", n.attribute(f"{what}_weights_as_tensor", None))
    keys = zip(n.required(f"{what}_treeids"), n.required(f"{what}_nodeids"), n.required(f"{what}_ids"), strict=True)
    for (tree, node, target), weight in zip(keys, added, strict=True):
        at = place[int(tree), int(node)], int(target)
        weights[at] = weight if np.isnan(weights[at]) else weights[at] + weight
    first = {tree: index for index, tree in reversed(list(enumerate(trees)))}
    splits = n.attribute("nodes_values", n.attribute("nodes_values_as_tensor", None))
    return Forest(
        roots=np.asarray(sorted(first.values()), np.int64),
        features=np.asarray(n.required("nodes_featureids"), np.int64),
        splits=np.asarray(splits),
        kinds=kinds,
        on_true=sides[0],
        on_false=sides[1],
        missing_true=np.asarray(n.attribute("nodes_missing_value_tracks_true", [0] * len(ids)), bool),
        members=np.zeros((len(ids), 0)),
        weights=weights,
    )
