"""One fused operation -> one LLVM function, by the strategy that fusion gave it.

emit_kernel    the function ``void @name(ptr arguments, ptr scratch, i64 task, i64 tasks)``; the arguments are an array
               of pointers to the inputs and results, and the symbols' values
kernel_key     equal keys: one function serves both fusions
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ds_compiler.backends.llvm import contraction, windows
from ds_compiler.backends.llvm.attention_kernel import emit_fused_attention
from ds_compiler.backends.llvm.builder import ModuleBuilder
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo, Packing
from ds_compiler.backends.llvm.loops import emit_nest
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.top_k import emit_top_k
from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.contraction import matmul_form
from ds_compiler.backends.loops.exponentials import bound_exponentials
from ds_compiler.backends.loops.ir import Kernel, Reduction, Store, step_nodes, walk
from ds_compiler.backends.loops.keep import keep_costly
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.ir import Block, Value
from ds_compiler.ir.dims import Expr, symbols_of
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import Constant, DotGeneral, Fusion
from ds_compiler.passes import remarks

__all__ = ["KernelInfo", "Packing", "emit_kernel", "kernel_key", "symbols_in"]


def emit_kernel(module: ModuleBuilder, name: str, fusion: Fusion, target: Target) -> KernelInfo:
    """Add the kernel's function to `module`.

    Raises:
        CompileError: an operation or element type has no code; names the node.
    """
    names = symbols_in(fusion)
    block = fusion.body.block
    count = len(block.arguments) + len(block.terminator.operands)
    parameters = [("ptr", "arguments"), ("ptr", "scratch"), ("i64", "task"), ("i64", "tasks")]
    fb = module.function(name, parameters, internal=True)
    arguments, scratch, task, tasks = fb.args
    pointers = [fb.load("ptr", fb.gep("i64", arguments, fb.i64(n))) for n in range(count)]
    symbols = {s: fb.load("i64", fb.gep("i64", arguments, fb.i64(count + n))) for n, s in enumerate(names)}
    frame = KernelFrame(fb, fusion, target, pointers, symbols, scratch, task, tasks)
    try:
        emitted = _STRATEGIES[fusion.strategy](frame)
    except CompileError as error:
        if not error.location:
            error.location = fusion.location
        raise
    fb.ret()
    fb.finish()
    return KernelInfo(names, emitted.scratch_bytes, emitted.parallel, emitted.packed, emitted.inplace)


def _loop(frame: KernelFrame) -> KernelInfo:
    kernel = bound_exponentials(keep_costly(collapse(lower_loops(frame.fusion))))
    body = frame.body()
    for nest in kernel.nests:
        with body.scope():
            emit_nest(body, nest, frame.target, frame.task, frame.tasks)
    serial = any(n.serial for n in kernel.nests)
    return KernelInfo(parallel=not serial, inplace=_inplace(kernel))


def _matmul(frame: KernelFrame) -> KernelInfo:
    """A matrix product by its schedule, or as a loop nest when its axes do not walk as one."""
    op = contraction.root_of(frame, DotGeneral)
    assert isinstance(op, DotGeneral)
    if matmul_form(op) is not None:
        return contraction.emit_dot(frame)
    reason = "contracting or column axes are apart"
    frame.fb.comment(f"matrix product without a schedule: {reason}")
    remarks.missed("matmul schedule", reason, frame.fusion.location)
    return _loop(frame)


def _windows(schedule: Callable[[KernelFrame], KernelInfo]) -> Callable[[KernelFrame], KernelInfo]:
    """`schedule` for the windows that it covers, a loop nest for all others."""

    def emit(frame: KernelFrame) -> KernelInfo:
        reason = windows.missing_schedule(frame)
        if reason is None:
            return schedule(frame)
        frame.fb.comment(f"{frame.fusion.strategy} without a schedule: {reason}")
        remarks.missed(f"{frame.fusion.strategy} schedule", reason, frame.fusion.location)
        return _loop(frame)

    return emit


def _inplace(kernel: Kernel) -> dict[int, tuple[int, ...]]:
    """Results that may overwrite an input: read only at the place written, and not again afterwards."""
    if len(kernel.nests) != 1:
        return {}
    (nest,) = kernel.nests
    allowed: dict[int, tuple[int, ...]] = {}
    for position, step in enumerate(nest.steps):
        store = step.keep if isinstance(step, Reduction) else step
        if not isinstance(store, Store) or store.mode != "set":
            continue
        found: list[int] = []
        for number in range(kernel.inputs):
            if kernel.buffers[number].dtype.itemsize != kernel.buffers[store.buffer].dtype.itemsize:
                continue
            before = [n for s in nest.steps[: position + 1] for n in walk(step_nodes(s)) if n.op == "load"]
            after = [n for s in nest.steps[position + 1 :] for n in walk(step_nodes(s)) if n.op == "load"]
            same = all(n.index == store.index for n in before if n.payload == number)
            if same and any(n.payload == number for n in before) and all(n.payload != number for n in after):
                found.append(number)
        result = store.buffer - kernel.inputs
        first = result not in allowed  # a result kept by a reduction is stored twice: both must allow it
        allowed[result] = tuple(i for i in found if first or i in allowed[result])
    return {result: inputs for result, inputs in allowed.items() if inputs}


_STRATEGIES: dict[str, Callable[[KernelFrame], KernelInfo]] = {
    "loop": _loop,
    "matmul": _matmul,
    "conv": _windows(windows.emit_convolution),
    "conv_transpose": _windows(windows.emit_convolution),
    "pool": _windows(windows.emit_pooling),
    "top_k": emit_top_k,
    "attention": emit_fused_attention,
}


def symbols_in(fusion: Fusion) -> tuple[str, ...]:
    """Symbols that the kernel's code may need, sorted."""
    names: set[str] = set()
    for value in fusion.inputs:
        names |= value.type.symbols
    for op in fusion.body.walk():
        for result in op.results:
            names |= result.type.symbols
        for attribute in op.attributes.values():
            for dim in attribute if isinstance(attribute, tuple) else (attribute,):
                if isinstance(dim, Expr):
                    names |= symbols_of(dim)
    return tuple(sorted(names))


def kernel_key(fusion: Fusion) -> str:
    """Text of everything that the kernel's code depends on, except the target."""
    numbers: dict[Value, int] = {}
    lines = [fusion.strategy]
    for argument, value in zip(fusion.body.block.arguments, fusion.inputs, strict=True):
        numbers[argument] = len(numbers)
        lines.append(f"{argument.type}{' constant' if isinstance(value.defining_op, Constant) else ''}")
    _key_of_block(fusion.body.block, numbers, lines)
    return "\n".join(lines)


def _key_of_block(block: Block, numbers: dict[Value, int], lines: list[str]) -> None:
    for op in block:
        operands = " ".join(str(numbers[o]) for o in op.operands)
        attributes = {
            k: (v.dtype.str, v.shape, v.tobytes()) if isinstance(v, np.ndarray) else v for k, v in op.attributes.items()
        }
        for result in op.results:
            numbers[result] = len(numbers)
        types = " ".join(str(r.type) for r in op.results)
        lines.append(f"{op.mnemonic} {operands} {sorted(attributes.items())} {types}")
        for region in op.regions:
            for argument in region.block.arguments:
                numbers[argument] = len(numbers)
            _key_of_block(region.block, numbers, lines)
