"""This machine as one with a GPU: a driver that records (or interprets), and kernels that are not compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from ds_compiler.runtime.cuda import device, driver
from ds_compiler.runtime.cuda.plan import Code, GpuProgram
from tests.runtime.cuda.fake import FakeLibrary


def stand_ins(program: GpuProgram) -> tuple[Code, ...]:
    """What takes the place of machine code: the kernels' names."""
    return tuple(Code(k.name, "", k.name.encode(), 32 * k.num_warps, 0) for k in program.kernels)


@contextmanager
def pretended(library: FakeLibrary | None = None) -> Iterator[FakeLibrary]:
    """A GPU while the context lasts; launches do nothing unless the library says what they do."""
    library = FakeLibrary() if library is None else library
    caches = (driver.system_driver, device.system_device)
    with (
        mock.patch.object(driver, "load_library", lambda: library),
        mock.patch("ds_compiler.gpu.compile_kernels", stand_ins),
    ):
        for cache in caches:
            cache.cache_clear()
        try:
            yield library
        finally:
            for cache in caches:
                cache.cache_clear()
