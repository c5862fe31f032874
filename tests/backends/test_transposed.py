"""Kernels that read along one axis and write along another: which nests are tiled, and what they compute."""

from __future__ import annotations

import pytest

from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.backends.loops.tiling import find_tiling
from ds_compiler.ir import Builder, Module, Value
from ds_compiler.ops import Binary, Broadcast, Fusion, Slice, Transpose, Unary
from ds_compiler.passes.fuse import fuse
from tests.backends.programs import check_program
from tests.passes.helpers import module_of, tensor

PERMUTATIONS = {2: [(1, 0)], 3: [(0, 2, 1), (2, 1, 0), (2, 0, 1)], 4: [(0, 2, 3, 1), (0, 3, 1, 2), (3, 2, 1, 0)]}


def tiled(module: Module) -> bool:
    """Whether the only kernel is a tiled transpose."""
    copy = module.clone()
    fuse(copy)
    (fusion,) = [op for op in copy.main.block if isinstance(op, Fusion)]
    (nest,) = collapse(lower_loops(fusion)).nests
    return find_tiling(nest) is not None


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "u8"])
@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("extents", [(3, 17, 5, 33), (16, 8, 32, 8), (40, 1, 7, 19), (2, 3, 4, 5)])
def test_static_extents(rank: int, extents: tuple[int, ...], dtype: str) -> None:
    shape = " ".join(map(str, extents[:rank]))

    def make(b: Builder, x: Value) -> list[Value]:
        return [b.emit(Transpose(x, p)) for p in PERMUTATIONS[rank]]

    check_program(module_of(make, tensor(shape, dtype)))


def test_symbolic_extents() -> None:
    module = module_of(lambda b, x: b.emit(Transpose(x, (1, 0))), "n m")
    assert tiled(module)
    sizes = [{"n": n, "m": m} for n, m in ((1, 1), (7, 8), (8, 7), (16, 16), (17, 33), (100, 3), (0, 5), (5, 0))]
    check_program(module, *sizes)


def test_elementwise_work_on_transposed_and_plain_operands() -> None:
    def make(b: Builder, x: Value, y: Value, bias: Value) -> Value:
        total = b.emit(Binary(b.emit(Unary(b.emit(Transpose(x, (0, 2, 1))), "exp")), y, "add"))
        return b.emit(Binary(total, b.emit(Broadcast(bias, y.type.shape, (2,))), "mul"))

    module = module_of(make, "2 19 37", "2 37 19", "19")
    assert tiled(module)
    check_program(module)


def test_two_operands_transposed_alike() -> None:
    def make(b: Builder, x: Value, y: Value) -> Value:
        return b.emit(Binary(b.emit(Transpose(x, (1, 0))), b.emit(Transpose(y, (1, 0))), "sub"))

    module = module_of(make, "n 37", "n 37")
    assert tiled(module)
    check_program(module, {"n": 5}, {"n": 24})


def test_no_tiles_where_the_last_axis_stays_or_strides() -> None:
    assert not tiled(module_of(lambda b, x: b.emit(Transpose(x, (1, 0, 2))), "5 6 32"))
    assert not tiled(module_of(lambda b, x: b.emit(Slice(x, (0, 0), (8, 8), (1, 2))), "8 16"))


def test_a_strided_read_of_a_transpose_is_gathered() -> None:
    def make(b: Builder, x: Value) -> Value:
        return b.emit(Transpose(b.emit(Slice(x, (0, 0), (20, 18), (1, 2))), (1, 0)))

    module = module_of(make, "20 36")
    assert not tiled(module)
    check_program(module)
