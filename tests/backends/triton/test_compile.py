"""Machine code without a GPU: vector loads, tensor cores, and what a user sees of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import ds_compiler as ds
from ds_compiler.backends.triton.compile import compile_kernels
from ds_compiler.backends.triton.program import lower
from ds_compiler.backends.triton.target import parse_target
from ds_compiler.cli import dsc
from ds_compiler.ir import Builder, CompileError, Module, Value
from ds_compiler.ir.printer import save_module
from ds_compiler.ops import ArgReduce, Binary, Cumulative, DotGeneral, Reduce, TopK, Transpose, Unary
from ds_compiler.ops.elementwise import BINARY, UNARY
from ds_compiler.passes.fuse import fuse
from ds_compiler.runtime.errors import LoadError
from tests.backends.triton.interpreting import needs_triton
from tests.backends.triton.test_attention import attention
from tests.passes.helpers import module_of, tensor

pytestmark = needs_triton


def assembly(module: Module, target: str = "cuda:90") -> list[str]:
    """The assembly of a module's kernels."""
    fuse(module)
    return [c.assembly for c in compile_kernels(lower(module, parse_target(target)).program)]


def product(dtype: str) -> Module:
    return module_of(
        lambda b, x, y: b.emit(DotGeneral(x, y, (), (), (1,), (0,))),
        tensor("2048 512", dtype),
        tensor("512 2048", dtype),
    )


@pytest.mark.parametrize(("dtype", "width"), [("f32", "v4.b32"), ("bf16", "v4.b32"), ("i64", "v2.b64")])
def test_elementwise_kernels_move_vectors(dtype: str, width: str) -> None:
    (text,) = assembly(module_of(lambda b, x, y: b.emit(Binary(x, y, "add")), *[tensor("n 768", dtype)] * 2))
    assert f"ld.global.{width}" in text and f"st.global.{width}" in text


@pytest.mark.parametrize(
    ("dtype", "target", "instruction"),
    [
        ("bf16", "cuda:90", r"wgmma.mma_async.sync.aligned.m64n\d+k16.f32.bf16.bf16"),
        ("f16", "cuda:90", r"wgmma.mma_async.sync.aligned.m64n\d+k16.f32.f16.f16"),
        ("f32", "cuda:90", r"(wgmma|mma).*tf32"),
        ("f8e4m3fn", "cuda:90", r"wgmma.mma_async.sync.aligned.m64n\d+k32.f32.e4m3.e4m3"),
        ("f8e5m2", "cuda:90", r"wgmma.mma_async.sync.aligned.m64n\d+k32.f32.e5m2.e5m2"),
        ("bf16", "cuda:80", r"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"),
        ("bf16", "hip:gfx942", r"v_mfma_f32_\d+x\d+x\d+_?bf16"),
    ],
)
def test_products_run_on_tensor_cores(dtype: str, target: str, instruction: str) -> None:
    (text,) = assembly(product(dtype), target)
    assert re.search(instruction, text), sorted(set(re.findall(r"\S*mma\S*", text)))


def test_attention_runs_on_tensor_cores() -> None:
    from ds_compiler.passes.attention import outline_attention

    module = module_of(lambda b, *x: attention(b, *x, causal=True), *[tensor("2 4 n 64", "bf16")] * 3)
    outline_attention(module, narrow=True)
    (text,) = assembly(module)
    assert "wgmma" in text


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "i32", "u8"])
def test_every_elementwise_kind_compiles(dtype: str) -> None:
    kind = tensor("", dtype).dtype.kind

    def make(b: Builder, x: Value, y: Value) -> list[Value]:
        one = [b.emit(Unary(x, k)) for k, rule in UNARY.items() if kind in rule.accepts]
        return one + [b.emit(Binary(x, y, k)) for k, rule in BINARY.items() if kind in rule.accepts]

    assert all(assembly(module_of(make, *[tensor("n 100", dtype)] * 2)))


def test_every_kind_of_kernel_compiles() -> None:
    def make(b: Builder, x: Value) -> list[Value]:
        found = [b.emit(Reduce(x, axes, how)) for axes in ((0,), (1,)) for how in ("sum", "max", "prod")]
        found += [b.emit(ArgReduce(x, axis, "max", last)) for axis in (0, 1) for last in (False, True)]
        found += [b.emit(Cumulative(x, axis, how, True, True)) for axis in (0, 1) for how in ("sum", "max")]
        return [*found, b.emit(Transpose(x, (1, 0))), *b.insert(TopK(x, 5, True)).results]

    assert all(assembly(module_of(make, "40 300")))
    assert all(assembly(module_of(make, "n m")))


def test_a_model_without_a_gpu(tmp_path: Path) -> None:
    model = ds.compile(product("bf16"), target="cuda:90")
    (kernel,) = model.kernels
    assert "wgmma" in kernel.code.assembly and "tl.dot(" in kernel.kernel.source and kernel.launches == 1
    assert "1 kernels" in repr(model)
    with pytest.raises((LoadError, ds.CompileError), match=r"no CUDA driver|no usable GPU|this GPU is"):
        model()
    with pytest.raises(CompileError, match="unknown GPU target 'cuda:42'; known: cuda:80"):
        ds.compile(product("bf16"), target="cuda:42")
    with pytest.raises(CompileError, match="takes models yet"):
        ds.compile(lambda x: x, target="cuda:90")


def test_the_command_writes_kernels(tmp_path: Path) -> None:
    path = tmp_path / "product.dsir"
    save_module(product("bf16"), path)
    out = tmp_path / "kernels"
    result = CliRunner().invoke(dsc, ["compile", str(path), "--target", "cuda:90", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert sorted(p.suffix for p in out.iterdir()) == [".cubin", ".ptx", ".py"]
