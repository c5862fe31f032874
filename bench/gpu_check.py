"""On a machine with a GPU: are all kernels right there, and how fast are they? One command, under 9 minutes.

    pip install --no-deps --no-build-isolation --target DIR .
    PYTHONPATH=DIR python bench/gpu_check.py --models FOLDER

Needs numpy, torch, triton, onnx, onnxruntime, llvmlite, with what these bring along; no network. Sections: the
bandwidth of a copy, single kernels against PyTorch's, attention with its derivative, launches, networks (with random
weights) and training steps against eager mode, Inductor and its max-autotune, as far as time allows: what it does not
is listed as skipped. The ONNX models are those in the folder, if one is named (`bench/models.py --all` makes the
project's where there is a network). Writes ``gpu_check.json``, prints tables. ``--dry`` goes through it without a GPU:
small sizes, a driver that launches nothing, PyTorch on the CPU. **It has not run on hardware yet.**
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Behind all else: the folder of the checkout must not hide the installed package.
sys.path.append(str(Path(__file__).resolve().parents[1]))

import torch

from bench import gpu_sections
from bench.gpu_machine import Machine, Row, relative

DEFAULT_SIZE = 16
MODEL_ERROR = 1e-3


def module(body: Callable[..., Any], *types: Any) -> Any:
    """A module of one function of the arguments' types."""
    from ds_compiler.ir import Block, Builder, Function, Module, Region
    from ds_compiler.ops import Return

    block = Block(list(types), [f"x{n}" for n in range(len(types))])
    builder = Builder(block)
    builder.insert(Return((body(builder, *block.arguments),)))
    return Module([Function("main", Region(block), ["y"])])


#: A module, the shapes and type of its arguments, the same in PyTorch, the error allowed, bytes moved (0: products).
Case = tuple[Any, list[tuple[int, ...]], Any, Callable[..., Any], float, int]


