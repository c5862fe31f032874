"""A random graph in the making, whose every value is known for several choices of the open sizes.

Each node is run by ONNX's reference evaluator as it is added, twice: on the values, and on values with a little noise.
The difference tells how far two correct computations may lie apart; a node that turns the noise into something large
(a comparison of equals, a quotient by almost zero) is left out. So the generators need no rule of shapes or types.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.differential.peer import peer

Array = np.ndarray[Any, Any]

OPSETS = (helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1))
SIZES: tuple[dict[str, int], ...] = ({"n": 2, "m": 3}, {"n": 1, "m": 5}, {"n": 4, "m": 1})
"""What the open sizes are in the runs while the graph grows."""
LARGEST = 20_000
"""Elements of a value."""

EXACT = frozenset(
    [
        "Abs",
        "ArgMax",
        "Cast",
        "CastLike",
        "Clip",
        "Compress",
        "Concat",
        "DepthToSpace",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "Identity",
        "If",
        "Max",
        "MaxPool",
        "Min",
        "Neg",
        "OneHot",
        "Pad",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "ReverseSequence",
        "ScatterND",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "TopK",
        "Transpose",
        "Trilu",
        "Unsqueeze",
        "Where",
    ]
)
"""Operators that do not round, so that equal inputs have equal results in every implementation."""

REFUSED: Counter[str] = Counter()
"""Nodes by operator that were left out: the reference evaluator refuses them, or they are not stable."""

_NOISE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-12, np.dtype(np.float16): 1e-3}
REFUSALS = (
    ValueError,
    IndexError,
    TypeError,
    RuntimeError,
    AssertionError,
    NotImplementedError,
    KeyError,
    ZeroDivisionError,
)


@dataclass(eq=False)
class Value:
    """A tensor by name, with its contents for each of `SIZES`, and the same with noise."""

    name: str
    exact: list[Array]
    noisy: list[Array]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.exact[0].dtype

    @property
    def rank(self) -> int:
        return self.exact[0].ndim

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [x.shape for x in self.exact]

    def size(self, axis: int) -> int | None:
        """None if it is open."""
        sizes = {shape[axis] for shape in self.shapes}
        return sizes.pop() if len(sizes) == 1 else None

    def like(self) -> tuple[int, ...]:
        """The shape in the first run."""
        return self.shapes[0]


class Stop(Exception):
    """A generator found nothing to work on."""


@dataclass
class Graph:
    """Grows by `node`; `pool` is what later nodes may read."""

    draw: st.DrawFn
    pool: list[Value] = field(default_factory=list)
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: list[tuple[Value, tuple[int | str, ...]]] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    prefix: str = ""

    # -- choices ---------------------------------------------------------------------------------
    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> int:
        return self.draw(st.integers(0, 1))

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def pick(self, kinds: str = "f", rank: int = 0, where: Callable[[Value], bool] | None = None) -> Value:
        """A value of a type of one of `kinds`, letters of `_KINDS`."""
        wanted = {np.dtype(_KINDS[k]) for k in kinds}
        found = [v for v in self.pool if v.dtype in wanted and v.rank >= rank and (where is None or where(v))]
        if not found:
            raise Stop
        return self.draw(st.sampled_from(found[::-1]))

    def axis(self, value: Value, negative: bool = True) -> int:
        if not value.rank:
            raise Stop
        return self.number(-value.rank if negative else 0, value.rank - 1)

    def draw_axes(self, value: Value) -> list[int]:
        """Some axes of `value`, each once, counted from either end."""
        if not value.rank:
            raise Stop
        axes = sorted({self.number(0, value.rank - 1) for _ in range(self.number(1, 2))})
        return [a - value.rank if self.flag() else a for a in axes]

    def permutation(self, rank: int) -> list[int]:
        return list(self.draw(st.permutations(range(rank))))

    # -- leaves ----------------------------------------------------------------------------------
    def constant(self, value: Any, dtype: Any = None) -> Value:
        name = f"c{len(self.constants)}"
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        self.constants[name] = array
        return Value(name, [array] * len(SIZES), [array] * len(SIZES))

    def ints(self, *values: int) -> Value:
        return self.constant(np.array(values, np.int64))

    def weights(self, *shape: int, like: Any = np.float32) -> Value:
        """Random numbers; 8-bit ones so small that onnxruntime's sums do not saturate (x86 without VNNI)."""
        rng = np.random.default_rng(len(self.constants))
        dtype = np.dtype(like)
        if dtype.kind in "iu":
            low, high = (max(np.iinfo(dtype).min, -64), 63) if dtype.itemsize == 1 else (-9, 9)
            return self.constant(rng.integers(low, high, shape, dtype=dtype, endpoint=True))
        if dtype.kind == "b":
            return self.constant(rng.integers(0, 2, shape).astype(bool))
        return self.constant(rng.uniform(-1, 1, shape).astype(dtype))

    def input(self, kind: str, dims: Sequence[int | str]) -> Value:
        name = f"x{len(self.inputs)}"
        arrays = [feed(name, _KINDS[kind], dims, sizes, seed) for seed, sizes in enumerate(SIZES)]
        value = Value(name, arrays, [noise(a, seed) for seed, a in enumerate(arrays)])
        self.inputs.append((value, tuple(dims)))
        self.pool.append(value)
        return value

    # -- nodes -----------------------------------------------------------------------------------
    def node(self, operator: str, inputs: Sequence[Value | None], outputs: int = 1, **attributes: Any) -> list[Value]:
        """Add a node, unless the reference evaluator refuses it or it is not stable: then `Stop`."""
        names = [f"{self.prefix}v{len(self.nodes)}_{i}" for i in range(outputs)]
        domain = attributes.pop("domain", "")
        label = f"{self.prefix}{operator}_{len(self.nodes)}"
        proto = helper.make_node(
            operator, [v.name if v else "" for v in inputs], names, label, domain=domain, **attributes
        )
        return self.add(proto, [v for v in inputs if v is not None])

    def add(self, proto: NodeProto, reads: Sequence[Value]) -> list[Value]:
        """As `node`, for a node that also reads values within its graphs."""
        reads = list({v.name: v for v in reads}.values())
        model = _alone(proto, reads)
        exact: list[list[Array]] = []
        noisy: list[list[Array]] = []
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                run = _by_onnxruntime(model) if proto.domain else _by_reference(model)
                for case in range(len(SIZES)):
                    exact.append([np.asarray(x) for x in run({v.name: v.exact[case] for v in reads})])
                    noisy.append([np.asarray(x) for x in run({v.name: v.noisy[case] for v in reads})])
        except REFUSALS:
            REFUSED[proto.op_type] += 1
            raise Stop from None
        rounds = proto.op_type not in EXACT
        values = []
        for i, name in enumerate(proto.output):
            arrays, others = [row[i] for row in exact], [row[i] for row in noisy]
            if not all(_stable(a, b) for a, b in zip(arrays, others, strict=True)):
                REFUSED[f"{proto.op_type}, not stable"] += 1
                raise Stop
            if (
                len({(a.ndim, a.dtype) for a in arrays}) > 1
                or max(a.size for a in arrays) > LARGEST
                or arrays[0].ndim > 6
            ):
                raise Stop
            others = [noise(a, 7 + len(self.nodes)) if rounds else a for a in others]
            values.append(Value(name, arrays, others))
        self.nodes.append(proto)
        self.pool.extend(values)
        return values

    def child(self, prefix: str) -> Graph:
        """A nested graph, which sees what this one has."""
        return Graph(self.draw, list(self.pool), [], [], self.constants, self.prefix + prefix)

    def as_graph(self, name: str, inputs: Sequence[Value], outputs: Sequence[Value]) -> GraphProto:
        """A nested graph's message."""
        infos = [[helper.make_value_info(v.name, _type(v)) for v in values] for values in (inputs, outputs)]
        return helper.make_graph(self.nodes, name, *infos)

    def model(self) -> ModelProto:
        """Outputs are what no node reads, and now and then a value between."""
        read = {name for node in self.nodes for name in _reads(node)}
        made = {name for node in self.nodes for name in node.output}
        inputs = {v.name for v, _ in self.inputs}
        kept = [v for v in self.pool if v.name in made and v.name not in inputs]
        outputs = [v for v in kept if v.name not in read]
        between = [v for v in kept if v.name in read]
        if between and self.flag():
            outputs.append(self.draw(st.sampled_from(between)))
        used = read | {v.name for v in outputs}
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info(v.name, _code(v.dtype), dims) for v, dims in self.inputs],
            [helper.make_value_info(v.name, _type(v)) for v in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.constants.items() if n in used],
        )
        return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


