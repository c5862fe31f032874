"""`compile` and `load`: from a model to something that can be called.

A program that the cache holds is found and loaded without importing ONNX, LLVM or any pass; `build` imports them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ds_compiler import cached
from ds_compiler.compiled import CompiledModel
from ds_compiler.runtime import artifact
from ds_compiler.runtime.artifact import Contents
from ds_compiler.runtime.cache import Cache, Content
from ds_compiler.source import Source, Uncacheable

if TYPE_CHECKING:
    from onnx import ModelProto

    from ds_compiler.build import Built
    from ds_compiler.ir import Module

_NOTES = "sources"


def compile(
    model: str | os.PathLike[str] | bytes | ModelProto | Module,
    *,
    target: str = "cpu",
    threads: int | None = None,
    dims: Mapping[str, int] | None = None,
    cache: bool | str | os.PathLike[str] = True,
    passes: str | None = None,
    verify: bool = False,
    precision: None = None,
    memory_budget: None = None,
    mesh: None = None,
    dynamic: None = None,
) -> CompiledModel:
    """Compile a model to native code, or take it from the cache.

    Args:
        model: path of an ONNX model or of IR text (``.dsir``), a serialised model, a message, or an IR module (which
            is not changed).
        target: ``cpu`` is this machine; or an x86-64 level (``x86-64-v3``), to save an artifact for others.
        threads: how many a call uses; by default one for each core.
        dims: sizes to fix, by the name of the model's dimension. All others stay open: one program serves them all.
        cache: whether to look into the compile cache and fill it, or the folder to use for that.
        passes: the pipeline to run instead of ``default``; `fuse` is added if it does not end with it.
        verify: check the IR after the import and after each pass.
        precision, memory_budget, mesh, dynamic: not built yet.

    Raises:
        CompileError: the model is malformed, holds what is not supported, or an option is wrong; one line naming
            the node.
        LoadError: this machine cannot run code for `target`.
        TypeError: `model` is none of the above.
        ValueError: `threads` is out of range.
    """
    options = {"precision": precision, "memory_budget": memory_budget, "mesh": mesh, "dynamic": dynamic}
    for name, value in options.items():
        if value is not None:
            from ds_compiler.ir.errors import CompileError

            raise CompileError(f"compile() does not support {name}= yet (got {value!r})", help="leave it out")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    source = Source.of(model, dims)
    start = time.perf_counter()
    pipeline = "default" if passes is None else passes
    store = _store(cache)
    key = _key(source, store, target, pipeline, verify) if store.enabled else None
    contents, account, hit = _obtain(source, store, key, target, pipeline, verify)
    ready = time.perf_counter()
    program = CompiledModel(contents, threads=threads, source=source, passes=pipeline, account=account, cached=hit)
    account["ready_seconds"] = {"obtain": ready - start, "load": time.perf_counter() - ready}
    account["warnings"] = store.warnings
    return program


def load(path: str | os.PathLike[str], threads: int | None = None) -> CompiledModel:
    """Load an artifact that `CompiledModel.save` or ``dsc compile`` wrote; imports neither ONNX nor LLVM.

    Raises:
        LoadError: it is damaged, of another version, or for another CPU.
        OSError: it cannot be read.
        ValueError: `threads` is out of range.
    """
    return CompiledModel(artifact.read(path), threads=threads)


def _store(cache: bool | str | os.PathLike[str]) -> Cache:
    if isinstance(cache, bool):
        return Cache(enabled=cache)
    return Cache(folder=Path(cache))


def _key(source: Source, store: Cache, target: str, passes: str, verify: bool) -> str | None:
    """The key to find the program by; None if it must not be kept."""
    try:
        content = source.fingerprint(store.folder / _NOTES)
    except Uncacheable:
        return None
    options = {"dims": sorted(source.dims.items()), "passes": passes, "verify": verify}
    return cached.cache_key(content, source.name, target, options)


def _obtain(
    source: Source, store: Cache, key: str | None, target: str, passes: str, verify: bool
) -> tuple[Contents, dict[str, Any], bool]:
    """The program, how it was made, and whether the cache had it."""
    built: list[Built] = []

    def build() -> dict[str, Content]:
        from ds_compiler import build as building

        built.append(building.build(source, target, passes, verify))
        return cached.files(built[0].write, built[0].account)

    if key is not None:
        entry = store.get_or_build(key, build)
        found = cached.read(entry) if entry is not None else None
        if found is not None:
            return *found, not built
    if not built:
        build()
    return built[0].contents(), built[0].account, False
