"""Output files: each appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ds_compiler.ir import Module


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one step."""
    from ds_compiler.runtime.files import replacing

    with replacing(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a file in one step, as UTF-8."""
    write_bytes(path, text.encode())


def save_ir(module: Module, path: Path) -> None:
    """Write IR text to `path` and its large constants to ``path.safetensors``, constants first."""
    from ds_compiler.ir.printer import save_module

    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        save_module(module, Path(folder) / path.name)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name, reverse=True):
            os.replace(file, path.parent / file.name)
