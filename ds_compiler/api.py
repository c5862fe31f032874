"""`compile` and `load`: from a model or a function to something that can be called.

A program that the cache holds is found and loaded without importing ONNX, LLVM or any pass; `build` imports them.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypedDict, TypeVar, Unpack, overload

from ds_compiler import cached
from ds_compiler.compiled import CompiledModel
from ds_compiler.runtime import artifact
from ds_compiler.runtime.artifact import Contents
from ds_compiler.runtime.cache import Cache, Content
from ds_compiler.source import Source, Uncacheable

if TYPE_CHECKING:
    from onnx import ModelProto

    from ds_compiler.build import Built
    from ds_compiler.function import CompiledFunction
    from ds_compiler.hosted import HostedModel
    from ds_compiler.ir import Module
    from ds_compiler.specialized import SpecializedModel

_NOTES = "sources"
_P = ParamSpec("_P")
_R = TypeVar("_R")


class Options(TypedDict, total=False):
    """Options of `compile`; it says what they mean."""

    target: str
    threads: int | None
    dims: Mapping[str, int] | None
    cache: bool | str | os.PathLike[str]
    passes: str | None
    verify: bool
    dynamic: bool | Mapping[str, Any] | None
    donate: str | Sequence[str]
    check_nan: bool
    example_inputs: Any
    precision: None
    memory_budget: None
    mesh: None


@overload
def compile(
    model: None = None, **options: Unpack[Options]
) -> Callable[[Callable[_P, _R]], CompiledFunction[_P, _R]]: ...
@overload
def compile(
    model: str | os.PathLike[str] | bytes | ModelProto | Module, **options: Unpack[Options]
) -> CompiledModel: ...
@overload
def compile(model: Callable[_P, _R], **options: Unpack[Options]) -> CompiledFunction[_P, _R]: ...
def compile(
    model: Any = None,
    *,
    target: str = "cpu",
    threads: int | None = None,
    dims: Mapping[str, int] | None = None,
    cache: bool | str | os.PathLike[str] = True,
    passes: str | None = None,
    verify: bool = False,
    dynamic: bool | Mapping[str, Any] | None = None,
    donate: str | Sequence[str] = (),
    check_nan: bool = False,
    example_inputs: Any = None,
    strict: bool = False,
    precision: None = None,
    memory_budget: None = None,
    mesh: None = None,
) -> Any:
    """Compile a model or a Python function to native code, or take it from the cache.

    A function (also as ``@ds.compile`` or ``@ds.compile(threads=1)``) is traced when it is first called, and again
    when what it depends on changes: types of arrays, other arguments, what it reads from its surroundings.

    Args:
        model: path of an ONNX model or of IR text (``.dsir``), a serialised model, a message, an IR module (which is
            not changed), a function of arrays and nested structures of them, an `nn.Model`, or a `torch.nn.Module`.
        target: ``cpu`` is this machine; or an x86-64 level (``x86-64-v3``), to save an artifact for others;
            or a GPU: ``cuda`` is this machine's; for others (``cuda:90``, ``hip:gfx942``) kernels can be looked at
            where there is none. A function's results are then `DeviceArray`s, which stay on the device until they are
            read (``numpy()``, ``float()``), and are arguments of the next call without a copy; see `device_put`.
        threads: how many a call uses; by default one for each core.
        dims: sizes to fix, by the name of the model's dimension. All others stay open: one program serves them all.
        cache: whether to look into the compile cache and fill it, or the folder to use for that.
        passes: the pipeline to run instead of ``default``; `fuse` is added if it does not end with it.
        verify: check the IR after the import and after each pass.
        dynamic: for a function, sizes that stay open, by parameter: the name of the first axis, a sequence of names
            (None: fixed), or a dict from axis to name. Equal names are equal sizes, which each call verifies. True
            opens the first axis of all arguments that are arrays themselves and have it in common, as ``batch``.
            False makes Python numbers part of the program also when they change.
        donate: for a function, parameters whose arrays the caller gives up: results go there where they fit.
        check_nan: for a function, raise `NonFiniteError` if a result holds NaN or an infinity; it names the line that
            made it. Nothing is donated then, so that all arguments are still there.
        example_inputs: for a `torch.nn.Module`, a tuple of arguments, or a dict of them by name.
        strict: for an ONNX model, compute as ONNX's reference implementation does where that is less exact or differs
            from other runtimes: 16-bit floats are rounded after each step, and operators on them that ONNX defines by
            simpler ones are those. Slower; for comparisons.
        precision, memory_budget, mesh: not built yet.

    Returns:
        `CompiledModel`; for a GPU `GpuModel`;
        for an ONNX model with sequences, optionals or open ranks among its inputs, or that reads axes
        or positions from them, `SpecializedModel`, which is called alike; for a function or an `nn.Model`
        `CompiledFunction`; for a PyTorch module `ds_compiler.torch.ExportedModule`.

    Raises:
        CompileError: the model is malformed, holds what is not supported, or an option is wrong; one line naming
            the node.
        LoadError: this machine cannot run code for `target`.
        TypeError: `model` is none of the above.
        ValueError: `threads` is out of range; a name in `dynamic` or `donate` is no parameter.
    """
    network = _is_network(model)
    kind = "function" if model is None or network or _is_function(model) else "model"
    kind = "module" if _is_torch_module(model) else kind
    refused: dict[str, Any] = {"precision": precision, "memory_budget": memory_budget, "mesh": mesh}
    refused |= {"dims": dims, "strict": strict or None} if kind != "model" else {"dynamic": dynamic}
    refused |= {"donate": donate or None, "check_nan": check_nan or None} if kind != "function" else {}
    refused |= {"example_inputs": example_inputs} if kind != "module" else {}
    for name, value in refused.items():
        if value is not None:
            from ds_compiler.ir.errors import CompileError

            what = "a PyTorch module" if kind == "module" else f"a {kind}"
            raise CompileError(f"compile() of {what} does not support {name}= yet (got {value!r})", help="leave it out")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    shared: dict[str, Any] = {"target": target, "threads": threads, "cache": cache, "passes": passes, "verify": verify}
    if kind == "module" and target.startswith(("cuda", "hip")):
        from ds_compiler.ir.errors import CompileError

        raise CompileError(
            f"compile() for target='{target}' takes no PyTorch modules",
            help="torch.compile(module.cuda(), backend='ds') runs them on the GPU",
        )
    if kind == "model" and target.startswith(("cuda", "hip")):
        from ds_compiler.gpu import build_for_gpu

        return build_for_gpu(Source.of(model, dims, strict=strict), target, "gpu" if passes is None else passes, verify)
    if kind == "model":
        return _compile_model(Source.of(model, dims, strict=strict), shared)
    if kind == "module":
        from ds_compiler.torch.exported import compile_exported

        return compile_exported(model, example_inputs, dynamic, shared)
    from ds_compiler.function import CompiledFunction

    shared["check_nan"] = check_nan
    donated = (donate,) if isinstance(donate, str) else tuple(donate)
    if network:
        from ds_compiler.nn import CompiledModule

        return CompiledModule(model, shared, dynamic, donated)
    if model is None:
        return lambda function: CompiledFunction(function, shared, dynamic, donated)
    return CompiledFunction(model, shared, dynamic, donated)


def _compile_model(source: Source, options: Mapping[str, Any]) -> CompiledModel | SpecializedModel | HostedModel:
    """One program; or, where inputs decide more than sizes, a model that makes one for each structure of a call."""
    try:
        return compile_source(source, **options)
    except Exception as error:
        from ds_compiler.frontends.onnx.given import NotOneProgram  # not before: a cached program needs no front end

        if not isinstance(error, NotOneProgram):
            raise
        if error.host:
            from ds_compiler.frontends.onnx.loader import load_model
            from ds_compiler.hosted import HostedModel

            whole = load_model(source.model)

            def compiled(part: Any) -> CompiledModel | SpecializedModel | HostedModel:
                return _compile_model(Source.of(part, source.dims, strict=source.strict), options)

            return HostedModel(whole.proto, compiled, error)
        from ds_compiler.specialized import SpecializedModel

        return SpecializedModel(source, options, error)


def _is_function(model: Any) -> bool:
    return inspect.isroutine(model) or isinstance(model, functools.partial)


def _is_network(model: Any) -> bool:
    home = sys.modules.get("ds_compiler.nn.model")  # without it, there are no models
    return home is not None and isinstance(model, home.Model)


def _is_torch_module(model: Any) -> bool:
    torch = sys.modules.get("torch")  # who has a module has imported it
    return torch is not None and isinstance(model, torch.nn.Module)


def compile_source(
    source: Source,
    *,
    target: str = "cpu",
    threads: int | None = None,
    cache: bool | str | os.PathLike[str] = True,
    passes: str | None = None,
    verify: bool = False,
) -> CompiledModel:
    """Compile what `source` stands for; see `compile`."""
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
    options = {"dims": sorted(source.dims.items()), "passes": passes, "verify": verify, "strict": source.strict}
    options |= {"given": sorted(source.given.items())} if source.given is not None else {}
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
