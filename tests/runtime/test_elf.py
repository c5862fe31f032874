"""The object loader: relocations, symbols, protection, damaged objects."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import re
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_programs import assemble, reverse_scaled

from ds_compiler.runtime.elf import LoadedObject
from ds_compiler.runtime.errors import LoadError

# Calls out, constant pools, GOT loads, pointers in data, tables of functions, zeroed and initialised variables.
MANY_RELOCATIONS = """
@shared = constant [4 x float] [float 1.0, float 2.0, float 3.0, float 4.0]
@zeroed = global [1000 x i64] zeroinitializer, align 64
@counter = global i64 41
@pointer = global ptr @shared
@table = internal constant [2 x ptr] [ptr @exponential, ptr @count]
declare float @expf(float)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
@environ = external global ptr
define float @exponential(float %x) nounwind {
  %y = call float @expf(float %x)
  %z = fadd float %y, 3.5
  ret float %z
}
define i64 @count() nounwind {
  %a = load i64, ptr @counter
  %b = add i64 %a, 1
  store i64 %b, ptr @counter
  ret i64 %b
}
define ptr @entry(i64 %i) nounwind {
  %q = getelementptr ptr, ptr @table, i64 %i
  %r = load ptr, ptr %q
  ret ptr %r
}
define float @through_pointer(i64 %i) nounwind {
  %p = load ptr, ptr @pointer
  %q = getelementptr float, ptr %p, i64 %i
  %r = load float, ptr %q
  ret float %r
}
define ptr @copy(ptr %from, i64 %n) nounwind {
  call void @llvm.memcpy.p0.p0.i64(ptr @zeroed, ptr %from, i64 %n, i1 false)
  ret ptr @zeroed
}
define ptr @the_environment() nounwind {
  %e = load ptr, ptr @environ
  ret ptr %e
}
"""


@functools.cache
def many() -> bytes:
    return assemble(MANY_RELOCATIONS)


def test_relocations() -> None:
    loaded = LoadedObject(many())
    exponential = loaded.function("exponential", ctypes.c_float, ctypes.c_float)
    assert exponential(1.0) == pytest.approx(math.e + 3.5, rel=1e-6)
    count = loaded.function("count", ctypes.c_int64)
    assert [count(), count()] == [42, 43]
    entry = loaded.function("entry", ctypes.c_void_p, ctypes.c_int64)
    assert entry(0) == loaded.address("exponential") and entry(1) == loaded.address("count")
    through_pointer = loaded.function("through_pointer", ctypes.c_float, ctypes.c_int64)
    assert [through_pointer(i) for i in range(4)] == [1, 2, 3, 4]
    copy = loaded.function("copy", ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64)
    assert ctypes.string_at(copy(b"hello", 5), 6) == b"hello\0"
    assert copy(b"", 0) % 64 == 0
    environ = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value
    assert loaded.function("the_environment", ctypes.c_void_p)() == environ


def test_two_loads_have_their_own_data() -> None:
    first, second = (LoadedObject(many()).function("count", ctypes.c_int64) for _ in range(2))
    assert [first(), first(), second()] == [42, 43, 42]


def test_a_function_keeps_the_object_alive() -> None:
    count = LoadedObject(many()).function("count", ctypes.c_int64)
    junk = [LoadedObject(many()) for _ in range(20)]
    del junk
    assert count() == 42


def test_no_page_is_writable_and_executable() -> None:
    loaded = LoadedObject(many())
    found = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions = line.split()[:2]
        start, end = (int(x, 16) for x in span.split("-"))
        for name in ("count", "shared", "counter", "zeroed"):
            if start <= loaded.address(name) < end:
                found[name] = permissions[:3]
    assert found == {"count": "r-x", "shared": "r--", "counter": "rw-", "zeroed": "rw-"}


def test_given_symbols_come_first() -> None:
    double = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(lambda x: 2 * x)
    address = ctypes.cast(double, ctypes.c_void_p).value
    assert address is not None
    loaded = LoadedObject(many(), {"expf": address})
    assert loaded.function("exponential", ctypes.c_float, ctypes.c_float)(4.0) == 11.5


def test_missing_symbols_are_named() -> None:
    data = assemble(
        "declare void @nowhere_b()\ndeclare void @nowhere_a()\n"
        "define void @f() nounwind {\n call void @nowhere_b()\n call void @nowhere_a()\n ret void\n}"
    )
    with pytest.raises(LoadError, match="not found in libm, libc or libgcc_s: nowhere_a, nowhere_b"):
        LoadedObject(data)
    with pytest.raises(LoadError, match=r"no symbol 'dsc_main' \(it exports copy, count,"):
        LoadedObject(many()).address("dsc_main")


def test_thread_local_data_is_refused() -> None:
    data = assemble("@t = thread_local global i64 1\ndefine ptr @f() nounwind {\n ret ptr @t\n}")
    with pytest.raises(LoadError, match=r"unsupported|thread-local"):
        LoadedObject(data)


def patched(data: bytes, offset: int, layout: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(layout, out, offset, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("offset", "layout", "value", "message"),
    [
        (0, "<B", 0, "not an ELF file"),
        (4, "<B", 1, "not a 64-bit little-endian"),
        (16, "<H", 3, "expected a relocatable object"),
        (18, "<H", 183, "unsupported architecture: object is for ELF machine 183"),
        (40, "<Q", 1 << 62, "outside the file"),
        (58, "<H", 63, "bad section table"),
        (60, "<H", 60000, "outside the file"),
    ],
)
def test_bad_headers(offset: int, layout: str, value: int, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        LoadedObject(patched(many(), offset, layout, value))


def test_unsupported_relocation_is_named() -> None:
    data = many()
    (table,) = struct.unpack_from("<Q", data, 40)
    for index in range(struct.unpack_from("<H", data, 60)[0]):
        kind, offset = (struct.unpack_from(f, data, table + index * 64 + at)[0] for f, at in (("<I", 4), ("<Q", 24)))
        if kind == 4:
            with pytest.raises(LoadError, match=re.escape("has unsupported relocation type 37")):
                LoadedObject(patched(data, offset + 8, "<I", 37))
            return
    raise AssertionError("no relocation section")


def test_huge_sections_are_refused() -> None:
    data = assemble("@big = global [3000000000 x i8] zeroinitializer\ndefine ptr @f() nounwind {\n ret ptr @big\n}")
    with pytest.raises(LoadError, match="more than 1024 MiB"):
        LoadedObject(data)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_objects_never_crash(data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([many(), reverse_scaled()[0]]))
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    keep = data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))))
    with contextlib.suppress(LoadError):
        LoadedObject(bytes(damaged[:keep]))
