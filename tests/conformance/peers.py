"""The same cases, compared in the same way, through onnxruntime and ONNX's reference evaluator.

    python -m tests.conformance.peers              # passed cases of each group
    python -m tests.conformance.peers --write      # also stores them in peers.json (docs/operators.md)

onnxruntime takes no NumPy arrays of the narrow types of ml_dtypes: they are fed, and received, as `OrtValue`s over the
same memory; elements of 4 and 2 bits lie packed at the beginning of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests.conformance.cases import GROUPS, Case, compare
from tests.conformance.sweep import Outcome, in_child, selected, work

PEERS = Path(__file__).with_name("peers.json")

Array = np.ndarray[Any, Any]


def _is_narrow(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.type.__module__.startswith("ml_dtypes")


def _bits(dtype: np.dtype[Any]) -> int:
    digits = [c for c in dtype.name.partition("_")[0] if c.isdigit()]
    return int("".join(digits))


def _packed(array: Array) -> Array:
    """Elements as unsigned integers; those of 4 and 2 bits several a byte, in an array of the same shape."""
    bits = _bits(array.dtype)
    if bits >= 8:
        return np.ascontiguousarray(array).view(f"u{bits // 8}").reshape(array.shape)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    memory = np.zeros(array.size, np.uint8)
    for index, element in enumerate(flat):
        memory[index * bits // 8] |= element << (index * bits % 8)
    return memory.reshape(array.shape)


def _unpacked(memory: Array, like: Array) -> Array:
    bits = _bits(like.dtype)
    if bits >= 8:
        return memory.view(like.dtype).reshape(like.shape)
    index = np.arange(like.size)
    elements = (memory.reshape(-1)[index * bits // 8] >> (index * bits % 8)) & ((1 << bits) - 1)
    if "uint" not in like.dtype.name and like.dtype.name.startswith("int"):  # the sign spreads
        elements = (elements ^ (1 << (bits - 1))).astype(np.int8) - (1 << (bits - 1))
        return elements.astype(like.dtype).reshape(like.shape)
    return elements.astype(np.uint8).view(like.dtype).reshape(like.shape)


def onnxruntime(case: Case) -> None:
    """Run one case.

    Raises:
        Exception: the model is refused.
        AssertionError: its outputs are wrong.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = ort.InferenceSession(case.model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    for inputs, expected in case.data_sets():
        feeds = dict(zip(names, inputs, strict=True))
        if any(map(_is_narrow, (*inputs, *expected))):
            results = _bound(ort, session, feeds, expected)
        else:
            results = session.run(None, feeds)
        compare([np.asarray(r) if isinstance(r, np.generic) else r for r in results], expected, case)


def _bound(ort: Any, session: Any, feeds: Mapping[str, Array], expected: list[Any]) -> list[Any]:
    """Outputs of a call some of whose arrays are of narrow types."""
    binding = session.io_binding()
    memories = {}
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, _ort_value(ort, _packed(array) if _is_narrow(array) else array, array))
    for value, wanted in zip(session.get_outputs(), expected, strict=True):
        if _is_narrow(wanted):
            memories[value.name] = _packed(np.zeros(wanted.shape, wanted.dtype))
            binding.bind_ortvalue_output(value.name, _ort_value(ort, memories[value.name], wanted))
        else:
            binding.bind_output(value.name)
    session.run_with_iobinding(binding)
    return [
        _unpacked(memories[value.name], wanted) if value.name in memories else result.numpy()
        for value, wanted, result in zip(session.get_outputs(), expected, binding.get_outputs(), strict=True)
    ]


def _ort_value(ort: Any, memory: Array, like: Array) -> Any:
    if not _is_narrow(like):
        return ort.OrtValue.ortvalue_from_numpy(memory)
    code = helper.np_dtype_to_tensor_dtype(like.dtype)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(memory, code)


def reference(case: Case) -> None:
    """As `onnxruntime`, through ONNX's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(case.model)
    for inputs, expected in case.data_sets():
        results = evaluator.run(None, dict(zip(evaluator.input_names, inputs, strict=False)))
        compare([np.asarray(r) if isinstance(r, np.generic) else r for r in results], expected, case)


ENGINES: dict[str, Callable[[Case], None]] = {"onnxruntime": onnxruntime, "onnx.reference": reference}


def _outcome(engine: str, case: Case) -> Outcome:
    try:
        ENGINES[engine](case)
    except Exception as error:
        text = " ".join(str(error).split())
        return Outcome(case.name, case.group, "failed", f"{type(error).__name__}: {text}"[:200])
    return Outcome(case.name, case.group, "passed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.peers", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="cases whose names begin so")
    parser.add_argument("--write", action="store_true", help=f"store the counts in {PEERS.name}")
    parser.add_argument("--engine", choices=tuple(ENGINES), action="append", help="all by default")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    engines = options.engine or list(ENGINES)
    if options.child is not None:
        work(selected(options.only)[options.child :], lambda case: _outcome(engines[0], case))
        return 0
    stored: dict[str, Any] = json.loads(PEERS.read_text(encoding="utf-8")) if PEERS.exists() else {}
    for engine in engines:
        command = ["tests.conformance.peers", "--engine", engine, "--only", *options.only]
        outcomes = in_child(command)
        passed = Counter(o.group for o in outcomes if o.status == "passed")
        print(engine, {group: passed[group] for group in GROUPS}, "all:", passed.total())
        stored[engine] = {
            "version": metadata.version(engine.partition(".")[0]),
            "passed": {group: passed[group] for group in GROUPS},
            "failed": {o.name: o.detail for o in outcomes if o.status == "failed"},
        }
    if options.write:
        PEERS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
