"""Nests that read along another axis than they write: found here, moved in square tiles by either back end."""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.backends.loops.ir import Axis, Nest, Node, Store, step_nodes, walk


@dataclass(frozen=True)
class Tiling:
    """The axis that stores run along, the one that loads run along, and those loads."""

    written: Axis
    read: Axis
    loads: tuple[Node, ...]


def find_tiling(nest: Nest) -> Tiling | None:
    """How to tile a nest of stores along one axis of values loaded along another; None for other nests."""
    if nest.serial or nest.inner or len(nest.outer) < 2 or not all(isinstance(s, Store) for s in nest.steps):
        return None
    written = nest.outer[-1]
    if any(s.mode != "set" or s.index.coefficient(written) != 1 for s in nest.steps if isinstance(s, Store)):
        return None
    nodes = list(walk([n for step in nest.steps for n in step_nodes(step)]))
    if any(n.op == "guard" for n in nodes):
        return None
    loads = []
    for node in nodes:
        if node.op != "load" or node.index is None or written not in node.index.axes:
            continue
        if any(isinstance(atom, Node) and written in atom.axes for atom, _ in node.index.terms):
            return None
        if node.index.coefficient(written) != 1:
            loads.append(node)
    candidates = [
        a for a in nest.outer[:-1] if loads and all(n.index is not None and n.index.coefficient(a) == 1 for n in loads)
    ]
    if not candidates or written.extent == 1:
        return None
    read = candidates[-1]
    if any(isinstance(atom, Node) and read in atom.axes for n in loads if n.index for atom, _ in n.index.terms):
        return None
    return Tiling(written, read, tuple(loads))