_KINDS: dict[str, Any] = {
    "f": np.float32,
    "d": np.float64,
    "h": np.float16,
    "i": np.int64,
    "j": np.int32,
    "s": np.int8,
    "u": np.uint8,
    "b": np.bool_,
}


def feed(name: str, dtype: Any, dims: Sequence[int | str], sizes: dict[str, int], seed: int) -> Array:
    """The input `name` for these sizes: always the same numbers."""
    shape = [d if isinstance(d, int) else sizes[d] for d in dims]
    rng = np.random.default_rng([seed, *name.encode()])
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return rng.integers(0 if dtype.kind == "u" else -4, 5, shape).astype(dtype)
    return rng.uniform(-2, 2, shape).astype(dtype)


def noise(array: Array, seed: int) -> Array:
    """`array` as rounded differently; of an integer type, as it is."""
    relative = _NOISE.get(array.dtype)
    if relative is None or not array.size:
        return array
    with np.errstate(all="ignore"):
        finite = np.abs(array[np.isfinite(array)]).max(initial=0)
        rng = np.random.default_rng(seed)
        moved = array * (1 + relative * rng.uniform(-1, 1, array.shape)) + finite * relative / 8 * rng.uniform(
            -1, 1, array.shape
        )
        return np.asarray(moved, array.dtype)


