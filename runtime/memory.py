"""Memory that generated code works in: page-aligned regions outside of Python's heap."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Final

from ds_compiler.runtime.errors import LoadError

_HUGE_PAGE: Final = 2 << 20


class Region:
    """Zeroed memory of at least `size` bytes at a page-aligned `address`, released with this object.

    Physical pages arrive when first touched. From 4 MiB on, huge pages are asked for: an arena is walked in long
    strides, and 4 KiB pages then miss in the TLB.

    Raises:
        MemoryError: the system does not give that much.
    """

    def __init__(self, size: int) -> None:
        self.size = max(size, 1)
        try:
            self.buffer = mmap.mmap(-1, self.size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(f"cannot allocate {size} bytes: {error}") from None
        if self.size >= 2 * _HUGE_PAGE:
            with contextlib.suppress(OSError):  # a kernel without huge pages
                self.buffer.madvise(mmap.MADV_HUGEPAGE)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.buffer))


class ConstantBlock:
    """A program's constants in memory; `address` is a multiple of 64."""

    def __init__(self, address: int, size: int, owner: object) -> None:
        self.address, self.size, self._owner = address, size, owner

    def view(self) -> memoryview:
        """The block's bytes; valid while this object is alive."""
        if not self.size:
            return memoryview(b"")
        return memoryview((ctypes.c_char * self.size).from_address(self.address)).cast("B")

    @staticmethod
    def empty(size: int) -> tuple[ConstantBlock, memoryview]:
        """A block to fill in, and the writable view to fill it through."""
        region = Region(size)
        return ConstantBlock(region.address, size, region), memoryview(region.buffer)[:size]

    @staticmethod
    def copy_of(data: bytes | bytearray | memoryview) -> ConstantBlock:
        """A block with the bytes of `data`."""
        view = memoryview(data).cast("B")
        block, target = ConstantBlock.empty(view.nbytes)
        target[:] = view
        return block

    @staticmethod
    def mapped(mapping: mmap.mmap, offset: int, size: int) -> ConstantBlock:
        """Part of a file mapping made with `ACCESS_COPY`: pages are shared with other processes until written.

        Raises:
            LoadError: the part is not inside of the file, or not aligned.
        """
        if offset < 0 or offset + size > len(mapping):
            raise LoadError(f"constants: bytes {offset} to {offset + size} are outside of the file ({len(mapping)})")
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapping)) + offset
        if address % 64:
            raise LoadError(f"constants: offset {offset} in the file is not a multiple of 64")
        return ConstantBlock(address, size, mapping)
