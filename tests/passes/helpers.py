"""Building small modules, and running them on NumPy before and after a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ds_compiler.ir import Block, Builder, Dim, Function, Module, Region, TensorType, Value, dtypes
from ds_compiler.ir.dim_text import parse_dim
from ds_compiler.ops import Broadcast, Constant, Return
from ds_compiler.passes.manager import run
from tests.passes.interpreting import interpret


def tensor(shape: str = "", dtype: str = "f32") -> TensorType:
    """``tensor("batch 4", "i64")``."""
    return TensorType(tuple(parse_dim(d) for d in shape.split()), dtypes.dtype(dtype))


def module_of(body: Callable[..., Value | Sequence[Value]], *types: TensorType | str) -> Module:
    """A module whose main takes `types` and returns what ``body(builder, *arguments)`` does."""
    block = Block([tensor(t) if isinstance(t, str) else t for t in types], [f"x{i}" for i in range(len(types))])
    builder = Builder(block)
    results = body(builder, *block.arguments)
    values = (results,) if isinstance(results, Value) else tuple(results)
    builder.insert(Return(values))
    return Module([Function("main", Region(block), [f"y{i}" for i in range(len(values))])])


def const(builder: Builder, array: Any, dtype: str = "f32") -> Value:
    return builder.emit(Constant(np.asarray(array, dtypes.dtype(dtype).numpy)))


def spread(builder: Builder, number: Any, like: Value) -> Value:
    """A scalar constant broadcast to the type of `like`."""
    scalar = builder.emit(Constant(np.asarray(number, like.type.dtype.numpy)))
    return scalar if like.type.rank == 0 else builder.emit(Broadcast(scalar, like.type.shape, ()))


def names(module: Module) -> list[str]:
    """Mnemonics of main in order, constants and the return left out."""
    return [op.mnemonic for op in module.main.walk() if op.mnemonic not in ("constant", "return")]


def random_inputs(module: Module, sizes: dict[str, int] | None = None, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    arrays = []
    for argument in module.main.arguments:
        shape = [evaluate_dim(d, sizes or {}) for d in argument.type.shape]
        dtype = argument.type.dtype
        if dtype.is_float:
            arrays.append(np.asarray(rng.standard_normal(shape)).astype(dtype.numpy))
        elif dtype.kind == "b":
            arrays.append(rng.random(shape) < 0.5)
        else:
            arrays.append(rng.integers(0, 3, shape).astype(dtype.numpy))
    return arrays


def evaluate_dim(dim: Dim, sizes: dict[str, int]) -> int:
    from ds_compiler.ir.dims import evaluate

    return evaluate(dim, sizes)


def check(module: Module, pipeline: str, *, rtol: float = 0.0, atol: float = 0.0, **sizes: int) -> Module:
    """Run `pipeline` on a copy; its results must equal the original's (exactly, unless a tolerance is given)."""
    changed = module.clone()
    run(changed, pipeline, verify=True)
    assert [str(t) for t in changed.main.result_types] == [str(t) for t in module.main.result_types]
    inputs = random_inputs(module, sizes)
    for before, after in zip(interpret(module, inputs), interpret(changed, inputs), strict=True):
        assert before.dtype == after.dtype and before.shape == after.shape
        if rtol or atol:
            np.testing.assert_allclose(after, before, rtol=rtol, atol=atol)
        else:
            np.testing.assert_array_equal(after, before)
    return changed
