"""One fused operation -> one LLVM function, by the strategy that fusion gave it.

emit_kernel    the function ``void @name(ptr arguments, ptr scratch, i64 task, i64 tasks)``; the arguments are an array
               of pointers to the inputs and results, and the symbols' values
"""

from __future__ import annotations

from collections.abc import Callable

from ds_compiler.backends.llvm import contraction, windows
from ds_compiler.backends.llvm.attention_backward_kernel import emit_fused_attention_backward
from ds_compiler.backends.llvm.attention_kernel import emit_fused_attention
from ds_compiler.backends.llvm.builder import ModuleBuilder
from ds_compiler.backends.llvm.frame import KernelFrame, KernelInfo
from ds_compiler.backends.llvm.loops import emit_nest, stores_together
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.top_k import emit_top_k
from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.contraction import matmul_form
from ds_compiler.backends.loops.exponentials import bound_exponentials
from ds_compiler.backends.loops.inplace import inplace_results
from ds_compiler.backends.loops.keep import keep_costly
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.backends.loops.signature import symbols_in
from ds_compiler.ir.errors import CompileError
from ds_compiler.ops import DotGeneral, DotInteger, Fusion
from ds_compiler.passes import remarks


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
    return KernelInfo(parallel=not serial, inplace=inplace_results(kernel, all(map(stores_together, kernel.nests))))


def _matmul(frame: KernelFrame) -> KernelInfo:
    """A matrix product by its schedule, or as a loop nest when its axes do not walk as one."""
    op = contraction.root_of(frame, (DotGeneral, DotInteger))
    assert isinstance(op, DotGeneral | DotInteger)
    dtype = op.result.type.dtype
    scheduled = not dtype.is_float or dtype.bits >= 32
    if scheduled and matmul_form(op) is not None:
        return contraction.emit_dot(frame)
    reason = "contracting or column axes are apart" if scheduled else f"no registers hold {dtype}"
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


_STRATEGIES: dict[str, Callable[[KernelFrame], KernelInfo]] = {
    "loop": _loop,
    "matmul": _matmul,
    "conv": _windows(windows.emit_convolution),
    "conv_transpose": _windows(windows.emit_convolution),
    "conv_weight_gradient": _windows(windows.emit_weight_sums),
    "pool": _windows(windows.emit_pooling),
    "top_k": emit_top_k,
    "attention": emit_fused_attention,
    "attention_backward": emit_fused_attention_backward,
}
