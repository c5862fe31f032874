"""The machine that code is generated for: CPU name, features, vector width, registers, caches."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path

import llvmlite.binding as llvm

from ds_compiler.backends.llvm.builder import bytes_of

# The x86-64 psABI's micro-architecture levels, which compilers accept as CPU names, and their vector width.
_LEVELS = {"x86-64": 128, "x86-64-v2": 128, "x86-64-v3": 256, "x86-64-v4": 512}


@dataclass(frozen=True)
class Target:
    """What the code generator needs to know of a CPU.

    Attributes:
        name: what the user typed (``cpu`` for the host, or a level or CPU name).
        triple, cpu, features: LLVM's own names.
        vector_bits: width of the widest vector register worth using.
        vector_registers: how many of them there are.
        l1_bytes, l2_bytes: data caches of one core, in bytes.
    """

    name: str
    triple: str
    cpu: str
    features: str
    vector_bits: int
    vector_registers: int
    l1_bytes: int = 32 << 10
    l2_bytes: int = 1 << 20

    def lanes(self, element: str) -> int:
        """Lanes of one vector register holding LLVM scalar type `element`."""
        return self.vector_bits // (8 * bytes_of(element))

    @property
    def half_conversions(self) -> bool:
        """Whether f16 converts to and from f32 in hardware; LLVM would call a library routine without."""
        if not self.triple.startswith("x86_64"):
            return True
        return "+f16c" in self.features.split(",") or self.cpu in ("x86-64-v3", "x86-64-v4")

    def machine(self) -> llvm.TargetMachine:
        """A fresh LLVM target machine (one for each engine: sharing one crashes when an engine is freed)."""
        initialize()
        target = llvm.Target.from_triple(self.triple)
        return target.create_target_machine(
            cpu=self.cpu, features=self.features, opt=3, reloc="pic", codemodel="small", jit=False
        )


@functools.cache
def initialize() -> None:
    """Make LLVM's native target and assembly printer available, and set the options of code generation.

    Loop-strength reduction is off: kernels come with their addresses laid out, and on unrolled window code it took
    half to five sixths of the compile time. Measured over 37 convolutions: 2.27 -> 1.03 s of code generation, run time
    +0.4 % (geometric mean; depthwise up to 4 %, Winograd at 14x14 -6 %). LLVM's options belong to the process.
    """
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.set_option("ds_compiler", "-disable-lsr")


def _cache_bytes(level: int, default: int) -> int:
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            if int((index / "level").read_text()) == level and "Instruction" not in (index / "type").read_text():
                return int((index / "size").read_text().strip().rstrip("K")) << 10
        except (OSError, ValueError):
            continue
    return default


@functools.cache
def host() -> Target:
    """The CPU this process runs on."""
    initialize()
    features = llvm.get_host_cpu_features()
    if features.get("avx512f") and features.get("avx512vl"):
        bits, registers = 512, 32
    elif features.get("avx2") and features.get("fma"):
        bits, registers = 256, 16
    else:
        bits, registers = 128, 32 if llvm.get_process_triple().startswith(("aarch64", "arm64")) else 16
    return Target(
        "cpu",
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        features.flatten(),
        bits,
        registers,
        _cache_bytes(1, 32 << 10),
        _cache_bytes(2, 1 << 20),
    )


def parse_target(name: str) -> Target:
    """The target a user named: ``cpu`` (this machine), an x86-64 level such as ``x86-64-v3``, or a CPU name.

    Raises:
        ValueError: the name is not one of these.
    """
    if name in ("cpu", "host", "native"):
        return host()
    if name in _LEVELS:
        bits = _LEVELS[name]
        return Target(name, "x86_64-unknown-linux-gnu", name, "", bits, 32 if bits == 512 else 16)
    raise ValueError(f"unknown target '{name}'; known: cpu, {', '.join(_LEVELS)}")


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
