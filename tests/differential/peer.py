"""onnxruntime in a process of its own: on some random models it divides by zero or aborts."""

from __future__ import annotations

import functools
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Peer:
    """One model at a time; a crash reads as a refusal, is counted, and the process made anew."""

    def __init__(self) -> None:
        self.crashes = 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def load(self, model: bytes) -> bool:
        """Whether onnxruntime takes the model, its optimizer switched off."""
        return bool(self._ask(model))

    def run(self, names: list[str], feeds: dict[str, Array]) -> dict[str, Array] | None:
        """Results of the model loaded last; None if it can't be run on these."""
        found: dict[str, Array] | None = self._ask((names, feeds))
        return found

    def _ask(self, question: Any) -> Any:
        try:
            self._pipe.send(question)
            return self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.crashes += 1
            self._process.join()
            self._start()
            return None


@functools.cache
def peer() -> Peer:
    """The process that runs onnxruntime."""
    return Peer()


def _serve(pipe: Connection) -> None:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    refuses = (errors.Fail, errors.NotImplemented, errors.InvalidGraph, errors.InvalidArgument, errors.RuntimeException)
    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session: Any = None
    while True:
        question = pipe.recv()
        try:
            if isinstance(question, bytes):
                session = None
                session = onnxruntime.InferenceSession(question, options, providers=["CPUExecutionProvider"])
                pipe.send(True)
            else:
                names, feeds = question
                pipe.send(None if session is None else dict(zip(names, map(np.asarray, session.run(names, feeds)))))
        except refuses:
            pipe.send(None)
