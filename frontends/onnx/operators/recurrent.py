"""LSTM, GRU and RNN.

The products of all steps' inputs with the weights are one matrix product; a scan over time does the recurrent
product and the gates. A single step stands in the program without a scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ds_compiler.frontends.onnx.emitter import Emitter
from ds_compiler.frontends.onnx.node import Node
from ds_compiler.frontends.onnx.registry import onnx_op
from ds_compiler.ir import Block, Dim, Region, TensorType, Value
from ds_compiler.ops import DotGeneral, Iota, Scan, Yield

Activation: TypeAlias = "Callable[[Emitter, Value], Value]"

Product: TypeAlias = Callable[[int, Value], Value]
"""(direction, x [..., depth]) -> the product of x with that direction's weights, [..., gates*hidden]."""

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_PARAMETERS: dict[str, tuple[float | None, float | None]] = {
    "relu": (None, None), "tanh": (None, None), "sigmoid": (None, None), "softsign": (None, None),
    "softplus": (None, None), "leakyrelu": (0.01, None), "thresholdedrelu": (1.0, None), "elu": (1.0, None),
    "affine": (1.0, 0.0), "scaledtanh": (1.0, 1.0), "hardsigmoid": (0.2, 0.5),
}  # fmt: skip
"""Activations by name in lower case, with the defaults of alpha and beta where they have them."""


@dataclass(frozen=True)
class _Cell:
    """One direction of one node, as its steps see it.

    Attributes:
        activations: in the order of the node's attribute.
        recurrence: [gates*hidden, hidden], or what multiplies a state with all gates' weights.
        clip: bound of what enters an activation; 0 for none.
        bias: of the recurrent product where it must be apart (`linear_before_reset`), [hidden].
        peepholes: for the gates i, o, f, [hidden] each.
    """

    hidden: int
    activations: Sequence[Activation]
    recurrence: Value | Activation
    clip: float
    bias: Value | None = None
    peepholes: Sequence[Value] = ()
    coupled: bool = False
    before_reset: bool = False

    def gate(self, e: Emitter, gates: Value, index: int, count: int = 1) -> Value:
        """Gates `index` to `index + count` of [batch, gates*hidden]."""
        return e.slice(gates, 1, index * self.hidden, (index + count) * self.hidden)

    def activate(self, e: Emitter, which: int, value: Value) -> Value:
        return self.activations[which](e, e.clamp(value, -self.clip, self.clip) if self.clip else value)

    def recur(self, e: Emitter, state: Value, first: int = 0, last: int | None = None) -> Value:
        """The product of a state with the recurrent weights of gates `first` to `last`."""
        weights = self.recurrence
        if not isinstance(weights, Value):
            return weights(e, state)
        if last is not None:
            weights = e.slice(weights, 0, first * self.hidden, last * self.hidden)
        return e.emit(DotGeneral(state, weights, (), (), (1,), (1,)))


_Step: TypeAlias = "Callable[[Emitter, _Cell, Value, Sequence[Value]], list[Value]]"


def _rnn_step(e: Emitter, cell: _Cell, x: Value, state: Sequence[Value]) -> list[Value]:
    return [cell.activate(e, 0, e.binary("add", x, cell.recur(e, state[0])))]


def _gru_step(e: Emitter, cell: _Cell, x: Value, state: Sequence[Value]) -> list[Value]:
    """Gates z, r, h: next state = (1 - z) * g(h) + z * state, where r scales what h sees of the state."""
    (h,) = state
    if cell.before_reset:
        products = cell.recur(e, h)
        candidate = cell.gate(e, products, 2)
        if cell.bias is not None:
            candidate = e.binary("add", candidate, cell.bias)
        products = cell.gate(e, products, 0, 2)
    else:
        products = cell.recur(e, h, 0, 2)
    zr = cell.activate(e, 0, e.binary("add", cell.gate(e, x, 0, 2), products))
    z, r = cell.gate(e, zr, 0), cell.gate(e, zr, 1)
    if cell.before_reset:
        candidate = e.binary("mul", r, candidate)
    else:
        candidate = cell.recur(e, e.binary("mul", r, h), 2, 3)
    new = cell.activate(e, 1, e.binary("add", cell.gate(e, x, 2), candidate))
    return [e.binary("add", new, e.binary("mul", z, e.binary("sub", h, new)))]


