"""Models that are wrong, each in one way, with what the error must say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

F, I64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Fault:
    """`make` gives the model's bytes, and may put files into the folder that the model will lie in."""

    name: str
    expected: str
    make: Callable[[Path], bytes]


FAULTS: list[Fault] = []


def fault(expected: str) -> Callable[[Callable[[], ModelProto | bytes]], None]:
    """Register a model without files beside it."""

    def register(make: Callable[[], ModelProto | bytes]) -> None:
        FAULTS.append(Fault(make.__name__, expected, lambda folder: _bytes(make())))

    return register


def fault_with_files(expected: str) -> Callable[[Callable[[Path], ModelProto]], None]:
    """Register a model with files beside it."""

    def register(make: Callable[[Path], ModelProto]) -> None:
        FAULTS.append(Fault(make.__name__, expected, lambda folder: _bytes(make(folder))))

    return register


def _bytes(model: ModelProto | bytes) -> bytes:
    return model if isinstance(model, bytes) else model.SerializeToString()


# -- parts ----------------------------------------------------------------------------------------
def info(name: str, shape: Sequence[Any] | None = (2, 3), kind: int = F) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Sequence[Any] = (info("x"),),
    outputs: Sequence[Any] = (info("y", None),),
    **weights: Any,
) -> GraphProto:
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    return helper.make_graph(list(nodes), "g", list(inputs), list(outputs), constants)


def model(g: GraphProto, *opsets: tuple[str, int], **others: Any) -> ModelProto:
    imports = [helper.make_opsetid(*o) for o in (opsets or [("", 21)])]
    return helper.make_model(g, opset_imports=imports, **others)


