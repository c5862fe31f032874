"""Loop kernels of the CPU back end (movement, rows, maps) against onnxruntime, one thread, as times and GB/s.

    python -m bench.loops [--json out.json] [--rounds N] [CASE ...]

Each case is one small model, compiled and run as a whole program by both engines in turn; the table gives the best
time of each, their ratio (median of the rounds' ratios), and the bytes read and written a second beside those of a
plain copy (`numpy.copyto`) of as many bytes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from ds_compiler.backends.llvm.compile import compile_module
from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.backends.llvm.target import host
from ds_compiler.ir import Block, Builder, Function, Module, Region, TensorType, Value, dtypes
from ds_compiler.ops import (
    Binary,
    Broadcast,
    Concat,
    Constant,
    Pad,
    Reduce,
    ReduceWindow,
    Reshape,
    Return,
    Slice,
    Transpose,
    Unary,
)
from ds_compiler.passes.fuse import fuse
from ds_compiler.runtime import Executable

Array = np.ndarray[Any, Any]
Node = tuple[str, Sequence[str], str, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A small model twice: as IR and as ONNX nodes over inputs x0, x1, …, with the result y."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    build: Callable[..., Value]
    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    dtype: str = "f32"


@dataclass
class Result:
    """One case's figures; times in microseconds."""

    name: str
    ours: float
    onnxruntime: float
    ratio: float
    gigabytes: float
    copy_gigabytes: float


def spread(b: Builder, value: Any, like: Value, axes: tuple[int, ...] = ()) -> Value:
    source = value if isinstance(value, Value) else b.emit(Constant(np.asarray(value, like.type.dtype.numpy)))
    return b.emit(Broadcast(source, like.type.shape, axes))


def softmax(b: Builder, x: Value) -> Value:
    rank = x.type.rank
    kept = tuple(range(rank - 1))
    top = spread(b, b.emit(Reduce(x, (rank - 1,), "max")), x, kept)
    e = b.emit(Unary(b.emit(Binary(x, top, "sub")), "exp"))
    return b.emit(Binary(e, spread(b, b.emit(Reduce(e, (rank - 1,), "sum")), x, kept), "div"))


def log_softmax(b: Builder, x: Value) -> Value:
    last = x.type.rank - 1
    kept = tuple(range(last))
    shifted = b.emit(Binary(x, spread(b, b.emit(Reduce(x, (last,), "max")), x, kept), "sub"))
    total = b.emit(Reduce(b.emit(Unary(shifted, "exp")), (last,), "sum"))
    return b.emit(Binary(shifted, spread(b, b.emit(Unary(total, "log")), x, kept), "sub"))


def layer_norm(b: Builder, x: Value, scale: Value, bias: Value) -> Value:
    last = x.type.rank - 1
    kept = tuple(range(last))
    centred = b.emit(Binary(x, spread(b, b.emit(Reduce(x, (last,), "mean")), x, kept), "sub"))
    variance = b.emit(Reduce(b.emit(Binary(centred, centred, "mul")), (last,), "mean"))
    shifted = b.emit(Binary(variance, spread(b, 1e-5, variance), "add"))
    normal = b.emit(Binary(centred, spread(b, b.emit(Unary(shifted, "rsqrt")), x, kept), "mul"))
    return b.emit(
        Binary(b.emit(Binary(normal, spread(b, scale, x, (last,)), "mul")), spread(b, bias, x, (last,)), "add")
    )


def gelu(b: Builder, x: Value) -> Value:
    e = b.emit(Unary(b.emit(Binary(x, spread(b, 2**-0.5, x), "mul")), "erf"))
    half = b.emit(Binary(x, spread(b, 0.5, x), "mul"))
    return b.emit(Binary(half, b.emit(Binary(e, spread(b, 1.0, x), "add")), "mul"))


def hard_swish(b: Builder, x: Value) -> Value:
    y = b.emit(Binary(b.emit(Binary(x, spread(b, 1 / 6, x), "mul")), spread(b, 0.5, x), "add"))
    y = b.emit(Binary(b.emit(Binary(y, spread(b, 0.0, x), "max")), spread(b, 1.0, x), "min"))
    return b.emit(Binary(x, y, "mul"))


