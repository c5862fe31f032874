"""Matrix products and convolutions at the loop level: which axes play which part, and the fused epilogue.

A contraction's result is computed by a schedule of its own (register tiles); what follows it in the fusion is an
ordinary list of stores over the axes (batch, row, column) in which the finished sum is a given node.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ds_compiler.backends.loops.collapse import collapse_axes, replace_axes
from ds_compiler.backends.loops.ir import Axis, Graph, Index, Node, Step, Store, of_axis, step_nodes, walk
from ds_compiler.backends.loops.lower import Lowering
from ds_compiler.backends.loops.points import Point, linear, strides_of
from ds_compiler.ir import OpResult, Value
from ds_compiler.ir.dims import Dim, floordiv, product
from ds_compiler.ir.dtypes import i64
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.types import TensorType
from ds_compiler.ops import Broadcast, DotGeneral, DotInteger, Fusion, Transpose


@dataclass(slots=True)
class Epilogue:
    """What happens to each sum: `stores` over one axis for each part of the result's shape.

    Attributes:
        parts: the flat axes, outermost first, e.g. (batch, row, column).
        total: the node that stands for the finished sum.
    """

    graph: Graph
    parts: list[Axis]
    total: Node
    stores: list[Store]


def lower_epilogue(
    fusion: Fusion, root: Value, parts: Sequence[Sequence[int]], results: Sequence[int] | None = None
) -> Epilogue:
    """Stores of a fusion's results as functions of `root`'s elements.

    Args:
        parts: consecutive axes of `root` that the schedule walks as one each; the last part is vectorised.
        results: the numbers of those that are stored; None: all.

    Raises:
        CompileError: a result does not follow the root's axes.
    """
    block = fusion.body.block
    buffers: dict[Value, int] = {a: n for n, a in enumerate(block.arguments)}
    graph = Graph()
    lowering = Lowering(graph, buffers)
    axes = [lowering.axis(d) for d in root.type.shape]
    anchor = Axis("sum", 1)  # what depends on the sum is never hoisted, even where the sum has no axes
    total = graph.node("total", (), root.type.dtype, extra_axes=[*axes, anchor])
    lowering.given[root] = total
    point: Point = tuple(Index() if a.extent == 1 else of_axis(a) for a in axes)
    lowering.begin(axes, [])
    points = _follow(fusion, root, point)
    stores: list[Step] = []
    for number, output in enumerate(block.terminator.operands):
        if results is not None and number not in results:
            continue
        at = points.get(output)
        if at is None:
            raise CompileError("a result does not follow the contraction's axes", location=fusion.location)
        node = lowering.element(output, at)
        stores.append(Store(len(block.arguments) + number, linear(at, output.type), node, inner=False))
    grouped = [[axes[a] for a in part if axes[a].extent != 1] for part in parts]
    grouped, steps = collapse_axes(graph, grouped, stores)
    flat: list[Axis] = []
    replaced: dict[Axis, Index] = {}
    for part, group in zip(parts, grouped, strict=True):
        if len(group) == 1:
            flat.append(group[0])
            continue
        whole = Axis(f"p{len(flat)}", product(tuple(axes[a].extent for a in part)))
        flat.append(whole)
        replaced.update(_split(graph, whole, group))
    if replaced:
        steps = replace_axes(graph, steps, replaced)
    final = [s for s in steps if isinstance(s, Store)]
    renamed = next(n for s in final for n in walk(step_nodes(s)) if n.op == "total")
    return Epilogue(graph, flat, renamed, final)


def _follow(fusion: Fusion, root: Value, point: Point) -> dict[Value, Point]:
    """Points of the values computed from `root`, which stands at `point`."""
    points: dict[Value, Point] = {root: point}
    for op in fusion.body.block:
        known = [v for v in op.operands if v in points]
        if not known or op.is_terminator or not isinstance(op.results[0], OpResult):
            continue
        at = points[known[0]]
        if isinstance(op, Transpose):
            points[op.result] = tuple(at[a] for a in op.permutation)
        elif op.results[0].type.shape == known[0].type.shape and not isinstance(op, Broadcast):
            if any(points[v] != at for v in known):
                raise CompileError("an epilogue combines a sum with its own transpose", location=op.location)
            points[op.results[0]] = at
    return points


def _split(graph: Graph, whole: Axis, group: list[Axis]) -> dict[Axis, Index]:
    """Each axis of a group that does not collapse, as quotient and remainder of the flat one."""
    out: dict[Axis, Index] = {}
    rest = graph.index(of_axis(whole)) if group else None
    for position, axis in enumerate(group):
        assert rest is not None
        if position == len(group) - 1:
            out[axis] = Index(((rest, 1),))
            break
        step = graph.size(product(tuple(a.extent for a in group[position + 1 :])))
        out[axis] = Index(((graph.node("index_div", (rest, step), i64), 1),))
        rest = graph.node("index_mod", (rest, step), i64)
    return out


@dataclass(frozen=True, slots=True)
class Part:
    """A group of operand axes walked as one: extents, and strides in elements, outermost first."""

    extents: tuple[Dim, ...]
    strides: tuple[Dim, ...]

    @property
    def size(self) -> Dim:
        return product(self.extents)

    @property
    def stride(self) -> Dim | None:
        """The stride of the flat index, when there is one."""
        kept = [(e, s) for e, s in zip(self.extents, self.strides, strict=True) if e != 1]
        if not kept:
            return 1
        for (_, outer), (extent, inner) in itertools.pairwise(kept):
            if outer != inner * extent:
                return None
        return kept[-1][1]


def part_of(type_: TensorType, axes: Sequence[int]) -> Part:
    strides = strides_of(type_)
    return Part(tuple(type_.shape[a] for a in axes), tuple(strides[a] for a in axes))


@dataclass(frozen=True, slots=True)
class MatmulForm:
    """A `dot_general` or `dot_integer` as a batched matrix product.

    `batch` pairs the strides of both operands for each batch dimension (0 where an operand does not vary); leading row
    axes that do not walk as one are batch dimensions. `batch_axes`, `row_axes`, `column_axes` are the result's axes.
    """

    batch_extents: tuple[Dim, ...]
    lhs_batch: tuple[Dim, ...]
    rhs_batch: tuple[Dim, ...]
    rows: Part
    lhs_depth: Part
    rhs_depth: Part
    columns: Part
    batch_axes: tuple[int, ...]
    row_axes: tuple[int, ...]
    column_axes: tuple[int, ...]


def matmul_form(op: DotGeneral | DotInteger) -> MatmulForm | None:
    """None when the contracting or column axes do not walk as one."""
    a, b = op.lhs.type, op.rhs.type
    lhs_batch, rhs_batch = part_of(a, op.lhs_batch), part_of(b, op.rhs_batch)
    depth, rhs_depth = part_of(a, op.lhs_contract), part_of(b, op.rhs_contract)
    columns = part_of(b, op.rhs_free)
    if depth.stride is None or rhs_depth.stride is None or columns.stride is None:
        return None
    free = list(op.lhs_free)
    lead = 0
    while part_of(a, free[lead:]).stride is None:
        lead += 1
    extra, rows = part_of(a, free[:lead]), part_of(a, free[lead:])
    nb = len(op.lhs_batch)
    return MatmulForm(
        (*lhs_batch.extents, *extra.extents),
        (*lhs_batch.strides, *extra.strides),
        (*rhs_batch.strides, *(0,) * lead),
        rows,
        depth,
        rhs_depth,
        columns,
        tuple(range(nb + lead)),
        tuple(range(nb + lead, nb + len(free))),
        tuple(range(nb + len(free), op.result.type.rank)),
    )


def in_pairs(form: MatmulForm) -> MatmulForm:
    """The product with two neighbours along the depth, whose length is even, as one element; columns stay."""
    rows = replace(form.rows, strides=tuple(floordiv(s, 2) for s in form.rows.strides))
    return replace(
        form,
        lhs_batch=tuple(floordiv(s, 2) for s in form.lhs_batch),
        rows=rows,
        lhs_depth=Part((floordiv(form.lhs_depth.size, 2),), (1,)),
    )
