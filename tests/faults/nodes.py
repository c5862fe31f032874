"""Nodes that do not fit what they read."""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, helper

from tests.faults.parts import I64, F, fault, graph, info, ints, model, node, single


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
