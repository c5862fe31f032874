"""A compiled graph as a function of tensors: it runs on their memory, and allocates its results as tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ds_compiler.api import compile as compile_module
from ds_compiler.backends.triton.target import is_gpu_target
from ds_compiler.compiled import CompiledModel
from ds_compiler.frontends.torch import Imported
from ds_compiler.frontends.torch.importer import Argument, Output
from ds_compiler.gpu import GpuModel
from ds_compiler.ir import CompileError, Expr
from ds_compiler.ir.dims import evaluate
from ds_compiler.runtime.plan import Plan

_BY_NAME: dict[str, Any] = {
    "bool": torch.bool,
    "bfloat16": torch.bfloat16,
    **{str(t).removeprefix("torch."): t for t in (torch.float64, torch.float32, torch.float16)},
    **{str(t).removeprefix("torch."): t for t in (torch.int64, torch.int32, torch.int16, torch.int8)},
    **{str(t).removeprefix("torch."): t for t in (torch.uint64, torch.uint32, torch.uint16, torch.uint8)},
}


_CPU = torch.device("cpu")


def current_stream(device: torch.device) -> int:
    """PyTorch's current stream on a GPU, for the driver."""
    return int(torch.cuda.current_stream(device).cuda_stream)


class Program:
    """Call it with the graph's arguments in order; it returns the graph's outputs as a list.

    Args:
        imported: the graph as a module.
        model: that module, compiled.
        device: where its tensors are. On a GPU it runs on the stream that is PyTorch's current one at each call.
    """

    def __init__(self, imported: Imported, model: CompiledModel | GpuModel, device: torch.device = _CPU) -> None:
        self.model, self._imported, self.arguments = model, imported, imported.arguments
        self._executable: Any = model.executable  # an `Executable`, or a `GpuExecutable`
        self._device, self._on_gpu = device, device.type == "cuda"
        self._indices = [a.index for a in imported.arguments]
        self._static = all(a.type.is_static for a in imported.arguments) and not imported.sizes
        self._keys = [index for _, index in imported.sizes]
        bound = {name for name, _ in imported.sizes}
        self._keyed = all(a.type.symbols <= bound for a in imported.arguments)
        self._prepared: dict[Any, _Prepared] = {}
        self._ordered = [a for a in imported.arguments if a.permutation is not None]
        if self._static:
            self._only = self._prepare(imported_shapes(imported.arguments), {})

    @staticmethod
    def of(imported: Imported, device: torch.device = _CPU, **options: Any) -> Program:
        """Compile a module; `options` are those of `ds_compiler.compile`.

        Raises:
            CompileError: the compiler cannot.
            LoadError: `device` is a GPU that cannot be used.
        """
        target = options.setdefault("target", device.type)
        if is_gpu_target(target) != (device.type == "cuda"):
            raise CompileError(f"target='{target}', but the tensors are on the device '{device}'")
        return Program(imported, compile_module(imported.module, **options), device)

    def __call__(self, *arguments: Any) -> list[Any]:
        tensors = [arguments[i] for i in self._indices]
        for argument in self._ordered:  # rare: not in the order of its axes
            place = self._imported.arguments.index(argument)
            tensors[place] = arguments[argument.index].permute(argument.permutation)
        # A tensor that only looks as PyTorch said (a slice of a larger one) is copied.
        tensors = [t if t.is_contiguous() else t.contiguous() for t in tensors]
        if self._on_gpu:
            tensors = [self._there(t) for t in tensors]
        prepared = self._only if self._static else self._find(tensors, arguments)
        made = [torch.empty(shape, dtype=dtype, device=self._device) for shape, dtype in prepared.outputs]
        pointers: list[Any] = [t.data_ptr() for t in tensors]
        pointers += prepared.between
        if self._imported.random:  # from PyTorch's generator, so that `torch.manual_seed` decides
            key = torch.randint(-(2**63), 2**63 - 1, (1,), device=self._device)
            pointers.append(key.data_ptr())
        pointers += [t.data_ptr() for t in made]
        if self._on_gpu:
            self._executable.run_at(prepared.plan, prepared.shapes, pointers, current_stream(self._device))
        else:
            self._executable.run_at(prepared.plan, pointers)
        return [take(made, arguments) for take in prepared.takes]

    def _there(self, tensor: Any) -> Any:
        """A tensor on the GPU, where kernels load 16 bytes at a time; a number may have come from the host."""
        tensor = tensor if tensor.device == self._device else tensor.to(self._device)
        return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()

    def _find(self, tensors: list[Any], arguments: tuple[Any, ...]) -> _Prepared:
        key: Any
        if self._keyed:
            key = tuple([arguments[i] for i in self._keys])
        else:
            key = tuple([tuple(t.shape) for t in tensors])
        found = self._prepared.get(key)
        if found is None:
            shapes = [tuple(map(int, t.shape)) for t in tensors]
            sizes = {name: int(arguments[index]) for name, index in self._imported.sizes}
            found = self._prepared[key] = self._prepare(shapes, sizes)
        return found

    def _prepare(self, shapes: list[tuple[int, ...]], sizes: Mapping[str, int]) -> _Prepared:
        if self._imported.sizes:
            shapes = [*shapes, tuple(sizes[name] for name, _ in self._imported.sizes)]
        if self._imported.random:
            shapes = [*shapes, (2,)]
        plan = self._executable.plan(tuple(shapes))
        symbols = {s.name: v for s, v in zip(self._executable.manifest.symbols, plan.symbols, strict=True)}
        outputs = [(o.shape, _BY_NAME[o.dtype.name]) for o in plan.outputs]
        takes = [_taken(o, {**symbols, **sizes}) for o in self._imported.outputs]
        return _Prepared(plan, tuple(shapes), outputs, takes, [0] if self._imported.sizes else [])


class _Prepared:
    """What calls of one combination of shapes share."""

    __slots__ = ("between", "outputs", "plan", "shapes", "takes")

    def __init__(
        self,
        plan: Plan,
        shapes: tuple[tuple[int, ...], ...],
        outputs: list[tuple[Any, Any]],
        takes: list[Callable[..., Any]],
        between: list[int],
    ) -> None:
        self.shapes = shapes
        self.plan, self.outputs, self.takes, self.between = plan, outputs, takes, between


def imported_shapes(arguments: tuple[Argument, ...]) -> list[tuple[int, ...]]:
    """The shapes of arguments whose sizes are all known."""
    return [tuple(d for d in a.type.shape if isinstance(d, int)) for a in arguments]


def _taken(output: Output, symbols: Mapping[str, int]) -> Callable[[list[Any], tuple[Any, ...]], Any]:
    """How one output of the graph is had from the results and the arguments."""
    if output.result is not None:
        index, permutation = output.result, output.permutation
        if permutation is None:
            return lambda made, arguments: made[index]
        return lambda made, arguments: made[index].permute(permutation)
    if output.argument is not None:
        position = output.argument
        return lambda made, arguments: arguments[position]
    value = evaluate(output.value, symbols) if isinstance(output.value, Expr) else output.value
    return lambda made, arguments: value
