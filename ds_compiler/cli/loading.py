"""From a path on the command line to something that runs or that passes can work on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ds_compiler.cli.errors import InputProblem

if TYPE_CHECKING:
    from ds_compiler.compiled import CompiledModel
    from ds_compiler.gpu import GpuModel
    from ds_compiler.ir import Module


def is_artifact(path: Path) -> bool:
    """Whether the file is (by its name or first bytes) an artifact that `dsc compile` wrote."""
    with path.open("rb") as file:
        return path.suffix == ".dsa" or file.read(4) == b"PK\x03\x04"


def open_runnable(path: Path, *, threads: int | None, target: str) -> CompiledModel | GpuModel:
    """As `open_model`, for a CPU, or this machine's GPU, whose code is then loaded and its weights uploaded.

    Raises:
        InputProblem: `target` is neither, or the file is an artifact, which is for CPUs.
        CompileError, LoadError, OSError: as `open_model`; LoadError where there is no driver or no GPU.
    """
    if target == "cpu":
        return open_model(path, threads=threads)
    if target.partition(":")[0] not in ("cuda", "hip"):
        raise InputProblem(f"unknown target {target!r} to run on; choose cpu or cuda")
    if is_artifact(path):
        raise InputProblem(f"{str(path)!r} is compiled for a CPU; --target {target} needs the model it was made from")
    from ds_compiler.gpu import build_for_gpu
    from ds_compiler.runtime.cuda.device import system_device
    from ds_compiler.source import Source

    if target.startswith("cuda"):
        system_device()  # without a GPU there is no use in compiling
    program = build_for_gpu(Source.of(path if path.suffix != ".dsir" else load_ir(path)), target, "gpu", verify=False)
    program.executable  # noqa: B018 - loads it: what is timed later is a call
    return program


def open_model(path: Path, *, threads: int | None = None, target: str = "cpu", cache: bool = True) -> CompiledModel:
    """Load an artifact, or compile an ONNX model or IR text.

    Raises:
        CompileError, LoadError, OSError: as `ds_compiler.compile` and `ds_compiler.load`.
    """
    from ds_compiler.api import compile_source, load
    from ds_compiler.source import Source

    if is_artifact(path):
        if target != "cpu":
            raise InputProblem(f"{str(path)!r} is compiled already; --target needs the model that it was made from")
        return load(path, threads=threads)
    source = Source.of(path if path.suffix != ".dsir" else load_ir(path))
    return compile_source(source, threads=threads, target=target, cache=cache)


def load_ir(path: Path) -> Module:
    """The module in an ONNX model or in IR text, verified, before any pass.

    Raises:
        CompileError: the file is not one of these, or is malformed.
    """
    from ds_compiler.ir.verifier import verify

    if is_artifact(path):
        raise InputProblem(f"{str(path)!r} is machine code; give the model that it was made from")
    if path.suffix == ".dsir":
        from ds_compiler.ir.parser import load_module

        module = load_module(path)
    else:
        from ds_compiler.frontends.onnx import import_model

        module = import_model(path)
    verify(module)
    return module


def integer_bounds(path: Path) -> dict[str, int]:
    """Upper limits of integer inputs, as far as the model file tells."""
    if is_artifact(path) or path.suffix == ".dsir":
        return {}
    import onnx

    from ds_compiler.cli.inputs import index_bounds

    return index_bounds(onnx.load(path, load_external_data=False))


def refuse_nan_weights(path: Path) -> None:
    """Raise InputProblem if a weight of an ONNX model holds NaN: what it computes would mean nothing."""
    if is_artifact(path) or path.suffix == ".dsir":
        return
    import numpy as np

    from ds_compiler.frontends.onnx import loader

    model = loader.load_model(path)
    for tensor in model.proto.graph.initializer:
        if tensor.data_type not in (tensor.FLOAT, tensor.DOUBLE, tensor.FLOAT16):
            continue
        array = loader.read_initializer(tensor, model)
        if array.size and np.isnan(array.min()):  # min needs no array of bools
            count = int(np.isnan(array).sum())
            raise InputProblem(
                f"initializer {tensor.name!r} holds NaN in {count} of {array.size} elements; {path.name}; "
                "repair the model, or give --allow-nan"
            )
