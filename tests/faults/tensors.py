"""Tensors that are wrong: their data, where it lies, sizes without bound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.faults.parts import I64, RELU, F, fault, fault_with_files, graph, info, ints, model, node, single


# -- tensors --------------------------------------------------------------------------------------
def with_weight(tensor: TensorProto) -> ModelProto:
    made = model(graph([node("Add", "x w")]))
    made.graph.initializer.append(tensor)
    return made


@fault("damaged data")
def too_little_data() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[2, 3], data_type=F, raw_data=bytes(20)))


@fault("damaged data")
def too_much_data() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[2, 3], data_type=F, raw_data=bytes(28)))


@fault("damaged data")
def data_of_another_type() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[2, 3], data_type=F, int64_data=[1, 2, 3]))


@fault("negative size")
def a_weight_of_negative_size() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[-2, 3], data_type=F, raw_data=bytes(24)))


@fault("elements declared")
def a_weight_too_large_for_any_memory() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[1 << 31, 1 << 31], data_type=F, raw_data=bytes(24)))


@fault("elements declared")
def a_weight_whose_size_overflows() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[1 << 62, 4], data_type=F, raw_data=b""))


@fault("element type 99")
def an_unknown_element_type() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[2, 3], data_type=99, raw_data=bytes(24)))


@fault("element type COMPLEX64")
def complex_numbers() -> ModelProto:
    return model(graph([RELU], [info("x", kind=TensorProto.COMPLEX64)]))


@fault("element type UNDEFINED")
def no_element_type() -> ModelProto:
    return with_weight(TensorProto(name="w", dims=[2, 3], raw_data=bytes(24)))


@fault("elements declared")
def an_input_too_large_for_any_memory() -> ModelProto:
    return model(graph([RELU], [info("x", [1 << 40, 1 << 40])]))


def sparse(indices: Any, dims: Sequence[int], count: int = 2) -> ModelProto:
    made = model(graph([node("Add", "x w")], [info("x", dims)]))
    values = numpy_helper.from_array(np.ones(count, np.float32), "w")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            values, numpy_helper.from_array(np.asarray(indices, np.int64), "w_indices"), list(dims)
        )
    )
    return made


@fault("sparse tensor 'w'")
def a_sparse_index_out_of_range() -> ModelProto:
    return sparse([0, 600], [2, 3])


@fault("sparse tensor 'w'")
def a_sparse_index_below_zero() -> ModelProto:
    return sparse([0, -1], [2, 3])


@fault("sparse tensor 'w'")
def more_sparse_indices_than_values() -> ModelProto:
    return sparse([0, 1, 2], [2, 3])


@fault("elements declared")
def a_sparse_tensor_too_large_for_any_memory() -> ModelProto:
    return sparse([0, 1], [1 << 30, 1 << 30])


# -- external data --------------------------------------------------------------------------------
def external(location: str, **entries: Any) -> ModelProto:
    tensor = TensorProto(name="w", dims=[2, 3], data_type=F, data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return with_weight(tensor)


@fault_with_files("outside the model's folder")
def data_at_an_absolute_path(folder: Path) -> ModelProto:
    return external("/etc/passwd")


@fault_with_files("outside the model's folder")
def data_in_the_folder_above(folder: Path) -> ModelProto:
    (folder.parent / "secret").write_bytes(bytes(24))
    return external("../secret")


@fault_with_files("outside the model's folder")
def data_above_by_a_detour(folder: Path) -> ModelProto:
    (folder / "sub").mkdir()
    (folder.parent / "secret").write_bytes(bytes(24))
    return external("sub/../../secret")


@fault_with_files("outside the model's folder")
def data_behind_a_link(folder: Path) -> ModelProto:
    (folder.parent / "secret").write_bytes(bytes(24))
    (folder / "data").symlink_to(folder.parent / "secret")
    return external("data")


@fault_with_files("outside the model's folder")
def data_in_a_linked_folder(folder: Path) -> ModelProto:
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(bytes(24))
    (folder / "sub").symlink_to(outside)
    return external("sub/secret")


@fault_with_files("outside the model's folder|missing")
def data_in_no_file(folder: Path) -> ModelProto:
    return external("")


@fault_with_files("missing")
def data_in_a_folder(folder: Path) -> ModelProto:
    (folder / "sub").mkdir()
    return external("sub")


@fault_with_files("missing")
def data_in_a_file_that_is_not_there(folder: Path) -> ModelProto:
    return external("nothing.bin")


@fault_with_files("missing|damaged|not a file")
def data_in_a_pipe(folder: Path) -> ModelProto:
    import os

    os.mkfifo(folder / "pipe")
    return external("pipe")


@fault_with_files("no file name")
def a_file_name_with_a_zero(folder: Path) -> ModelProto:
    return external("da\0ta")


@fault_with_files("needs 24 bytes")
def an_offset_below_zero(folder: Path) -> ModelProto:
    (folder / "data").write_bytes(bytes(100))
    return external("data", offset=-8)


@fault_with_files("needs 24 bytes")
def an_offset_behind_the_end(folder: Path) -> ModelProto:
    (folder / "data").write_bytes(bytes(100))
    return external("data", offset=90)


@fault_with_files("needs 24 bytes")
def an_offset_that_overflows(folder: Path) -> ModelProto:
    (folder / "data").write_bytes(bytes(100))
    return external("data", offset=(1 << 64) - 8)


@fault_with_files("needs 24 bytes")
def another_length_than_the_shape_needs(folder: Path) -> ModelProto:
    (folder / "data").write_bytes(bytes(100))
    return external("data", length=1 << 60)


@fault_with_files("damaged external data entry")
def an_offset_that_is_no_number(folder: Path) -> ModelProto:
    (folder / "data").write_bytes(bytes(100))
    return external("data", offset="everything")


# -- sizes that would allocate without bound ------------------------------------------------------
@fault("too large for any memory")
def a_constant_without_bound() -> ModelProto:
    return model(graph([node("ConstantOfShape", "s")], [], s=ints(1 << 30, 1 << 30)))


@fault("too large for any memory")
def expansion_without_bound() -> ModelProto:
    return single("Expand", "x s", (1, 1), s=ints(1 << 30, 1 << 30))


@fault("too large for any memory")
def tiles_without_bound() -> ModelProto:
    return single("Tile", "x s", s=ints(1 << 30, 1 << 30))


@fault("too large for any memory")
def a_range_without_bound() -> ModelProto:
    return model(graph([node("Range", "a b c")], [], a=np.int64(0), b=np.int64(1 << 62), c=np.int64(1)))


@fault("too large for any memory")
def padding_without_bound() -> ModelProto:
    return single("Pad", "x p", p=ints(0, 0, 1 << 40, 1 << 20))


@fault("too large for any memory")
def a_one_hot_without_bound() -> ModelProto:
    return model(
        graph([node("OneHot", "x d v")], [info("x", [4], I64)], d=np.int64(1 << 50), v=np.array([0, 1], np.float32))
    )


@fault("too large for any memory")
def an_image_scaled_without_bound() -> ModelProto:
    return single("Resize", "x _ s", (1, 1, 8, 8), s=np.array([1, 1, 1e9, 1e9], np.float32))
