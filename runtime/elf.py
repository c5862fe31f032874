"""Load an x86-64 ELF relocatable object into this process, without a compiler or linker.

What a linker would do is little for one position-independent object: place the allocated sections, give
each symbol an address, patch the relocations, reach distant functions through jump stubs and a table of
addresses (the global offset table), and set the pages' protection so that nothing is both writable and
executable. Reference: System V ABI, AMD64 supplement, chapter 4.

One region holds everything, in this order, each part starting on a page::

    executable sections, jump stubs | read-only sections, offset table | writable sections, zeroed

Unwind tables (``.eh_frame``) are not loaded: generated code neither throws nor is unwound through.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ds_compiler.runtime.errors import LoadError

_PAGE: Final = mmap.PAGESIZE
_MAX_BYTES: Final = 1 << 30  # everything must be within ±2 GiB of everything else; half of that is ample
_PROT_READ, _PROT_WRITE, _PROT_EXEC = 1, 2, 4

_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 2, 4, 8, 9
_INITIALISERS: Final = frozenset({14, 15, 16})  # init, fini and preinit arrays
_SHF_WRITE, _SHF_ALLOC, _SHF_EXECINSTR, _SHF_TLS = 0x1, 0x2, 0x4, 0x400
_SHN_UNDEF, _SHN_LORESERVE, _SHN_ABS, _SHN_COMMON = 0, 0xFF00, 0xFFF1, 0xFFF2
_STB_LOCAL, _STB_WEAK = 0, 2
_STT_TLS, _STT_IFUNC = 6, 10

# Relocation types: name, width in bytes, signed. S symbol, A addend, P place, G table slot, GOT table base.
_ABS64, _PC32, _GOT32, _PLT32, _GOTPCREL, _ABS32, _ABS32S = 1, 2, 3, 4, 9, 10, 11
_PC64, _GOTOFF64, _GOTPC32, _GOTPCREL64, _GOTPC64, _GOTPCRELX, _REX_GOTPCRELX = 24, 25, 26, 28, 29, 41, 42
_WIDTH: Final[dict[int, tuple[int, bool]]] = {
    _ABS64: (8, False),
    _PC32: (4, True),
    _GOT32: (4, True),
    _PLT32: (4, True),
    _GOTPCREL: (4, True),
    _ABS32: (4, False),
    _ABS32S: (4, True),
    _PC64: (8, True),
    _GOTOFF64: (8, True),
    _GOTPC32: (4, True),
    _GOTPCREL64: (8, True),
    _GOTPC64: (8, True),
    _GOTPCRELX: (4, True),
    _REX_GOTPCRELX: (4, True),
}
_NEEDS_SLOT: Final = frozenset({_GOT32, _GOTPCREL, _GOTPCREL64, _GOTPCRELX, _REX_GOTPCRELX})
_NEEDS_TABLE: Final = _NEEDS_SLOT | {_GOTOFF64, _GOTPC32, _GOTPC64}

_STUB: Final = b"\xff\x25\x00\x00\x00\x00"  # jmp qword ptr [rip + 0]; the address follows
_STUB_BYTES: Final = 16


def _align(value: int, alignment: int) -> int:
    return (value + alignment - 1) // alignment * alignment


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    offset: int  # in the file
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int
    place: int = -1  # in the region; -1 when not loaded


@dataclass(slots=True)
class _Symbol:
    name: str
    info: int
    section: int
    value: int
    size: int

    @property
    def undefined(self) -> bool:
        return self.section == _SHN_UNDEF


class _Reader:
    """Bounds-checked access to the object's bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def unpack(self, layout: str, offset: int, what: str) -> tuple[Any, ...]:
        if offset < 0 or offset + struct.calcsize(layout) > len(self.data):
            raise LoadError(f"object file: {what} lies outside the file ({len(self.data)} bytes); truncated?")
        return struct.unpack_from(layout, self.data, offset)

    def slice(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > len(self.data):
            raise LoadError(f"object file: {what} lies outside the file ({len(self.data)} bytes); truncated?")
        return self.data[offset : offset + size]


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    if offset > len(table) or end < 0:
        raise LoadError("object file: a name lies outside its string table")
    return table[offset:end].decode("utf-8", "replace")


class LoadedObject:
    """An object's code and data in memory, for as long as this or a function taken from it is alive.

    Args:
        data: an ELF64 x86-64 relocatable object.
        symbols: addresses for undefined symbols, tried before libm, libc and libgcc_s.

    Raises:
        LoadError: the object is damaged, for another machine, or needs what is not available.
    """

    def __init__(self, data: bytes, symbols: Mapping[str, int] | None = None) -> None:
        if platform.machine() not in ("x86_64", "AMD64"):
            raise LoadError(f"unsupported architecture {platform.machine()!r}: objects are for x86-64")
        self._reader = _Reader(bytes(data))
        self._extern = dict(symbols or {})
        self._sections = self._read_sections()
        self._symbols = self._read_symbols()
        relocations = self._read_relocations()
        self._lay_out(relocations)
        try:
            self._memory = mmap.mmap(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise LoadError(f"object file: cannot map {self._size} bytes: {error}") from error
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        for section in self._sections:
            if section.place >= 0 and section.kind != _SHT_NOBITS:
                content = self._reader.slice(section.offset, section.size, f"section {section.name}")
                self._memory[section.place : section.place + section.size] = content
        self._write_tables()
        for relocation in relocations:
            self._relocate(*relocation)
        self._protect()
        self._exports = {
            s.name: self._address(i)
            for i, s in enumerate(self._symbols)
            if s.info >> 4 != _STB_LOCAL and not s.undefined
        }
        del self._reader, self._extern

    @property
    def size(self) -> int:
        """Bytes of memory that the object occupies."""
        return self._size

    def address(self, name: str) -> int:
        """Address of an exported symbol.

        Raises:
            LoadError: the object does not export it.
        """
        try:
            return self._exports[name]
        except KeyError:
            known = ", ".join(sorted(self._exports)) or "nothing"
            raise LoadError(f"object file: no symbol {name!r} (it exports {known})") from None

    def function(self, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
        """A callable for an exported function; ctypes types describe it. It keeps this object alive."""
        function = ctypes.CFUNCTYPE(result, *arguments)(self.address(name))
        function.owner = self  # type: ignore[attr-defined]
        return function

    # -- reading ------------------------------------------------------------------------------
    def _read_sections(self) -> list[_Section]:
        read = self._reader
        header = read.unpack("<16sHHIQQQIHHHHHH", 0, "the header")
        ident, kind, machine, version, _, _, table, _, _, _, _, entry_size, count, names_index = header
        if ident[:4] != b"\x7fELF":
            raise LoadError("object file: not an ELF file")
        if ident[4:7] != b"\x02\x01\x01" or version != 1:
            raise LoadError("object file: not a 64-bit little-endian ELF file")
        if kind != 1:
            raise LoadError(f"object file: ELF type {kind}, expected a relocatable object (1)")
        if machine != 62:
            raise LoadError(f"unsupported architecture: object is for ELF machine {machine}, expected x86-64 (62)")
        if entry_size != 64 or not 0 < count < _SHN_LORESERVE or names_index >= count:
            raise LoadError("object file: bad section table")
        sections, name_offsets = [], []
        for index in range(count):
            fields = read.unpack("<IIQQQQIIQQ", table + index * 64, f"section header {index}")
            name, kind, flags, _, offset, size, link, info, alignment, entry_size = fields
            alignment = max(alignment, 1)
            if alignment & (alignment - 1):
                raise LoadError(f"object file: section {index} has alignment {alignment}, not a power of two")
            name_offsets.append(name)
            sections.append(_Section("", kind, flags, offset, size, link, info, alignment, entry_size))
        names = read.slice(sections[names_index].offset, sections[names_index].size, "the section names")
        for section, offset in zip(sections, name_offsets, strict=True):
            section.name = _string(names, offset)
        return sections

    def _loaded(self, section: _Section) -> bool:
        return bool(section.flags & _SHF_ALLOC) and not section.name.startswith(".eh_frame")

    def _read_symbols(self) -> list[_Symbol]:
        tables = [s for s in self._sections if s.kind == _SHT_SYMTAB]
        if not tables:
            return []
        table = tables[0]
        if table.entry_size != 24 or table.size % 24 or table.link >= len(self._sections):
            raise LoadError("object file: bad symbol table")
        strings = self._sections[table.link]
        names = self._reader.slice(strings.offset, strings.size, "the symbol names")
        data = self._reader.slice(table.offset, table.size, "the symbol table")
        symbols = []
        for name, info, _, section, value, size in struct.iter_unpack("<IBBHQQ", data):
            symbol = _Symbol(_string(names, name), info, section, value, size)
            if info & 15 in (_STT_TLS, _STT_IFUNC):
                raise LoadError(f"object file: symbol {symbol.name!r} has unsupported type {info & 15}")
            if _SHN_UNDEF < section < _SHN_LORESERVE:
                if section >= len(self._sections):
                    raise LoadError(
                        f"object file: symbol {symbol.name!r} is in section {section}, of {len(self._sections)}"
                    )
                if value > self._sections[section].size:
                    raise LoadError(f"object file: symbol {symbol.name!r} lies outside its section")
            elif section not in (_SHN_UNDEF, _SHN_ABS, _SHN_COMMON):
                raise LoadError(f"object file: symbol {symbol.name!r} has unsupported section index {section:#x}")
            symbols.append(symbol)
        return symbols

    def _read_relocations(self) -> list[tuple[_Section, int, int, int, int]]:
        """(patched section, offset in it, type, symbol, addend) of every relocation that matters."""
        found = []
        for table in self._sections:
            if table.kind not in (_SHT_RELA, _SHT_REL):
                continue
            if table.info >= len(self._sections):
                raise LoadError(f"object file: {table.name} patches section {table.info}, which does not exist")
            section = self._sections[table.info]
            if not self._loaded(section):
                continue
            if table.kind == _SHT_REL or table.entry_size != 24 or table.size % 24:
                raise LoadError(f"object file: {table.name} is not a table of relocations with addends")
            data = self._reader.slice(table.offset, table.size, table.name)
            for offset, info, addend in struct.iter_unpack("<QQq", data):
                kind, symbol = info & 0xFFFFFFFF, info >> 32
                if kind == 0:
                    continue
                if kind not in _WIDTH:
                    raise LoadError(f"object file: {table.name} has unsupported relocation type {kind}")
                if symbol >= len(self._symbols):
                    raise LoadError(f"object file: {table.name} names symbol {symbol}, which does not exist")
                if section.kind == _SHT_NOBITS or offset + _WIDTH[kind][0] > section.size:
                    raise LoadError(f"object file: {table.name} patches outside of {section.name}")
                found.append((section, offset, kind, symbol, addend))
        return found

    # -- placing ------------------------------------------------------------------------------
    def _lay_out(self, relocations: list[tuple[_Section, int, int, int, int]]) -> None:
        parts: tuple[list[_Section], list[_Section], list[_Section]] = ([], [], [])
        for section in self._sections:
            if not self._loaded(section):
                continue
            if section.flags & _SHF_TLS or section.kind in _INITIALISERS:
                raise LoadError(f"object file: section {section.name} (thread-local or initialiser) is not supported")
            # Relocated read-only data (.data.rel.ro) is marked writable for a linker's sake only.
            writable = section.flags & _SHF_WRITE and not section.name.startswith(".data.rel.ro")
            part = 0 if section.flags & _SHF_EXECINSTR else 2 if writable else 1
            if part == 0 and section.flags & _SHF_WRITE:
                raise LoadError(f"object file: section {section.name} is writable and executable")
            parts[part].append(section)

        used = {symbol: None for _, _, kind, symbol, _ in relocations if kind in _NEEDS_SLOT}
        self._slots = {symbol: index for index, symbol in enumerate(used)}
        self._externals = self._resolve({s for _, _, _, s, _ in relocations if self._symbols[s].undefined})
        called = {s: None for _, _, kind, s, _ in relocations if kind == _PLT32 and self._symbols[s].undefined}
        self._stubs = {symbol: index for index, symbol in enumerate(called)}

        def place(sections: list[_Section], start: int) -> int:
            for section in sections:
                section.place = start = _align(start, section.alignment)
                start += section.size
                if start > _MAX_BYTES:
                    raise LoadError(f"object file: sections need more than {_MAX_BYTES >> 20} MiB")
            return start

        self._stub_place = _align(place(parts[0], 0), _STUB_BYTES)
        self._text_end = _align(self._stub_place + _STUB_BYTES * len(self._stubs), _PAGE)
        self._table_place = _align(place(parts[1], self._text_end), 8)
        self._rodata_end = _align(self._table_place + 8 * len(self._slots), _PAGE)
        end = place(parts[2], self._rodata_end)
        self._common: dict[int, int] = {}
        for index, symbol in enumerate(self._symbols):
            if symbol.section == _SHN_COMMON:  # `value` is the alignment
                self._common[index] = end = _align(end, max(symbol.value, 1))
                end += symbol.size
                if end > _MAX_BYTES:
                    raise LoadError(f"object file: sections need more than {_MAX_BYTES >> 20} MiB")
        self._size = max(_align(end, _PAGE), _PAGE)
        if self._sections and any(s.alignment > _PAGE for part in parts for s in part):
            raise LoadError(f"object file: a section asks for alignment above a page ({_PAGE})")

    def _resolve(self, undefined: set[int]) -> dict[int, int]:
        addresses, missing = {}, []
        for index in undefined:
            symbol = self._symbols[index]
            if index == 0:
                addresses[index] = 0  # the null symbol: absolute zero
                continue
            address = self._extern.get(symbol.name) or process_symbol(symbol.name)
            if address is None and symbol.info >> 4 != _STB_WEAK:
                missing.append(symbol.name)
            addresses[index] = address or 0
        if missing:
            raise LoadError(f"object file: not found in libm, libc or libgcc_s: {', '.join(sorted(missing))}")
        return addresses

    def _address(self, index: int) -> int:
        symbol = self._symbols[index]
        if symbol.undefined:
            return self._externals[index]
        if symbol.section == _SHN_ABS:
            return symbol.value
        if symbol.section == _SHN_COMMON:
            return self._base + self._common[index]
        section = self._sections[symbol.section]
        if section.place < 0:
            raise LoadError(f"object file: symbol {symbol.name!r} is in {section.name}, which is not loaded")
        return self._base + section.place + symbol.value

    # -- patching -----------------------------------------------------------------------------
    def _write_tables(self) -> None:
        for symbol, index in self._stubs.items():
            at = self._stub_place + _STUB_BYTES * index
            stub = _STUB + struct.pack("<Q", self._externals[symbol])
            self._memory[at : at + len(stub)] = stub
        for symbol, index in self._slots.items():
            at = self._table_place + 8 * index
            self._memory[at : at + 8] = struct.pack("<Q", self._address(symbol))

    def _relocate(self, section: _Section, offset: int, kind: int, index: int, addend: int) -> None:
        place = self._base + section.place + offset
        table = self._base + self._table_place
        target = 0 if kind in _NEEDS_TABLE and kind != _GOTOFF64 else self._address(index)
        slot = table + 8 * self._slots.get(index, 0)
        if kind == _PLT32 and index in self._stubs:
            target = self._base + self._stub_place + _STUB_BYTES * self._stubs[index]
        if kind in (_ABS64, _ABS32, _ABS32S):
            value = target + addend
        elif kind in (_PC32, _PLT32, _PC64):
            value = target + addend - place
        elif kind == _GOTOFF64:
            value = target + addend - table
        elif kind in (_GOTPC32, _GOTPC64):
            value = table + addend - place
        elif kind == _GOT32:
            value = slot - table + addend
        else:
            value = slot + addend - place
        width, signed = _WIDTH[kind]
        if kind in (_ABS64, _PC64):
            value &= (1 << 64) - 1
            signed = False
        try:
            patch = value.to_bytes(width, "little", signed=signed)
        except OverflowError:
            name = self._symbols[index].name or section.name
            raise LoadError(f"object file: relocation {kind} to {name!r} does not reach its target") from None
        self._memory[section.place + offset : section.place + offset + width] = patch

    def _protect(self) -> None:
        for start, end, protection in (
            (0, self._text_end, _PROT_READ | _PROT_EXEC),
            (self._text_end, self._rodata_end, _PROT_READ),
        ):
            if end > start and _libc().mprotect(self._base + start, end - start, protection):
                raise LoadError(f"object file: the system refuses to protect code pages (errno {ctypes.get_errno()})")


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = (ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
    return libc


@functools.cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    found = []
    for name in ("libm.so.6", "libc.so.6", None, "libgcc_s.so.1"):  # None: the process itself (any other libc)
        try:
            found.append(ctypes.CDLL(name))
        except OSError:
            continue
    return tuple(found)


def process_symbol(name: str) -> int | None:
    """Address of a function or object in libm, libc, this process or libgcc_s; None if there is none."""
    for library in _libraries():
        try:
            return ctypes.cast(getattr(library, name), ctypes.c_void_p).value
        except (AttributeError, ValueError):
            continue
    return None
