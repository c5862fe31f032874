"""Tables about the models: operators they use, and how fast onnxruntime runs them."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto

if TYPE_CHECKING:
    from bench.inputs import Inputs
    from bench.models import ModelSpec


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes of `graph`, those in the bodies of control flow included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from nodes(attribute.g)


def operators(model: onnx.ModelProto) -> Counter[str]:
    """How often each operator occurs; one outside the default domain is written `domain::Op`."""
    return Counter(f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes(model.graph))


def print_operators(specs: Sequence[ModelSpec]) -> None:
    """For each model: opset, inputs, outputs, operators; then the operators of all together."""
    total: Counter[str] = Counter()
    for spec in specs:
        path = spec.path()
        model = onnx.load(path)
        found = operators(model)
        total += found
        weights = {tensor.name for tensor in model.graph.initializer}
        opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
        print(f"{spec.name}: {path.name}, {path.stat().st_size / 1e6:.1f} MB, IR {model.ir_version}, {opsets}")
        print("  in  " + ", ".join(_value(value) for value in model.graph.input if value.name not in weights))
        print("  out " + ", ".join(_value(value) for value in model.graph.output))
        print(f"  {found.total()} nodes: {_counts(found)}")
    print(f"all: {total.total()} nodes, {len(total)} operators: {_counts(total)}")


def _value(value: ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    sizes = "x".join(str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return f"{value.name} {TensorProto.DataType.Name(tensor.elem_type).lower()}[{sizes}]"


def _counts(counter: Counter[str]) -> str:
    return " ".join(f"{name}:{count}" for name, count in counter.most_common())


def session(path: Path, threads: int) -> Any:
    """An onnxruntime CPU session with its defaults, but for the number of threads and the log."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def call_times(run: Any, feeds: Inputs, seconds: float = 1.0) -> list[float]:
    """Seconds of each `run.run(None, feeds)` over about `seconds`, at least 5 calls, after 2 to warm up."""
    for _ in range(2):
        run.run(None, feeds)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run.run(None, feeds)
        times.append(time.perf_counter() - start)
    return times


def print_onnxruntime_times(specs: Sequence[ModelSpec]) -> None:
    """Milliseconds of onnxruntime for each model at its first size, with 1 and with 2 threads.

    Best and median: with 2 threads they part where something else wants a core, since onnxruntime's threads
    wait for each other by spinning.
    """
    import onnxruntime

    print(f"onnxruntime {onnxruntime.__version__}, milliseconds a call: best / median")
    print(f"{'model':24} {'size':38} {'1 thread':>19} {'2 threads':>19}")
    for spec in specs:
        path, feeds = spec.path(), spec.inputs()
        columns = []
        for threads in (1, 2):
            times = call_times(session(path, threads), feeds)
            columns.append(f"{min(times) * 1e3:9.3f}/{statistics.median(times) * 1e3:9.3f}")
        size = " ".join(f"{key}={value}" for key, value in spec.dims[0].items())
        print(f"{spec.name:24} {size:38} {columns[0]:>19} {columns[1]:>19}", flush=True)
