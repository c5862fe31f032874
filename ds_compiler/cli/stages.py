"""The stages between a model and machine code, as files: IR, LLVM text, assembly, object, shared library."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ds_compiler.cli.errors import InputProblem
from ds_compiler.cli.writing import save_ir, write_bytes, write_text

if TYPE_CHECKING:
    from ds_compiler.backends.llvm.target import Target


def write(model: Path, target_name: str, paths: Mapping[str, Path]) -> None:
    """Write the stages that `paths` names (ir, llvm, asm, obj, so).

    Raises:
        CompileError: the model cannot be compiled.
        InputProblem: the target is unknown, or no C compiler is there to link a shared library.
        OSError: a file cannot be written.
    """
    from ds_compiler import passes
    from ds_compiler.backends.llvm.compile import emit, generate
    from ds_compiler.cli.loading import load_ir

    target = find_target(target_name)
    module = load_ir(model)
    passes.run(module, "default")
    text = "" if set(paths) == {"ir"} else emit(module, target, name=model.stem).text
    code = generate(text, target) if {"obj", "so"} & set(paths) else b""
    assembly = _assembly(text, target) if "asm" in paths else ""
    library = _link(code, target) if "so" in paths else b""
    if "ir" in paths:
        save_ir(module, paths["ir"])
    if "llvm" in paths:
        write_text(paths["llvm"], text)
    if "asm" in paths:
        write_text(paths["asm"], assembly)
    if "obj" in paths:
        write_bytes(paths["obj"], code)
    if "so" in paths:
        write_bytes(paths["so"], library)


def find_target(name: str) -> Target:
    """The target called `name`. Raises InputProblem if there is none."""
    from ds_compiler.backends.llvm.target import parse_target

    try:
        return parse_target(name)
    except ValueError as error:
        raise InputProblem(f"--target: {error}") from error


def c_compiler() -> str:
    """The program that links shared libraries: ``$CC``, cc, gcc or clang.

    Raises:
        InputProblem: none is installed.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise InputProblem("--emit so needs a C compiler to link with; install cc, or set CC; obj and dsa need none")


def _assembly(text: str, target: Target) -> str:
    import llvmlite.binding as llvm

    machine = target.machine()
    parsed = llvm.parse_assembly(text)
    parsed.triple, parsed.data_layout = machine.triple, str(machine.target_data)
    return str(machine.emit_assembly(parsed))


def _link(code: bytes, target: Target) -> bytes:
    """A shared library of the program and its thread pool."""
    from ds_compiler.backends.llvm.parallel import pool_object

    with tempfile.TemporaryDirectory(prefix="dsc-link-") as name:
        folder = Path(name)
        (folder / "program.o").write_bytes(code)
        (folder / "pool.o").write_bytes(pool_object())
        command = [c_compiler(), "-shared", "-o", "program.so", "program.o", "pool.o", "-lm", "-lpthread"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
            raise InputProblem(f"{command[0]} cannot link the program: {reason}")
        return (folder / "program.so").read_bytes()
