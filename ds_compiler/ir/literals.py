"""Arrays in IR text: small ones as literals that read back bit for bit, large ones by content hash.

The arrays behind the hashes are kept beside the text, in a safetensors file (`save_constants`).
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ds_compiler.ir.dtypes import DType
from ds_compiler.ir.errors import CompileError
from ds_compiler.ir.lexer import Lexer, quote
from ds_compiler.ir.types import TensorType

Array = np.ndarray[Any, Any]

INLINE_ELEMENTS = 16
_HASH = re.compile(r"[0-9a-f]{16}\b")

_hashes: dict[int, tuple[weakref.ref[Array], str]] = {}


def content_hash(array: Array) -> str:
    """16 hexadecimal digits that stand for element type, shape and contents.

    Kept for arrays that live on: modules are printed after every pass, and constants are never written to.
    """
    kept = _hashes.get(id(array))
    if kept is not None and kept[0]() is array:
        return kept[1]
    digest = hashlib.blake2b(f"{array.dtype.name}{array.shape}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    key, text = id(array), digest.hexdigest()
    _hashes[key] = (weakref.ref(array, lambda _: _hashes.pop(key, None)), text)
    return text


def is_inline(array: Array, type_: TensorType) -> bool:
    """The array is written out in text (strings always are: the side file holds numbers only)."""
    return array.size <= INLINE_ELEMENTS or type_.dtype.kind == "s"


def write_array(array: Array, type_: TensorType, constants: dict[str, Array] | None) -> str:
    """A literal, ``splat(…)`` of one repeated element, or ``@hash`` (the array is put into `constants`)."""
    if is_inline(array, type_):
        return _nested(array, type_.dtype)
    flat = np.ascontiguousarray(array).reshape(-1)
    raw = flat.view(np.uint8).reshape(flat.size, -1)
    if (raw == raw[0]).all():
        return f"splat({_scalar(flat[0], type_.dtype)})"
    key = content_hash(array)
    if constants is not None:
        constants[key] = array
    return f"@{key}"


def _nested(array: Array, dtype: DType) -> str:
    if array.ndim == 0:
        return _scalar(array[()], dtype)
    if not array.size:
        return "[]"
    items = (_scalar(x, dtype) for x in array) if array.ndim == 1 else (_nested(row, dtype) for row in array)
    return f"[{', '.join(items)}]"


def _scalar(value: Any, dtype: DType) -> str:
    if dtype.kind == "s":
        return quote(str(value))
    if dtype.kind == "b":
        return "true" if value else "false"
    if dtype.kind != "f":
        return str(int(value))
    wide = float(value)
    if np.isnan(wide):
        bits = _bits(np.asarray(value, dtype.numpy))
        return "nan" if bits == _bits(np.asarray(np.nan, dtype.numpy)) else f"nan(0x{bits:x})"
    if np.isinf(wide):
        return "inf" if wide > 0 else "-inf"
    for digits in range(1, 18):
        text = f"{wide:.{digits}g}"
        with np.errstate(over="ignore"):  # rounding up may leave the range
            if dtype.numpy.type(float(text)) == value:
                break
    return text if "." in text or "e" in text else f"{text}.0"


def _bits(scalar: Array) -> int:
    return int.from_bytes(scalar.tobytes(), "little")


def read_array(lexer: Lexer, type_: TensorType, constants: Mapping[str, Array] | None) -> Array:
    """The array that `write_array` wrote; `type_` stands behind it in the text.

    Raises:
        CompileError: elements do not fit the type, or `constants` lacks the hash or holds another array under it.
    """
    start = lexer.position
    shape = tuple(int(d) for d in type_.shape if isinstance(d, int))
    if len(shape) != type_.rank:
        lexer.fail(f"a constant has a static type, not {type_}", at=start)
    if lexer.accept("@"):
        return _read_hashed(lexer, type_, constants, start)
    if lexer.accept("splat("):
        array = np.empty(shape, type_.dtype.numpy)
        array[...] = _read_scalar(lexer, type_.dtype)
        lexer.expect(")")
        return array
    flat: list[Array] = []
    _read_nested(lexer, type_.dtype, shape, flat)
    result = np.empty(len(flat), type_.dtype.numpy)
    for index, element in enumerate(flat):
        result[index] = element[()]
    return result.reshape(shape)


def _read_hashed(lexer: Lexer, type_: TensorType, constants: Mapping[str, Array] | None, start: int) -> Array:
    key = lexer.match(_HASH) or lexer.fail("expected 16 hexadecimal digits")
    array = None if constants is None else constants.get(key)
    if array is None:
        where = "no constants were given" if constants is None else "it is not among the constants given"
        lexer.fail(f"constant @{key} is missing: {where}", at=start, help="keep FILE.dsir.safetensors beside FILE.dsir")
    if array.dtype != type_.dtype.numpy and array.dtype.itemsize == type_.dtype.itemsize:
        array = array.view(type_.dtype.numpy)  # the side file has no narrow types of its own
    if array.shape != type_.shape or array.dtype != type_.dtype.numpy or content_hash(array) != key:
        found = f"{'x'.join(map(str, array.shape))} of {array.dtype}"
        lexer.fail(f"constant @{key} has other contents in the side file ({found})", at=start)
    return array


def _read_nested(lexer: Lexer, dtype: DType, shape: tuple[int, ...], into: list[Array]) -> None:
    if not shape:
        into.append(_read_scalar(lexer, dtype))
        return
    start = lexer.position
    lexer.expect("[")
    count = 0
    while not lexer.at("]") and 0 not in shape:
        _read_nested(lexer, dtype, shape[1:], into)
        count += 1
        if not lexer.accept(","):
            break
    lexer.expect("]")
    if count != shape[0] and 0 not in shape:
        lexer.fail(f"{count} elements, the type says {shape[0]}", at=start)


def _read_scalar(lexer: Lexer, dtype: DType) -> Array:
    result = np.empty((), dtype.numpy)
    lexer.skip()
    start = lexer.position
    if dtype.kind == "s":
        result[()] = lexer.string()
    elif dtype.kind == "b":
        text = lexer.word("true or false")
        if text not in ("true", "false"):
            lexer.fail("expected true or false", at=start)
        result[()] = text == "true"
    else:
        text = lexer.number()
        try:
            if text.startswith("nan("):
                return np.frombuffer(int(text[6:-1], 16).to_bytes(dtype.itemsize, "little"), dtype.numpy).reshape(())
            result[()] = float(text) if dtype.kind == "f" else int(text)
            if dtype.is_integer and int(result) != int(text):
                raise OverflowError(text)
        except (ValueError, OverflowError):
            lexer.fail(f"{text} is not a {dtype}", at=start)
    return result


def side_file(path: Path) -> Path:
    """Where the constants of the IR text at `path` are kept."""
    return path.with_name(path.name + ".safetensors")


def save_constants(path: Path, constants: Mapping[str, Array]) -> None:
    """Write the arrays beside the IR text at `path`; narrow floats and 4-bit integers go as raw bits."""
    from safetensors.numpy import save_file

    raw = {
        key: array if array.dtype.kind in "fiub" else np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
        for key, array in constants.items()
    }
    save_file({key: np.ascontiguousarray(array) for key, array in raw.items()}, side_file(path))


def load_constants(path: Path) -> dict[str, Array]:
    """The arrays beside the IR text at `path`; none if there is no such file.

    Raises:
        CompileError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = side_file(path)
    if not file.exists():
        return {}
    try:
        return dict(load_file(file))
    except (SafetensorError, OSError) as error:
        raise CompileError(f"'{file}' cannot be read: {error}", help="write the IR text again") from None