def _lstm_step(e: Emitter, cell: _Cell, x: Value, state: Sequence[Value]) -> list[Value]:
    """Gates i, o, f, c: next cell = f * cell + i * g(c), next state = o * h(next cell)."""
    h, c = state
    gates = e.binary("add", x, cell.recur(e, h))

    def seeing(index: int, memory: Value) -> Value:
        gate = cell.gate(e, gates, index)
        return e.binary("add", gate, e.binary("mul", memory, cell.peepholes[index])) if cell.peepholes else gate

    i = cell.activate(e, 0, seeing(0, c))
    f = e.binary("sub", e.full(1, i.type), i) if cell.coupled else cell.activate(e, 0, seeing(2, c))
    new = e.binary("add", e.binary("mul", f, c), e.binary("mul", i, cell.activate(e, 1, cell.gate(e, gates, 3))))
    o = cell.activate(e, 0, seeing(1, new))
    return [e.binary("mul", o, cell.activations[2](e, new)), new]


_STEPS: dict[str, _Step] = {"LSTM": _lstm_step, "GRU": _gru_step, "RNN": _rnn_step}


@onnx_op("LSTM", "GRU", "RNN", since=7)
def recurrent(e: Emitter, n: Node) -> list[Value | None]:
    x, w, r = n.input(0), n.input(1), n.input(2)
    count, gates = len(_reverses(n)), _GATES[n.op_type]
    if x.type.rank != 3 or w.type.rank != 3 or r.type.rank != 3:
        n.fail(f"takes X, W and R of rank 3, got {x.type}, {w.type}, {r.type}")
    hidden = n.int("hidden_size", 0) or r.type.shape[2]
    expected = f"[{count}, {gates}*hidden, hidden] with hidden = {hidden}"
    if not isinstance(hidden, int):
        n.fail(f"R is {r.type}, expected {expected}")
    r = _stated(e, n, r, (count, gates * hidden, hidden), f"R is {r.type}, expected {expected}")
    w = _stated(e, n, w, (*r.type.shape[:2], w.type.shape[2]), f"W is {w.type} and R is {r.type}")

    def product(direction: int, x: Value) -> Value:
        return e.emit(DotGeneral(x, _row(e, w, direction), (), (), (2,), (1,)))

    return _directions(e, n, n.op_type, hidden, product, lambda direction: _row(e, r, direction))


def _stated(e: Emitter, n: Node, x: Value, shape: tuple[Dim, ...], reason: str) -> Value:
    """`x` of that shape; open sizes are checked when the program runs."""
    for found, size in zip(x.type.shape, shape, strict=True):
        if isinstance(found, int) and isinstance(size, int) and found != size:
            n.fail(reason)
        e.assume(found, size, f"{n.op_type}: {reason}")
    return e.reshape(x, shape)


def lstm(e: Emitter, n: Node, inputs: Product, states: Product) -> list[Value | None]:
    """An LSTM by its two products, for a node with ONNX's other inputs and attributes."""

    def recurrence(direction: int) -> Activation:
        return lambda e, state: states(direction, state)

    return _directions(e, n, "LSTM", int(n.required("hidden_size")), inputs, recurrence)


def _reverses(n: Node) -> tuple[bool, ...]:
    return _DIRECTIONS[n.choice("direction", "forward", tuple(_DIRECTIONS))]


