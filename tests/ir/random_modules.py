"""Random well-formed modules with every operation kind, and inputs that they run on.

    @given(programs())
    def test(program: Program): interpret(program.module, program.inputs)

`EMITTERS` holds one function for each operation class. It takes operands that fit from the values at hand (or makes
them) and adds an operation, so that any sequence of choices is a valid module. Symbolic sizes have a value from the
start (`Generator.sizes`); indices, slices and windows are chosen to fit under it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st

from ds_compiler.ir import (
    Block,
    Builder,
    Dim,
    DType,
    Function,
    Location,
    Module,
    Operation,
    Region,
    TensorType,
    Value,
    dims,
    dtypes,
    symbol,
)
from ds_compiler.ir.dims import evaluate, substitute
from ds_compiler.ops import (
    ArgReduce,
    Assume,
    Binary,
    Bind,
    Bitcast,
    Broadcast,
    Call,
    Cast,
    Check,
    Compare,
    Composite,
    Concat,
    Constant,
    Conv,
    ConvTranspose,
    ConvWeightGradient,
    Cumulative,
    DotGeneral,
    DotInteger,
    DynamicSlice,
    Fusion,
    Gather,
    GatherElements,
    GatherND,
    If,
    Iota,
    Pad,
    Predicate,
    Reduce,
    ReduceWindow,
    Reshape,
    Return,
    Scan,
    ScatterElements,
    ScatterND,
    Select,
    Size,
    Slice,
    TopK,
    Transpose,
    Unary,
    While,
    Yield,
)
from ds_compiler.ops.elementwise import BINARY, COMPARE, PREDICATE, UNARY, Rule
from ds_compiler.ops.reduction import REDUCE_KINDS

Array = np.ndarray[Any, Any]
_T = TypeVar("_T")

LARGEST = 300
"""Elements of a value; operations that would make more are left out."""
ALL = [dtypes.dtype(name) for name in dtypes.names()]
# A type of scales has neither zero nor sign: it is converted, not computed with.
NUMBERS = [d for d in ALL if d.kind in "fiu" and d.name != "f8e8m0fnu"]
FLOATS = [d for d in NUMBERS if d.is_float]
INDICES = [dtypes.i64, dtypes.i32]
SCALAR = TensorType((), dtypes.i64)
ODD_NAMES = (
    "",
    "x",
    "x",
    "x_1",
    "3",
    "/model/Conv_0",
    "a b",
    'q"',
    "//",
    "%",
    "ß",
    "constant",
    "none",
    "nan",
    "\\",
    "a\nb",
)


@dataclass(frozen=True)
class Program:
    """A module and arrays for the arguments of its main."""

    module: Module
    inputs: list[Array]


def names() -> st.SearchStrategy[str]:
    return st.sampled_from(ODD_NAMES) | st.text(max_size=4)


def locations() -> st.SearchStrategy[Location]:
    return st.builds(Location, st.lists(names().filter(bool), max_size=2).map(tuple), names())


def elements(dtype: DType, shape: Sequence[int]) -> st.SearchStrategy[Array]:
    """Arrays of any bits: NaN payloads, infinities, subnormal and huge numbers included."""
    count = int(np.prod(shape, dtype=int))
    if dtype.kind == "s":
        texts = st.lists(st.text(max_size=3), min_size=count, max_size=count)
        return texts.map(lambda t: np.array([*t, None], object)[:-1].reshape(shape))
    low, high = (
        (0, 255)
        if dtype.bits >= 8 and dtype.kind != "b"
        else (0, 1 if dtype.kind == "b" else (1 << (dtype.bits - 1)) - 1)
    )
    special = [low, high, *((0x7F, 0x80, 0xF0, 0x3F, 0xC0) if high == 255 else ())]
    byte = st.sampled_from(special) | st.integers(low, high)
    few = st.lists(byte, min_size=1, max_size=24)  # repeated: drawing every byte of a large array is slow
    return few.map(lambda b: np.resize(np.array(b, np.uint8), count * dtype.itemsize).view(dtype.numpy).reshape(shape))


def attribute_values() -> st.SearchStrategy[Any]:
    """What options of a composite may hold."""
    plain = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text(max_size=4)
        | st.sampled_from([d for d in ALL if d.kind != "s"])
        | st.sampled_from([symbol("n"), symbol("n") * 2 + 1, TensorType((symbol("n"), 3), dtypes.bf16)])
        | st.sampled_from(NUMBERS).flatmap(lambda d: elements(d, (3,)))
    )
    return st.recursive(plain, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


@st.composite
def programs(draw: st.DrawFn, operations: int = 12) -> Program:
    """A module whose main, and the functions that it calls, hold up to `operations` random operations each."""
    sizes = {"n": draw(st.integers(0, 4)), "m": draw(st.integers(1, 3))}
    module = Module(metadata=draw(st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)))
    types = [TensorType((symbol("n"), symbol("m")), draw(st.sampled_from(NUMBERS)))]
    for _ in range(draw(st.integers(0, 3))):
        shape = draw(st.lists(st.sampled_from([symbol("n"), symbol("m"), symbol("n") + 1, 1, 2]), max_size=3))
        types.append(TensorType(tuple(shape), draw(st.sampled_from(ALL))))
    generator = Generator(draw, module, sizes, Block(types), [])
    function = generator.function("main", operations)
    inputs = [draw(elements(t.dtype, [evaluate(d, sizes) for d in t.shape])) for t in types]
    module.functions = {"main": function, **module.functions}
    return Program(module, inputs)


class Generator:
    """Adds random operations to a block.

    Attributes:
        sizes: values of the symbols in force.
        pool: values that the next operation may read.
        binds: operations may bind new symbols.
    """

    def __init__(
        self,
        draw: st.DrawFn,
        module: Module,
        sizes: dict[str, int],
        block: Block,
        pool: list[Value],
        *,
        depth: int = 0,
        binds: bool = True,
    ) -> None:
        self.draw, self.module, self.sizes, self.depth, self.binds = draw, module, sizes, depth, binds
        self.block, self.builder = block, Builder(block)
        self.pool = [*pool, *block.arguments]

    # -- choosing ------------------------------------------------------------------------------
    def one_of(self, items: Sequence[_T]) -> _T:
        return self.draw(st.sampled_from(items))

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def size(self, dim: Dim) -> int:
        return evaluate(dim, self.sizes)

    def shape_of(self, value: Value) -> list[int]:
        return [self.size(d) for d in value.type.shape]

    def dim(self) -> Dim:
        n, m = symbol("n"), symbol("m")
        known = [s for s in (n, m) if str(s) in self.sizes]
        mixed: list[Dim] = [n + m, 2 * n, dims.floordiv(n + 1, 2), dims.maximum(n, m), dims.mod(n, 2)]
        bound: list[Dim] = [symbol(s) for s in self.sizes if s.startswith("_")]
        return self.one_of([0, 1, 2, 3, *known, *(mixed if len(known) == 2 else ()), *bound])

    def shape(self, low: int = 0, high: int = 3) -> tuple[Dim, ...]:
        shape = tuple(self.dim() for _ in range(self.number(low, high)))
        count = int(np.prod([self.size(d) for d in shape], dtype=int))
        return shape if count <= LARGEST else shape[:low]

    # -- values --------------------------------------------------------------------------------
    def add(self, operation: Operation) -> Operation:
        """Insert unless a result would be too large (then the operation is given up)."""
        for result in operation.results:
            if int(np.prod([self.size(d) for d in result.type.shape], dtype=int)) > LARGEST:
                operation.drop()
                return operation
        with self.builder.at(self.draw(locations())):
            self.builder.insert(operation)
        for result in operation.results:
            result.hint = self.draw(names())
            self.pool.append(result)
        return operation

    def emit(self, operation: Operation) -> Value:
        """Insert an operation whose result is needed."""
        self.pool.append(self.builder.emit(operation))
        return self.pool[-1]

    def constant(self, array: Any, dtype: DType = dtypes.i64) -> Value:
        return self.emit(Constant(np.asarray(array).astype(dtype.numpy)))

    def fresh(self, type_: TensorType) -> Value:
        """A new value of `type_`."""
        if type_.is_static and self.flag():
            return self.emit(Constant(self.draw(elements(type_.dtype, [self.size(d) for d in type_.shape]))))
        scalar = self.emit(Constant(self.draw(elements(type_.dtype, ()))))
        return scalar if not type_.rank else self.emit(Broadcast(scalar, type_.shape, ()))

    def value(self, type_: TensorType) -> Value:
        """A value of `type_`, at hand or new."""
        found = [v for v in self.pool if v.type == type_]
        return self.one_of(found) if found and self.flag() else self.fresh(type_)

    def any(self, allowed: Sequence[DType] = tuple(ALL), low: int = 0, high: int = 4) -> Value:
        """A value with one of the element types and a rank from `low` to `high`."""
        found = [v for v in self.pool if v.type.dtype in allowed and low <= v.type.rank <= high]
        if found and self.number(0, 3):
            return self.one_of(found)
        return self.fresh(TensorType(self.shape(low, min(high, max(low, 2))), self.one_of(allowed)))

    def axis(self, value: Value) -> int:
        return self.number(0, value.type.rank - 1)

    def indices(self, extent: int, shape: Sequence[int]) -> Value | None:
        """Positions inside `extent`, some negative; None if there is none to name."""
        if not extent and np.prod(shape, dtype=int):
            return None
        drawn = self.draw(st.lists(st.integers(-extent, max(extent - 1, 0)), min_size=1, max_size=8))
        return self.constant(np.resize(np.array(drawn), shape), self.one_of(INDICES))

    # -- code ----------------------------------------------------------------------------------
    def operations(self, count: int) -> None:
        for _ in range(self.number(0, count)):
            self.step()

    def step(self) -> None:
        kinds = [k for k in EMITTERS if (self.depth < 2 or k not in NESTING) and (self.binds or k is not Bind)]
        EMITTERS[self.one_of(kinds)](self)

    def nested(self, types: Sequence[TensorType], *, isolated: bool = False) -> Generator:
        """A generator for a region that takes `types`."""
        pool = [] if isolated else self.pool
        block = Block(types)
        for argument in block.arguments:
            argument.hint = self.draw(names())
        return Generator(self.draw, self.module, dict(self.sizes), block, pool, depth=self.depth + 1, binds=self.binds)

    def region(self, yields: Sequence[Value]) -> Region:
        """Close the block of a nested generator."""
        self.builder.insert(Yield(tuple(yields)))
        return Region(self.block)

    def function(self, name: str, operations: int) -> Function:
        """Close the block as a function that returns some of its values."""
        for index, argument in enumerate(self.block.arguments):
            argument.hint = self.draw(names().map(lambda t, i=index: f"{t}{i}"))
        self.operations(operations)
        count = self.number(1, min(4, len(self.pool)))
        self.builder.insert(Return(tuple(self.one_of(self.pool) for _ in range(count))))
        named = [f"{self.draw(names())}{i}" for i in range(count)] if self.flag() else []
        return Function(name, Region(self.block), named)


# -- elementwise ------------------------------------------------------------------------------
def _accepted(rule: Rule) -> list[DType]:
    return [d for d in ALL if d.kind in rule.accepts]


def unary(g: Generator) -> None:
    kind = g.one_of(list(UNARY))
    g.add(Unary(g.any(_accepted(UNARY[kind])), kind))


def predicate(g: Generator) -> None:
    kind = g.one_of(list(PREDICATE))
    g.add(Predicate(g.any(_accepted(PREDICATE[kind])), kind))


def binary(g: Generator) -> None:
    kind = g.one_of(list(BINARY))
    lhs = g.any(_accepted(BINARY[kind]))
    g.add(Binary(lhs, g.value(lhs.type), kind))


def compare(g: Generator) -> None:
    kind = g.one_of(list(COMPARE))
    lhs = g.any(_accepted(COMPARE[kind]))
    g.add(Compare(lhs, g.value(lhs.type), kind))


def select(g: Generator) -> None:
    first = g.any()
    g.add(Select(g.value(first.type.with_dtype(dtypes.bool_)), first, g.value(first.type)))


def cast(g: Generator) -> None:
    allowed = [d for d in ALL if d.kind != "s"]
    g.add(Cast(g.any(allowed), g.one_of(allowed)))


def bitcast(g: Generator) -> None:
    operand = g.any([d for d in ALL if d.kind != "s" and d.bits % 8 == 0])
    same = [d for d in ALL if d.kind not in "sb" and d.bits == operand.type.dtype.bits]
    g.add(Bitcast(operand, g.one_of(same)))


# -- shape ------------------------------------------------------------------------------------
def constant(g: Generator) -> None:
    shape = g.draw(st.lists(st.integers(0, 6), max_size=3))
    g.add(Constant(g.draw(elements(g.one_of(ALL), shape))))


def size(g: Generator) -> None:
    g.add(Size(g.dim()))


def bind(g: Generator) -> None:
    """A new symbol, or one that is bound again."""
    name = g.one_of(["_k", "_none", "_f32"])
    if name in g.sizes:
        return
    count = g.number(-1, 3)
    g.builder.insert(Bind(g.constant(count), name))
    g.sizes[name] = max(0, count)


def assume(g: Generator) -> None:
    dim = g.dim()
    g.add(Assume(dim, g.size(dim)))


def check(g: Generator) -> None:
    g.builder.insert(Check(g.constant(True, dtypes.bool_), g.draw(names())))


def iota(g: Generator) -> None:
    shape = g.shape(1)
    g.add(Iota(shape, g.number(0, len(shape) - 1), g.one_of(NUMBERS)))


def reshape(g: Generator) -> None:
    x = g.any()
    shape = list(x.type.shape)
    for _ in range(g.number(0, 2)):
        shape.insert(g.number(0, len(shape)), 1)
    if len(shape) > 1 and g.flag():
        at = g.number(0, len(shape) - 2)
        shape[at : at + 2] = [shape[at] * shape[at + 1]]
    g.add(Reshape(x, tuple(shape)))


def transpose(g: Generator) -> None:
    x = g.any()
    g.add(Transpose(x, tuple(g.draw(st.permutations(range(x.type.rank))))))


def broadcast(g: Generator) -> None:
    x = g.any()
    shape, axes = [], []
    for dim in x.type.shape:
        shape += [g.dim() for _ in range(g.number(0, 1))]
        axes.append(len(shape))
        shape.append(g.dim() if dim == 1 else dim)
    g.add(Broadcast(x, tuple(shape), tuple(axes)))


def slice_(g: Generator) -> None:
    x = g.any()
    starts, sizes, steps = [], [], []
    for extent in g.shape_of(x):
        step = g.one_of([1, 1, 2, -1, -2])
        start = g.number(0, max(extent - 1, 0))
        room = (extent - 1 - start if step > 0 else start) // abs(step) + 1 if extent else 0
        starts.append(start)
        sizes.append(g.number(0, room))
        steps.append(step)
    g.add(Slice(x, tuple(starts), tuple(sizes), tuple(steps)))


def dynamic_slice(g: Generator) -> None:
    x = g.any()
    starts = tuple(g.constant(g.number(-2, 5)) for _ in range(x.type.rank))
    g.add(DynamicSlice(x, starts, tuple(g.number(0, extent) for extent in g.shape_of(x))))


def pad(g: Generator) -> None:
    x = g.any()
    widths = [g.one_of([0, 1, 2, symbol("m")]) if "m" in g.sizes else g.number(0, 2) for _ in range(2 * x.type.rank)]
    value = g.value(TensorType((), x.type.dtype))
    g.add(Pad(x, value, tuple(widths[: x.type.rank]), tuple(widths[x.type.rank :])))


def concat(g: Generator) -> None:
    x = g.any(low=1)
    axis = g.axis(x)
    others = [
        g.value(x.type.with_shape([g.dim() if a == axis else d for a, d in enumerate(x.type.shape)]))
        for _ in range(g.number(0, 2))
    ]
    g.add(Concat((x, *others), axis))


# -- indexing ---------------------------------------------------------------------------------
def gather(g: Generator) -> None:
    x = g.any(low=1)
    axis = g.axis(x)
    indices = g.indices(g.shape_of(x)[axis], g.draw(st.lists(st.integers(0, 3), max_size=2)))
    if indices is not None:
        g.add(Gather(x, indices, axis))


def gather_elements(g: Generator) -> None:
    x = g.any(low=1)
    axis = g.axis(x)
    shape = [g.number(0, extent) for extent in g.shape_of(x)]
    indices = g.indices(g.shape_of(x)[axis], shape)
    if indices is not None:
        g.add(GatherElements(x, indices, axis))


def gather_nd(g: Generator) -> None:
    x = g.any(low=1)
    shape = g.shape_of(x)
    batch = g.number(0, x.type.rank - 1) if x.type.is_static else 0
    depth = g.number(1, x.type.rank - batch)
    lead = [*shape[:batch], *([g.number(0, 2)] if g.flag() or not batch else [])]
    indices = g.indices(min(shape[batch : batch + depth]), [*lead, depth])
    if indices is not None:
        g.add(GatherND(x, indices, batch))


def scatter_nd(g: Generator) -> None:
    mode = g.one_of(["set", "add", "mul", "max", "min"])
    x = g.any(ALL if mode == "set" else NUMBERS, low=1)
    depth = g.number(1, x.type.rank)
    indices = g.indices(min(g.shape_of(x)[:depth]), [g.number(0, 2), depth])
    if indices is not None:
        updates = x.type.with_shape((*indices.type.shape[:-1], *x.type.shape[depth:]))
        g.add(ScatterND(x, indices, g.value(updates), mode))


def scatter_elements(g: Generator) -> None:
    mode = g.one_of(["set", "add", "mul", "max", "min"])
    x = g.any(ALL if mode == "set" else NUMBERS, low=1)
    axis = g.axis(x)
    indices = g.indices(g.shape_of(x)[axis], [g.number(0, extent) for extent in g.shape_of(x)])
    if indices is not None:
        g.add(ScatterElements(x, indices, g.value(x.type.with_shape(indices.type.shape)), axis, mode))


def top_k(g: Generator) -> None:
    x = g.any(NUMBERS, low=1)
    last = x.type.shape[-1]
    g.add(TopK(x, g.one_of([last, g.number(0, g.size(last))]), g.flag()))


# -- reductions -------------------------------------------------------------------------------
def reduce(g: Generator) -> None:
    how = g.one_of(REDUCE_KINDS)
    x = g.any([dtypes.bool_] if how in ("any", "all") else NUMBERS)
    axes = tuple(a for a in range(x.type.rank) if g.flag())
    g.add(Reduce(x, axes, how))


def arg_reduce(g: Generator) -> None:
    x = g.any(NUMBERS, low=1)
    axis = g.axis(x)
    if g.shape_of(x)[axis]:
        g.add(ArgReduce(x, axis, g.one_of(["max", "min"]), g.flag()))


def cumulative(g: Generator) -> None:
    x = g.any(NUMBERS, low=1)
    g.add(Cumulative(x, g.axis(x), g.one_of(["sum", "prod", "max", "min"]), g.flag(), g.flag()))


def _windows(g: Generator, spatial: Sequence[Dim], kernel: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Strides, padding and dilations under which at least one window fits."""
    strides, low, high, dilations = [], [], [], []
    for dim, width in zip(spatial, kernel, strict=True):
        strides.append(g.number(1, 2))
        dilations.append(g.number(1, 2))
        low.append(g.number(0, 1))
        missing = (width - 1) * dilations[-1] + 1 - g.size(dim) - low[-1]
        high.append(g.number(0, 1) + max(0, missing))
    return tuple(strides), tuple(low), tuple(high), tuple(dilations)


