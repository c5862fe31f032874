"""Emits loop-level nodes as scalar or vector instructions.

A node that depends on the vector axis becomes a vector of `lanes` elements at consecutive positions of that axis;
all others are scalars, computed once outside the loop (`hoist`) and splatted where needed. Loads are contiguous
vectors, splats or gathers by the coefficient of the vector axis in their index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from ds_compiler.backends.llvm import scalars
from ds_compiler.backends.llvm.builder import FunctionBuilder, V, bytes_of, constant, intrinsic_suffix, vector_of
from ds_compiler.backends.llvm.sizes import emit_size
from ds_compiler.backends.loops.ir import Axis, Condition, Index, Node, Store
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.dtypes import DType
from ds_compiler.ops.elementwise import BINARY, COMPARE, PREDICATE

_ZEROS = 64  # bytes of zeros that a guarded-out vector load reads


class Body:
    """Emission state of one place in a kernel.

    Attributes:
        buffers: pointer and element type of each buffer.
        axes: current value of each axis (of the vector axis: that of lane 0).
        vector, lanes: the vector axis, and how many lanes (0: everything is scalar).
        mask: lanes that exist, None for all.
        reduced: results of the reductions so far.
        given: values of nodes that are not computed here (a matmul's accumulator).
    """

    def __init__(self, fb: FunctionBuilder, buffers: list[tuple[V, DType]], symbols: Mapping[str, V]) -> None:
        self.fb, self.buffers, self.symbols = fb, buffers, symbols
        self.axes: dict[Axis, V] = {}
        self.vector: Axis | None = None
        self.lanes = 0
        self.mask: V | None = None
        self.reduced: dict[int, V] = {}
        self.given: dict[Node, V] = {}
        self._guards: list[V] = []
        self._scopes: list[dict[object, V]] = [{}]
        self._bases: list[dict[tuple[int, Index], tuple[V, frozenset[Axis | Node]]]] = [{}]

    # -- scopes --------------------------------------------------------------------------------
    @contextmanager
    def scope(self) -> Iterator[None]:
        """Values emitted inside are forgotten at the end (a loop body, a branch)."""
        self._scopes.append({})
        self._bases.append({})
        try:
            yield
        finally:
            self._scopes.pop()
            self._bases.pop()

    @contextmanager
    def lanes_at(self, axis: Axis, base: V, lanes: int, mask: V | None = None) -> Iterator[None]:
        """Inside, `axis` is the vector axis, lane 0 standing at `base`."""
        saved = self.vector, self.lanes, self.mask
        self.vector, self.lanes, self.mask = (axis, lanes, mask) if lanes else (None, 0, None)
        self.axes[axis] = base
        try:
            with self.scope():
                yield
        finally:
            self.vector, self.lanes, self.mask = saved

    def _known(self, key: object) -> V | None:
        for scope in reversed(self._scopes):
            found = scope.get(key)
            if found is not None:
                return found
        return None

    def size(self, dim: Dim) -> V:
        """A size as i64."""
        if isinstance(dim, int):
            return self.fb.i64(dim)
        value = self._known(dim)
        if value is None:
            value = self._scopes[-1][dim] = emit_size(self.fb, dim, self.symbols)
        return value

    def hoist(self, roots: Iterable[Node], indices: Iterable[Index], varying: frozenset[Axis]) -> None:
        """Emit here what does not depend on `varying`: whole nodes, and the fixed part of addresses."""
        seen: set[Node] = set()

        def visit_index(index: Index) -> None:
            for atom, coefficient in index.terms:
                if isinstance(atom, Node):
                    visit(atom)
                self.size(coefficient)
            self.size(index.offset)

        def visit(node: Node) -> None:
            if node in seen:
                return
            seen.add(node)
            if not (node.axes & varying):
                self.emit(node)
                return
            if node.op == "load":
                assert node.index is not None
                visit_index(node.index)
                self._base(node.payload, node.index, varying)
            elif node.op == "index":
                assert node.index is not None
                visit_index(node.index)
            elif node.op == "guard":
                for index, extent in node.payload:
                    visit_index(index)
                    self.size(extent)
            else:
                for operand in node.operands:
                    visit(operand)

        for root in roots:
            visit(root)
        for index in indices:
            visit_index(index)

    # -- indices -------------------------------------------------------------------------------
    def _depends(self, atom: Axis | Node) -> bool:
        if self.vector is None:
            return False
        return atom is self.vector if isinstance(atom, Axis) else self.vector in atom.axes

    def _scalar_part(self, index: Index, varying: frozenset[Axis] = frozenset()) -> V:
        """Sum of the terms that are equal in all lanes (and independent of `varying`), plus the offset."""
        fb = self.fb
        total = self.size(index.offset)
        for atom, coefficient in index.terms:
            if self._depends(atom):
                continue
            if isinstance(atom, Axis):
                if atom in varying:
                    continue
                value = self.axes[atom]
            else:
                if atom.axes & varying:
                    continue
                value = self.emit(atom)
            total = fb.add(total, fb.mul(value, self.size(coefficient)))
        return total

    def _base(self, buffer: int, index: Index, varying: frozenset[Axis]) -> None:
        """Remember the address of the part of `index` that a following loop does not change."""
        key = (buffer, index)
        if any(key in scope for scope in self._bases):
            return
        pointer, dtype = self.buffers[buffer]
        fixed = [
            (a, c)
            for a, c in index.terms
            if not ((a in varying) if isinstance(a, Axis) else (a.axes & varying)) and not self._depends(a)
        ]
        at = self._scalar_part(Index(tuple(fixed), index.offset))
        base = self.fb.gep(scalars.memory_type(dtype), pointer, at)
        self._bases[-1][key] = base, frozenset(a for a, _ in fixed)

    def address(self, buffer: int, index: Index) -> tuple[V, Dim, list[tuple[Node, Dim]]]:
        """Pointer for lane 0's scalar part, coefficient of the vector axis, and lane-varying atoms."""
        fb = self.fb
        pointer, dtype = self.buffers[buffer]
        element = scalars.memory_type(dtype)
        step: Dim = 0
        varying: list[tuple[Node, Dim]] = []
        for atom, coefficient in index.terms:
            if self._depends(atom):
                if isinstance(atom, Axis):
                    step = coefficient
                else:
                    varying.append((atom, coefficient))
        base = next((scope[buffer, index] for scope in reversed(self._bases) if (buffer, index) in scope), None)
        if base is not None:
            pointer, fixed = base
            offset = self._scalar_part(Index(tuple((a, c) for a, c in index.terms if a not in fixed)))
        else:
            offset = self._scalar_part(index)
        if self.vector is not None and step != 0:
            offset = fb.add(offset, fb.mul(self.axes[self.vector], self.size(step)))
        return fb.gep(element, pointer, offset), step, varying

    def index_value(self, index: Index) -> V:
        """An index as i64: a vector when it differs between lanes."""
        fb = self.fb
        total = self._scalar_part(index)
        if self.vector is None or self.vector not in index.axes:
            return total
        step = index.coefficient(self.vector)
        if step != 0:
            total = fb.add(total, fb.mul(self.axes[self.vector], self.size(step)))
        wide = fb.splat(total, self.lanes)
        if step != 0:
            iota = fb.iota("i64", self.lanes)
            wide = fb.add(wide, iota if step == 1 else fb.mul(iota, fb.splat(self.size(step), self.lanes)))
        for atom, coefficient in index.terms:
            if isinstance(atom, Node) and self._depends(atom):
                value = self.vectorised(self.emit(atom))
                if coefficient != 1:
                    value = fb.mul(value, fb.splat(self.size(coefficient), self.lanes))
                wide = fb.add(wide, value)
        return wide

    def vectorised(self, value: V) -> V:
        """`value` as a vector, when vectors are being emitted."""
        return value if value.lanes or not self.lanes else self.fb.splat(value, self.lanes)

    # -- nodes ---------------------------------------------------------------------------------
    def emit(self, node: Node) -> V:
        """The value of `node` here: a vector if it depends on the vector axis, else a scalar."""
        given = self.given.get(node)
        if given is not None:
            return given
        value = self._known(node)
        if value is None:
            value = self._emit(node)
            self._scopes[-1][node] = value
        return value

    def _emit(self, node: Node) -> V:
        fb = self.fb
        match node.op:
            case "const":
                return constant(scalars.compute_type(node.dtype), node.payload)
            case "size":
                return self.size(node.payload)
            case "index":
                assert node.index is not None
                return self.index_value(node.index)
            case "load":
                assert node.index is not None
                return self._load(node.payload, node.index, node.dtype)
            case "guard":
                return self._guard(node)
            case "reduced":
                return self.reduced[node.payload]
        operands = [self.emit(o) for o in node.operands]
        if any(o.lanes for o in operands):
            operands = [self.vectorised(o) for o in operands]
        source = node.operands[0].dtype
        match node.op:
            case "cast":
                return scalars.cast(fb, operands[0], source, node.dtype)
            case "bitcast":
                return scalars.bitcast(fb, operands[0], source, node.dtype)
            case "select":
                return fb.select(*operands)
            case "index_div" | "index_mod":
                return self._index_division(node, operands)
        if node.op in BINARY:
            return scalars.binary(fb, node.op, operands[0], operands[1], node.dtype)
        if node.op in COMPARE:
            return scalars.compare(fb, node.op, operands[0], operands[1], source)
        if node.op in PREDICATE:
            return scalars.predicate(fb, node.op, operands[0])
        return scalars.unary(fb, node.op, operands[0], node.dtype)

    def _index_division(self, node: Node, operands: list[V]) -> V:
        """Quotient or remainder of an index by a size: neither is negative, and 0 must not trap."""
        fb = self.fb
        a, b = operands
        dim = node.operands[1].payload
        if not (isinstance(dim, int) and dim > 0):
            b = fb.intrinsic("smax", b, constant(b.type, 1))
        if a.lanes:
            return fb.binary("udiv" if node.op == "index_div" else "urem", a, b)
        return fb.sdiv(a, b) if node.op == "index_div" else fb.srem(a, b)

    # -- memory --------------------------------------------------------------------------------
    def _conditions(self) -> tuple[V | None, V | None]:
        """(scalar condition, lane mask) under which memory may be touched."""
        scalar: V | None = None
        lanes = self.mask
        for guard in self._guards:
            if guard.lanes:
                lanes = guard if lanes is None else self.fb.binary("and", lanes, guard)
            else:
                scalar = guard if scalar is None else self.fb.binary("and", scalar, guard)
        return scalar, lanes

    def _zeros(self) -> V:
        return self.fb.module.global_("dsc_zeros", f"internal constant [{_ZEROS} x i8] zeroinitializer, align 64")

    def _load(self, buffer: int, index: Index, dtype: DType) -> V:
        fb = self.fb
        element = scalars.memory_type(dtype)
        at, step, varying = self.address(buffer, index)
        scalar, mask = self._conditions()
        if self._guards:
            if scalar is not None:
                at = fb.select(scalar, at, self._zeros())
        else:
            scalar = None
        if step == 0 and not varying:  # one element for all lanes
            guard_lanes = [g for g in self._guards if g.lanes]
            if guard_lanes:
                any_lane = guard_lanes[0]
                for other in guard_lanes[1:]:
                    any_lane = fb.binary("and", any_lane, other)
                at = fb.select(self._any(any_lane), at, self._zeros())
            return scalars.from_memory(fb, fb.load(element, at), dtype)
        type_ = vector_of(element, self.lanes)
        if step == 1 and not varying:
            if bytes_of(type_) > _ZEROS and scalar is not None:
                raise ValueError(f"a guarded load of {type_} is wider than the zero block")
            loaded = fb.load(type_, at) if mask is None else fb.masked_load(type_, at, mask)
            return scalars.from_memory(fb, loaded, dtype)
        offsets = self._lane_offsets(step, varying)
        if mask is None and scalar is None:
            mask = constant(vector_of("i1", self.lanes), True)
        elif scalar is not None:
            wide = fb.splat(scalar, self.lanes)
            mask = wide if mask is None else fb.binary("and", mask, wide)
        assert mask is not None
        pointers = fb.emit(f"<{self.lanes} x ptr>", f"getelementptr {element}, ptr {at.ref}, {offsets}")
        return scalars.from_memory(fb, self._gather(type_, pointers, mask), dtype)

    def _gather(self, type_: str, pointers: V, mask: V) -> V:
        fb = self.fb
        align = bytes_of(V(type_, "").element)
        name = fb.module.declare(
            f"llvm.masked.gather.{intrinsic_suffix(type_)}.v{pointers.lanes}p0",
            type_,
            [pointers.type, "i32 immarg", mask.type, type_],
        )
        return fb.emit(type_, f"call {type_} @{name}({pointers}, i32 {align}, {mask}, {type_} zeroinitializer)")

    def _any(self, mask: V) -> V:
        fb = self.fb
        name = fb.module.declare(f"llvm.vector.reduce.or.v{mask.lanes}i1", "i1", [mask.type])
        return fb.call(name, "i1", mask)

    def _lane_offsets(self, step: Dim, varying: list[tuple[Node, Dim]]) -> V:
        fb = self.fb
        offsets: V | None = None
        if step != 0:
            iota = fb.iota("i64", self.lanes)
            offsets = iota if step == 1 else fb.mul(iota, fb.splat(self.size(step), self.lanes))
        for atom, coefficient in varying:
            value = self.vectorised(self.emit(atom))
            if coefficient != 1:
                value = fb.mul(value, fb.splat(self.size(coefficient), self.lanes))
            offsets = value if offsets is None else fb.add(offsets, value)
        assert offsets is not None
        return offsets

    def _guard(self, node: Node) -> V:
        fb = self.fb
        condition: V | None = None
        for index, extent in node.payload:
            holds = self._holds((index, extent))
            if condition is None:
                condition = holds
            else:
                if condition.lanes != holds.lanes:
                    condition, holds = self.vectorised(condition), self.vectorised(holds)
                condition = fb.binary("and", condition, holds)
        assert condition is not None
        self._guards.append(condition)
        with self.scope():
            inside = self.emit(node.operands[0])
        # The other operand, too, may only be read where it is wanted: the last part of a concatenation has no elements
        # in front of its first one.
        self._guards[-1] = fb.binary("xor", condition, constant(condition.type, True))
        with self.scope():
            outside = self.emit(node.operands[1])
        self._guards.pop()
        if inside.lanes or outside.lanes or condition.lanes:
            inside, outside = self.vectorised(inside), self.vectorised(outside)
        return fb.select(condition, inside, outside)

    def _holds(self, condition: Condition) -> V:
        """0 <= index < extent, as one unsigned comparison."""
        value = self.index_value(condition[0])
        extent = self.size(condition[1])
        return self.fb.icmp("ult", value, self.fb.splat(extent, value.lanes) if value.lanes else extent)

    def store(self, step: Store) -> None:
        """Write a step's value here (all lanes that exist)."""
        fb = self.fb
        _, dtype = self.buffers[step.buffer]
        element = scalars.memory_type(dtype)
        value = self.emit(step.value)
        at, stride, varying = self.address(step.buffer, step.index)
        if self.vector is None or (stride == 0 and not varying):
            if value.lanes:  # along an axis of one element: the other lanes do not exist
                value = fb.extract(value, 0)
            if step.mode != "set":
                old = scalars.from_memory(fb, fb.load(element, at), dtype)
                value = scalars.combine(fb, step.mode, old, value, dtype)
            fb.store(scalars.to_memory(fb, value, dtype), at)
            return
        value = self.vectorised(value)
        if step.mode != "set":
            if stride != 1 or varying:
                raise ValueError("lanes of a combining store lie side by side")
            type_ = vector_of(element, self.lanes)
            held = fb.load(type_, at) if self.mask is None else fb.masked_load(type_, at, self.mask)
            value = scalars.combine(fb, step.mode, scalars.from_memory(fb, held, dtype), value, dtype)
        stored = scalars.to_memory(fb, value, dtype)
        if stride == 1 and not varying:
            if self.mask is None:
                fb.store(stored, at)
            else:
                fb.masked_store(stored, at, self.mask)
            return
        offsets = self._lane_offsets(stride, varying)
        pointers = fb.emit(f"<{self.lanes} x ptr>", f"getelementptr {element}, ptr {at.ref}, {offsets}")
        mask = self.mask or constant(vector_of("i1", self.lanes), True)
        name = fb.module.declare(
            f"llvm.masked.scatter.{intrinsic_suffix(stored.type)}.v{self.lanes}p0",
            "void",
            [stored.type, pointers.type, "i32 immarg", mask.type],
        )
        fb.void(f"call void @{name}({stored}, {pointers}, i32 {bytes_of(element)}, {mask})")
