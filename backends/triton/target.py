"""GPU targets: ``cuda:90`` (an H100), ``cuda:80``, ``hip:gfx942``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ds_compiler.ir.dtypes import DType

#: Shared memory that a program may have, in bytes, by compute capability.
_SHARED = {
    80: 163 << 10, 86: 99 << 10, 87: 163 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 103: 227 << 10,
    120: 99 << 10,
}  # fmt: skip
_HIP_SHARED = {"gfx942": 64 << 10, "gfx950": 160 << 10, "gfx90a": 64 << 10}


@dataclass(frozen=True)
class GpuTarget:
    """What to compile for.

    Attributes:
        backend: ``cuda`` or ``hip``.
        arch: the compute capability (90), or AMD's name (``gfx942``).
        warp: threads that run as one.
        shared_bytes: the most shared memory a program can have.
    """

    backend: str
    arch: int | str
    warp: int
    shared_bytes: int

    def precision(self, dtype: DType) -> str:
        """How products of `dtype` are made, as ``tl.dot`` names it. NVIDIA's tensor cores multiply f32 as
        three products of TF32 parts, whose error is about that of f32."""
        return "tf32x3" if dtype.name == "f32" and self.backend == "cuda" else "ieee"

    def __str__(self) -> str:
        return f"{self.backend}:{self.arch}"


def is_gpu_target(name: str) -> bool:
    """Whether a target's name means a GPU."""
    return name.split(":")[0] in ("cuda", "hip")


def parse_target(name: str) -> GpuTarget:
    """The target called `name`.

    Raises:
        ValueError: there is none; says which there are.
    """
    if (match := re.fullmatch(r"cuda:(\d{2,3})", name)) and int(match[1]) in _SHARED:
        arch = int(match[1])
        return GpuTarget("cuda", arch, 32, _SHARED[arch])
    if (match := re.fullmatch(r"hip:(gfx\w+)", name)) and match[1] in _HIP_SHARED:
        return GpuTarget("hip", match[1], 64, _HIP_SHARED[match[1]])
    known = [f"cuda:{a}" for a in _SHARED] + [f"hip:{a}" for a in _HIP_SHARED]
    raise ValueError(f"unknown GPU target '{name}'; known: {', '.join(known)}")
