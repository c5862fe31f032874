"""Files, operators, functions and names that are wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.faults.parts import RELU, fault, graph, info, model, node, single


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
