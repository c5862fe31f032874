"""The loop level: what a fused kernel computes, element by element, before it is LLVM or Triton text.

A `Kernel` is a list of `Nest`s over buffers. A nest iterates over *outer* axes (parallel, in any order) and, inside
one outer point, runs its steps in order: a `Reduction` combines a value over the *inner* axes, a `Store` writes a
value for each point of the inner axes, or once an outer point. Values are `Node`s: a graph of scalar operations
over `load`s at affine indices. Softmax is one nest (outer: rows, inner: columns) with the steps max, sum, store.

Indices are in elements, linear over a row-major buffer: `Index` = constant + Σ coefficient * atom. Coefficients and
extents are sizes (`Dim`), so a symbolic shape stays symbolic down to the generated code. An atom is an axis, or an
i64 node (a loaded position for gather, a quotient for a reshape that no axes match).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import DType, bool_, i64
from ds_compiler.ir.types import TensorType


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """A loop variable running from 0 to `extent`."""

    name: str
    extent: Dim

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """A scalar value at one point of the iteration space; made (and shared) by a `Graph`.

    `op` is ``const`` (payload: the value), ``size`` (payload: a Dim), ``index`` (the value of `index`), ``load``
    (payload: buffer number, at `index`), ``guard`` (operands: value inside, value outside; payload: conditions, each
    an (Index, extent) that holds when 0 <= index < extent), ``reduced`` (payload: the `Reduction`'s number), ``total``
    (a contraction's finished sum), ``cast``,
    ``select``, ``exp_nonpositive`` (see `exponentials`), or a kind of `ds_compiler.ops.elementwise`.
    """

    op: str
    operands: tuple[Node, ...]
    dtype: DType
    axes: frozenset[Axis]
    index: Index | None = None
    payload: Any = None

    def __repr__(self) -> str:
        inside = ", ".join(repr(o) for o in self.operands)
        match self.op:
            case "const" | "size":
                return str(self.payload)
            case "index":
                return repr(self.index)
            case "load":
                return f"b{self.payload}[{self.index!r}]"
            case "reduced":
                return f"r{self.payload}"
        return f"{self.op}({inside})"


Atom: TypeAlias = Axis | Node


@dataclass(frozen=True, slots=True)
class Index:
    """``offset + Σ coefficient * atom`` (normal form: each atom once, no zero coefficients)."""

    terms: tuple[tuple[Atom, Dim], ...] = ()
    offset: Dim = 0

    def __add__(self, other: Index | Dim) -> Index:
        if not isinstance(other, Index):
            return Index(self.terms, self.offset + other)
        total: dict[Atom, Dim] = dict(self.terms)
        for atom, coefficient in other.terms:
            total[atom] = total.get(atom, 0) + coefficient
        return Index(tuple((a, c) for a, c in total.items() if c != 0), self.offset + other.offset)

    def scaled(self, factor: Dim) -> Index:
        if factor == 0:
            return Index()
        return Index(tuple((a, c * factor) for a, c in self.terms), self.offset * factor)

    @property
    def axis(self) -> Axis | None:
        """The axis that the index is, when it is nothing else."""
        if len(self.terms) == 1 and self.offset == 0 and self.terms[0][1] == 1:
            atom = self.terms[0][0]
            return atom if isinstance(atom, Axis) else None
        return None

    @property
    def axes(self) -> frozenset[Axis]:
        """Axes on which the value depends."""
        found: set[Axis] = set()
        for atom, _ in self.terms:
            found.update([atom] if isinstance(atom, Axis) else atom.axes)
        return frozenset(found)

    def coefficient(self, axis: Axis) -> Dim:
        return next((c for a, c in self.terms if a is axis), 0)

    def __repr__(self) -> str:
        parts = [f"{a!r}" if c == 1 else f"{c}*{a!r}" for a, c in self.terms]
        if self.offset != 0 or not parts:
            parts.append(str(self.offset))
        return "+".join(parts)


def of_axis(axis: Axis) -> Index:
    return Index(((axis, 1),))


Condition: TypeAlias = tuple[Index, Dim]


class Graph:
    """Makes nodes, equal ones once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Node] = {}

    def node(
        self,
        op: str,
        operands: tuple[Node, ...],
        dtype: DType,
        *,
        index: Index | None = None,
        payload: Any = None,
        extra_axes: Iterable[Axis] = (),
    ) -> Node:
        extra = frozenset(extra_axes)
        key = (op, operands, dtype, index, payload, extra)
        found = self._known.get(key)
        if found is None:
            axes = frozenset[Axis]().union(*(o.axes for o in operands), extra)
            if index is not None:
                axes |= index.axes
            found = self._known[key] = Node(op, operands, dtype, axes, index, payload)
        return found

    def constant(self, value: Any, dtype: DType) -> Node:
        # repr tells 0.0 from -0.0, which compare equal
        key = ("const", dtype, repr(value))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Node("const", (), dtype, frozenset(), None, value)
        return found

    def size(self, dim: Dim) -> Node:
        return self.node("size", (), i64, payload=dim)

    def index(self, index: Index) -> Node:
        """The value of `index` as i64."""
        if not index.terms:
            return self.size(index.offset)
        if len(index.terms) == 1 and index.offset == 0 and index.terms[0][1] == 1:
            atom = index.terms[0][0]
            if isinstance(atom, Node):
                return atom
        return self.node("index", (), i64, index=index)

    def load(self, buffer: int, index: Index, dtype: DType) -> Node:
        return self.node("load", (), dtype, index=index, payload=buffer)

    def guard(self, conditions: tuple[Condition, ...], inside: Node, outside: Node) -> Node:
        if not conditions:
            return inside
        axes = frozenset[Axis]().union(*(i.axes for i, _ in conditions))
        return self.node("guard", (inside, outside), inside.dtype, payload=conditions, extra_axes=axes)

    def compare(self, kind: str, a: Node, b: Node) -> Node:
        return self.node(kind, (a, b), bool_)


@dataclass(frozen=True, slots=True)
class Reduction:
    """``r<number> = combine over the inner axes of value``; `how` as in `ds_compiler.ops.reduction`.

    `argument`: the result is the i64 position (`position`) of the extremum (``last`` of equal ones if set).
    `keep`: a store to make at each inner point while the reduction runs over it (see `keep`).
    """

    number: int
    how: str
    value: Node
    argument: bool = False
    position: Index | None = None
    last: bool = False
    keep: Store | None = None


@dataclass(frozen=True, slots=True)
class Store:
    """Write `value` to ``buffer[index]``; for every inner point when `inner`, else once an outer point.

    `mode` combines with what stands there: set, add, mul, max, min.
    """

    buffer: int
    index: Index
    value: Node
    inner: bool
    mode: str = "set"


@dataclass(frozen=True, slots=True)
class Running:
    """A running combination (cumulative sum …) along the only inner axis, stored at every step.

    `exclusive` stores before combining; `reverse` runs from the end.
    """

    buffer: int
    index: Index
    value: Node
    how: str
    exclusive: bool
    reverse: bool


Step: TypeAlias = Reduction | Store | Running


@dataclass(slots=True)
class Nest:
    """One loop nest; see the module's docstring. Axes are ordered, the last one innermost.

    `serial`: outer points must run in order, on one task (scatter).
    """

    outer: list[Axis]
    inner: list[Axis]
    steps: list[Step] = field(default_factory=list)
    serial: bool = False


@dataclass(slots=True)
class Kernel:
    """Loop nests over buffers: the kernel's operands, then its results. Run one after the other."""

    buffers: list[TensorType]
    inputs: int
    nests: list[Nest]
    graph: Graph


def walk(roots: Iterable[Node]) -> Iterable[Node]:
    """All nodes below `roots`, operands first, those inside indices and conditions included."""
    seen: set[Node] = set()

    def visit(node: Node) -> Iterable[Node]:
        if node in seen:
            return
        seen.add(node)
        for operand in node.operands:
            yield from visit(operand)
        indices = [node.index] if node.index is not None else []
        if node.op == "guard":
            indices += [i for i, _ in node.payload]
        for index in indices:
            for atom, _ in index.terms:
                if isinstance(atom, Node):
                    yield from visit(atom)
        yield node

    for root in roots:
        yield from visit(root)


def step_nodes(step: Step) -> list[Node]:
    """The values a step evaluates, index atoms included."""
    roots = [step.value]
    index = step.position if isinstance(step, Reduction) else step.index
    indices = [index] if index is not None else []
    if isinstance(step, Reduction) and step.keep is not None:
        roots.append(step.keep.value)
        indices.append(step.keep.index)
    return roots + [a for i in indices for a, _ in i.terms if isinstance(a, Node)]