def kernels(machine: Machine) -> dict[str, Case]:
    """Kernels by name."""
    from ds_compiler.ir import TensorType, dtypes
    from ds_compiler.ops import Binary, Broadcast, DotGeneral, Reduce, Transpose, Unary

    def tensor(*shape: int, dtype: str = "bf16") -> Any:
        return TensorType(shape, dtypes.dtype(dtype))

    def gelu_like(b: Any, x: Any, y: Any) -> Any:
        return b.emit(Binary(b.emit(Unary(x, "tanh")), y, "mul"))

    def softmax(b: Any, x: Any) -> Any:
        rank = x.type.rank
        lead = tuple(range(rank - 1))
        top = b.emit(Broadcast(b.emit(Reduce(x, (rank - 1,), "max")), x.type.shape, lead))
        e = b.emit(Unary(b.emit(Binary(x, top, "sub")), "exp"))
        total = b.emit(Broadcast(b.emit(Reduce(e, (rank - 1,), "sum")), x.type.shape, lead))
        return b.emit(Binary(e, total, "div"))

    def product(b: Any, x: Any, y: Any) -> Any:
        return b.emit(DotGeneral(x, y, (), (), (1,), (0,)))

    def attention(b: Any, q: Any, k: Any, v: Any) -> Any:
        weights = softmax(b, b.emit(DotGeneral(q, k, (0, 1), (0, 1), (3,), (3,))))
        return b.emit(DotGeneral(weights, v, (0, 1), (0, 1), (3,), (2,)))

    by = 64 if machine.dry else 1  # sizes are divided by this
    half, full = torch.bfloat16, torch.float32
    big, rows, wide = (64 * 2**20 // by**3,), (8192 // by, 4096 // by), (8192 // by, 8192 // by)
    heads = (1, 2, 64, 64) if machine.dry else (4, 16, 4096, 64)
    moved = rows[0] * rows[1]
    found: dict[str, Case] = {
        "elementwise 64M bf16": (
            module(gelu_like, tensor(*big), tensor(*big)), [big, big], half,
            lambda x, y: torch.tanh(x) * y, 2e-2, 6 * big[0],
        ),
        "softmax 8192 x 4096 bf16": (
            module(softmax, tensor(*rows)), [rows], half, lambda x: torch.softmax(x, -1), 2e-2, 4 * moved,
        ),
        "column sums 8192 x 4096 f32": (
            module(lambda b, x: b.emit(Reduce(x, (0,), "sum")), tensor(*rows, dtype="f32")), [rows], full,
            lambda x: x.sum(0), 1e-4, 4 * moved,
        ),
        "row sums 8192 x 4096 f32": (
            module(lambda b, x: b.emit(Reduce(x, (1,), "sum")), tensor(*rows, dtype="f32")), [rows], full,
            lambda x: x.sum(1), 1e-4, 4 * moved,
        ),
        "transpose 8192 x 8192 bf16": (
            module(lambda b, x: b.emit(Transpose(x, (1, 0))), tensor(*wide)), [wide], half,
            lambda x: x.t().contiguous(), 0.0, 4 * wide[0] * wide[1],
        ),
        "attention 4 x 16 x 4096 x 64 bf16": (
            module(attention, tensor(*heads), tensor(*heads), tensor(*heads)), [heads] * 3, half,
            lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0), 3e-2, 0,
        ),
    }  # fmt: skip
    for size in (1024, 4096, 8192):
        square = (size // by, size // by)
        found[f"product {size} bf16"] = (
            module(product, tensor(*square), tensor(*square)), [square] * 2, half, torch.matmul, 2e-2, 0,
        )  # fmt: skip
    square = (4096 // by, 4096 // by)
    found["product 4096 f32 (tf32x3)"] = (
        module(product, tensor(*square, dtype="f32"), tensor(*square, dtype="f32")), [square] * 2, full,
        torch.matmul, 1e-4, 0,
    )  # fmt: skip
    return found


def check_kernel(machine: Machine, case: Case) -> Row:
    """One kernel against PyTorch: error, time, PyTorch's time, the share of the bandwidth of a copy."""
    import ds_compiler as ds

    source, shapes, dtype, reference, allowed, moved = case
    arguments = [machine.tensor(*shape, dtype=dtype) / (8 if len(shape) == 4 else 1) for shape in shapes]
    given = [machine.given(t) for t in arguments]
    compiled: Any = ds.compile(source, target="cuda")
    stream = machine.stream()
    (ours,) = compiled(*given, stream=stream, keep=True).values()
    expected = reference(*arguments)
    if tuple(ours.shape) != tuple(expected.shape):
        raise ValueError(f"the result has the shape {ours.shape}, not {tuple(expected.shape)}")
    error = 0.0 if machine.dry else relative(torch.from_dlpack(ours), expected)
    row: Row = {
        "ok": error <= allowed,
        "error": error,
        "ours_ms": machine.milliseconds(lambda: compiled(*given, stream=stream, keep=True)),
        "torch_ms": machine.milliseconds(lambda: reference(*arguments)),
    }
    if moved and machine.bandwidth:
        row["share_of_copy"] = moved / (row["ours_ms"] / 1e3) / machine.bandwidth
    row["torch_ratio"] = row["torch_ms"] / row["ours_ms"]
    return row


def random_inputs(tensors: Any, sizes: dict[str, int]) -> dict[str, Any]:
    """Seeded inputs; integers are small, so that they are rows of any table."""
    from ds_compiler.ir import parse_dim
    from ds_compiler.ir.dims import evaluate, symbols_of
    from ds_compiler.runtime.dtypes import dtype_of

    rng = np.random.default_rng(0)
    found = {}
    for tensor in tensors:
        dims = [parse_dim(d) for d in tensor.dims]
        shape = [evaluate(d, {s: sizes.get(s, DEFAULT_SIZE) for s in symbols_of(d)}) for d in dims]
        dtype = dtype_of(tensor.dtype)
        found[tensor.name] = (
            rng.standard_normal(shape) if dtype.kind not in "iub" else rng.integers(0, 2, shape)
        ).astype(dtype)
    return found


def check_model(machine: Machine, path: Path, sizes: dict[str, int]) -> Row:
    """One ONNX model against onnxruntime on the CPU, and its time."""
    import onnxruntime

    import ds_compiler as ds

    start = time.perf_counter()
    compiled: Any = ds.compile(str(path), target="cuda")
    seconds = time.perf_counter() - start
    feeds = random_inputs(compiled.inputs, sizes)
    got = compiled(feeds)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    errors = [np.abs(g - e).max() / max(np.abs(e).max(), 1e-6) for g, e in zip(got.values(), expected, strict=True)]
    error = 0.0 if machine.dry else float(max(errors))
    there = feeds if machine.dry else ds.device_put(feeds)
    ours = machine.milliseconds(lambda: compiled(there, stream=machine.stream(), keep=True))
    return {"ok": error <= MODEL_ERROR, "error": error, "compile_s": seconds, "ours_ms": ours}


def single(machine: Machine) -> None:
    """All kernels."""
    for name, case in kernels(machine).items():
        machine.attempt("kernels", name, lambda c=case: check_kernel(machine, c))


SECTIONS: dict[str, Callable[[Machine], None]] = {
    "bandwidth": gpu_sections.bandwidth,
    "kernels": single,
    "launches": gpu_sections.launches,
    "attention": gpu_sections.attention,
    "training": gpu_sections.training,
    "networks": gpu_sections.networks,
}


def main(argv: list[str] | None = None) -> int:
    """Run everything; 1 if something is wrong, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=510, help="begin nothing new after this long")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--models", type=Path, help="folder of ONNX models")
    parser.add_argument("--dim", action="append", default=["batch=1", "seq=128"], help="a size, NAME=VALUE")
    parser.add_argument("--only", action="append", choices=[*SECTIONS, "models"], help="a section; may be repeated")
    parser.add_argument("--dry", action="store_true", help="try the script out, without a GPU")
    options = parser.parse_args(argv)
    if not options.dry and not torch.cuda.is_available():
        print("gpu_check: no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    machine = Machine(options.dry, options.seconds)
    wanted = options.only or [*SECTIONS, "models"]
    sizes = {name: int(value) for name, _, value in (d.partition("=") for d in options.dim)}
    with pretended() if options.dry else contextlib.nullcontext():
        for path in sorted(options.models.glob("*.onnx")) if options.models and "models" in wanted else ():
            machine.attempt("models", path.stem, lambda p=path: check_model(machine, p, sizes))
        for name, section in SECTIONS.items():
            if name in wanted:
                section(machine)
    rows = [row for section in machine.rows.values() for row in section]
    report = {"device": described(machine), "versions": versions(), "dry": machine.dry, **machine.rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    failed, skipped = sum(not row["ok"] for row in rows), sum("skipped" in row for row in rows)
    print(f"{len(rows)} rows, {failed} failed, {skipped} skipped; {options.out}")
    return 1 if failed else 0


def pretended() -> Any:
    """A GPU that launches nothing."""
    from tests.runtime.cuda.gpu import pretended

    return pretended()


def described(machine: Machine) -> str:
    """The GPU's name."""
    return "none" if machine.dry else str(torch.cuda.get_device_name())


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    if (triton := sys.modules.get("triton")) is not None:
        found["triton"] = str(triton.__version__)
    return found


if __name__ == "__main__":
    sys.exit(main())
