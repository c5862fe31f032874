"""One random graph: our program against ONNX's reference evaluator and onnxruntime, from one compilation."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, ModelProto, helper
from onnx.reference import ReferenceEvaluator

import ds_compiler as ds
from tests.differential.graph import REFUSALS, SIZES, Array, Value, feed, noise
from tests.differential.peer import peer

OTHER_SIZES: tuple[dict[str, int], ...] = ({"n": 17, "m": 2}, {"n": 3, "m": 19}, {"n": 0, "m": 2})
"""Further sizes that the program is called with, where onnxruntime runs the model."""

_LEAST = {np.dtype(np.float16): 4e-3, np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-11}


@dataclass
class Tally:
    """What a campaign did."""

    graphs: int = 0
    by_onnxruntime: int = 0
    calls: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    rewrites: Counter[str] = field(default_factory=Counter)
    disagreements: Counter[str] = field(default_factory=Counter)


class Different(AssertionError):
    """Our result is neither the reference evaluator's nor onnxruntime's."""


def check(model: ModelProto, tally: Tally, known: Sequence[Value] = ()) -> None:
    """Compile `model` once, and call it at all sizes, with one thread and with two.

    Args:
        known: the values as the reference evaluator computed them, for `SIZES`; otherwise it runs here.

    Raises:
        Different: an output is not right.
    """
    tally.graphs += 1
    for operator in operators(model.graph):
        tally.operators[operator] += 1
    program = ds.compile(model, cache=False, verify=True)
    tally.rewrites.update(program.report().rewrites)
    by_name = {v.name: v for v in known}
    contrib = any(name.startswith("com.microsoft") for name in operators(model.graph))
    evaluator = None if contrib else functools.partial(_evaluate, ReferenceEvaluator(model))
    other = peer().run if peer().load(model.SerializeToString()) else None
    tally.by_onnxruntime += other is not None
    dims = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input}
    kinds = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.input}
    names = [o.name for o in model.graph.output]
    for seed, sizes in enumerate([*SIZES, *OTHER_SIZES]):
        feeds = {name: feed(name, kinds[name], dims[name], sizes, seed) for name in dims}
        second = other(names, feeds) if other else None
        if seed < len(SIZES) and known:
            third: dict[str, Array] | None = {name: by_name[name].exact[seed] for name in names}
            near: dict[str, Array] | None = {name: by_name[name].noisy[seed] for name in names}
        else:
            moved = {name: noise(array, 31) for name, array in feeds.items()}
            third = evaluator(names, feeds) if evaluator else None
            again = other if third is None else evaluator
            near = again(names, moved) if again else None
            if near is None or (third is None and 0 in sizes.values()):
                continue  # the sizes do not fit the model, or ONNX does not say what an operator makes of no elements
        for threads in (1, 2):
            program.threads = threads
            tally.calls += 1
            results = program(feeds)
            for name in names:
                others = [r[name] for r in (second, third) if r is not None]
                _compare(
                    f"{name}, sizes {sizes}",
                    results[name],
                    others,
                    near[name] if near else None,
                    tally,
                    0 not in sizes.values(),
                )


def _evaluate(evaluator: ReferenceEvaluator, names: list[str], feeds: dict[str, Array]) -> dict[str, Array] | None:
    """Results by name; None if the reference evaluator cannot run this."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return dict(zip(names, map(np.asarray, evaluator.run(names, feeds)), strict=True))
    except REFUSALS:
        return None


def _compare(what: str, got: Array, others: list[Array], near: Array | None, tally: Tally, elements: bool) -> None:
    """Equal to one of the others, where they differ; what varies with the last bits of the inputs decides nothing."""
    if not others or (near is not None and _apart(near, others[-1]) > 1e-2):
        return
    if got.dtype in _LEAST and len(others) == 2 and _apart(others[0], others[1]) > 1e-2:
        tally.disagreements["the two others"] += 1  # a quotient of what is left by cancellation, or undefined
        return
    apart = [_distance(got, other, near) for other in others]
    if min(apart) > 1 and len(others) == 1 and not elements:
        tally.disagreements["the reference alone, without elements"] += 1
        return
    if min(apart) > 1:
        raise Different(f"{what}: {apart} tolerances off\nours {got!r}\nothers {others!r}")
    if max(apart) > 1:
        tally.disagreements["only onnxruntime agrees" if apart[0] <= 1 else "only the reference agrees"] += 1


def _apart(a: Array, b: Array) -> float:
    """The largest difference, relative; infinite if the two are not comparable."""
    if a.shape != b.shape:
        return float("inf")
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, b) else float("inf")
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    if not np.array_equal(finite, np.isfinite(y)):
        return float("inf")
    return float(np.abs(x[finite] - y[finite]).max(initial=0) / max(1e-3, np.abs(y[finite]).max(initial=0)))


def _distance(got: Array, wanted: Array, near: Array | None) -> float:
    """The largest difference, in units of what is tolerated."""
    wanted = np.asarray(wanted)
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf")
    if got.dtype not in _LEAST:
        return 0.0 if np.array_equal(got, wanted) else float("inf")
    if not got.size:
        return 0.0
    a, b = got.astype(np.float64), wanted.astype(np.float64)
    special = ~np.isfinite(b)
    if not np.array_equal(a[special], b[special], equal_nan=True) or not np.isfinite(a[~special]).all():
        return float("inf")
    a, b = a[~special], b[~special]
    tolerance = _LEAST[got.dtype] * max(1e-2, float(np.abs(b).max(initial=0)))
    if near is not None and near.shape == wanted.shape:
        with np.errstate(all="ignore"):
            moved = np.abs(near.astype(np.float64) - wanted.astype(np.float64))
        tolerance += 8 * float(moved[np.isfinite(moved)].max(initial=0))
    return float(np.abs(a - b).max(initial=0)) / tolerance


def operators(graph: GraphProto) -> list[str]:
    """Names of all nodes' operators, in nested graphs too."""
    found = []
    for node in graph.node:
        found.append(f"{node.domain}.{node.op_type}" if node.domain else node.op_type)
        for attribute in node.attribute:
            if attribute.type == attribute.GRAPH:
                found += operators(attribute.g)
    return found
