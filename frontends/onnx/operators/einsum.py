"""Einsum: sums, diagonals and matrix products, contracted from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Dim, Value
from ds_compiler.ir.dtypes import i64
from ds_compiler.ops import DotGeneral, Gather, Iota

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Operand:
    """A tensor and the label of each of its axes (letters; ``.0`` counts the axes of an ellipsis from the end)."""

    value: Value
    labels: Labels


@onnx_op("Einsum")
def einsum(e: Emitter, n: Node) -> Value:
    operands, out = _parse(n, str(n.required("equation")), n.present())
    operands = [_diagonal(e, operand) for operand in _without_broadcast(e, operands)]
    total = operands.pop(0)
    total = _summed(e, total, {*out, *(label for o in operands for label in o.labels)})
    while operands:
        following = operands.pop(0)
        later = {*out, *(label for o in operands for label in o.labels)}
        following = _summed(e, following, {*total.labels, *later})
        total = _contract(e, total, following, later, out)
    return e.transpose(total.value, [total.labels.index(label) for label in out])


def _parse(n: Node, equation: str, values: Sequence[Value]) -> tuple[list[Operand], Labels]:
    """Operands with their labels, and the labels of the result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(values):
        n.fail(f"equation '{equation}' has {len(terms)} operands, the node has {len(values)}")
    operands = []
    for term, value in zip(terms, values, strict=True):
        labels = _labels(n, equation, term, value.type.rank)
        if len(labels) != value.type.rank:
            n.fail(f"equation '{equation}': '{term}' does not fit {value.type}")
        operands.append(Operand(value, labels))
    every = [label for operand in operands for label in operand.labels]
    shared = sorted({label for label in every if label.startswith(".")}, key=lambda label: -int(label[1:]))
    if arrow:
        if shared and "..." not in right:
            n.fail(f"equation '{equation}': the result needs the ellipsis of the operands")
        before, dots, after = right.partition("...")
        out = (*before, *(shared if dots else ()), *after)
    else:
        out = (*shared, *sorted(label for label in set(every) - set(shared) if every.count(label) == 1))
    if len(set(out)) != len(out) or not set(out) <= set(every):
        n.fail(f"equation '{equation}': labels of the result must be labels of the operands, each once")
    return operands, out


def _labels(n: Node, equation: str, term: str, rank: int) -> Labels:
    before, dots, after = term.partition("...")
    if not (before + after).isalpha() and before + after:
        n.fail(f"equation '{equation}': '{term}' is no list of letters")
    covered = max(rank - len(before) - len(after), 0) if dots else 0
    return (*before, *(f".{i}" for i in reversed(range(covered))), *after)


def _without_broadcast(e: Emitter, operands: Sequence[Operand]) -> list[Operand]:
    """Axes of size 1 go where another operand has more elements along the label: they broadcast."""
    long = {
        label
        for operand in operands
        for label, dim in zip(operand.labels, operand.value.type.shape, strict=True)
        if dim != 1
    }
    result = []
    for operand in operands:
        shape = operand.value.type.shape
        keep = [i for i, label in enumerate(operand.labels) if shape[i] != 1 or label not in long]
        value = e.reshape(operand.value, [shape[i] for i in keep])
        result.append(Operand(value, tuple(operand.labels[i] for i in keep)))
    return result


def _diagonal(e: Emitter, operand: Operand) -> Operand:
    """Axes with the same label become one, along the diagonal."""
    value, labels = operand.value, list(operand.labels)
    for label in dict.fromkeys(labels):
        while labels.count(label) > 1:
            first = labels.index(label)
            second = labels.index(label, first + 1)
            others = [a for a in range(len(labels)) if a not in (first, second)]
            size = value.type.shape[first]
            if isinstance(size, int) and isinstance(value.type.shape[second], int) and size != value.type.shape[second]:
                raise e.fail(f"Einsum: axes of {value.type} with the same label '{label}' have different sizes")
            moved = e.transpose(value, [first, second, *others])
            flat = e.reshape(moved, (size * size, *moved.type.shape[2:]))
            places = e.binary("mul", e.emit(Iota((size,), 0, i64)), e.size(size + 1))
            value = e.emit(Gather(flat, places, 0))
            labels = [label, *(labels[a] for a in others)]
    return Operand(value, tuple(labels))


def _summed(e: Emitter, operand: Operand, needed: set[str]) -> Operand:
    """Sum over labels that nothing else has."""
    gone = [i for i, label in enumerate(operand.labels) if label not in needed]
    kept = tuple(label for label in operand.labels if label in needed)
    return Operand(e.reduce(operand.value, gone, "sum"), kept)


def _contract(e: Emitter, a: Operand, b: Operand, later: set[str], out: Labels) -> Operand:
    """The product of two operands, summed over the labels that they share and nothing later has."""
    if _position(b, a, out) < _position(a, b, out):
        a, b = b, a
    shared = [label for label in a.labels if label in b.labels]
    batch = sorted((label for label in shared if label in later), key=lambda x: out.index(x) if x in out else len(out))
    contract = [label for label in shared if label not in later]
    labels = (
        *batch,
        *(label for label in a.labels if label not in shared),
        *(label for label in b.labels if label not in shared),
    )
    if not contract or len(labels) == len(batch):  # no matrix on either side
        labels = (*labels, *contract)
        size = dict(zip((*b.labels, *a.labels), (*b.value.type.shape, *a.value.type.shape), strict=True))
        shape = [size[label] for label in labels]
        product = Operand(e.binary("mul", _spread(e, a, labels, shape), _spread(e, b, labels, shape)), labels)
        return _summed(e, product, later)

    def axes(side: Operand, names: Sequence[str]) -> tuple[int, ...]:
        return tuple(side.labels.index(label) for label in names)

    dot = DotGeneral(a.value, b.value, axes(a, batch), axes(b, batch), axes(a, contract), axes(b, contract))
    return Operand(e.emit(dot), labels)


def _position(operand: Operand, other: Operand, out: Labels) -> int:
    """Where the operand's own labels begin in the result: the earlier one goes left and saves a transposition."""
    return min((out.index(x) for x in operand.labels if x in out and x not in other.labels), default=len(out))


def _spread(e: Emitter, operand: Operand, labels: Labels, shape: Sequence[Dim]) -> Value:
    """The operand along `labels`."""
    order = sorted(range(len(operand.labels)), key=lambda i: labels.index(operand.labels[i]))
    value = e.transpose(operand.value, order)
    return e.broadcast(value, shape, [labels.index(operand.labels[i]) for i in order])
