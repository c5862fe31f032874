"""A program made ready for one combination of input shapes: addresses, grids and argument arrays, all prebuilt.

A launch takes an array of pointers to its arguments. Arguments that change between calls, the addresses of inputs and
outputs, have one slot each that all launches point to; so a call writes a few numbers and launches.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ds_compiler.runtime.cuda.device import Block, Device
from ds_compiler.runtime.cuda.plan import Code, Copy, GpuProgram, Launch, Place, SetSize
from ds_compiler.runtime.dims import compile_sizes
from ds_compiler.runtime.errors import ExecutionError

_MOST_PROGRAMS = (1 << 31) - 1
_MOST_GRAPHS = 8  # of one combination of shapes: results that alternate between places


@dataclass(frozen=True)
class _Ready:
    """A launch: everything but the stream."""

    function: int
    grid: int
    threads: int
    shared: int
    parameters: ctypes.Array[ctypes.c_void_p]
    name: str


class Prepared:
    """See the module's docstring.

    Args:
        functions: the driver's function for each kernel.
        bases: addresses of the spaces that stay where they are (``arena``, ``constant``, ``flag``).
        symbols: values of the manifest's symbols.
        allocate: gives memory that lives as long as this object.
    """

    def __init__(
        self,
        device: Device,
        program: GpuProgram,
        codes: Sequence[Code],
        functions: Sequence[int],
        bases: dict[str, int],
        symbols: Sequence[int],
        allocate: Callable[[int], Block],
    ) -> None:
        self._device, self._driver = device, device.driver
        self._program, self._codes, self._functions = program, codes, functions
        self._bases, self._symbols, self._allocate = bases, symbols, allocate
        self._names = [s.name for s in program.manifest.symbols]
        inputs, outputs = len(program.manifest.inputs), len(program.manifest.outputs)
        self.slots = (ctypes.c_uint64 * (inputs + outputs))()
        self._outputs_at = inputs
        self._kept: list[object] = []
        self._steps: list[Callable[[int], None]] = []
        for step in program.steps:
            match step:
                case Launch():
                    self._add_launch(step)
                case Copy():
                    self._add_copy(step)
                case SetSize():
                    self._add_size(step)
        self._graphs: dict[tuple[int, ...], int] = {}
        self._seen: dict[tuple[int, ...], None] = {}

    def run(self, pointers: Sequence[int], stream: int) -> None:
        """Launch everything. From the second call with the same addresses on, as one graph."""
        key = tuple(pointers)
        graph = self._graphs.get(key)
        if graph is not None:
            self._driver.launch_graph(graph, stream)
            return
        self.slots[:] = list(key)
        if not self._seen_before(key):  # a graph is worth its making when addresses come again
            self._launch_all(stream)
            return
        self._driver.begin_capture(self._device.capture_stream)
        try:
            self._launch_all(self._device.capture_stream)
        finally:
            graph = self._driver.end_capture(self._device.capture_stream)
        while len(self._graphs) >= _MOST_GRAPHS:
            self._driver.destroy_graph(self._graphs.pop(next(iter(self._graphs))))
        self._graphs[key] = graph
        self._driver.launch_graph(graph, stream)

    def _seen_before(self, key: tuple[int, ...]) -> bool:
        """Whether one of the last calls had these addresses."""
        if key in self._seen:
            return True
        while len(self._seen) >= 2 * _MOST_GRAPHS:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key] = None
        return False

    def release(self) -> None:
        """Forget the graphs."""
        for graph in self._graphs.values():
            self._driver.destroy_graph(graph)
        self._graphs.clear()
        self._seen.clear()

    def _launch_all(self, stream: int) -> None:
        for step in self._steps:
            step(stream)

    # -- steps ---------------------------------------------------------------------------------
    def _size(self, text: str) -> int:
        return compile_sizes([text], self._names)(self._symbols)[0]

    def _slot(self, place: Place) -> int:
        return place.index + (self._outputs_at if place.space == "output" else 0)

    def _add_launch(self, step: Launch) -> None:
        grid, code = self._size(step.grid), self._codes[step.kernel]
        if grid == 0:
            return
        if grid > _MOST_PROGRAMS:
            raise ExecutionError(f"{code.name}: {grid} programs are more than a launch can have")
        blocks = [self._allocate(size * grid) if size else None for size in code.scratch]
        self._kept.append(blocks)
        scratch = [block.address if block is not None else 0 for block in blocks]
        values: list[ctypes.c_uint64 | ctypes.c_int64] = []
        addresses: list[int] = []
        for argument in (*step.arguments, *scratch):
            if isinstance(argument, Place) and argument.space in ("input", "output"):
                addresses.append(ctypes.addressof(self.slots) + 8 * self._slot(argument))
                continue
            if isinstance(argument, Place):
                value = ctypes.c_uint64(self._bases[argument.space] + self._size(argument.offset))
            elif isinstance(argument, str):
                value = ctypes.c_uint64(self._symbols[self._names.index(argument)])
            else:
                value = ctypes.c_uint64(argument)
            values.append(value)
            addresses.append(ctypes.addressof(value))
        parameters = (ctypes.c_void_p * len(addresses))(*addresses)
        self._kept.append(values)
        ready = _Ready(self._functions[step.kernel], grid, code.threads, code.shared, parameters, code.name)
        self._steps.append(lambda stream: self._launch(ready, stream))

    def _launch(self, ready: _Ready, stream: int) -> None:
        error = self._driver.launch_kernel(
            ready.function, ready.grid, 1, 1, ready.threads, 1, 1, ready.shared, stream, ready.parameters, None
        )
        if error:
            self._driver.fail(f"launch of {ready.name}", error)

    def _address(self, place: Place) -> Callable[[], int]:
        if place.space in ("input", "output"):
            slot = self._slot(place)
            return lambda: int(self.slots[slot])
        address = self._bases[place.space] + self._size(place.offset)
        return lambda: address

    def _add_copy(self, step: Copy) -> None:
        target, source, size = self._address(step.target), self._address(step.source), self._size(step.bytes)
        self._steps.append(lambda stream: self._driver.copy(target(), source(), size, stream))

    def _add_size(self, step: SetSize) -> None:
        value, target = self._size(step.value), self._address(step.target)
        self._steps.append(lambda stream: self._driver.set_word(target(), value, stream))
