"""Branches and loops, whose bodies are random too."""

from __future__ import annotations

import numpy as np
from onnx import helper

from tests.differential.graph import SIZES, Graph, Stop, Value

_SAME = ("Tanh", "Sigmoid", "Neg", "Abs", "Relu", "Sin")


def _steps(g: Graph, x: Value, count: int) -> Value:
    """Operations that keep the shape and type of `x`, some with values from around."""
    for _ in range(count):
        if x.dtype != np.float32:
            (x,) = g.node("Add", [x, x])
        elif g.flag():
            (x,) = g.node(g.choose(*_SAME), [x])
        else:
            other = g.pick("f", 0, lambda v, x=x: v.shapes == x.shapes)
            (y,) = g.node(g.choose("Add", "Sub", "Mul", "Max"), [x, other])
            (x,) = g.node("Tanh", [y])
    return x


def branch(g: Graph) -> None:
    x = g.pick("fffi")
    if g.flag():
        chosen = g.pick("b", 0, lambda v: v.rank == 0)
    else:
        scalar = g.pick("f")
        (total,) = g.node("ReduceSum", [scalar], keepdims=0)
        (chosen,) = g.node("Greater", [total, g.constant(0.1, np.float32)])
    graphs, around = [], {}
    for name in ("then", "else"):
        inner = g.child(f"{name}{len(g.nodes)}_")
        result = _steps(inner, x, g.number(1, 3))
        graphs.append(inner.as_graph(name, [], [result]))
        around |= _captured(inner, g)
    output = f"{g.prefix}v{len(g.nodes)}_0"
    node = helper.make_node("If", [chosen.name], [output], f"{g.prefix}If_{len(g.nodes)}",
                            then_branch=graphs[0], else_branch=graphs[1])  # fmt: skip
    g.add(node, [chosen, *around.values()])


def _captured(inner: Graph, g: Graph) -> dict[str, Value]:
    known = {v.name: v for v in inner.pool}
    for name, array in g.constants.items():
        known.setdefault(name, Value(name, [array] * len(SIZES), [array] * len(SIZES)))
    made = {name for node in inner.nodes for name in node.output}
    return {
        name: known[name] for node in inner.nodes for name in node.input if name and name in known and name not in made
    }


def loop(g: Graph) -> None:
    """One carried value, one collected, left early by a condition now and then."""
    x = g.pick("f", 0, lambda v: v.rank < 6)
    inner = g.child(f"loop{len(g.nodes)}_")
    label = f"{inner.prefix}in"
    zero, true = np.array(0, np.int64), np.array(True)
    step = Value(f"{label}_i", [zero] * len(SIZES), [zero] * len(SIZES))
    going = Value(f"{label}_c", [true] * len(SIZES), [true] * len(SIZES))
    state = Value(f"{label}_s", x.exact, x.noisy)
    inner.pool.append(state)
    after = _steps(inner, state, g.number(1, 3))
    (number,) = inner.node("Cast", [step], to=1)
    (number,) = inner.node("Mul", [number, g.constant(0.25, np.float32)])
    (shown,) = inner.node("Add", [after, number])
    if g.flag():
        (again,) = inner.node("Less", [step, g.constant(np.array(g.number(0, 3), np.int64))])
    else:
        (again,) = inner.node("Identity", [going])
    body = inner.as_graph("body", [step, going, state], [again, after, shown])
    trips = g.constant(np.array(g.number(1, 4), np.int64))
    begin = g.constant(np.array(True))
    outputs = [f"{g.prefix}v{len(g.nodes)}_{i}" for i in range(2)]
    node = helper.make_node(
        "Loop", [trips.name, begin.name, x.name], outputs, f"{g.prefix}Loop_{len(g.nodes)}", body=body
    )
    around = _captured(inner, g)
    for own in (step, going, state):
        around.pop(own.name, None)
    g.add(node, [trips, begin, x, *around.values()])
    # What the reference evaluator collects has no axis for the steps: left out.
    g.pool[:] = [v for v in g.pool if v.name != outputs[1]]


def scan(g: Graph) -> None:
    """Rows of a value, one after the other, with a sum of what came before."""
    x = g.pick("f", 2, lambda v: v.rank < 6 and all(min(s) > 0 for s in v.shapes))
    inner = g.child(f"scan{len(g.nodes)}_")
    rows = Value(f"{inner.prefix}x", [a[0] for a in x.exact], [a[0] for a in x.noisy])
    state = Value(f"{inner.prefix}s", rows.exact, rows.noisy)
    (start,) = g.node("Gather", [x, g.constant(np.array(0, np.int64))], axis=0)
    (total,) = inner.node("Add", [state, rows])
    (total,) = inner.node("Tanh", [total])
    (shown,) = inner.node(g.choose("Neg", "Sigmoid"), [total])
    body = inner.as_graph("body", [state, rows], [total, shown])
    outputs = [f"{g.prefix}v{len(g.nodes)}_{i}" for i in range(2)]
    label = f"{g.prefix}Scan_{len(g.nodes)}"
    node = helper.make_node("Scan", [start.name, x.name], outputs, label, body=body, num_scan_inputs=1,
                            scan_input_directions=[g.flag()], scan_output_directions=[g.flag()])  # fmt: skip
    g.add(node, [start, x])


GROWTH = [branch, branch, loop, scan]
__all__ = ["GROWTH", "Stop"]
