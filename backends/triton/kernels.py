"""One fused operation -> the Triton kernels that compute it, each a readable source file.

Several kernels where parts must follow one another: a scatter copies first; a concatenation has one for each part.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds_compiler.backends.loops.collapse import collapse
from ds_compiler.backends.loops.inplace import inplace_results
from ds_compiler.backends.loops.ir import Kernel, Nest
from ds_compiler.backends.loops.nests import lower_loops
from ds_compiler.backends.loops.signature import symbols_in
from ds_compiler.backends.loops.split import split_nest
from ds_compiler.backends.triton import scalars
from ds_compiler.backends.triton.attention import emit_attention
from ds_compiler.backends.triton.attention_backward import emit_key_gradients, emit_query_gradient
from ds_compiler.backends.triton.body import Buffer, names_of
from ds_compiler.backends.triton.dot import find_product
from ds_compiler.backends.triton.loops import emit_nest
from ds_compiler.backends.triton.sizes import symbol_parameter
from ds_compiler.backends.triton.split_schedule import parts_of
from ds_compiler.backends.triton.target import GpuTarget
from ds_compiler.backends.triton.tile import Grid
from ds_compiler.backends.triton.top_k import emit_top_k
from ds_compiler.backends.triton.writer import Writer
from ds_compiler.ir.dims import Dim
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.types import TensorType
from ds_compiler.ops import Fusion
from ds_compiler.passes.arena import nominal

_WIDE = 1 << 31

#: Fusions that are no loop nests: what writes their kernels.
_WHOLE: dict[str, tuple[Callable[..., Grid], ...]] = {
    "top_k": (emit_top_k,),
    "attention": (emit_attention,),
    "attention_backward": (emit_key_gradients, emit_query_gradient),
}


@dataclass(frozen=True)
class Parameter:
    """One argument: a pointer into a buffer (`buffer`: its number, operands first; `scratch`: the number of one that
    lives from one kernel of the fusion to another), or a symbol's value."""

    name: str
    signature: str
    buffer: int | None = None
    symbol: str | None = None
    scratch: int | None = None


@dataclass(frozen=True)
class KernelSource:
    """A kernel as text.

    Attributes:
        name: of the function and of its file; ends in a hash of the text.
        grid: programs, as a size over the symbols.
    """

    name: str
    text: str
    parameters: tuple[Parameter, ...]
    grid: Dim
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class FusionKernels:
    """The kernels of one fusion, in order.

    Attributes:
        inplace: for a result, the operands whose memory it may take.
        scratch: bytes of each buffer that lives between the kernels.
    """

    sources: tuple[KernelSource, ...]
    inplace: dict[int, tuple[int, ...]]
    scratch: tuple[Dim, ...] = ()


def emit_kernels(fusion: Fusion, name: str, target: GpuTarget) -> FusionKernels:
    """The sources for a fusion.

    Raises:
        CompileError: an operation or element type has no code; names the node.
    """
    block = fusion.body.block
    types = [a.type for a in block.arguments] + [o.type for o in block.terminator.operands]
    buffers = names_of(types, len(block.arguments))
    wide = _is_wide(buffers)
    try:
        if fusion.strategy in _WHOLE:
            emitters = [functools.partial(emit, fusion=fusion) for emit in _WHOLE[fusion.strategy]]
            inplace: dict[int, tuple[int, ...]] = {}
            scratch: list[TensorType] = []
        else:
            whole = collapse(lower_loops(fusion))
            kernel = _split(whole)
            scratch = kernel.buffers[len(buffers) :]
            emitters = [functools.partial(emit_nest, nest=nest) for nest in kernel.nests]
            inplace = {} if scratch else _inplace(whole)
        buffers += [Buffer(f"scratch{n}", type_) for n, type_ in enumerate(scratch)]
        sources = []
        for number, emit in enumerate(emitters):
            title = name if len(emitters) == 1 else f"{name}_part{number}"
            writer = Writer(target)
            grid = emit(writer, buffers, wide=wide)
            sources.append(_source(fusion, title, writer, buffers, grid, len(types)))
        return FusionKernels(tuple(sources), inplace, tuple(type_.bytes for type_ in scratch))
    except CompileError as error:
        if not error.location:
            error.location = fusion.location
        raise


def _split(kernel: Kernel) -> Kernel:
    """`kernel` with nests that leave the GPU idle cut into parts; what lies between those are further buffers."""
    nests: list[Nest] = []
    buffers = list(kernel.buffers)
    for nest in kernel.nests:
        parts = parts_of(nest)
        if parts == 1:
            nests.append(nest)
            continue
        split = split_nest(nest, kernel.graph, parts, len(buffers), nominal)
        nests += split.nests
        buffers += split.scratch
    return collapse(Kernel(buffers, kernel.inputs, nests, kernel.graph))


def _inplace(kernel: Kernel) -> dict[int, tuple[int, ...]]:
    """As the loop level allows it, except for products: other programs still read what one has written."""
    return {} if any(find_product(nest) for nest in kernel.nests) else inplace_results(kernel)


def _source(fusion: Fusion, name: str, writer: Writer, buffers: Sequence[Buffer], grid: Grid, own: int) -> KernelSource:
    """The file around a body; the first `own` buffers are the fusion's, others are scratch, given where it is read."""
    used = [n for n, b in enumerate(buffers) if n < own or re.search(rf"\b{b.name}\b", writer.text())]
    parameters = []
    for number in used:
        name_, type_ = buffers[number].name, f"*{scalars.memory_type(buffers[number].type.dtype)}"
        is_own = number < own
        parameters.append(Parameter(name_, type_, number if is_own else None, scratch=None if is_own else number - own))
    parameters += [Parameter(symbol_parameter(s), "i64", symbol=s) for s in symbols_in(fusion)]
    nodes = ", ".join(fusion.location.names) or fusion.strategy
    lines = [f"{buffers[n].name}: {buffers[n].type}" for n in used]
    signature = ", ".join(p.name for p in parameters)
    described = "\n".join(["", *(f"    {line}" for line in [*lines, f"programs: {grid.programs}"])])
    body = f'    """{_escaped(nodes)}\n{described}\n    """\n{writer.text()}'
    digest = hashlib.sha256(f"{signature}\n{body}".encode()).hexdigest()[:12]
    full = f"{name}_{digest}"
    text = (
        "import triton\nimport triton.language as tl\n\nfrom ds_compiler.backends.triton import library\n\n\n"
        f"@triton.jit\ndef {full}({signature}):\n{body}"
    )
    return KernelSource(full, text, tuple(parameters), grid.programs, grid.num_warps, grid.num_stages)


def _escaped(text: str) -> str:
    return text.replace("\\", "/").replace('"', "'")


def _is_wide(buffers: Sequence[Buffer]) -> bool:
    """Whether positions may exceed 32 bits."""
    return any(not isinstance(b.type.elements, int) or b.type.elements >= _WIDE for b in buffers)
