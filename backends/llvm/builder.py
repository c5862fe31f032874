"""LLVM assembly text, built function by function.

Text instead of `llvmlite.ir` objects: vector intrinsics need no wrappers, the emitter is typed, and
printing costs nothing (`llvmlite.binding.parse_assembly` takes 3 ms for 700 lines). Every method
appends one instruction and returns its result as a `V`.

Types are LLVM type strings: ``i1 i8 i16 i32 i64 half bfloat float double ptr`` and vectors ``<8 x float>``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class V:
    """An LLVM value: its type and how it is written as an operand (``%12``, ``7``, ``0x7FF...``)."""

    type: str
    ref: str

    @property
    def lanes(self) -> int:
        """Number of vector lanes; 0 for a scalar."""
        return int(self.type[1:].split(" ", 1)[0]) if self.type.startswith("<") else 0

    @property
    def element(self) -> str:
        """Element type of a vector, or the type itself."""
        return self.type[1:-1].split(" x ", 1)[1] if self.type.startswith("<") else self.type

    def __str__(self) -> str:
        return f"{self.type} {self.ref}"


def vector_of(element: str, lanes: int) -> str:
    """The type of `lanes` elements; `lanes` 0 means a scalar."""
    return f"<{lanes} x {element}>" if lanes else element


def known(value: V) -> int | None:
    """The integer a scalar constant stands for; None for a run-time value."""
    return int(value.ref) if not value.lanes and value.ref.lstrip("-").isdigit() else None


_FLOAT_HEX = {"float", "double"}


def constant(type_: str, value: int | float | bool) -> V:
    """A scalar constant, or a splat of it when `type_` is a vector."""
    lanes, element = V(type_, "").lanes, V(type_, "").element
    if element in ("float", "double", "half", "bfloat"):
        if element == "double":
            bits = struct.unpack("<Q", struct.pack("<d", float(value)))[0]
            text = f"0x{bits:016X}"
        elif element == "float":
            # LLVM writes a float as the hexadecimal double of the same value.
            try:
                narrowed = struct.unpack("<f", struct.pack("<f", float(value)))[0]
            except OverflowError:
                narrowed = float("inf") if value > 0 else float("-inf")
            bits = struct.unpack("<Q", struct.pack("<d", narrowed))[0]
            text = f"0x{bits:016X}"
        elif element == "half":
            text = f"0xH{struct.unpack('<H', struct.pack('<e', float(value)))[0]:04X}"
        else:
            raw: int = struct.unpack("<I", struct.pack("<f", float(value)))[0]
            text = f"0xR{(raw + 0x7FFF + ((raw >> 16) & 1)) >> 16:04X}"
    elif element == "i1":
        text = "true" if value else "false"
    elif element == "ptr":
        text = "null"
    else:
        text = str(int(value))
    if lanes:
        text = "<" + ", ".join(f"{element} {text}" for _ in range(lanes)) + ">"
    return V(type_, text)


@dataclass
class Loop:
    """A counted loop under construction; see `FunctionBuilder.loop`."""

    index: V
    carried: list[V]
    results: list[V] = field(default_factory=list)
    _next: list[V] | None = None

    def carry(self, *values: V) -> None:
        """Give the next iteration's values of `carried` (call once, at the end of the body)."""
        self._next = list(values)


class ModuleBuilder:
    """Collects functions, declarations and constants of one LLVM module."""

    def __init__(self, target_triple: str = "", data_layout: str = "") -> None:
        self.functions: dict[str, str] = {}
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._triple, self._layout = target_triple, data_layout

    def declare(self, name: str, result: str, parameters: Sequence[str], attributes: str = "") -> str:
        """Declare an external function or intrinsic once; returns its name."""
        self._declarations.setdefault(name, f"declare {result} @{name}({', '.join(parameters)}) {attributes}".rstrip())
        return name

    def global_(self, name: str, definition: str) -> V:
        """Add ``@name = definition`` once; returns its address."""
        self._globals.setdefault(name, f"@{name} = {definition}")
        return V("ptr", f"@{name}")

    def function(
        self,
        name: str,
        parameters: Sequence[tuple[str, str]],
        result: str = "void",
        *,
        internal: bool = False,
        attributes: str = "nounwind",
    ) -> FunctionBuilder:
        """Start a function; `parameters` are (type, name) pairs. Call `finish` on the result."""
        return FunctionBuilder(self, name, parameters, result, internal=internal, attributes=attributes)

    def text(self) -> str:
        """The whole module as LLVM assembly."""
        head = []
        if self._triple:
            head.append(f'target triple = "{self._triple}"')
        if self._layout:
            head.append(f'target datalayout = "{self._layout}"')
        return "\n".join([*head, *self._globals.values(), *self._declarations.values(), *self.functions.values(), ""])


