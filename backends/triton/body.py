"""Loop-level nodes as Triton expressions on blocks.

A kernel works on a *tile*: a block of values of some axes at a time. Each value is a block that has, for each dimension
of the tile, either all of its positions or one (``[64, 1]``): dimensions on which it does not depend are left to
broadcasting. What depends on none is a scalar. One line a node, as the reader would write it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ds_compiler.backends.loops.ir import Axis, Condition, Index, Node, Store
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.sizes import size_text
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.types import TensorType
from ds_compiler.ops.elementwise import BINARY, COMPARE, PREDICATE

_INDEXING = ("index", "size", "index_div", "index_mod")
_PLAIN = {"index": "at", "load": "x"}


@dataclass(frozen=True, slots=True)
class Block:
    """An expression, the tile's dimensions that it varies along, and whether it is a Python literal."""

    text: str
    dims: frozenset[int] = frozenset()
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Buffer:
    """A pointer parameter and what it points to."""

    name: str
    type: TensorType


class Body:
    """Emission state of one place in a kernel.

    Args:
        shape: positions of the tile's dimensions.
        wide: whether positions need 64 bits.

    Attributes:
        axes: current value of each axis.
        masks: for each dimension of the tile the condition that a position exists; absent: all do.
        given: values of nodes that are not computed here (sums of a product).
        reduced: results of the reductions so far.
        narrow: loads keep the type that they have in memory (operands of tensor cores).
    """

    def __init__(self, writer: Writer, buffers: Sequence[Buffer], shape: Sequence[int], *, wide: bool) -> None:
        self.writer, self.buffers, self.shape, self.wide = writer, buffers, tuple(shape), wide
        self.axes: dict[Axis, Block] = {}
        self.masks: dict[int, str] = {}
        self.given: dict[Node, Block] = {}
        self.reduced: dict[int, Block] = {}
        self.narrow = False
        self._guards: list[Block] = []
        self._scopes: list[dict[object, Block]] = [{}]

    # -- the tile ------------------------------------------------------------------------------
    def positions(self, dim: int, start: str = "", hint: str = "i") -> Block:
        """``start + arange`` along a dimension of the tile."""
        size = self.shape[dim]
        text = f"tl.arange(0, {size})"
        if len(self.shape) > 1:
            text += "[" + ", ".join(":" if d == dim else "None" for d in range(len(self.shape))) + "]"
        if self.wide:
            text += ".to(tl.int64)"
        return Block(self.writer.assign(hint, f"{start} + {text}" if start else text), frozenset([dim]))

    def place(self, axes: Sequence[Axis], flat: Block) -> None:
        """Give axes, outermost first, the values that make up the flat position `flat`."""
        rest = flat
        for number, axis in enumerate(axes):
            if number == len(axes) - 1:
                self.axes[axis] = rest
                return
            step: Dim = 1
            for inner in axes[number + 1 :]:
                step = step * inner.extent
            divisor = _divisor(step)
            self.axes[axis] = Block(self.writer.assign("i", f"{rest.text} // {divisor}"), rest.dims)
            rest = Block(self.writer.assign("rest", f"{rest.text} % {divisor}"), rest.dims)

    def shape_text(self, dims: frozenset[int]) -> str:
        """The shape of a block that varies along `dims`: ``[64, 1]``."""
        return "[" + ", ".join(str(n if d in dims else 1) for d, n in enumerate(self.shape)) + "]"

    def mask(self, dims: frozenset[int]) -> Block | None:
        """The condition that positions along `dims` exist."""
        found = sorted(d for d in dims if d in self.masks)
        if not found:
            return None
        return Block(" & ".join(self.masks[d] for d in found), frozenset(found))

    # -- scopes --------------------------------------------------------------------------------
    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values emitted inside are forgotten at the end (a loop's body, a guarded value)."""
        self._scopes.append({})
        yield
        self._scopes.pop()

    def _known(self, key: object) -> Block | None:
        return next((scope[key] for scope in reversed(self._scopes) if key in scope), None)

    def hoist(self, roots: Iterable[Node], varying: frozenset[Axis]) -> None:
        """Emit here what does not depend on `varying` and is not guarded."""
        seen: set[Node] = set()

        def visit(node: Node) -> None:
            if node in seen or node in self.given:
                return
            seen.add(node)
            if not node.axes & varying and node.op not in (*_INDEXING, "const", "reduced"):
                if not any(n.op == "total" for n in (node, *node.operands)):
                    self.emit(node)
                return
            if node.op != "guard":
                for operand in node.operands:
                    visit(operand)

        for root in roots:
            visit(root)

    # -- indices -------------------------------------------------------------------------------
    def index(self, index: Index) -> Block:
        """An index, as narrow as positions are."""
        parts: list[str] = []
        dims: frozenset[int] = frozenset()
        for atom, coefficient in index.terms:
            value = self.axes[atom] if isinstance(atom, Axis) else self._atom(atom)
            dims |= value.dims
            parts.append(value.text if coefficient == 1 else f"{value.text} * {size_text(coefficient)}")
        if index.offset != 0 or not parts:
            parts.append(size_text(index.offset))
        return Block(" + ".join(parts), dims, literal=not index.terms and isinstance(index.offset, int))

    def _atom(self, node: Node) -> Block:
        """The value of a node that is part of an index."""
        key = ("atom", node)
        found = self._known(key)
        if found is None:
            found = self._scopes[-1][key] = self._make_atom(node)
        return found

    def _make_atom(self, node: Node) -> Block:
        match node.op:
            case "size":
                return Block(size_text(node.payload), literal=isinstance(node.payload, int))
            case "index":
                assert node.index is not None
                value = self.index(node.index)
                return value if value.literal else Block(self.writer.assign("at", value.text), value.dims)
            case "index_div" | "index_mod":
                flat = self._atom(node.operands[0])
                operator = "//" if node.op == "index_div" else "%"
                divisor = _divisor(node.operands[1].payload)
                return Block(self.writer.assign("at", f"{flat.text} {operator} {divisor}"), flat.dims)
        value = self.emit(node)  # read from memory: clamped into range, so that it fits
        if self.wide or value.literal:
            return value
        return Block(self.writer.assign("at", f"{value.text}.to(tl.int32)"), value.dims)

    # -- nodes ---------------------------------------------------------------------------------
    def emit(self, node: Node) -> Block:
        """The value of `node` here."""
        if node in self.given:
            return self.given[node]
        if node.op == "const":
            return Block(scalars.literal(node.payload, node.dtype), literal=True)
        if node.op == "reduced":
            return self.reduced[node.payload]
        value = self._known(node)
        if value is None:
            value = self._scopes[-1][node] = self._emit(node)
        return value

    def _emit(self, node: Node) -> Block:
        match node.op:
            case "size" | "index" | "index_div" | "index_mod":
                value = self._atom(node)
                return value if value.literal else Block(f"{_closed(value.text)}.to(tl.int64)", value.dims)
            case "load":
                assert node.index is not None
                return self._load(node.payload, node.index, node.dtype)
            case "guard":
                return self._guard(node)
        operands = [self.emit(o) for o in node.operands]
        if all(o.literal for o in operands):
            first = node.operands[0].dtype
            operands[0] = self.materialised(operands[0], first)
        texts = [_closed(o.text) for o in operands]
        dims = frozenset[int]().union(*(o.dims for o in operands))
        return Block(self.writer.assign(_PLAIN.get(node.op, node.op), self._expression(node, texts)), dims)

    def materialised(self, value: Block, dtype: DType) -> Block:
        """A literal as a value of its element type; what is none already, as it is."""
        if not value.literal:
            return value
        text = f"tl.full([], {value.text}, {scalars.compute_type(dtype)})"
        return Block(self.writer.assign("const", text))

    def _expression(self, node: Node, texts: list[str]) -> str:
        source = node.operands[0].dtype
        match node.op:
            case "cast":
                return scalars.cast(texts[0], source, node.dtype)
            case "bitcast":
                return scalars.bitcast(texts[0], source, node.dtype)
            case "select":
                return f"tl.where({', '.join(texts)})"
        if node.op in BINARY:
            return scalars.binary(node.op, texts[0], texts[1], node.dtype)
        if node.op in COMPARE:
            return scalars.compare(node.op, texts[0], texts[1])
        if node.op in PREDICATE:
            return scalars.predicate(node.op, texts[0])
        return scalars.unary(node.op, texts[0], node.dtype)

    # -- memory --------------------------------------------------------------------------------
    def _load(self, buffer: int, index: Index, dtype: DType) -> Block:
        source = self.buffers[buffer]
        at = self.index(index)
        mask = self.mask(at.dims)
        conditions = [*([mask] if mask else []), *self._guards]
        dims = at.dims.union(*(c.dims for c in conditions))
        pointer = f"{source.name} + {_closed(at.text)}" if at.text != "0" else source.name
        text = self.load_text(pointer, at.dims, conditions, dims)
        return Block(self.writer.assign("x", text if self.narrow else scalars.from_memory(text, dtype)), dims)

    def load_text(self, pointer: str, own: frozenset[int], conditions: Sequence[Block], dims: frozenset[int]) -> str:
        """A load at `pointer`, which varies along `own`, where all `conditions` hold; 0 elsewhere."""
        if not conditions:
            return f"tl.load({pointer})"
        if dims != own:  # a mask must not have more positions than the pointers
            pointer = f"{pointer} + tl.zeros({self.shape_text(dims)}, tl.int32)"
        mask = " & ".join(_closed(c.text) if len(conditions) > 1 else c.text for c in conditions)
        return f"tl.load({pointer}, mask={mask}, other=0)"

    def _guard(self, node: Node) -> Block:
        conditions = [self._holds(c) for c in node.payload]
        dims = frozenset[int]().union(*(c.dims for c in conditions))
        holds = Block(self.writer.assign("inside", " & ".join(c.text for c in conditions)), dims)
        inside = self._under(holds, node.operands[0])
        if node.operands[1].op == "const":
            outside = self.emit(node.operands[1])
        else:  # it, too, may only be read where it is wanted
            outside = self._under(Block(f"({holds.text} == 0)", dims), node.operands[1])
        if inside.literal and outside.literal:
            inside = self.materialised(inside, node.dtype)
        return Block(
            self.writer.assign("guarded", f"tl.where({holds.text}, {inside.text}, {outside.text})"),
            dims | inside.dims | outside.dims,
        )

    def _under(self, condition: Block, node: Node) -> Block:
        self._guards.append(condition)
        with self.scope():
            value = self.emit(node)
        self._guards.pop()
        return value

    def _holds(self, condition: Condition) -> Block:
        index, extent = condition
        value = self.index(index)
        text = _closed(value.text)
        low = f"({text} >= 0) & " if _may_be_negative(index) else ""
        return Block(f"{low}({text} < {size_text(extent)})", value.dims)

    def pointer(self, step: Store) -> str:
        """Where a step writes."""
        name, at = self.buffers[step.buffer].name, self.index(step.index)
        return f"{name} + {_closed(at.text)}" if at.text != "0" else name

    def store(self, step: Store) -> None:
        """Write a step's value here, wherever positions exist."""
        target = self.buffers[step.buffer]
        value = self.emit(step.value)
        at = self.index(step.index)
        dtype = target.type.dtype
        if value.literal:
            value = self.materialised(value, dtype)
        dims = at.dims | value.dims
        mask = self.mask(dims)
        if mask is None and dims != at.dims:
            mask = Block("True")
        pointer = self.pointer(step)
        if dims != at.dims:
            pointer = f"{pointer} + tl.zeros({self.shape_text(dims)}, tl.int32)"
        stored = scalars.to_memory(_closed(value.text), dtype)
        masked = f", mask={mask.text}" if mask else ""
        if step.mode == "set":
            self.writer.line(f"tl.store({pointer}, {stored}{masked})")
        else:
            self.writer.line(f"tl.atomic_{step.mode}({pointer}, {stored}{masked}, sem='relaxed')")


def _closed(text: str) -> str:
    """`text` in parentheses unless it is one name, number or call."""
    simple = text.replace("_", "a").replace(".", "a")
    return text if simple.isalnum() or (text.startswith("(") and _matches(text)) else f"({text})"


def _matches(text: str) -> bool:
    """Whether the first parenthesis closes at the very end."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return place == len(text) - 1
    return False


def _divisor(dim: Dim) -> str:
    """A size to divide by: an empty dimension must not trap."""
    if isinstance(dim, int):
        return str(max(dim, 1))
    return f"tl.maximum({size_text(dim)}, 1)"


def _may_be_negative(index: Index) -> bool:
    constant = index.offset
    if not isinstance(constant, int) or constant < 0:
        return True
    return any(
        not isinstance(c, int) or c < 0 or (isinstance(a, Node) and a.op not in _INDEXING) for a, c in index.terms
    )


def names_of(buffers: Sequence[TensorType], inputs: int) -> list[Buffer]:
    """Parameters for a kernel's operands and results."""
    return [Buffer(f"in{n}" if n < inputs else f"out{n - inputs}", type_) for n, type_ in enumerate(buffers)]