def reduce_window(g: Generator) -> None:
    x = g.any(NUMBERS)
    axes = tuple(a for a in range(x.type.rank) if g.flag())
    window = tuple(g.number(1, 3) for _ in axes)
    strides, low, high, dilations = _windows(g, [x.type.shape[a] for a in axes], window)
    how = g.one_of(["max", "sum", "mean", "mean_valid"])
    if how != "mean_valid" or x.type.dtype.is_float:
        g.add(ReduceWindow(x, axes, window, strides, low, high, dilations, how))


# -- contraction ------------------------------------------------------------------------------
def dot_general(g: Generator) -> None:
    a = g.any(NUMBERS)
    roles = [g.one_of(["batch", "contract", "free"]) for _ in range(a.type.rank)]
    batch = [i for i, role in enumerate(roles) if role == "batch"]
    contract = [i for i, role in enumerate(roles) if role == "contract"]
    free = [g.dim() for _ in range(g.number(0, 1))]
    shape = [*(a.type.shape[i] for i in (*contract, *batch)), *free]
    b = g.value(a.type.with_shape(shape))
    n = len(contract)
    g.add(DotGeneral(a, b, tuple(batch), tuple(range(n, n + len(batch))), tuple(contract), tuple(range(n))))


def dot_integer(g: Generator) -> None:
    depth = g.dim()
    lhs = TensorType((*(g.dim() for _ in range(g.number(0, 2))), depth), dtypes.i16)
    g.add(DotInteger(g.value(lhs), g.value(TensorType((depth, g.dim()), dtypes.i16))))