_INVERSE_SUFFIX = {"float": "f32", "double": "f64", "half": "f16", "bfloat": "bf16"}


def intrinsic_suffix(type_: str) -> str:
    """Mangled type of an overloaded intrinsic: ``<8 x float>`` → ``v8f32``."""
    value = V(type_, "")
    element = _INVERSE_SUFFIX.get(value.element, value.element)
    return f"v{value.lanes}{element}" if value.lanes else element


class FunctionBuilder:
    """Emits the body of one function.

    `loop` and `if_` are structured helpers that place the phi nodes; straight-line instructions
    are one method each. Integer arithmetic folds when both operands are constants, so that a
    static extent leaves no instruction behind.
    """

    def __init__(
        self,
        module: ModuleBuilder,
        name: str,
        parameters: Sequence[tuple[str, str]],
        result: str,
        *,
        internal: bool,
        attributes: str,
    ) -> None:
        self.module, self.name, self._result = module, name, result
        self._internal, self._attributes = internal, attributes
        self._parameters = list(parameters)
        self.args: list[V] = [V(t.split(" ")[0] if not t.startswith("<") else t, f"%{n}") for t, n in parameters]
        self._lines: list[str] = []
        self._entry: list[str] = []
        self._counter = 0
        self._block = "entry"

    # -- plumbing -----------------------------------------------------------------------------
    def _name(self) -> str:
        self._counter += 1
        return f"%v{self._counter}"

    def _label(self, hint: str) -> str:
        self._counter += 1
        return f"{hint}{self._counter}"

    def emit(self, type_: str, text: str) -> V:
        """Append ``%n = text`` and return its result of type `type_`."""
        name = self._name()
        self._lines.append(f"  {name} = {text}")
        return V(type_, name)

    def void(self, text: str) -> None:
        """Append an instruction without a result."""
        self._lines.append(f"  {text}")

    def comment(self, text: str) -> None:
        """Append a comment line (for people reading ``--emit ir``)."""
        self._lines.append(f"  ; {text}")

    def _start_block(self, label: str) -> None:
        self._lines.append(f"{label}:")
        self._block = label

    @property
    def block(self) -> str:
        """Label of the block being filled."""
        return self._block

    def label(self, hint: str) -> str:
        """A new block's label, for control flow that the structured helpers do not cover; see `place`."""
        return self._label(hint)

    def place(self, label: str) -> None:
        """Start filling block `label`; the block before it must have ended in a branch."""
        self._start_block(label)

    def finish(self) -> None:
        """Close the function and add it to the module. `ret` must have been emitted."""
        parameters = ", ".join(f"{t} %{n}" for t, n in self._parameters)
        linkage = "internal " if self._internal else ""
        body = "\n".join(["entry:", *self._entry, *self._lines])
        self.module.functions[self.name] = (
            f"define {linkage}{self._result} @{self.name}({parameters}) {self._attributes} {{\n{body}\n}}"
        )

    # -- constants ----------------------------------------------------------------------------
    def const(self, type_: str, value: int | float | bool) -> V:
        """Constant of a scalar type, or a splat for a vector type."""
        return constant(type_, value)

    def i64(self, value: int) -> V:
        """An index constant."""
        return V("i64", str(value))

    # -- arithmetic ---------------------------------------------------------------------------
    def binary(self, opcode: str, a: V, b: V) -> V:
        """Any LLVM binary instruction (``fadd``, ``add nsw``, ``shl``, ``and`` …)."""
        if a.type != b.type:
            raise TypeError(f"{opcode}: {a} and {b}")
        return self.emit(a.type, f"{opcode} {a.type} {a.ref}, {b.ref}")

    def fadd(self, a: V, b: V) -> V:
        return self.binary("fadd", a, b)

    def fsub(self, a: V, b: V) -> V:
        return self.binary("fsub", a, b)

    def fmul(self, a: V, b: V) -> V:
        return self.binary("fmul", a, b)

    def fdiv(self, a: V, b: V) -> V:
        return self.binary("fdiv", a, b)

    def fneg(self, a: V) -> V:
        return self.emit(a.type, f"fneg {a}")

    def fma(self, a: V, b: V, c: V) -> V:
        """a*b + c, rounded once."""
        return self.intrinsic("fma", a, b, c)

    def intrinsic(self, name: str, *operands: V) -> V:
        """An ``llvm.<name>`` intrinsic overloaded on (and returning) the type of its first operand."""
        type_ = operands[0].type
        full = self.module.declare(f"llvm.{name}.{intrinsic_suffix(type_)}", type_, [o.type for o in operands])
        return self.call(full, type_, *operands)

    @staticmethod
    def _known(value: V) -> int | None:
        return known(value)

    def add(self, a: V, b: V) -> V:
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None:
            return V(a.type, str(x + y))
        if x == 0:
            return b
        if y == 0:
            return a
        return self.binary("add", a, b)

    def sub(self, a: V, b: V) -> V:
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None:
            return V(a.type, str(x - y))
        return a if y == 0 else self.binary("sub", a, b)

    def mul(self, a: V, b: V) -> V:
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None:
            return V(a.type, str(x * y))
        if x == 0 or y == 0:
            return V(a.type, "0")
        if x == 1:
            return b
        return a if y == 1 else self.binary("mul", a, b)

    def sdiv(self, a: V, b: V) -> V:
        """Truncating division; equals floor division for the non-negative sizes used in indexing."""
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None and x >= 0 and y > 0:
            return V(a.type, str(x // y))
        return a if y == 1 else self.binary("sdiv", a, b)

    def srem(self, a: V, b: V) -> V:
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None and x >= 0 and y > 0:
            return V(a.type, str(x % y))
        return V(a.type, "0") if y == 1 else self.binary("srem", a, b)

    def smin(self, a: V, b: V) -> V:
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None:
            return V(a.type, str(min(x, y)))
        return self.intrinsic("smin", a, b)

    def smax(self, a: V, b: V) -> V:
        x, y = self._known(a), self._known(b)
        if x is not None and y is not None:
            return V(a.type, str(max(x, y)))
        return self.intrinsic("smax", a, b)

    def icmp(self, predicate: str, a: V, b: V) -> V:
        return self.emit(vector_of("i1", a.lanes), f"icmp {predicate} {a.type} {a.ref}, {b.ref}")

    def fcmp(self, predicate: str, a: V, b: V) -> V:
        return self.emit(vector_of("i1", a.lanes), f"fcmp {predicate} {a.type} {a.ref}, {b.ref}")

    def select(self, condition: V, a: V, b: V) -> V:
        return self.emit(a.type, f"select {condition}, {a}, {b}")

    def cast(self, opcode: str, value: V, to: str) -> V:
        """A conversion instruction (``sitofp``, ``fptrunc``, ``zext``, ``bitcast`` …)."""
        return self.emit(to, f"{opcode} {value} to {to}")

    # -- vectors ------------------------------------------------------------------------------
    def splat(self, scalar: V, lanes: int) -> V:
        """Broadcast a scalar to all lanes (`lanes` 0 returns it unchanged)."""
        if not lanes:
            return scalar
        type_ = vector_of(scalar.type, lanes)
        if not scalar.ref.startswith(("%", "@")):
            text = ", ".join(f"{scalar}" for _ in range(lanes))
            return V(type_, f"<{text}>")
        one = self.emit(type_, f"insertelement {type_} poison, {scalar}, i64 0")
        return self.emit(type_, f"shufflevector {one}, {type_} poison, <{lanes} x i32> zeroinitializer")

    def extract(self, vector: V, lane: int | V) -> V:
        index = V("i64", str(lane)) if isinstance(lane, int) else lane
        return self.emit(vector.element, f"extractelement {vector}, {index}")

    def insert(self, vector: V, scalar: V, lane: int | V) -> V:
        index = V("i64", str(lane)) if isinstance(lane, int) else lane
        return self.emit(vector.type, f"insertelement {vector}, {scalar}, {index}")

    def shuffle(self, a: V, b: V, mask: Sequence[int]) -> V:
        """Lanes picked from the concatenation of `a` and `b`; -1 leaves a lane undefined."""
        type_ = vector_of(a.element, len(mask))
        lanes = ", ".join("i32 poison" if m < 0 else f"i32 {m}" for m in mask)
        return self.emit(type_, f"shufflevector {a}, {b}, <{len(mask)} x i32> <{lanes}>")

    def iota(self, element: str, lanes: int) -> V:
        """Constant vector 0, 1, …, lanes-1."""
        if element in _FLOAT_HEX:
            text = ", ".join(str(constant(element, i)) for i in range(lanes))
        else:
            text = ", ".join(f"{element} {i}" for i in range(lanes))
        return V(vector_of(element, lanes), f"<{text}>")

    def lane_mask(self, count: V, lanes: int) -> V:
        """Mask whose first `count` (i64) lanes are true; a constant when `count` is one."""
        known = self._known(count)
        if known is not None:
            return V(vector_of("i1", lanes), _prefix_mask(known, lanes))
        iota = self.iota("i64", lanes)
        return self.icmp("ult", iota, self.splat(count, lanes))

    # -- memory -------------------------------------------------------------------------------
    def gep(self, element: str, base: V, index: V) -> V:
        """Address of element `index` (i64) counted in units of `element` from `base`."""
        if index.ref == "0":
            return base
        return self.emit("ptr", f"getelementptr {element}, ptr {base.ref}, {index}")

    def load(self, type_: str, address: V, *, align: int | None = None) -> V:
        """Load; vectors are assumed aligned only to their element unless `align` (bytes) is given."""
        align = align or _natural_alignment(type_)
        return self.emit(type_, f"load {type_}, ptr {address.ref}, align {align}")

    def store(self, value: V, address: V, *, align: int | None = None) -> None:
        align = align or _natural_alignment(value.type)
        self.void(f"store {value}, ptr {address.ref}, align {align}")

    def masked_load(self, type_: str, address: V, mask: V) -> V:
        """Load the lanes where `mask` is true; the others read as zero and touch no memory."""
        suffix = intrinsic_suffix(type_)
        name = self.module.declare(f"llvm.masked.load.{suffix}.p0", type_, ["ptr", "i32 immarg", mask.type, type_])
        align = _natural_alignment(type_)
        text = f"call {type_} @{name}(ptr {address.ref}, i32 {align}, {mask}, {type_} zeroinitializer)"
        return self.emit(type_, text)

    def masked_store(self, value: V, address: V, mask: V) -> None:
        """Store only the lanes where `mask` is true.

        A constant prefix becomes a few narrower stores: the masked instruction takes tens of cycles on AMD.
        """
        lanes = value.lanes
        prefix = next((n for n in range(lanes) if mask.ref == _prefix_mask(n, lanes)), None)
        if prefix is not None:
            first = 0
            for width in (1 << bit for bit in reversed(range(lanes.bit_length()))):
                if prefix & width:
                    part = self.extract(value, first)
                    if width > 1:
                        part = self.shuffle(value, value, range(first, first + width))
                    self.store(part, self.gep(value.element, address, self.i64(first)))
                    first += width
            return
        suffix = intrinsic_suffix(value.type)
        name = self.module.declare(
            f"llvm.masked.store.{suffix}.p0", "void", [value.type, "ptr", "i32 immarg", mask.type]
        )
        align = _natural_alignment(value.type)
        self.void(f"call void @{name}({value}, ptr {address.ref}, i32 {align}, {mask})")

    def alloca(self, type_: str, count: int, *, align: int = 64) -> V:
        """Stack space for `count` elements, placed in the entry block; keep it under 64 KiB."""
        name = self._name()
        self._entry.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return V("ptr", name)

    # -- calls and control flow ---------------------------------------------------------------
    def call(self, name: str, result: str, *operands: V) -> V:
        """Call a declared or defined function; for ``void`` the returned `V` must not be used."""
        arguments = ", ".join(str(o) for o in operands)
        if result == "void":
            self.void(f"call void @{name}({arguments})")
            return V("void", "")
        return self.emit(result, f"call {result} @{name}({arguments})")

    def ret(self, value: V | None = None) -> None:
        self.void("ret void" if value is None else f"ret {value}")

    @contextmanager
    def loop(
        self, start: V, stop: V, step: V | int = 1, carried: Sequence[V] = (), hint: str = "loop"
    ) -> Iterator[Loop]:
        """``for index in range(start, stop, step)`` with loop-carried values; step > 0.

        with b.loop(b.i64(0), n, carried=[zero]) as loop:
            x = b.load("float", b.gep("float", p, loop.index))
            loop.carry(b.fadd(loop.carried[0], x))
        total = loop.results[0]
        """
        step_v = V("i64", str(step)) if isinstance(step, int) else step
        before, head, body, exit_ = self._block, *(self._label(f"{hint}.{p}") for p in ("head", "body", "exit"))
        self.void(f"br label %{head}")
        self._start_block(head)
        index = V("i64", self._name())
        phis = [V(c.type, self._name()) for c in carried]
        patch = len(self._lines)
        self._lines.extend([""] * (1 + len(phis)))
        condition = self.icmp("slt", index, stop)
        self.void(f"br i1 {condition.ref}, label %{body}, label %{exit_}")
        self._start_block(body)
        loop = Loop(index, phis)
        yield loop
        following = loop._next if loop._next is not None else []
        if len(following) != len(phis):
            raise ValueError(f"loop carries {len(phis)} values, {len(following)} given")
        next_index = self.binary("add nsw", index, step_v)
        latch = self._block
        self.void(f"br label %{head}")
        pairs = [(index, start, next_index), *zip(phis, carried, following)]
        for offset, (phi, first, later) in enumerate(pairs):
            self._lines[patch + offset] = (
                f"  {phi.ref} = phi {phi.type} [ {first.ref}, %{before} ], [ {later.ref}, %{latch} ]"
            )
        loop.results = list(phis)
        self._start_block(exit_)

    @contextmanager
    def if_(self, condition: V, hint: str = "if") -> Iterator[None]:
        """Run the body when `condition` (i1) is true; defines no values."""
        then, done = self._label(f"{hint}.then"), self._label(f"{hint}.done")
        self.void(f"br i1 {condition.ref}, label %{then}, label %{done}")
        self._start_block(then)
        yield
        self.void(f"br label %{done}")
        self._start_block(done)

    def if_else(self, condition: V) -> Branches:
        """Two-way branch with values; see `Branches`."""
        return Branches(self, condition)


class Branches:
    """``if``/``else`` that yields values.

    branches = b.if_else(condition)
    with branches.then():
        branches.give(x)
    with branches.otherwise():
        branches.give(y)
    (result,) = branches.results()
    """

    def __init__(self, builder: FunctionBuilder, condition: V) -> None:
        self._b = builder
        self._then, self._else, self._done = (builder._label(f"br.{p}") for p in ("then", "else", "done"))
        builder.void(f"br i1 {condition.ref}, label %{self._then}, label %{self._else}")
        self._given: list[tuple[list[V], str]] = []
        self._current: list[V] = []

    def give(self, *values: V) -> None:
        """The values of this arm."""
        self._current = list(values)

    @contextmanager
    def _arm(self, label: str) -> Iterator[None]:
        self._b._start_block(label)
        self._current = []
        yield
        self._given.append((self._current, self._b.block))
        self._b.void(f"br label %{self._done}")

    def then(self) -> AbstractContextManager[None]:
        return self._arm(self._then)

    def otherwise(self) -> AbstractContextManager[None]:
        return self._arm(self._else)

    def results(self) -> list[V]:
        """Merge both arms (call after them); one phi a value."""
        self._b._start_block(self._done)
        (first, first_block), (second, second_block) = self._given
        return [
            self._b.emit(x.type, f"phi {x.type} [ {x.ref}, %{first_block} ], [ {y.ref}, %{second_block} ]")
            for x, y in zip(first, second, strict=True)
        ]


def _prefix_mask(count: int, lanes: int) -> str:
    """The constant mask whose first `count` lanes are true."""
    return "<" + ", ".join("i1 true" if lane < count else "i1 false" for lane in range(lanes)) + ">"


_BYTES = {"i1": 1, "i8": 1, "i16": 2, "half": 2, "bfloat": 2, "i32": 4, "float": 4, "i64": 8, "double": 8, "ptr": 8}


def bytes_of(type_: str) -> int:
    """Size in memory of a scalar type, or of all lanes of a vector type, in bytes."""
    value = V(type_, "")
    return _BYTES[value.element] * max(1, value.lanes)


def _natural_alignment(type_: str) -> int:
    return _BYTES[V(type_, "").element]
