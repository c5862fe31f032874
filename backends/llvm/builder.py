"""LLVM assembly text, built function by function.

Text instead of `llvmlite.ir` objects: vector intrinsics need no wrappers, the emitter is typed, and
printing costs nothing (`llvmlite.binding.parse_assembly` takes 3 ms for 700 lines). Every method
appends one instruction and returns its result as a `V`.

Types are LLVM type strings: ``i1 i8 i16 i32 i64 half bfloat float double ptr`` and vectors ``<8 x float>``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ds_compiler.backends.llvm.flow import BlockBuilder
from ds_compiler.backends.llvm.values import (
    V,
    bytes_of,
    constant,
    intrinsic_suffix,
    known,
    natural_alignment,
    vector_of,
)

__all__ = [
    "FunctionBuilder",
    "ModuleBuilder",
    "V",
    "bytes_of",
    "constant",
    "intrinsic_suffix",
    "known",
    "vector_of",
]


class ModuleBuilder:
    """Collects functions, declarations and constants of one LLVM module.

    Attributes:
        half_conversions: the target converts f16 in hardware; else integer operations do.
    """

    def __init__(self, target_triple: str = "", data_layout: str = "", *, half_conversions: bool = True) -> None:
        self.half_conversions = half_conversions
        self.functions: dict[str, str] = {}
        self._declarations: dict[str, str] = {}
        self._globals: dict[str, str] = {}
        self._triple, self._layout = target_triple, data_layout

    @property
    def x86(self) -> bool:
        """Whether the code is for an x86-64 processor."""
        return self._triple.startswith("x86_64")

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


class FunctionBuilder(BlockBuilder):
    """Emits the body of one function.

    `loop` and `if_` are structured helpers that place the phi nodes; straight-line instructions
    are one method each. Integer arithmetic folds when both operands are constants, so that a
    static extent leaves no instruction behind.
    """

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
        if element in ("float", "double"):
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
        align = align or natural_alignment(type_)
        return self.emit(type_, f"load {type_}, ptr {address.ref}, align {align}")

    def store(self, value: V, address: V, *, align: int | None = None) -> None:
        align = align or natural_alignment(value.type)
        self.void(f"store {value}, ptr {address.ref}, align {align}")

    def masked_load(self, type_: str, address: V, mask: V) -> V:
        """Load the lanes where `mask` is true; the others read as zero and touch no memory."""
        suffix = intrinsic_suffix(type_)
        name = self.module.declare(f"llvm.masked.load.{suffix}.p0", type_, ["ptr", "i32 immarg", mask.type, type_])
        align = natural_alignment(type_)
        text = f"call {type_} @{name}(ptr {address.ref}, i32 {align}, {mask}, {type_} zeroinitializer)"
        return self.emit(type_, text)

    def prefetch(self, at: V, write: bool = False) -> None:
        """Ask for the cache line at an address, which need not exist."""
        name = self.module.declare("llvm.prefetch.p0", "void", ["ptr", "i32 immarg", "i32 immarg", "i32 immarg"])
        self.void(f"call void @{name}(ptr {at.ref}, i32 {int(write)}, i32 3, i32 1)")  # into L1, data

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
        align = natural_alignment(value.type)
        self.void(f"call void @{name}({value}, ptr {address.ref}, i32 {align}, {mask})")

    def alloca(self, type_: str, count: int, *, align: int = 64) -> V:
        """Stack space for `count` elements, placed in the entry block; keep it under 64 KiB."""
        name = self._name()
        self._entry.append(f"  {name} = alloca {type_}, i64 {count}, align {align}")
        return V("ptr", name)

    # -- calls -----------------------------------------------------------------------------------
    def call(self, name: str, result: str, *operands: V) -> V:
        """Call a declared or defined function; for ``void`` the returned `V` must not be used."""
        arguments = ", ".join(str(o) for o in operands)
        if result == "void":
            self.void(f"call void @{name}({arguments})")
            return V("void", "")
        return self.emit(result, f"call {result} @{name}({arguments})")

    def ret(self, value: V | None = None) -> None:
        self.void("ret void" if value is None else f"ret {value}")


def _prefix_mask(count: int, lanes: int) -> str:
    """The constant mask whose first `count` lanes are true."""
    return "<" + ", ".join("i1 true" if lane < count else "i1 false" for lane in range(lanes)) + ">"
