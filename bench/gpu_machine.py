"""Where `gpu_check` runs: on a GPU; or, to try it out, nowhere: tensors on the CPU, launches that do nothing."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

ROUNDS = 5
Row = dict[str, Any]


@dataclass
class Machine:
    """Tensors' device, times, and what is left of the time.

    Attributes:
        dry: sizes are small, what a GPU would compute is not compared, and nothing is worth timing.
        seconds: begin nothing new after this long.
        bandwidth: bytes a second that a copy reads and writes, once it is measured.
    """

    dry: bool
    seconds: float
    bandwidth: float = 0.0
    rows: dict[str, list[Row]] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> str:
        return "cpu" if self.dry else "cuda"

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.monotonic() - self.start)

    def synchronize(self) -> None:
        if not self.dry:
            torch.cuda.synchronize()

    def stream(self) -> int | None:
        """PyTorch's current stream, for the driver."""
        return None if self.dry else int(torch.cuda.current_stream().cuda_stream)

    def tensor(self, *shape: int, dtype: Any = torch.bfloat16) -> Any:
        """Normal random numbers."""
        return torch.randn(*shape, device=self.device, dtype=torch.float32).to(dtype)

    def given(self, tensor: Any) -> Any:
        """A tensor as an argument of ours; NumPy's array where there is no device."""
        if not self.dry:
            return tensor
        if tensor.dtype == torch.bfloat16:
            import ml_dtypes

            return tensor.float().numpy().astype(ml_dtypes.bfloat16)
        return tensor.numpy()

    def milliseconds(self, run: Callable[[], Any], calls: int = 20) -> float:
        """The best of several rounds, between events of the current stream."""
        if self.dry:
            run()
            return 1.0
        for _ in range(3):
            run()
        best = float("inf")
        for _ in range(ROUNDS):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(calls):
                run()
            end.record()
            torch.cuda.synchronize()
            best = min(best, begin.elapsed_time(end) / calls)
        return best

    def compiled(self, function: Any, mode: str | None = None) -> Any:
        """`torch.compile` with Inductor."""
        torch._dynamo.reset()
        return torch.compile(function, backend="eager") if self.dry else torch.compile(function, mode=mode)

    def ours(self, function: Any) -> Any:
        """`torch.compile` with this project's backend."""
        from ds_compiler.torch import backend

        torch._dynamo.reset()
        return torch.compile(function, backend=backend.ds)

    def attempt(self, section: str, name: str, run: Callable[[], Row], needs: float = 0.0) -> None:
        """Add a row to a section: what `run` gives, the error that it ends with, or that there is no time for it.

        Args:
            needs: seconds that must be left.
        """
        if self.left <= needs:
            row: Row = {"name": name, "ok": True, "skipped": f"{self.left:.0f} s left, needs {needs:.0f} s"}
        else:
            began = time.monotonic()
            try:
                row = {"name": name, **run()}
            except Exception as error:  # the rest is worth having whatever fails
                traceback.print_exc()
                row = {"name": name, "ok": False, "problem": f"{type(error).__name__}: {error}"[:400]}
            row["took_s"] = time.monotonic() - began
        self.rows.setdefault(section, []).append(row)
        show(row)


def show(row: Row) -> None:
    """One line of a table."""
    state = "skip" if "skipped" in row else "ok  " if row["ok"] else "FAIL"
    numbers = "  ".join(f"{k} {v:.4g}" for k, v in row.items() if isinstance(v, float))
    print(f"{state} {row['name']:40} {row.get('problem') or row.get('skipped') or numbers}", flush=True)


def relative(ours: Any, reference: Any) -> float:
    """The largest difference of two tensors, in units of the largest element."""
    scale = max(float(reference.abs().max()), 1e-6)
    return float((ours.float() - reference.float()).abs().max()) / scale
