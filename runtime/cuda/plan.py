"""A GPU program as data: kernels, and the steps that launch them on places in memory.

Sizes, offsets and grids are text over the symbols of the program's manifest (`ds_compiler.runtime.dims`).
"""

from __future__ import annotations

from dataclasses import dataclass

from ds_compiler.runtime.manifest import Manifest


@dataclass(frozen=True)
class Place:
    """An address: ``offset`` bytes into ``space``.

    Attributes:
        space: ``input`` or ``output`` (number `index` of the call), ``constant`` (the constant block), ``arena``,
            ``flag`` (a byte for each of the manifest's checks, which must not be 0 when the program has ended).
    """

    space: str
    offset: str = "0"
    index: int = 0


@dataclass(frozen=True)
class Kernel:
    """One Triton function.

    Attributes:
        name: of the function; it ends in a hash of `source`.
        signature: Triton's type of each parameter (``*fp32``, ``i64``), by name.
        num_warps, num_stages: options to compile it with.
    """

    name: str
    source: str
    signature: tuple[tuple[str, str], ...]
    num_warps: int
    num_stages: int


@dataclass(frozen=True)
class Code:
    """A kernel compiled.

    Attributes:
        name: of the function in `image`.
        assembly: PTX (or AMD's), for people and tests.
        image: what the driver loads.
        threads: of one program.
        shared: bytes of shared memory that a launch asks for.
        scratch: bytes of global and of profile scratch that each program needs: the last two arguments of a launch.
    """

    name: str
    assembly: str
    image: bytes
    threads: int
    shared: int
    scratch: tuple[int, ...] = (0, 0)


@dataclass(frozen=True)
class Launch:
    """Run kernel number `kernel` on `grid` programs; `arguments` are addresses and values of symbols (their names).

    `slot`: the entry of the manifest's kernels that it is part of.
    """

    kernel: int
    grid: str
    arguments: tuple[Place | str, ...]
    slot: int


@dataclass(frozen=True)
class Copy:
    """Copy `bytes` bytes."""

    target: Place
    source: Place
    bytes: str


@dataclass(frozen=True)
class SetSize:
    """Write the value of a size expression, as i64."""

    target: Place
    value: str


Step = Launch | Copy | SetSize


@dataclass(frozen=True)
class GpuProgram:
    """A whole program, without its constants' data; `manifest.kernels` are what profiles tell apart.

    `largest`: names and sizes of the largest buffers in the arena, for messages.
    """

    target: str
    manifest: Manifest
    kernels: tuple[Kernel, ...]
    steps: tuple[Step, ...]
    largest: tuple[tuple[str, str], ...] = ()