def _directions(
    e: Emitter,
    n: Node,
    kind: str,
    hidden: int,
    product: Product,
    recurrence: Callable[[int], Value | Activation],
) -> list[Value | None]:
    x, b, lengths, h0, c0 = n.input(0), n.optional(3), n.optional(4), n.optional(5), n.optional(6)
    reverses = _reverses(n)
    count, gates = len(reverses), _GATES[kind]
    batch_first = n.int("layout", 0) == 1
    if batch_first:
        x = e.transpose(x, (1, 0, 2))
    length, batch, _ = x.type.shape
    mask = None if lengths is None else _mask(e, n, lengths, length, batch)
    initial = [_initial(e, n, v, count, batch, hidden, batch_first, x) for v in (h0, c0)[: 2 if gates == 4 else 1]]
    activations = _activations(n, kind, count)
    peepholes = n.optional(7) if gates == 4 else None
    last: list[list[Value]] = []
    sequences: list[Value] = []
    for d, reverse in enumerate(reverses):
        before_reset = gates == 3 and n.int("linear_before_reset", 0) != 0
        bias, apart = (None, None) if b is None else _bias(e, n, _row(e, b, d), gates, hidden, before_reset)
        projected = product(d, x)
        if bias is not None:
            projected = e.binary("add", projected, bias)
        views = [] if peepholes is None else _thirds(e, n, _row(e, peepholes, d), hidden)
        cell = _Cell(
            hidden,
            activations[d],
            recurrence(d),
            n.float("clip", 0.0),
            apart,
            views,
            n.int("input_forget", 0) != 0,
            before_reset,
        )
        state = [_row(e, v, d) for v in initial]
        state, sequence = _run(e, n, kind, cell, projected, state, mask, reverse)
        last.append(state)
        if sequence is not None:
            sequences.append(e.reshape(sequence, (length, 1, batch, hidden)))
    results: list[Value | None] = [None]
    if sequences:
        y = e.concat(sequences, 1)
        results = [e.transpose(y, (2, 0, 1, 3)) if batch_first else y]
    for which in range(len(initial)):
        state_d = e.concat([e.reshape(s[which], (1, batch, hidden)) for s in last], 0)
        results.append(e.transpose(state_d, (1, 0, 2)) if batch_first else state_d)
    return results


def _run(
    e: Emitter, n: Node, kind: str, cell: _Cell, x: Value, state: list[Value], mask: Value | None, reverse: bool
) -> tuple[list[Value], Value | None]:
    """The last states, and the states of all steps if they are wanted, of one direction.

    Args:
        x: [time, batch, gates*hidden]: what the inputs contribute to the gates.
        mask: [time, batch]: whether the step belongs to the sequence; a state stays as it is beyond its end.
    """
    wanted = n.wants(0)

    def step(x: Value, inside: Value | None, state: Sequence[Value]) -> tuple[list[Value], list[Value]]:
        new = _STEPS[kind](e, cell, x, state)
        output = new[0]
        if inside is not None:
            inside = e.reshape(inside, (*inside.type.shape, 1))
            output = e.select(inside, output, e.full(0, output.type))
            new = [e.select(inside, a, b) for a, b in zip(new, state, strict=True)]
        return new, [output] if wanted else []

    length = x.type.shape[0]
    if length == 1:
        new, outputs = step(_row(e, x, 0), None if mask is None else _row(e, mask, 0), state)
        return new, outputs[0] if outputs else None
    inputs = (x,) if mask is None else (x, mask)
    slices = [TensorType(v.type.shape[1:], v.type.dtype) for v in inputs]
    body = Block([*(s.type for s in state), *slices])
    with e.into(body):
        carried, (now, *rest) = body.arguments[: len(state)], body.arguments[len(state) :]
        new, outputs = step(now, rest[0] if rest else None, carried)
        e.insert(Yield((*new, *outputs)))
    results = e.insert(Scan(tuple(state), inputs, length, Region(body), reverse))
    return results[: len(state)], results[-1] if wanted else None


def _row(e: Emitter, value: Value, index: int) -> Value:
    """``value[index]``."""
    shape = value.type.shape
    return e.reshape(e.slice(value, 0, index, index + 1), shape[1:])


def _mask(e: Emitter, n: Node, lengths: Value, length: Dim, batch: Dim) -> Value | None:
    """[time, batch]: whether the step lies inside of the sequence; None when every one does."""
    if lengths.type.rank != 1:
        n.fail(f"sequence_lens is {lengths.type}, expected a vector")
    known = e.array(lengths)
    if known is not None and isinstance(length, int) and (known >= length).all():
        return None
    shape = (length, batch)
    steps = e.emit(Iota(shape, 0, lengths.type.dtype))
    return e.compare("lt", steps, e.broadcast(e.reshape(lengths, (batch,)), shape, (1,)))


