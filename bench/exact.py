"""How far engines are from the exact result: the model evaluated in float64 is the measure.

    python -m bench.exact ppocr_rec

Where an output needs more room than usual in a comparison of two engines, this tells why: single precision itself is
that far off, whatever computes with it.
"""

from __future__ import annotations

import argparse

import numpy as np
import onnxruntime

import ds_compiler as ds
from bench.models import MODELS
from ds_compiler.frontends.onnx import import_model
from ds_compiler.ir import Block, Module
from ds_compiler.ir.dtypes import f32, f64
from ds_compiler.ops import Cast, Constant
from ds_compiler.reference import interpret


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=MODELS, metavar="NAME", help="models (bench/models.py --list)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs [0]")
    arguments = parser.parse_args()
    for name in arguments.models:
        spec = MODELS[name]
        feeds = spec.inputs(seed=arguments.seed)
        exact = in_double_precision(import_model(spec.path()), feeds)
        unoptimised = onnxruntime.SessionOptions()
        unoptimised.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        engines = {
            "ds_compiler": ds.compile(spec.path(), threads=1).run(None, feeds),
            "onnxruntime": onnxruntime.InferenceSession(str(spec.path())).run(None, feeds),
            "onnxruntime, not optimised": onnxruntime.InferenceSession(str(spec.path()), unoptimised).run(None, feeds),
        }
        for engine, outputs in engines.items():
            errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(outputs, exact, strict=True)]
            print(f"{name:24} {engine:28} {' '.join(f'{error:.1e}' for error in errors)}")


def in_double_precision(module: Module, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The module's outputs with every float32 in it made a float64."""
    _widen(module.main.block)
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feeds.items()}
    return interpret(module, wide)


def _widen(block: Block) -> None:
    for value in (*block.arguments, *(result for op in block for result in op.results)):
        if value.type.dtype == f32:
            value.type = value.type.with_dtype(f64)
    for op in block:
        if isinstance(op, Constant) and op.value.dtype == np.float32:
            op.attributes["value"] = op.value.astype(np.float64)
        elif isinstance(op, Cast) and op.dtype == f32:
            op.attributes["dtype"] = f64
        for region in op.regions:
            for nested in region.blocks:
                _widen(nested)


if __name__ == "__main__":
    main()
