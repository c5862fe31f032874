"""Triton source -> machine code, on any machine: Triton brings its own assembler.

Kernels are shared out to processes, since compiling one takes up to a second. The processes are plain children that
read requests from stdin: those of `multiprocessing` would run the caller's main module again.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds_compiler.backends.triton.target import GpuTarget, parse_target
from ds_compiler.ir.errors import CompileError
from ds_compiler.runtime.cache import default_folder
from ds_compiler.runtime.cuda.plan import Code, GpuProgram, Kernel
from ds_compiler.runtime.files import replacing

_EACH = 4  # kernels that are worth a process of their own


def compile_kernels(program: GpuProgram) -> tuple[Code, ...]:
    """Machine code of every kernel.

    Raises:
        CompileError: Triton is not installed, or rejects a kernel; names the file.
    """
    if importlib.util.find_spec("triton") is None:
        raise CompileError("GPU code needs Triton, which is not installed", help="pip install 'ds_compiler[gpu]'")
    kernels, target = program.kernels, program.target
    count = max(1, min(len(os.sched_getaffinity(0)), -(-len(kernels) // _EACH)))
    shares = [list(kernels[number::count]) for number in range(count)]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    children = []
    for share in shares:
        command = [sys.executable, "-m", "ds_compiler.backends.triton.compile"]
        child = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdin is not None
        child.stdin.write(pickle.dumps((share, target)))
        child.stdin.close()
        children.append(child)
    codes: dict[str, Code] = {}
    problems: list[str] = []
    for child in children:
        assert child.stdout is not None
        answer = child.stdout.read()
        if child.wait() or not answer:
            problems.append(f"the process that compiles kernels ended with {child.returncode}")
            continue
        found, said = pickle.loads(answer)
        codes.update(found)
        problems += said
    if problems:
        raise CompileError(f"internal: Triton rejects a generated kernel: {problems[0]}")
    return tuple(codes[k.name] for k in kernels)


def write_source(kernel: Kernel, folder: Path | None = None) -> Path:
    """The kernel's file, in the cache folder unless another is named; Triton reads source from files only."""
    path = (folder or default_folder() / "triton") / f"{kernel.name}.py"
    if not path.is_file() or path.read_text() != kernel.source:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(kernel.source.encode())
    return path


def load_function(kernel: Kernel) -> Any:
    """The kernel's Triton function."""
    spec = importlib.util.spec_from_file_location(kernel.name, write_source(kernel))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, kernel.name)


def _compile(kernel: Kernel, target: GpuTarget) -> Code:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = load_function(kernel)
    # Pointers are multiples of 16, which is what makes loads vectors: the runtime sees to it.
    aligned = {(n,): [["tt.divisibility", 16]] for n, (_, type_) in enumerate(kernel.signature) if type_[0] == "*"}
    source = ASTSource(function, dict(kernel.signature), {}, aligned)
    for stages in range(kernel.num_stages, 0, -1):
        options = {"num_warps": kernel.num_warps, "num_stages": stages, "enable_fp_fusion": True}
        made = triton.compile(source, target=GPUTarget(target.backend, target.arch, target.warp), options=options)
        if made.metadata.shared <= target.shared_bytes:
            break
    else:
        raise ValueError(f"needs {made.metadata.shared} bytes of shared memory, {target} has {target.shared_bytes}")
    text, image = ("ptx", "cubin") if target.backend == "cuda" else ("amdgcn", "hsaco")
    assembly = made.asm[text]
    return Code(
        name=made.metadata.name,
        assembly=assembly if isinstance(assembly, str) else assembly.decode(),
        image=made.asm[image],
        threads=made.metadata.num_warps * target.warp,
        shared=made.metadata.shared,
        # Triton 3.6 does not tell of what a target never needs.
        scratch=tuple(getattr(made.metadata, f"{kind}_scratch_size", 0) or 0 for kind in ("global", "profile")),
    )


def _serve(share: Sequence[Kernel], target: GpuTarget) -> tuple[dict[str, Code], list[str]]:
    codes: dict[str, Code] = {}
    problems: list[str] = []
    for kernel in share:
        try:
            codes[kernel.name] = _compile(kernel, target)
        except Exception as error:  # of Triton's own kinds, which differ between versions
            problems.append(f"{write_source(kernel)}: {_reason(error)}")
    return codes, problems


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def main() -> None:
    """Compile what stdin asks for."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what Triton prints must not get into the answer
    share, target = pickle.load(sys.stdin.buffer)
    answers.write(pickle.dumps(_serve(share, parse_target(target))))


if __name__ == "__main__":
    main()