def _convolved(g: Generator) -> tuple[DType, str, int, list[int], list[Dim], Callable[[Dim, Dim], TensorType]]:
    dtype, layout, groups = g.one_of(FLOATS), g.one_of(["nchw", "nhwc"]), g.number(1, 2)
    kernel = [g.number(1, 2) for _ in range(g.number(1, 2))]
    spatial = [g.dim() for _ in kernel]

    def type_of(batch: Dim, channels: Dim) -> TensorType:
        shape = (batch, channels, *spatial) if layout == "nchw" else (batch, *spatial, channels)
        return TensorType(shape, dtype)

    return dtype, layout, groups, kernel, spatial, type_of


def conv(g: Generator) -> None:
    dtype, layout, groups, kernel, spatial, type_of = _convolved(g)
    per_group, out = g.number(1, 2), groups * g.number(1, 2)
    x = g.value(type_of(g.dim(), per_group * groups))
    weight = g.value(TensorType((out, per_group, *kernel), dtype))
    strides, low, high, dilations = _windows(g, spatial, kernel)
    g.add(Conv(x, weight, strides, low, high, dilations, groups, layout))


def conv_transpose(g: Generator) -> None:
    dtype, layout, groups, kernel, spatial, type_of = _convolved(g)
    channels = groups * g.number(1, 2)
    if any(g.size(d) == 0 for d in spatial):
        return
    x = g.value(type_of(g.dim(), channels))
    weight = g.value(TensorType((channels, g.number(1, 2), *kernel), dtype))
    ones = tuple(1 for _ in kernel)
    zeros = tuple(0 for _ in kernel)
    strides = tuple(g.number(1, 2) for _ in kernel)
    g.add(ConvTranspose(x, weight, strides, zeros, zeros, ones, groups, layout))