def _stable(a: Array, b: Array) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype not in _NOISE:
        return bool(np.array_equal(_plain(a), _plain(b), equal_nan=True))
    with np.errstate(all="ignore"):
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return False
        kept = np.isfinite(a)
        size = max(1e-3, float(np.abs(a[kept]).max(initial=0)))
        far = float(np.abs(a[kept].astype(np.float64) - b[kept]).max(initial=0))
    return (
        size < 1e4 and far <= 2000 * _NOISE[a.dtype] * size
        if a.dtype != np.float16
        else size < 1e3 and far < 0.02 * size
    )


def _plain(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "V" or array.dtype == ml_dtypes.bfloat16 else array


def _alone(node: NodeProto, reads: Sequence[Value]) -> ModelProto:
    outputs = [helper.make_value_info(n, TypeProto()) for n in node.output]
    inputs = [helper.make_tensor_value_info(v.name, _code(v.dtype), [None] * v.rank) for v in reads]
    graph = helper.make_graph([node], "alone", inputs, outputs)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


def _by_reference(model: ModelProto) -> Callable[[dict[str, Array]], list[Array]]:
    evaluator = ReferenceEvaluator(model)
    return lambda feeds: list(evaluator.run(None, feeds))  # type: ignore[arg-type]


def _by_onnxruntime(model: ModelProto) -> Callable[[dict[str, Array]], list[Array]]:
    """Contrib operators have no reference evaluator."""
    names, text = [o.name for o in model.graph.output], model.SerializeToString()

    def run(feeds: dict[str, Array]) -> list[Array]:
        found = peer().run(names, feeds) if peer().load(text) else None
        if found is None:
            raise Stop
        return [found[name] for name in names]

    return run


def _code(dtype: np.dtype[Any]) -> int:
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _type(value: Value) -> TypeProto:
    return helper.make_tensor_type_proto(_code(value.dtype), [None] * value.rank)


def _reads(node: NodeProto) -> set[str]:
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.type == attribute.GRAPH:
            names |= {o.name for o in attribute.g.output}
            for inner in attribute.g.node:
                names |= _reads(inner)
    return names


__all__ = ["EXACT", "REFUSALS", "REFUSED", "SIZES", "Array", "Graph", "Stop", "TensorProto", "Value", "feed", "noise"]