def node(operator: str, inputs: str = "x", outputs: str = "y", **attributes: Any) -> NodeProto:
    """A node called `n`; names are separated by blanks, ``_`` is an input left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), name="n", **attributes)


def single(
    operator: str, inputs: str = "x", shape: Sequence[Any] = (2, 3), attributes: Any = None, **weights: Any
) -> ModelProto:
    """A model of one node, whose other inputs are constants."""
    return model(graph([node(operator, inputs, **(attributes or {}))], [info("x", shape)], **weights))


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


RELU = node("Relu")


# -- files ----------------------------------------------------------------------------------------
@fault("is empty")
def an_empty_file() -> bytes:
    return b""


@fault("not an ONNX model, or is truncated")
def random_bytes() -> bytes:
    return np.random.default_rng(0).bytes(4096)


@fault("not an ONNX model")
def text() -> bytes:
    return b"import torch\nprint('no model')\n"


@fault("not an ONNX model")
def half_a_model() -> bytes:
    whole = model(graph([RELU], w=np.ones(1000, np.float32))).SerializeToString()
    return whole[: len(whole) // 2]


@fault("not an ONNX model")
def a_zip_archive() -> bytes:
    return b"PK\x03\x04" + bytes(1000)


@fault("not an ONNX model")
def messages_nested_without_end() -> bytes:
    inner = b""
    for _ in range(3000):
        length, prefix = len(inner), b""
        while length >= 128:
            prefix += bytes([length & 127 | 128])
            length >>= 7
        inner = b"\x3a" + prefix + bytes([length]) + inner
    return inner


@fault("it holds no graph")
def no_graph() -> ModelProto:
    made = model(graph([RELU]))
    made.ClearField("graph")
    return made


@fault("it holds no graph")
def an_empty_graph() -> ModelProto:
    return model(helper.make_graph([], "g", [], []))


@fault("it holds no graph")
def format_version_0() -> ModelProto:
    made = model(graph([RELU]))
    made.ir_version = 0
    return made


# -- opsets and operators -------------------------------------------------------------------------
@fault("opset")
def opset_0() -> ModelProto:
    return model(graph([RELU]), ("", 0))


@fault("opset")
def opset_of_the_future() -> ModelProto:
    return model(graph([RELU]), ("", 9999))


@fault("opset")
def an_opset_below_zero() -> ModelProto:
    return model(graph([RELU]), ("", -1))


@fault("domain")
def no_opset() -> ModelProto:
    made = model(graph([RELU]))
    del made.opset_import[:]
    return made


@fault("opset|imports")
def two_opsets() -> ModelProto:
    return model(graph([RELU]), ("", 13), ("", 21))


@fault("does not import domain 'com.example'")
def a_domain_that_is_not_imported() -> ModelProto:
    return model(graph([helper.make_node("Relu", ["x"], ["y"], domain="com.example")]))


@fault(r"operators are not supported.*Fly")
def an_unknown_operator() -> ModelProto:
    return single("Fly")


@fault("operators are not supported")
def no_operator() -> ModelProto:
    return single("")


@fault("calls itself")
def a_function_that_calls_itself() -> ModelProto:
    body = [helper.make_node("f", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    call = helper.make_node("f", ["x"], ["y"], "n", domain="own")
    return model(graph([call]), ("", 21), ("own", 1), functions=[function])


@fault("calls itself")
def functions_that_call_each_other() -> ModelProto:
    def calling(name: str, other: str) -> Any:
        body = [helper.make_node(other, ["a"], ["b"], domain="own")]
        return helper.make_function("own", name, ["a"], ["b"], body, [helper.make_opsetid("own", 1)])

    call = helper.make_node("f", ["x"], ["y"], "n", domain="own")
    return model(graph([call]), ("", 21), ("own", 1), functions=[calling("f", "g"), calling("g", "f")])


@fault("reads 'nowhere', which nothing defines")
def a_function_that_reads_nothing() -> ModelProto:
    body = [helper.make_node("Relu", ["nowhere"], ["b"])]
    function = helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    call = helper.make_node("f", ["x"], ["y"], "n", domain="own")
    return model(graph([call]), ("", 21), ("own", 1), functions=[function])


@fault("defined twice")
def a_function_defined_twice() -> ModelProto:
    body = [helper.make_node("Relu", ["a"], ["b"])]
    function = helper.make_function("own", "f", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    call = helper.make_node("f", ["x"], ["y"], "n", domain="own")
    return model(graph([call]), ("", 21), ("own", 1), functions=[function, function])


@fault("more than|too many|too deep")
def functions_that_double_each_other() -> ModelProto:
    """Sixty levels, each of which calls the one below twice: 2**60 nodes."""
    functions = []
    for level in range(60):
        below = "Relu" if level == 0 else f"f{level - 1}"
        domain = "" if level == 0 else "own"
        body = [
            helper.make_node(below, ["a"], ["t"], domain=domain),
            helper.make_node(below, ["t"], ["b"], domain=domain),
        ]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
        functions.append(helper.make_function("own", f"f{level}", ["a"], ["b"], body, opsets))
    call = helper.make_node("f59", ["x"], ["y"], "n", domain="own")
    return model(graph([call]), ("", 21), ("own", 1), functions=functions)


# -- names ----------------------------------------------------------------------------------------
@fault("in a cycle")
def a_cycle() -> ModelProto:
    return model(graph([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "b", "y")]))


@fault("in a cycle")
def a_node_that_reads_itself() -> ModelProto:
    return model(graph([node("Add", "x y", "y")]))


@fault("reads 'nowhere', which nothing defines")
def an_input_that_nothing_defines() -> ModelProto:
    return single("Add", "x nowhere")


@fault("'y' is defined twice")
def a_value_defined_twice() -> ModelProto:
    return model(graph([RELU, node("Abs")]))


@fault("'x' is defined twice")
def an_input_that_a_node_defines() -> ModelProto:
    return model(graph([node("Relu", "x", "x")], outputs=[info("x")]))


@fault("input 'x' is declared twice")
def an_input_declared_twice() -> ModelProto:
    return model(graph([RELU], [info("x"), info("x")]))


@fault("initializer 'w' is defined twice")
def an_initializer_defined_twice() -> ModelProto:
    made = model(graph([node("Add", "x w")], w=np.float32(1)))
    made.graph.initializer.append(made.graph.initializer[0])
    return made


@fault("output 'z' is computed by no node")
def an_output_that_nothing_computes() -> ModelProto:
    return model(graph([RELU], outputs=[info("z")]))


@fault("reads 'nowhere', which nothing defines")
def a_branch_that_reads_nothing() -> ModelProto:
    branch = helper.make_graph([node("Relu", "nowhere", "r")], "b", [], [info("r", None)])
    return model(graph([node("If", "c", then_branch=branch, else_branch=branch)], [info("c", [], TensorProto.BOOL)]))


@fault("is not UTF-8")
def names_that_are_no_text() -> bytes:
    return (
        model(graph([node("Relu", "x", "yyyy")], outputs=[info("yyyy")]))
        .SerializeToString()
        .replace(b"yyyy", b"\xff\xfe\xfd\xfc")
    )


@fault(r"reads 'no\\nwhere\\t', which nothing defines")
def names_with_line_breaks() -> ModelProto:
    return model(graph([helper.make_node("Relu", ["no\nwhere\t"], ["y"])]))


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


# -- nodes that do not fit ------------------------------------------------------------------------
@fault("at 'n' .Reshape")
def elements_that_do_not_fit() -> ModelProto:
    return single("Reshape", "x s", s=ints(4, 2))


@fault("at 'n' .Reshape")
def two_sizes_to_infer() -> ModelProto:
    return single("Reshape", "x s", s=ints(-1, -1))


@fault("do not broadcast.*at 'n'")
def shapes_that_do_not_broadcast() -> ModelProto:
    return single("Add", "x w", w=np.ones((4, 3), np.float32))


@fault("at 'n'")
def element_types_that_differ() -> ModelProto:
    return single("Add", "x w", w=np.ones((2, 3), np.float64))


@fault("at 'n'")
def matrices_that_do_not_fit() -> ModelProto:
    return single("MatMul", "x w", w=np.ones((4, 3), np.float32))


@fault("at 'n'")
def channels_that_do_not_fit() -> ModelProto:
    return single("Conv", "x w", (1, 3, 8, 8), w=np.ones((4, 5, 3, 3), np.float32))


@fault("at 'n'")
def groups_of_none() -> ModelProto:
    return single("Conv", "x w", (1, 3, 8, 8), {"group": 0}, w=np.ones((4, 3, 3, 3), np.float32))


@fault("at 'n'")
def steps_of_zero() -> ModelProto:
    return single("Conv", "x w", (1, 3, 8, 8), {"strides": [0, 1]}, w=np.ones((4, 3, 3, 3), np.float32))


@fault("at 'n'")
def windows_of_zero() -> ModelProto:
    return single("MaxPool", "x", (1, 3, 8, 8), {"kernel_shape": [0, 2]})


@fault("at 'n'")
def negative_padding_of_more_than_there_is() -> ModelProto:
    return single("Pad", "x p", p=ints(-2, 0, -2, 0))


@fault("at 'n'")
def a_permutation_with_an_axis_twice() -> ModelProto:
    return single("Transpose", attributes={"perm": [0, 0]})


@fault("at 'n'")
def a_permutation_of_another_rank() -> ModelProto:
    return single("Transpose", attributes={"perm": [0, 2, 1]})


@fault("at 'n'")
def an_axis_out_of_range() -> ModelProto:
    return single("Softmax", attributes={"axis": 2})


@fault("at 'n'")
def an_attribute_of_another_type() -> ModelProto:
    return single("Softmax", attributes={"axis": "last"})


@fault("attribute 'axis' is missing")
def a_missing_attribute() -> ModelProto:
    return single("Concat", "x x")


@fault("at 'n'")
def a_missing_input() -> ModelProto:
    return single("MatMul", "x")


@fault("at 'n'")
def more_outputs_than_there_are() -> ModelProto:
    return model(graph([node("Relu", "x", "y z")]))


@fault("at 'n'")
def an_index_out_of_range() -> ModelProto:
    return single("Gather", "x i", i=ints(5))


@fault("at 'n'")
def a_slice_without_a_step() -> ModelProto:
    return single("Slice", "x s e a p", s=ints(0), e=ints(2), a=ints(0), p=ints(0))


@fault("at 'n'")
def parts_that_do_not_add_up() -> ModelProto:
    return single("Split", "x s", attributes={"axis": 1}, s=ints(1, 1))


@fault("at 'n'")
def an_axis_that_cannot_go() -> ModelProto:
    return single("Squeeze", "x a", a=ints(0))


@fault("at 'n'")
def an_element_type_that_does_not_exist() -> ModelProto:
    return single("Cast", attributes={"to": 77})


@fault("at 'n'")
def an_einsum_that_is_none() -> ModelProto:
    return single("Einsum", attributes={"equation": "ij->ijk"})


@fault("at 'n'")
def more_of_the_largest_than_there_are() -> ModelProto:
    return model(graph([node("TopK", "x k", "y i")], k=ints(4)))


@fault("at 'n'")
def statistics_of_other_channels() -> ModelProto:
    wrong = np.ones(4, np.float32)
    return single("BatchNormalization", "x a b c d", (1, 3, 8, 8), a=wrong, b=wrong, c=wrong, d=wrong)


@fault("at 'n'")
def an_unknown_direction() -> ModelProto:
    w, r = np.ones((1, 16, 3), np.float32), np.ones((1, 16, 4), np.float32)
    return single("LSTM", "x w r", (5, 2, 3), {"hidden_size": 4, "direction": "sideways"}, w=w, r=r)


@fault("at 'n'")
def recurrent_weights_of_another_size() -> ModelProto:
    w, r = np.ones((1, 12, 3), np.float32), np.ones((1, 16, 4), np.float32)
    return single("LSTM", "x w r", (5, 2, 3), {"hidden_size": 4}, w=w, r=r)


# -- control flow ---------------------------------------------------------------------------------
@fault("at 'n'")
def branches_of_other_types() -> ModelProto:
    def branch(to: int) -> GraphProto:
        return helper.make_graph([helper.make_node("Cast", ["x"], ["r"], to=to)], "b", [], [info("r", None, to)])

    inputs = [info("c", [], TensorProto.BOOL), info("x")]
    return model(graph([node("If", "c", then_branch=branch(F), else_branch=branch(I64))], inputs))


@fault("at 'n'")
def branches_with_other_counts() -> ModelProto:
    one = helper.make_graph([node("Relu", "x", "r")], "b", [], [info("r", None)])
    two = helper.make_graph([node("Relu", "x", "r")], "b", [], [info("r", None), info("r", None)])
    inputs = [info("c", [], TensorProto.BOOL), info("x")]
    return model(graph([node("If", "c", then_branch=one, else_branch=two)], inputs))


@fault("at 'n'")
def a_branch_that_is_missing() -> ModelProto:
    one = helper.make_graph([node("Relu", "x", "r")], "b", [], [info("r", None)])
    return model(graph([node("If", "c", then_branch=one)], [info("c", [], TensorProto.BOOL), info("x")]))


@fault("at 'n'")
def a_loop_without_an_end() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Relu", ["v"], ["w"])], "b",
        [info("i", [], I64), info("c", [], TensorProto.BOOL), info("v")],
        [info("d", [], TensorProto.BOOL), info("w", None)],
    )  # fmt: skip
    return model(graph([node("Loop", "_ _ x", body=body)]))


@fault("at 'n'")
def a_loop_with_too_few_arguments() -> ModelProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["d"])], "b", [info("i", [], I64)], [info("d", [], TensorProto.BOOL)]
    )
    return model(graph([node("Loop", "t _ x", body=body), helper.make_node("Not", ["k"], ["c"])],
                       [info("x"), info("k", [], TensorProto.BOOL)], t=np.int64(3)))  # fmt: skip


@fault("at 'n'")
def a_scan_over_more_than_there_is() -> ModelProto:
    body = helper.make_graph([node("Relu", "a", "b")], "b", [info("a", [3])], [info("b", [3])])
    return model(graph([node("Scan", "x", body=body, num_scan_inputs=2)]))