def conv_weight_gradient(g: Generator) -> None:
    _, layout, groups, kernel, spatial, type_of = _convolved(g)
    if any(g.size(d) == 0 for d in spatial):
        return
    batch = g.dim()
    ones = tuple(1 for _ in kernel)
    x = g.value(type_of(batch, groups * g.number(1, 2)))
    gradient = g.value(type_of(batch, groups * g.number(1, 2)))
    low = tuple(k - 1 for k in kernel)  # as many windows as elements
    zeros = tuple(0 for _ in kernel)
    g.add(ConvWeightGradient(x, gradient, tuple(kernel), ones, low, zeros, ones, groups, layout))


# -- control ----------------------------------------------------------------------------------
def if_(g: Generator) -> None:
    """Both branches yield values of the same types; sometimes of a size that each binds."""
    condition = g.any([dtypes.bool_], 0, 0)
    if g.binds and "_own" not in g.sizes and g.flag():
        return _if_with_size(g)
    types = [g.any().type for _ in range(g.number(0, 2))]
    regions = []
    for _ in range(2):
        inner = g.nested(())
        inner.operations(2)
        regions.append(inner.region([inner.value(t) for t in types]))
    g.add(If(condition, *regions))
    return None


def _if_with_size(g: Generator) -> None:
    taken = g.flag()
    type_ = TensorType((symbol("_own"), 2), g.one_of(ALL))
    regions, counts = [], []
    for _ in range(2):
        inner = g.nested(())
        counts.append(g.number(0, 3))
        inner.builder.insert(Bind(inner.constant(counts[-1]), "_own"))
        regions.append(inner.region([inner.fresh(type_.with_shape((counts[-1], 2)))]))
    condition = g.constant(taken, dtypes.bool_)
    g.sizes["_own"] = counts[0 if taken else 1]
    g.add(If(condition, *regions, (type_,)))


