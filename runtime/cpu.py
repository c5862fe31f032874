"""This machine's CPU: its features by LLVM's names, and how many threads are worth running."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Features that change which instructions are selected, as LLVM spells them, where Linux spells them otherwise.
_LINUX_NAMES: Final = {
    "sse3": "pni",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "cx16": "cx16",
    "lzcnt": "abm",
    "bmi": "bmi1",
    "pclmul": "pclmulqdq",
    "sha": "sha_ni",
    "sahf": "lahf_lm",
    "avxvnni": "avx_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512bitalg": "avx512_bitalg",
    "avx512fp16": "avx512_fp16",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
    "amx-fp16": "amx_fp16",
}
_SAME_NAMES: Final = (
    *("sse", "sse2", "ssse3", "sse4a", "popcnt", "movbe", "adx", "aes", "avx", "avx2", "fma", "fma4", "f16c", "bmi2"),
    *("xop", "tbm", "gfni", "vaes", "vpclmulqdq", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    *("avx512ifma", "avx512vbmi"),
)
_CHECKED: Final = {**_LINUX_NAMES, **{name: name for name in _SAME_NAMES}}

_V2: Final = ("cx16", "popcnt", "sahf", "sse3", "sse4.1", "sse4.2", "ssse3")
_V3: Final = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
_V4: Final = (*_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl")
_LEVELS: Final[dict[str, tuple[str, ...]]] = {"x86-64": (), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4}


def required_features(cpu: str, features: str) -> tuple[str, ...]:
    """What code compiled for LLVM's `cpu` and `features` ("+avx2,-xop,…") needs of a machine, sorted.

    `cpu` counts when it is an x86-64 level; for a model name the features must be spelled out, as
    `ds_compiler.backends.llvm.target.host` does.
    """
    named = {f[1:] for f in features.split(",") if f.startswith("+")}
    return tuple(sorted((named | set(_LEVELS.get(cpu, ()))) & _CHECKED.keys()))


@functools.cache
def host_features() -> frozenset[str]:
    """Features of this CPU that the operating system has enabled, by LLVM's names."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    flags = next((line.split(":", 1)[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    present = set(flags)
    return frozenset(name for name, linux in _CHECKED.items() if linux in present)


def host_identity() -> str:
    """Text that differs between machines for which different code would be generated."""
    told = [architecture()]
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        wanted = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features", "CPU part")
        told += [line for line in first if line.split(":")[0].strip() in wanted]
    for path in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")):
        with contextlib.suppress(OSError):
            told.append(path.read_text())
    return "\n".join(told)


def missing_features(required: Iterable[str]) -> list[str]:
    """Those of `required` (LLVM's names) that this CPU lacks, sorted."""
    return sorted(set(required) - host_features())


def architecture() -> str:
    """LLVM's name of the instruction set: ``x86_64``, ``aarch64`` …"""
    machine = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def thread_count() -> int:
    """Threads worth running: cores this process may use, one a physical core, within its container's CPU quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    count = len(cores)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            # Rounded down: threads above the quota are stopped in the middle of a kernel, and the others wait for them.
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, count)
