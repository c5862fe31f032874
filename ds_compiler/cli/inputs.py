"""Inputs for a model: from files, or random ones that look like what the model is fed with.

What a tensor holds is guessed from its element type, rank and name (ids, masks, sample rates, pictures,
sound). Integer inputs that index a table stay inside of it (`index_bounds`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ds_compiler.cli.errors import InputProblem

if TYPE_CHECKING:
    import onnx

Array = np.ndarray[Any, Any]
Inputs = dict[str, Array]

INTEGER_LIMIT = 10
"""Upper end of random integers of which nothing is known."""


class TensorSpec(Protocol):
    """An input as the runtime's manifest describes it; sizes are text, numbers or expressions over symbols."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def dims(self) -> tuple[str, ...]: ...


def gather(
    specs: Sequence[TensorSpec],
    *,
    archive: Path | None = None,
    files: Iterable[tuple[str, str]] = (),
    dims: Iterable[tuple[str, int]] = (),
    seed: int = 0,
    random: bool = True,
    bounds: Mapping[str, int] | None = None,
) -> Inputs:
    """All inputs: those of files, then (with `random`) random ones for the rest.

    Raises:
        InputProblem: a file cannot be read, a name is unknown, or an input is missing and `random` is off.
    """
    known = {spec.name: spec for spec in specs}
    given = {**(load_archive(archive) if archive else {}), **{name: load_array(Path(path)) for name, path in files}}
    for name in given:
        if name not in known:
            raise InputProblem(f"the model has no input {name!r}; it takes {_signature(specs)}")
    missing = [spec for spec in specs if spec.name not in given]
    if missing and not random:
        names = ", ".join(repr(spec.name) for spec in missing)
        raise InputProblem(f"input {names} is missing; give --input NAME=FILE.npy for it, or --random")
    sizes = _sizes_of_given(known, given)
    sizes.update(dims)
    _check_dims(specs, dict(dims))
    made = random_inputs(missing, sizes, seed, bounds or {})
    return {spec.name: given.get(spec.name, made.get(spec.name)) for spec in specs}  # type: ignore[misc]


def load_array(path: Path) -> Array:
    """The array in a .npy file. Raises InputProblem."""
    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputProblem(f"cannot read {str(path)!r} as .npy: {_reason(error)}") from error
    if not isinstance(loaded, np.ndarray):
        raise InputProblem(f"{str(path)!r} is an archive of several arrays; give it with --inputs")
    return loaded


