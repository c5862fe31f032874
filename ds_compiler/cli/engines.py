"""The engines that `dsc check` and `dsc bench` compare: ours, the interpreter, and others if they are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ds_compiler.cli.errors import InputProblem

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array]
Runner = Callable[[Feeds], dict[str, Array]]

OURS = "ds_compiler"


def load(engine: str, model: Path, threads: int | None) -> Runner:
    """A function that runs `model` on inputs by name and returns outputs by name.

    Raises:
        InputProblem: the engine is unknown or not installed, or does not accept the model.
    """
    if engine not in _LOADERS:
        raise InputProblem(f"unknown engine {engine!r}; known: {', '.join(_LOADERS)}")
    try:
        return _LOADERS[engine](model, threads)
    except ModuleNotFoundError as error:
        package = error.name
        raise InputProblem(f"{engine} needs the package {package}; install it with: pip install {package}") from error


def parse_engines(text: str) -> list[str]:
    """Names in a comma-separated list. Raises InputProblem for an unknown one."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in _LOADERS:
            raise InputProblem(f"unknown engine {name!r}; known: {', '.join(_LOADERS)}")
    return names


def _ours(model: Path, threads: int | None) -> Runner:
    from ds_compiler.cli.loading import open_model

    program = open_model(model, threads=threads)
    return lambda feeds: program(feeds)


def _reference(model: Path, threads: int | None) -> Runner:
    from ds_compiler.cli.loading import load_ir
    from ds_compiler.reference import interpret

    module = load_ir(model)
    return lambda feeds: dict(zip(module.main.result_names, interpret(module, feeds)))


def _onnxruntime(model: Path, threads: int | None) -> Runner:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or 0
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base class
        raise InputProblem(f"onnxruntime does not accept {model.name!r}: {_first_line(error)}") from error
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Feeds) -> dict[str, Array]:
        return dict(zip(names, session.run(None, feeds)))

    return _reporting("onnxruntime", run)


def _openvino(model: Path, threads: int | None) -> Runner:
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    try:
        compiled = openvino.Core().compile_model(str(model), "CPU", config)
    except RuntimeError as error:
        raise InputProblem(f"openvino does not accept {model.name!r}: {_first_line(error)}") from error
    names = [output.get_any_name() for output in compiled.outputs]
    request = compiled.create_infer_request()

    def run(feeds: Feeds) -> dict[str, Array]:
        results = request.infer(dict(feeds), share_inputs=True)
        return {name: np.asarray(results[i]) for i, name in enumerate(names)}

    return _reporting("openvino", run)


def _torch(model: Path, threads: int | None) -> Runner:
    import onnx
    import onnx2torch
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = onnx.load(model)
    constants = {tensor.name for tensor in loaded.graph.initializer}
    inputs = [value.name for value in loaded.graph.input if value.name not in constants]
    outputs = [value.name for value in loaded.graph.output]
    try:
        module = onnx2torch.convert(loaded).eval()
    except NotImplementedError as error:
        raise InputProblem(f"onnx2torch does not convert {model.name!r}: {_first_line(error)}") from error

    def run(feeds: Feeds) -> dict[str, Array]:
        with torch.inference_mode():
            result = module(*(torch.from_numpy(np.ascontiguousarray(feeds[name])) for name in inputs))
        values: Sequence[Any] = result if isinstance(result, list | tuple) else (result,)
        return {name: value.numpy() for name, value in zip(outputs, values)}

    return run


def _reporting(engine: str, run: Runner) -> Runner:
    """`run`, its first failure being the user's problem and not a fault of ours."""

    def checked(feeds: Feeds) -> dict[str, Array]:
        try:
            return run(feeds)
        except Exception as error:  # engines raise what they like
            raise InputProblem(f"{engine} cannot run the model on these inputs: {_first_line(error)}") from error

    return checked


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_LOADERS: dict[str, Callable[[Path, int | None], Runner]] = {
    OURS: _ours,
    "reference": _reference,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
}
