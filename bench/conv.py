"""Convolutions of the CPU back end against onnxruntime's single Conv node, one thread, as a share of the FMA peak.

    python -m bench.conv [--json out.json] [--rounds N] [--dynamic] [--direct] [SHAPE ...]

A shape is ``HxW:CIxCO:KHxKW`` with optional ``:sN`` (stride), ``:gN`` (groups), ``:dN`` (dilation); padding is half
the kernel. Each round times both engines in turn between two peak probes; rounds whose probes fall behind the best
are dropped (a shared core), and medians of the rest are reported. onnxruntime's time includes what it does to one
node alone: it gets channels first, and may reorder to its blocked layout and back. GFLOP/s count the direct sum,
so Winograd's exceed the peak.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from bench.gemm import peak_probe
from ds_compiler.backends.llvm.builder import FunctionBuilder, ModuleBuilder, V
from ds_compiler.backends.llvm.convolution import choose
from ds_compiler.backends.llvm.target import host
from ds_compiler.backends.llvm.window import ConvShape
from tests.backends.jit import compile_module

SHAPES = [
    "224x224:3x64:7x7:s2", "56x56:64x64:1x1", "56x56:64x256:1x1", "56x56:256x64:1x1", "56x56:64x64:3x3",
    "56x56:256x128:1x1", "56x56:128x128:3x3:s2", "28x28:128x512:1x1", "28x28:128x128:3x3", "56x56:256x512:1x1:s2",
    "14x14:256x1024:1x1", "14x14:256x256:3x3", "14x14:1024x256:1x1", "7x7:512x2048:1x1", "7x7:512x512:3x3",
    "7x7:2048x512:1x1", "224x224:64x64:3x3", "112x112:128x128:3x3", "56x56:256x256:3x3", "28x28:512x512:3x3",
    "14x14:512x512:3x3", "224x224:3x32:3x3:s2", "112x112:32x16:1x1", "112x112:16x96:1x1", "56x56:24x144:1x1",
    "56x56:144x24:1x1", "14x14:96x576:1x1", "7x7:320x1280:1x1", "1x512:1x64:1x256:s64", "28x28:240x240:3x3:g3",
    "112x112:32x32:3x3:g32", "112x112:96x96:3x3:s2:g96", "56x56:144x144:3x3:g144", "28x28:192x192:3x3:g192",
    "14x14:576x576:3x3:g576", "7x7:960x960:3x3:g960", "14x14:240x240:5x5:g240",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One convolution; kernel and sizes as (rows, columns)."""

    size: tuple[int, int]
    ci: int
    co: int
    kernel: tuple[int, int]
    stride: int = 1
    groups: int = 1
    dilation: int = 1

    @property
    def strides(self) -> tuple[int, int]:
        return tuple(self.stride if extent > 1 else 1 for extent in self.size)  # type: ignore[return-value]

    @property
    def pads(self) -> tuple[int, int]:
        return self.kernel[0] // 2 * self.dilation, self.kernel[1] // 2 * self.dilation

    @property
    def out(self) -> tuple[int, int]:
        return tuple(  # type: ignore[return-value]
            (s + 2 * p - self.dilation * (k - 1) - 1) // t + 1
            for s, p, k, t in zip(self.size, self.pads, self.kernel, self.strides)
        )

    @property
    def flops(self) -> int:
        return 2 * self.out[0] * self.out[1] * self.co * self.ci // self.groups * self.kernel[0] * self.kernel[1]


@dataclass
class Result:
    """One shape's figures; times in seconds, shares of the peak between 0 and 1."""

    shape: str
    seconds: float
    gflops: float
    share: float
    onnxruntime_seconds: float
    onnxruntime_share: float
    speedup: float
    compile_ms: float


def parse(text: str) -> Case:
    """The case that a shape on the command line means."""
    size, channels, kernel, *rest = text.split(":")
    height, width = (int(v) for v in size.split("x"))
    ci, co = (int(v) for v in channels.split("x"))
    kh, kw = (int(v) for v in kernel.split("x"))
    options = {flag[0]: int(flag[1:]) for flag in rest}
    return Case((height, width), ci, co, (kh, kw), options.get("s", 1), options.get("g", 1), options.get("d", 1))


def aligned(size: int) -> np.ndarray:
    """A float32 array that starts a cache line, with room for a vector to spare."""
    raw = np.zeros(size + 32, np.float32)
    first = -raw.ctypes.data % 64 // 4
    return raw[first : first + size]


