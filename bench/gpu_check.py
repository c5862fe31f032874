"""On a machine with a GPU: are all kernels right there, and how fast are they? One command, under 9 minutes.

    pip install --no-deps --no-build-isolation --target DIR .
    PYTHONPATH=DIR python bench/gpu_check.py --models FOLDER

Needs numpy, torch, triton, onnx, onnxruntime, llvmlite, with what these bring along; no network. The ONNX models are
those in the folder, if one is named (`bench/models.py --all` makes the project's where there is a network). Writes
``gpu_check.json`` and prints tables. **It has not run on hardware yet.**
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DEFAULT_SIZE = 16
MODEL_ERROR = 1e-3
ROUNDS = 5


class Budget:
    """What is left of the time."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self._end - time.monotonic()


def milliseconds(torch: Any, run: Callable[[], Any], calls: int = 20) -> float:
    """The best of several rounds, between events of the default stream."""
    for _ in range(3):
        run()
    best = float("inf")
    for _ in range(ROUNDS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        torch.cuda.synchronize()
        best = min(best, start.elapsed_time(end) / calls)
    return best


def module(body: Callable[..., Any], *types: Any) -> Any:
    """A module of one function of the arguments' types."""
    from ds_compiler.ir import Block, Builder, Function, Module, Region
    from ds_compiler.ops import Return

    block = Block(list(types), [f"x{n}" for n in range(len(types))])
    builder = Builder(block)
    builder.insert(Return((body(builder, *block.arguments),)))
    return Module([Function("main", Region(block), ["y"])])


def kernels(torch: Any) -> dict[str, tuple[Any, list[Any], Callable[..., Any], float]]:
    """Kernels by name: module, arguments on the device, the same in PyTorch, the error allowed."""
    from ds_compiler.ir import TensorType, dtypes
    from ds_compiler.ops import Binary, Broadcast, DotGeneral, Reduce, Transpose, Unary

    def tensor(*shape: int, dtype: str = "bf16") -> Any:
        return TensorType(shape, dtypes.dtype(dtype))

    def make(*shape: int, dtype: Any = None) -> Any:
        return torch.randn(*shape, device="cuda", dtype=dtype or torch.bfloat16)

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

    big = (64 << 20,)
    heads = (4, 16, 4096, 64)
    found: dict[str, tuple[Any, list[Any], Callable[..., Any], float]] = {
        "elementwise 64M bf16": (
            module(gelu_like, tensor(*big), tensor(*big)), [make(*big), make(*big)],
            lambda x, y: torch.tanh(x) * y, 2e-2,
        ),
        "softmax 8192 x 4096 bf16": (
            module(softmax, tensor(8192, 4096)), [make(8192, 4096)], lambda x: torch.softmax(x, -1), 2e-2
        ),
        "column sums 8192 x 4096 f32": (
            module(lambda b, x: b.emit(Reduce(x, (0,), "sum")), tensor(8192, 4096, dtype="f32")),
            [make(8192, 4096, dtype=torch.float32)], lambda x: x.sum(0), 1e-4,
        ),
        "transpose 8192 x 8192 bf16": (
            module(lambda b, x: b.emit(Transpose(x, (1, 0))), tensor(8192, 8192)), [make(8192, 8192)],
            lambda x: x.t().contiguous(), 0.0,
        ),
        "attention 4 x 16 x 4096 x 64 bf16": (
            module(attention, tensor(*heads), tensor(*heads), tensor(*heads)), [make(*heads) / 8 for _ in range(3)],
            lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0), 3e-2,
        ),
    }  # fmt: skip
    for size in (1024, 4096, 8192):
        found[f"product {size} bf16"] = (
            module(product, tensor(size, size), tensor(size, size)), [make(size, size), make(size, size)],
            torch.matmul, 2e-2,
        )  # fmt: skip
    found["product 4096 f32 (tf32x3)"] = (
        module(product, tensor(4096, 4096, dtype="f32"), tensor(4096, 4096, dtype="f32")),
        [make(4096, 4096, dtype=torch.float32) for _ in range(2)], torch.matmul, 1e-4,
    )  # fmt: skip
    return found


def check_kernel(torch: Any, name: str, case: tuple[Any, list[Any], Callable[..., Any], float]) -> dict[str, Any]:
    """One kernel against PyTorch: error, time, PyTorch's time."""
    import ds_compiler as ds

    source, arguments, reference, allowed = case
    compiled = ds.compile(source, target="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    (ours,) = compiled(*arguments, stream=stream).values()
    expected = reference(*arguments).float().cpu().numpy()
    error = float(np.abs(ours.numpy().astype(np.float32) - expected).max() / max(np.abs(expected).max(), 1e-6))
    return {
        "name": name,
        "error": error,
        "ok": error <= allowed,
        "ours_ms": milliseconds(torch, lambda: compiled(*arguments, stream=stream)),
        "torch_ms": milliseconds(torch, lambda: reference(*arguments)),
    }


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


def check_model(torch: Any, path: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """One ONNX model against onnxruntime on the CPU, and its time."""
    import onnxruntime

    import ds_compiler as ds

    start = time.perf_counter()
    compiled = ds.compile(str(path), target="cuda")
    seconds = time.perf_counter() - start
    feeds = random_inputs(compiled.inputs, sizes)
    got = compiled(feeds)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    errors = [np.abs(g - e).max() / max(np.abs(e).max(), 1e-6) for g, e in zip(got.values(), expected, strict=True)]
    error = float(max(errors))
    on_device = {k: torch.from_numpy(np.ascontiguousarray(v)).cuda() for k, v in feeds.items()}
    stream = torch.cuda.Stream()  # a graph cannot be captured on the default stream
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        ours = milliseconds(torch, lambda: compiled(on_device, stream=stream.cuda_stream))
    return {"name": path.stem, "error": error, "ok": error <= MODEL_ERROR, "compile_s": seconds, "ours_ms": ours}


def attempt(what: str, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A result, or the error as one."""
    try:
        return run()
    except Exception as error:
        traceback.print_exc()
        return {"name": what, "ok": False, "problem": f"{type(error).__name__}: {error}"[:400]}


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        state = "ok  " if row["ok"] else "FAIL"
        numbers = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
        print(f"{state} {row['name']:36} {row.get('problem', numbers)}", flush=True)


def main() -> int:
    """Run everything; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=510, help="begin nothing new after this long")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--models", type=Path, help="folder of ONNX models")
    parser.add_argument("--dim", action="append", default=["batch=1", "seq=128"], help="a size, NAME=VALUE")
    options = parser.parse_args()
    budget = Budget(options.seconds)
    import torch
    import triton

    if not torch.cuda.is_available():
        print("gpu_check: no CUDA device: nothing was checked", file=sys.stderr)
        return 2
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__},
        "kernels": [],
        "models": [],
    }
    for name, case in kernels(torch).items():
        if budget.left > 0:
            report["kernels"].append(attempt(name, lambda n=name, c=case: check_kernel(torch, n, c)))  # type: ignore[misc]
            show(report["kernels"][-1:])
    sizes = {name: int(value) for name, _, value in (d.partition("=") for d in options.dim)}
    for path in sorted(options.models.glob("*.onnx")) if options.models else ():
        if budget.left > 0:
            report["models"].append(attempt(path.stem, lambda p=path: check_model(torch, p, sizes)))  # type: ignore[misc]
            show(report["models"][-1:])
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(row["ok"] for row in report["kernels"] + report["models"]) else 1


if __name__ == "__main__":
    sys.exit(main())