def while_(g: Generator) -> None:
    """A counter, and other values that the body may replace."""
    others = [g.any() for _ in range(g.number(0, 2))]
    inits = (g.constant(0), *others)
    types = [v.type for v in inits]
    condition = g.nested(types)
    limit = condition.constant(g.number(0, 3))
    test = condition.emit(Compare(condition.block.arguments[0], limit, "lt"))
    body = g.nested(types)
    body.operations(2)
    following = body.emit(Binary(body.block.arguments[0], body.constant(1), "add"))
    yields = [following, *(body.value(v.type) for v in others)]
    g.add(While(inits, condition.region([test]), body.region(yields)))


def scan(g: Generator) -> None:
    inits = tuple(g.any() for _ in range(g.number(0, 2)))
    first = g.any(low=1)
    length = first.type.shape[0]
    inputs = (first, *(g.value(TensorType((length, *g.shape(0, 1)), g.one_of(ALL))) for _ in range(g.number(0, 1))))
    carried = [v.type for v in inits]
    body = g.nested([*carried, *(v.type.with_shape(v.type.shape[1:]) for v in inputs)])
    body.binds = False  # a stacked size must be known outside
    body.operations(2)
    outer = set(g.sizes)
    stacked = [v for v in (body.any() for _ in range(g.number(0, 2))) if v.type.symbols <= outer]
    yields = [*(body.value(t) for t in carried), *stacked]
    g.add(Scan(inits, inputs, length, body.region(yields), g.flag()))