def _initial(
    e: Emitter, n: Node, value: Value | None, count: int, batch: Dim, hidden: int, batch_first: bool, x: Value
) -> Value:
    """An initial state as [directions, batch, hidden]; zeros when the model gives none."""
    if value is None:
        return e.full(0, x.type.with_shape((count, batch, hidden)))
    if value.type.rank != 3:
        n.fail(f"an initial state is {value.type}, expected rank 3")
    if batch_first:
        value = e.transpose(value, (1, 0, 2))
    for found, expected in zip(value.type.shape, (count, batch, hidden), strict=True):
        if isinstance(found, int) and isinstance(expected, int) and found != expected:
            n.fail(f"an initial state is {value.type}, expected [{count}, {batch}, {hidden}]")
        e.assume(found, expected)
    return e.reshape(value, (count, batch, hidden))


def _bias(e: Emitter, n: Node, both: Value, gates: int, hidden: int, before_reset: bool) -> tuple[Value, Value | None]:
    """What is added to every step's inputs [gates*hidden], and the candidate's recurrent bias if it must be apart."""
    if both.type.shape != (2 * gates * hidden,):
        n.fail(f"B has {both.type} for a direction, expected {2 * gates * hidden} elements")
    ours, recurrent_ = e.slice(both, 0, 0, gates * hidden), e.slice(both, 0, gates * hidden, 2 * gates * hidden)
    if not before_reset:
        return e.binary("add", ours, recurrent_), None
    split = 2 * hidden
    joined = e.binary("add", e.slice(ours, 0, 0, split), e.slice(recurrent_, 0, 0, split))
    return e.concat([joined, e.slice(ours, 0, split, 3 * hidden)], 0), e.slice(recurrent_, 0, split, 3 * hidden)


def _thirds(e: Emitter, n: Node, value: Value, hidden: int) -> list[Value]:
    if value.type.shape != (3 * hidden,):
        n.fail(f"P has {value.type} for a direction, expected {3 * hidden} elements")
    return [e.slice(value, 0, g * hidden, (g + 1) * hidden) for g in range(3)]


def _activations(n: Node, kind: str, directions: int) -> list[list[Activation]]:
    """The functions of each direction; alphas and betas go, in order, to those that take one."""
    names = n.attribute("activations") or list(_DEFAULT_ACTIVATIONS[kind]) * directions
    each = len(_DEFAULT_ACTIVATIONS[kind])
    if len(names) != each * directions:
        n.fail(f"{len(names)} activations given, {each * directions} expected")
    alphas, betas = list(n.attribute("activation_alpha", [])), list(n.attribute("activation_beta", []))
    found = []
    for name in names:
        if name.lower() not in _PARAMETERS:
            n.fail(f"activation '{name}' is not supported", help=f"supported: {', '.join(sorted(_PARAMETERS))}")
        alpha, beta = _PARAMETERS[name.lower()]
        if alpha is not None and alphas:
            alpha = float(alphas.pop(0))
        if beta is not None and betas:
            beta = float(betas.pop(0))
        found.append(_activation(name.lower(), alpha or 0.0, beta or 0.0))
    return [found[d * each : (d + 1) * each] for d in range(directions)]


def _activation(name: str, alpha: float, beta: float) -> Activation:
    def apply(e: Emitter, x: Value) -> Value:
        zero = e.full(0, x.type)
        match name:
            case "relu":
                return e.binary("max", x, zero)
            case "leakyrelu":
                return e.select(e.compare("lt", x, zero), e.binary("mul", x, alpha), x)
            case "thresholdedrelu":
                return e.select(e.compare("gt", x, alpha), x, zero)
            case "elu":
                return e.select(e.compare("lt", x, zero), e.binary("mul", e.unary("expm1", x), alpha), x)
            case "affine":
                return e.binary("add", e.binary("mul", x, alpha), beta)
            case "scaledtanh":
                return e.binary("mul", e.unary("tanh", e.binary("mul", x, beta)), alpha)
            case "hardsigmoid":
                return e.clamp(e.binary("add", e.binary("mul", x, alpha), beta), 0, 1)
            case "softsign":
                return e.binary("div", x, e.binary("add", e.unary("abs", x), 1))
            case "softplus":
                small = e.unary("exp", e.unary("neg", e.unary("abs", x)))  # never overflows
                return e.binary("add", e.binary("max", x, zero), e.unary("log1p", small))
        return e.unary(name, x)

    return apply