def load_archive(path: Path) -> Inputs:
    """The arrays in a .npz file. Raises InputProblem."""
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputProblem(f"cannot read {str(path)!r} as .npz: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return "not a NumPy file" if "pickle" in text or "magic" in text else text


def _signature(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(f"{spec.name}: {spec.dtype}[{','.join(spec.dims)}]" for spec in specs) or "no inputs"


def _sizes_of_given(known: Mapping[str, TensorSpec], given: Mapping[str, Array]) -> dict[str, int]:
    """Sizes of symbols that the given arrays settle."""
    sizes: dict[str, int] = {}
    for name, array in given.items():
        if len(known[name].dims) == array.ndim:
            sizes.update((dim, extent) for dim, extent in zip(known[name].dims, array.shape) if not dim.isdigit())
    return sizes


def _check_dims(specs: Sequence[TensorSpec], dims: Mapping[str, int]) -> None:
    names = {symbol for spec in specs for dim in spec.dims for symbol in _symbols(dim)}
    axes = {f"{spec.name}.{axis}" for spec in specs for axis in range(len(spec.dims))}
    for name in dims:
        if name not in names and name not in axes:
            listed = ", ".join(sorted(names)) or "none"
            raise InputProblem(f"--dim {name}: the model has no such dimension; it has {listed}, or INPUT.AXIS")


def _symbols(dim: str) -> list[str]:
    return re.findall(r"[^\W\d][\w.]*(?!\w*\()", dim)


# -- random inputs --------------------------------------------------------------------------------
def random_inputs(
    specs: Sequence[TensorSpec], sizes: Mapping[str, int], seed: int, bounds: Mapping[str, int]
) -> Inputs:
    """Random arrays for `specs`. `sizes` are by symbol or ``input.axis``, `bounds` upper limits of integers.

    Raises:
        InputProblem: the arrays would not fit into memory.
    """
    shapes = [shape_of(spec, sizes) for spec in specs]
    total = sum(_count(shape) * 8 for shape in shapes)
    if total > _memory():
        sizes_text = ", ".join(f"{spec.name}{list(shape)}" for spec, shape in zip(specs, shapes))
        raise InputProblem(f"random inputs of {total / 2**30:.0f} GiB do not fit into memory: {sizes_text}; use --dim")
    rng = np.random.default_rng(seed)
    return {spec.name: _fill(rng, spec, shape, bounds.get(spec.name)) for spec, shape in zip(specs, shapes)}


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input; sizes that are not given are guessed from the symbol's name and the rank."""
    from ds_compiler.runtime.dims import compile_sizes

    rank = len(spec.dims)
    shape = []
    for axis, dim in enumerate(spec.dims):
        if f"{spec.name}.{axis}" in sizes:
            shape.append(sizes[f"{spec.name}.{axis}"])
        elif dim in sizes:
            shape.append(sizes[dim])
        elif dim.isdigit():
            shape.append(int(dim))
        else:
            names = _symbols(dim)
            values = [sizes.get(name, guess_size(name, axis, rank)) for name in names]
            shape.append(compile_sizes([dim], names)(values)[0])
    return tuple(shape)


def guess_size(name: str, axis: int, rank: int) -> int:
    """A likely size of a symbolic dimension: the same for the same name."""
    text = name.lower()
    if re.search(r"height|width|\bh\b|\bw\b", text):
        return 224
    if re.search(r"past|cache", text):
        return 8
    if re.search(r"sample|time|frame|audio|wave", text):
        return 16000 if "sample" in text or "wave" in text else 100
    if re.search(r"seq|len|token", text):
        return 32
    if re.search(r"batch|^n$|^b$", text) or axis == 0:
        return 1
    return 224 if rank == 4 else 32


def _fill(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], bound: int | None) -> Array:
    from ds_compiler.runtime.dtypes import dtype_of

    dtype, name = dtype_of(spec.dtype), spec.name.lower()
    if re.search(r"\bsr\b|sample_?rate", name):
        return np.full(shape, 16000, dtype)
    if "mask" in name:
        return np.ones(shape, dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    if dtype.kind in "iu" or spec.dtype in ("int4", "uint4"):
        if "position" in name and shape:
            return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
        if re.search(r"token_type|segment", name):
            return rng.integers(0, min(bound or 2, 2), shape).astype(dtype)
        limit = bound or (256 if spec.dtype == "uint8" else INTEGER_LIMIT)
        return rng.integers(0, max(limit, 1), shape).astype(dtype)
    if len(shape) == 4 and shape[1] in (1, 3):
        return _pictures(rng, shape).astype(dtype)
    values = np.asarray(rng.standard_normal(shape))
    if re.search(r"state|cache|past|\bh\b|\bc\b", name):
        values = 0.1 * values
    elif shape and shape[-1] >= 256 and len(shape) <= 2:  # sound
        values = 0.1 * values + 0.2 * np.sin(0.1 * np.arange(shape[-1]))
    return values.astype(dtype)


def _pictures(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Patches and grain, deviation about 1, as normalised pictures have."""
    height, width = shape[2:]
    grid = rng.standard_normal((*shape[:2], -(-height // 16), -(-width // 16)))
    patches = grid.repeat(16, axis=2).repeat(16, axis=3)[:, :, :height, :width]
    picture: Array = 0.9 * patches + 0.3 * rng.standard_normal(shape)
    return picture


def _count(shape: Sequence[int]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count


def _memory() -> int:
    """Bytes of physical memory of this machine."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 1 << 62


# -- what a model file says about its inputs ------------------------------------------------------
_TRANSPARENT = frozenset({"Cast", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Transpose"})


def index_bounds(model: onnx.ModelProto) -> dict[str, int]:
    """For each input of `model` that indexes a constant table (directly or reshaped): the table's size."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    origin = {value.name: value.name for value in model.graph.input if value.name not in tables}
    bounds: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in _TRANSPARENT and node.input and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
        elif node.op_type == "Gather" and node.input[0] in tables and node.input[1] in origin:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            name, shape = origin[node.input[1]], tables[node.input[0]]
            if -len(shape) <= axis < len(shape):
                bounds[name] = min(bounds.get(name, shape[axis]), shape[axis])
        elif node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    tables[node.output[0]] = tuple(attribute.t.dims)
    return bounds


def read_test_data(folder: Path, input_names: Sequence[str]) -> list[tuple[str, Inputs, list[Array]]]:
    """ONNX test data: for each ``test_data_set_*`` (or `folder` itself) its name, inputs, expected outputs.

    Raises:
        InputProblem: no data set, or one that is damaged or of another number of inputs.
    """
    sets = sorted(path for path in folder.glob("test_data_set_*") if path.is_dir())
    if not sets and (folder / "input_0.pb").is_file():
        sets = [folder]
    if not sets:
        raise InputProblem(f"{str(folder)!r} holds no test data: expected test_data_set_*/input_0.pb, …")
    found = []
    for data_set in sets:
        inputs, outputs = _tensors(data_set, "input"), _tensors(data_set, "output")
        if len(inputs) > len(input_names):
            raise InputProblem(f"{str(data_set)!r} has {len(inputs)} inputs, the model takes {len(input_names)}")
        named = {name or input_names[i]: array for i, (name, array) in enumerate(inputs)}
        if not set(named) <= set(input_names):
            named = {input_names[i]: array for i, (_, array) in enumerate(inputs)}
        found.append((data_set.name, named, [array for _, array in outputs]))
    return found


def _tensors(folder: Path, kind: str) -> list[tuple[str, Array]]:
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    tensors = []
    for index in range(len(list(folder.glob(f"{kind}_*.pb")))):
        path = folder / f"{kind}_{index}.pb"
        try:
            tensor = onnx.TensorProto.FromString(path.read_bytes())
            tensors.append((tensor.name, numpy_helper.to_array(tensor)))
        except (OSError, DecodeError, ValueError, TypeError, KeyError) as error:
            raise InputProblem(f"cannot read tensor {str(path)!r}: {error}") from error
    return tensors
