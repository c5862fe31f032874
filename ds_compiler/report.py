"""What a compiled program consists of, and how it was made; for people and as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ds_compiler.runtime.dims import compile_sizes
from ds_compiler.runtime.manifest import Kernel, Manifest


@dataclass(frozen=True)
class Report:
    """Sizes are text over the program's symbols where they depend on them (``4*batch*seq``).

    Attributes:
        kernels: the program's steps in order, with the nodes, work and schedule of each.
        flops, bytes: of a whole call with each control-flow branch and loop body counted once.
        arena, scratch: bytes of working memory, and of scratch a thread.
        memory: bytes held now: code, constants, arenas of idle calls.
        cached: the program came from the compile cache; times are then those of its compilation.
        seconds: of each stage of the compilation; `pass_seconds` of each pass.
        rewrites: how often each rewrite was applied; `remarks` says what was nearly optimised, and why not.
        plan: the memory planner's account: lower bound of the arena, buffers by kind.
        warnings: what went wrong with the cache.
    """

    name: str
    target: str
    version: str
    kernels: tuple[Kernel, ...]
    distinct_kernels: int | None
    flops: str
    bytes: str
    arena: str
    scratch: str
    constant_bytes: int
    memory: Mapping[str, int]
    cached: bool
    pipeline: str
    seconds: Mapping[str, float]
    pass_seconds: Mapping[str, float]
    rewrites: Mapping[str, int]
    remarks: tuple[str, ...]
    plan: Mapping[str, Any]
    warnings: tuple[str, ...]

    @staticmethod
    def of(manifest: Manifest, account: Mapping[str, Any], cached: bool, memory: Mapping[str, int]) -> Report:
        """The report on a program; `account` is what `build` told, or empty."""
        kernels = tuple(kernel for kernel in manifest.kernels if kernel.nodes)
        target, work = account.get("target", {}), account.get("work", {})
        return Report(
            name=manifest.name,
            target=str(target.get("cpu", manifest.arch)),
            version=manifest.version,
            kernels=kernels,
            distinct_kernels=account.get("distinct_kernels"),
            flops=work.get("flops") or _total(kernel.flops for kernel in kernels),
            bytes=work.get("bytes") or _total(kernel.bytes for kernel in kernels),
            arena=manifest.arena,
            scratch=manifest.scratch,
            constant_bytes=manifest.constant_block_bytes(),
            memory=memory,
            cached=cached,
            pipeline=account.get("pipeline", ""),
            seconds={**account.get("seconds", {}), **{f"ready: {k}": v for k, v in _ready(account).items()}},
            pass_seconds=account.get("pass_seconds", {}),
            rewrites=account.get("rewrites", {}),
            remarks=tuple(account.get("remarks", ())),
            plan=account.get("memory", {}),
            warnings=tuple(account.get("warnings", ())),
        )

    def as_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        tiers = Counter(kernel.tier for kernel in self.kernels)
        distinct = f", {self.distinct_kernels} distinct" if self.distinct_kernels is not None else ""
        lines = [
            f"{self.name}: {len(self.kernels)} kernels{distinct} "
            f"({', '.join(f'{count} {tier}' for tier, count in tiers.most_common())}), target {self.target}",
            f"work a call: {_short(self.flops)} FLOPs, {_short(self.bytes)} bytes moved by kernels",
            f"memory: constants {_short(str(self.constant_bytes))} B, arena {_short(self.arena)} B, "
            f"scratch {_short(self.scratch)} B a thread",
        ]
        if self.plan:
            buffers = ", ".join(f"{count} {kind}" for kind, count in self.plan["buffers"].items() if count)
            lines.append(f"memory plan: {buffers}; arena at least {_short(self.plan['lower_bound'])} B")
        if self.seconds:
            lines.append(f"{'from the cache; compiled' if self.cached else 'compiled'} with {self.pipeline}")
            lines += [f"  {name:<16} {value * 1e3:9.1f} ms" for name, value in self.seconds.items()]
            slow = sorted(self.pass_seconds.items(), key=lambda item: -item[1])
            lines.append("passes: " + ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in slow))
        if self.rewrites:
            lines.append("rewrites: " + ", ".join(f"{name} {count}" for name, count in self.rewrites.items()))
        lines += [f"remark: {text}" for text in self.remarks]
        lines += [f"warning: {text}" for text in self.warnings]
        return "\n".join(lines)


def _ready(account: Mapping[str, Any]) -> Mapping[str, float]:
    ready: Mapping[str, float] = account.get("ready_seconds", {})
    return ready


def _total(sizes: Iterable[str]) -> str:
    """The sum of size expressions, for an artifact, which does not hold it simplified."""
    return " + ".join(f"{count}*({size})" if count > 1 else size for size, count in Counter(sizes).items()) or "0"


def evaluate(size: str, symbols: Mapping[str, int]) -> int:
    """The value of a size of a report for given symbols.

    Raises:
        SizeError: a symbol is missing.
    """
    return compile_sizes([size], list(symbols))(list(symbols.values()))[0]


def _short(size: str) -> str:
    if not size.isdigit():
        return size if len(size) <= 60 else f"{size[:57]}..."
    value = float(size)
    for unit in ("", " k", " M", " G", " T"):
        if value < 1000:
            return f"{value:.3g}{unit}" if unit else f"{value:.0f}"
        value /= 1000
    return f"{value:.3g} P"


@dataclass(frozen=True)
class FunctionReport:
    """What a compiled function did so far; prints as text.

    Attributes:
        programs: a report on each program.
        reasons: why each was compiled: the first call, or the guards that failed.
        seconds: what tracing and compiling each took.
        calls: how often each ran.
        sizes: what each holds for, of open sizes: the comparisons in the function, with their lines.
    """

    name: str
    programs: tuple[Report, ...]
    reasons: tuple[str, ...]
    seconds: tuple[float, ...]
    calls: tuple[int, ...]
    sizes: tuple[tuple[str, ...], ...]

    def __str__(self) -> str:
        lines = [f"{self.name}: {len(self.programs)} programs, {sum(self.calls)} calls"]
        rows = zip(self.programs, self.reasons, self.seconds, self.calls, self.sizes)
        for index, (program, reason, seconds, calls, sizes) in enumerate(rows, 1):
            origin = "from the cache" if program.cached else "compiled"
            lines.append(f"program {index} ({calls} calls, {origin}, ready after {seconds:.2f} s): {reason}")
            lines += [f"  only for {' and '.join(sizes)}"] if sizes else []
            lines += [f"  {line}" for line in str(program).splitlines()]
        return "\n".join(lines)
