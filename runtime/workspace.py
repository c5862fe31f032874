"""The private memory of one call in flight: the context words and all that they point to."""

from __future__ import annotations

import ctypes

from ds_compiler.runtime import abi
from ds_compiler.runtime.abi import Word
from ds_compiler.runtime.memory import Region
from ds_compiler.runtime.plan import Plan
from ds_compiler.runtime.threads import PoolCode, required_symbol


class Workspace:
    """Made once for each call that runs at the same time as others, then reused; it grows and never shrinks.

    `pointers` holds the data pointers of the inputs, then those of the outputs.
    """

    def __init__(self, inputs: int, outputs: int, symbols: int, constants: int, code: PoolCode) -> None:
        self.pointers = (ctypes.c_int64 * (inputs + outputs))()
        self.pointers_address = ctypes.addressof(self.pointers)
        self.symbols = (ctypes.c_int64 * symbols)()
        self.status = ctypes.c_int64(0)
        self._fixed = Region(8 * abi.CONTEXT_WORDS)
        self.address = self._fixed.address
        self.context = (ctypes.c_int64 * abi.CONTEXT_WORDS).from_address(self.address)
        self.arena, self.scratch = Region(1), Region(1)
        self.plan: Plan | None = None
        self.threads = 0
        words = self.context
        words[Word.INPUTS] = self.pointers_address
        words[Word.OUTPUTS] = self.pointers_address + 8 * inputs
        words[Word.CONSTANTS] = constants
        words[Word.SYMBOLS] = ctypes.addressof(self.symbols)
        words[Word.STATUS] = ctypes.addressof(self.status)
        words[Word.ALLOC] = code.alloc
        words[Word.FREE] = required_symbol("free")
        words[Word.PARALLEL] = code.parallel

    def adapt(self, plan: Plan, threads: int) -> None:
        """Prepare for calls with `plan` on `threads` threads.

        Raises:
            MemoryError: the arena or the scratch does not fit into memory.
        """
        self.plan = None
        if self.arena.size < plan.arena:
            self.arena = Region(plan.arena)
        if self.scratch.size < plan.scratch * threads:
            self.scratch = Region(plan.scratch * threads)
        self.context[Word.POOL] = 0  # set for each call that has one
        self.context[Word.ARENA] = self.arena.address
        self.context[Word.SCRATCH] = self.scratch.address
        self.context[Word.SCRATCH_BYTES] = plan.scratch
        self.symbols[:] = list(plan.symbols)
        self.plan, self.threads = plan, threads