def shuffle(b: Builder, x: Value) -> Value:
    n, c, h, w = x.type.shape
    parts = b.emit(Transpose(b.emit(Reshape(x, (n, 2, c // 2, h, w))), (0, 2, 1, 3, 4)))
    return b.emit(Reshape(parts, (n, c, h, w)))


def _transpose(name: str, shape: tuple[int, ...], permutation: tuple[int, ...], dtype: str = "f32") -> Case:
    node: Node = ("Transpose", ("x0",), "y", {"perm": permutation})
    return Case(name, (shape,), lambda b, x: b.emit(Transpose(x, permutation)), (node,), {}, dtype)


def _reduce(name: str, shape: tuple[int, ...], axes: tuple[int, ...], how: str = "mean") -> Case:
    onnx_name = {"mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax"}[how]
    node: Node = (onnx_name, ("x0", "axes"), "y", {"keepdims": 0})
    build = lambda b, x: b.emit(Reduce(x, axes, how))  # noqa: E731
    return Case(name, (shape,), build, (node,), {"axes": np.array(axes, np.int64)})


def _map(name: str, shape: tuple[int, ...], build: Callable[..., Value], op: str, **attributes: Any) -> Case:
    return Case(name, (shape,), build, ((op, ("x0",), "y", attributes),), {})


def _pool(
    name: str, shape: tuple[int, ...], window: int, stride: int, pad: int, op: str = "MaxPool", ceil: bool = False
) -> Case:
    """Pooling channels first; `ceil` rounds the result's size up."""
    rank = len(shape) - 2
    axes = tuple(range(2, 2 + rank))
    extra = [(-(s + 2 * pad - window) % stride if ceil else 0) for s in shape[2:]]
    how = "max" if op == "MaxPool" else "mean_valid"

    def build(b: Builder, x: Value) -> Value:
        high = tuple(pad + e for e in extra)
        ones = (1,) * rank
        return b.emit(ReduceWindow(x, axes, (window,) * rank, (stride,) * rank, (pad,) * rank, high, ones, how))

    attributes = {
        "kernel_shape": (window,) * rank, "strides": (stride,) * rank, "pads": (pad,) * rank * 2, "ceil_mode": int(ceil)
    }  # fmt: skip
    return _map(name, shape, build, op, **attributes)


def enlarge(b: Builder, x: Value) -> Value:
    """Every pixel twice along both spatial axes."""
    n, c, h, w = x.type.shape
    wide = b.emit(Broadcast(x, (n, c, h, 2, w, 2), (0, 1, 2, 4)))
    return b.emit(Reshape(wide, (n, c, 2 * h, 2 * w)))


def depth_to_space(b: Builder, x: Value) -> Value:
    n, c, h, w = x.type.shape
    parts = b.emit(Transpose(b.emit(Reshape(x, (n, c // 4, 2, 2, h, w))), (0, 1, 4, 2, 5, 3)))
    return b.emit(Reshape(parts, (n, c // 4, 2 * h, 2 * w)))


CASES = [
    Case(
        "nearest x2 128x28x28", ((1, 128, 28, 28),), enlarge,
        (("Resize", ("x0", "", "scales"), "y", {"mode": "nearest"}),),
        {"scales": np.array([1, 1, 2, 2], np.float32)},
    ),
    Case(
        "depth to space 64x56x56", ((1, 64, 56, 56),), depth_to_space,
        (("DepthToSpace", ("x0",), "y", {"blocksize": 2, "mode": "CRD"}),), {},
    ),
    _pool("max pool 3x3/2 64x112x112", (1, 64, 112, 112), 3, 2, 1),
    _pool("max pool 2x2/2 64x56x56", (1, 64, 56, 56), 2, 2, 0),
    _pool("max pool 5x5/1 128x20x20", (1, 128, 20, 20), 5, 1, 2),
    _pool("max pool 3x3/2 480x14x14", (1, 480, 14, 14), 3, 2, 1),
    _pool("average pool 3x3/1 192x28x28", (1, 192, 28, 28), 3, 1, 1, "AveragePool"),
    _pool("average pool 2x2/2 64x56x56", (1, 64, 56, 56), 2, 2, 0, "AveragePool"),
    _pool("average pool 3x3/2 ceil 64x56x56", (1, 64, 56, 56), 3, 2, 0, "AveragePool", True),
    _pool("average pool 7x7 512x7x7", (1, 512, 7, 7), 7, 7, 0, "AveragePool"),
    _pool("max pool 3x3x3/2 16x32x56x56", (1, 16, 32, 56, 56), 3, 2, 1),
    _transpose("NCHW to NHWC 256x56x56", (1, 256, 56, 56), (0, 2, 3, 1)),
    _transpose("NHWC to NCHW 56x56x256", (1, 56, 56, 256), (0, 3, 1, 2)),
    _transpose("NCHW to NHWC 3x224x224", (1, 3, 224, 224), (0, 2, 3, 1)),
    _transpose("heads 128x12x64", (1, 128, 12, 64), (0, 2, 1, 3)),
    _transpose("heads transposed 128x12x64", (1, 128, 12, 64), (0, 2, 3, 1)),
    _transpose("64x512x512 swap", (64, 512, 512), (0, 2, 1)),
    _transpose("512x512 swap", (512, 512), (1, 0)),
    _transpose("512x512 swap f64", (512, 512), (1, 0), "f64"),
    _transpose("512x512 swap f16", (512, 512), (1, 0), "f16"),
    _transpose("512x512 swap u8", (512, 512), (1, 0), "u8"),
    _transpose("60x49x33 swap", (60, 49, 33), (0, 2, 1)),
    Case(
        "concat channels 56x56x(64+32)", ((1, 56, 56, 64), (1, 56, 56, 32)), lambda b, x, y: b.emit(Concat((x, y), 3)),
        (("Concat", ("x0", "x1"), "y", {"axis": 3}),), {},
    ),
    Case(
        "concat channels 28x28x(17+33)", ((1, 28, 28, 17), (1, 28, 28, 33)), lambda b, x, y: b.emit(Concat((x, y), 3)),
        (("Concat", ("x0", "x1"), "y", {"axis": 3}),), {},
    ),
    Case(
        "slice 56x56x96 [..., 32:]", ((1, 56, 56, 96),),
        lambda b, x: b.emit(Slice(x, (0, 0, 0, 32), (1, 56, 56, 64), (1, 1, 1, 1))),
        (("Slice", ("x0", "from", "to", "axis"), "y", {}),),
        {"from": np.array([32]), "to": np.array([96]), "axis": np.array([3])},
    ),
    Case(
        "pad 56x56x64", ((1, 56, 56, 64),),
        lambda b, x: b.emit(Pad(x, b.emit(Constant(np.array(0, np.float32))), (0, 1, 1, 0), (0, 1, 1, 0))),
        (("Pad", ("x0", "pads"), "y", {}),), {"pads": np.array([0, 1, 1, 0, 0, 1, 1, 0])},
    ),
    Case(
        "shuffle 240x28x28", ((1, 240, 28, 28),), shuffle,
        (("Reshape", ("x0", "split"), "a", {}), ("Transpose", ("a",), "b", {"perm": (0, 2, 1, 3, 4)}),
         ("Reshape", ("b", "whole"), "y", {})),
        {"split": np.array([1, 2, 120, 28, 28]), "whole": np.array([1, 240, 28, 28])},
    ),
    _map("softmax 12x128x128", (1, 12, 128, 128), softmax, "Softmax", axis=-1),
    _map("softmax 12x49x49", (1, 12, 49, 49), softmax, "Softmax", axis=-1),
    _map("softmax 1x1000", (1, 1000), softmax, "Softmax", axis=-1),
    _map("softmax 4096x12", (4096, 12), softmax, "Softmax", axis=-1),
    _map("log softmax 128x1000", (128, 1000), log_softmax, "LogSoftmax", axis=-1),
    Case(
        "layer norm 128x768", ((128, 768), (768,), (768,)), layer_norm,
        (("LayerNormalization", ("x0", "x1", "x2"), "y", {}),), {},
    ),
    _map("gelu 128x3072", (128, 3072), gelu, "Gelu"),
    _map("sigmoid 128x3072", (128, 3072), lambda b, x: b.emit(Unary(x, "sigmoid")), "Sigmoid"),
    _map("tanh 128x3072", (128, 3072), lambda b, x: b.emit(Unary(x, "tanh")), "Tanh"),
    _map("exp 128x3072", (128, 3072), lambda b, x: b.emit(Unary(x, "exp")), "Exp"),
    _map("hardswish 128x3072", (128, 3072), hard_swish, "HardSwish"),
    Case(
        "add 128x3072", ((128, 3072), (128, 3072)), lambda b, x, y: b.emit(Binary(x, y, "add")),
        (("Add", ("x0", "x1"), "y", {}),), {},
    ),
    _reduce("mean over pixels 7x7x2048 (last but one)", (1, 49, 2048), (1,)),
    _reduce("mean over pixels 56x56x64", (1, 3136, 64), (1,)),
    _reduce("mean over pixels 960x7x7", (1, 960, 7, 7), (2, 3)),
    _reduce("sum over rows 1024x1024", (1024, 1024), (0,), "sum"),
    _reduce("max of rows 4096x49", (4096, 49), (1,), "max"),
    _reduce("sum of rows 4096x12", (4096, 12), (1,), "sum"),
    _reduce("sum of all 1024x1024", (1024, 1024), (0, 1), "sum"),
]  # fmt: skip


def ours(case: Case) -> Executable:
    types = [TensorType(s, dtypes.dtype(case.dtype)) for s in case.shapes]
    block = Block(types, [f"x{i}" for i in range(len(types))])
    builder = Builder(block)
    builder.insert(Return((case.build(builder, *block.arguments),)))
    module = Module([Function("main", Region(block), ["y"])])
    fuse(module)
    c = compile_module(module, host())
    return Executable(c.program, c.manifest, c.constants, pool_object=pool_object(), threads=1)


def theirs(case: Case) -> onnxruntime.InferenceSession:
    kind = helper.np_dtype_to_tensor_dtype(dtypes.dtype(case.dtype).numpy)
    nodes = [helper.make_node(op, list(inputs), [out], **attributes) for op, inputs, out, attributes in case.nodes]
    graph = helper.make_graph(
        nodes, "case",
        [helper.make_tensor_value_info(f"x{i}", kind, s) for i, s in enumerate(case.shapes)],
        [helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in case.constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def _best(call: Callable[[], object], repeat: int) -> float:
    start = time.perf_counter()
    for _ in range(repeat):
        call()
    return (time.perf_counter() - start) / repeat


def measure(case: Case, rounds: int) -> Result:
    rng = np.random.default_rng(0)
    dtype = dtypes.dtype(case.dtype).numpy
    inputs = {f"x{i}": (rng.standard_normal(s) * 3).astype(dtype) for i, s in enumerate(case.shapes)}
    program, session = ours(case), theirs(case)
    y = program(**inputs)["y"]
    expected = session.run(None, inputs)[0]
    np.testing.assert_allclose(y.astype(np.float64), expected.astype(np.float64), rtol=1e-3, atol=1e-4)
    moved = sum(a.nbytes for a in inputs.values()) + y.nbytes
    source, target = np.zeros(moved // 2, np.uint8), np.zeros(moved // 2, np.uint8)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: program(**inputs, out={"y": y}),
        "onnxruntime": lambda: session.run(None, inputs),
        "copy": lambda: np.copyto(target, source),
    }
    repeats = {name: max(1, int(0.003 / _best(call, 2))) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name in rng.permutation(list(calls)):
            times[name].append(_best(calls[name], repeats[name]))
    best = {name: min(values) for name, values in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["onnxruntime"], strict=True))
    return Result(
        case.name, best["ours"] * 1e6, best["onnxruntime"] * 1e6, ratio, moved / best["ours"] / 1e9,
        moved / best["copy"] / 1e9,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help="parts of names; all when none")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    results = []
    print(f"{'case':44} {'ours us':>9} {'ort us':>9} {'ours/ort':>8} {'GB/s':>6} {'copy':>6}")
    for case in CASES:
        if arguments.cases and not any(part in case.name for part in arguments.cases):
            continue
        r = measure(case, arguments.rounds)
        results.append(r)
        print(
            f"{r.name:44} {r.ours:9.1f} {r.onnxruntime:9.1f} {r.ratio:8.2f} {r.gigabytes:6.1f} {r.copy_gigabytes:6.1f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
