"""Random graphs, as a hypothesis strategy."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from onnx import ModelProto

from tests.differential import control, elementwise, movement, narrow, sums
from tests.differential.graph import Graph, Stop, Value

GROWTH = [*elementwise.GROWTH, *movement.GROWTH, *sums.GROWTH, *narrow.GROWTH, *control.GROWTH]

_DIMS: tuple[tuple[int | str, ...], ...] = (
    *((), (1,), (2, 3), (1, 8, 5, 5), (2, 2, 3, 4, 5), (1, 2, 1, 3, 1, 2)),
    *(("n",), ("m",), ("n", 0), ("n", 4), ("n", 16), ("m", 64), ("n", "m")),
    *(("n", 3, 5), ("n", 2, 6), ("n", 8, 9), ("n", 2, "m")),
    *(("n", 4, 6, 7), ("n", 1, 16, 16), ("n", 3, "m", 5)),
)


@dataclass
class Case:
    """A model, and its values as the reference evaluator computed them."""

    model: ModelProto
    values: list[Value] = field(repr=False)


@st.composite
def cases(draw: st.DrawFn, nodes: int = 8) -> Case:
    """A graph of up to `nodes` operators (some generators add two or three), over one to three inputs."""
    graph = Graph(draw)
    graph.input("f", draw(st.sampled_from(_DIMS)))
    for _ in range(draw(st.integers(0, 2))):
        graph.input(draw(st.sampled_from("fffffijubsdh")), draw(st.sampled_from(_DIMS)))
    for grow in draw(st.lists(st.sampled_from(GROWTH), min_size=1, max_size=nodes)):
        try:
            grow(graph)
        except Stop:
            continue
    if not graph.nodes:
        graph.node("Identity", [graph.pool[0]])
    return Case(graph.model(), graph.pool)