def _isolated(g: Generator) -> tuple[tuple[Value, ...], Region]:
    inputs = tuple(g.any() for _ in range(g.number(0, 2)))
    body = g.nested([v.type for v in inputs], isolated=True)
    body.binds = False
    body.operations(2)
    return inputs, body.region([body.any() for _ in range(g.number(1, 2))])


def fusion(g: Generator) -> None:
    inputs, body = _isolated(g)
    g.add(Fusion(inputs, body, g.draw(names())))


def composite(g: Generator) -> None:
    inputs, body = _isolated(g)
    options: tuple[Any, ...] = ()
    if {"n", "m"} <= g.sizes.keys():
        options = tuple(g.draw(st.lists(st.tuples(names(), attribute_values()), max_size=2)))
    g.add(Composite(inputs, body, g.draw(names().filter(bool)), options))


def call(g: Generator) -> None:
    """A new function; its sizes have names of their own."""
    inputs = tuple(g.any() for _ in range(g.number(1, 2)))
    sizes: dict[str, Dim] = {}
    types = []
    for value in inputs:
        shape: list[Dim] = []
        for dim in value.type.shape:
            if isinstance(dim, int) and g.flag():
                shape.append(dim)
            else:
                known = [s for s, d in sizes.items() if d == dim]
                name = known[0] if known else ("n", "m", "p2", "p3", "p4", "p5", "p6", "p7", "p8")[len(sizes)]
                sizes[name] = dim
                shape.append(symbol(name))
        types.append(value.type.with_shape(shape))
    block = Block(types)
    inside = {name: g.size(dim) for name, dim in sizes.items()}
    callee = Generator(g.draw, g.module, inside, block, [], depth=2, binds=False)
    name = f"{g.draw(names())}f{len(g.module.functions)}"
    function = callee.function(name, 3)
    results = tuple(t.with_shape([substitute(d, sizes) for d in t.shape]) for t in function.result_types)
    g.module.add(function)
    g.add(Call(inputs, name, results))


EMITTERS: dict[type[Operation], Callable[[Generator], None]] = {
    Unary: unary, Predicate: predicate, Binary: binary, Compare: compare, Select: select, Cast: cast,
    Constant: constant, Size: size, Bind: bind, Assume: assume, Check: check, Iota: iota, Reshape: reshape,
    Transpose: transpose,
    Broadcast: broadcast, Slice: slice_, DynamicSlice: dynamic_slice, Pad: pad, Concat: concat,
    Gather: gather, GatherElements: gather_elements, GatherND: gather_nd, ScatterND: scatter_nd,
    ScatterElements: scatter_elements, TopK: top_k, Reduce: reduce, ArgReduce: arg_reduce, Cumulative: cumulative,
    ReduceWindow: reduce_window, DotGeneral: dot_general, DotInteger: dot_integer, Conv: conv,
    ConvTranspose: conv_transpose, ConvWeightGradient: conv_weight_gradient, Bitcast: bitcast,
    If: if_, While: while_, Scan: scan, Fusion: fusion, Composite: composite, Call: call,
}  # fmt: skip
NESTING = (If, While, Scan, Fusion, Composite, Call)