def ours(
    case: Case, x: np.ndarray, weight: np.ndarray, dynamic: bool, winograd: bool
) -> tuple[Callable[[], None], np.ndarray]:
    """The compiled kernel as a call without arguments, and its output."""
    module = ModuleBuilder()
    names = ("n", "h", "width", "oh", "ow")
    fb = module.function("f", [*(("ptr", p) for p in "xwys"), *(("i64", name) for name in names)])
    values = (1, *case.size, *case.out)
    sizes = fb.args[4:] if dynamic else [fb.i64(v) for v in values]
    n, h, w, oh, ow = sizes
    target = host()
    shape = ConvShape(
        n=n, h=h, w=w, oh=oh, ow=ow, kernel=case.kernel, stride=case.strides, dilation=(case.dilation, case.dilation),
        pads=(*case.pads, *case.pads), ci=case.ci, co=case.co, groups=case.groups,
    )  # fmt: skip
    if dynamic:
        shape = replace(shape, n=fb.i64(1))

    def epilogue(fb: FunctionBuilder, image: V, pixel: V, channel: V, lanes: int, mask: V | None, value: V) -> None:
        at = fb.gep("float", fb.args[2], fb.add(fb.mul(pixel, fb.i64(case.co)), channel))
        if mask is None:
            fb.store(value, at)
        else:
            fb.masked_store(value, at, mask)

    convolution = choose(shape, target, winograd=winograd)
    packed, scratch_bytes = convolution.pack(weight), convolution.scratch_bytes()
    convolution.emit(
        fb,
        shape=shape,
        x=fb.args[0],
        w=fb.args[1],
        task=fb.i64(0),
        tasks=fb.i64(1),
        scratch=fb.args[3],
        epilogue=epilogue,
    )
    fb.ret()
    fb.finish()
    function = compile_module(module.text()).function("f", [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 5)
    image, w_packed = aligned(x.size), aligned(packed.size)
    image[:] = np.moveaxis(x[0], 0, -1).ravel()
    w_packed[:] = packed.ravel()
    y, scratch = aligned(case.out[0] * case.out[1] * case.co), aligned(scratch_bytes // 4 + 16)
    arguments = (image.ctypes.data, w_packed.ctypes.data, y.ctypes.data, scratch.ctypes.data, *values)
    keep = (image, w_packed, scratch)

    def call(_keep: object = keep) -> None:
        function(*arguments)

    return call, y.reshape(*case.out, case.co)


def theirs(case: Case, x: np.ndarray, weight: np.ndarray) -> tuple[Callable[[], None], Callable[[], np.ndarray]]:
    """onnxruntime's call on bound input and output, and a function that returns the output."""
    node = helper.make_node(
        "Conv", ["x", "w"], ["y"], kernel_shape=case.kernel, strides=case.strides, group=case.groups,
        pads=[*case.pads, *case.pads], dilations=[case.dilation] * 2,
    )  # fmt: skip
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, case.co, *case.out))],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    result = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((1, case.co, *case.out), np.float32))
    binding.bind_ortvalue_output("y", result)
    return lambda: session.run_with_iobinding(binding), result.numpy


def measure(text: str, probe: Callable[[], float], peak: float, options: argparse.Namespace) -> Result:
    """Time one shape; `peak` is the best probe so far.

    Raises:
        AssertionError: the two engines' results differ.
    """
    case = parse(text)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, case.ci, *case.size), np.float32)
    weight = rng.standard_normal((case.co, case.ci // case.groups, *case.kernel), np.float32)
    start = time.perf_counter()
    call, y = ours(case, x, weight, options.dynamic, not options.direct)
    compile_ms = (time.perf_counter() - start) * 1e3
    other, result = theirs(case, x, weight)
    call()
    other()
    np.testing.assert_allclose(np.moveaxis(y, -1, 0), result()[0], rtol=0, atol=1e-5 * np.abs(y).max())

    repeat = max(1, int(1e8 // case.flops))
    samples: list[tuple[float, float, float]] = []
    for _ in range(options.rounds):
        before, times = probe(), []
        for engine in (call, other):
            begin = time.perf_counter()
            for _ in range(repeat):
                engine()
            times.append((time.perf_counter() - begin) / repeat)
        samples.append((min(before, probe()), times[0], times[1]))
    peak = max(peak, *(sample[0] for sample in samples))
    kept = [sample for sample in samples if sample[0] > 0.95 * peak] or [max(samples)]
    seconds, theirs_seconds = (statistics.median(sample[i] for sample in kept) for i in (1, 2))
    return Result(
        text,
        seconds,
        case.flops / seconds / 1e9,
        case.flops / seconds / peak,
        theirs_seconds,
        case.flops / theirs_seconds / peak,
        statistics.median(sample[2] / sample[1] for sample in kept),
        compile_ms,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--dynamic", action="store_true", help="height and width are run-time values")
    parser.add_argument("--direct", action="store_true", help="no Winograd")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    probe = peak_probe()
    peak, results = max(probe() for _ in range(50)), []
    print(f"FMA peak {peak / 1e9:.1f} GFLOP/s, {host().cpu}")
    print(f"{'shape':28} {'us':>9} {'GFLOP/s':>8} {'peak':>6} {'ort us':>9} {'peak':>6} {'ratio':>6} {'compile':>8}")
    for text in options.shapes:
        r = measure(text, probe, peak, options)
        results.append(r)
        print(
            f"{r.shape:28} {r.seconds * 1e6:9.1f} {r.gflops:8.1f} {r.share:6.1%} {r.onnxruntime_seconds * 1e6:9.1f} "
            f"{r.onnxruntime_share:6.1%} {r.speedup:5.2f}x {r.compile_ms:5.0f} ms",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
