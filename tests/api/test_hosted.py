"""Models with strings: the host does what is in front of the program and behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import ds_compiler as ds
from ds_compiler.hosted import HostedModel

Array = np.ndarray[Any, Any]
ML = "ai.onnx.ml"


def model(nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int]) -> onnx.ModelProto:
    def described(values: dict[str, int]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, code, ["N"]) for name, code in values.items()]

    graph = helper.make_graph(nodes, "strings", described(inputs), described(outputs))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid(ML, 4)])
    made.ir_version = 10
    return made


def encoder(source: str, target: str, **tables: Any) -> onnx.NodeProto:
    return helper.make_node("LabelEncoder", [source], [target], f"{target}_labels", domain=ML, **tables)


WORDS = ["no", "maybe", "yes"]


def words_to_words() -> onnx.ModelProto:
    """Strings become numbers, a program computes with them, numbers become strings."""
    nodes = [
        encoder("word", "number", keys_strings=WORDS, values_floats=[-1.0, 0.0, 1.0]),
        helper.make_node("Mul", ["number", "x"], ["product"]),
        helper.make_node("Sign", ["product"], ["sign"]),
        helper.make_node("Cast", ["sign"], ["index"], to=TensorProto.INT64),
        encoder("index", "verdict", keys_int64s=[-1, 0, 1], values_strings=WORDS),
    ]
    strings = {"verdict": TensorProto.STRING, "product": TensorProto.FLOAT}
    return model(nodes, {"word": TensorProto.STRING, "x": TensorProto.FLOAT}, strings)


def test_strings_in_front_of_a_program_and_behind_it() -> None:
    program = ds.compile(words_to_words(), cache=False)
    assert isinstance(program, HostedModel)
    word = np.array(["yes", "no", "maybe", "no"], object)
    x = np.array([2, -3, 5, 0.5], np.float32)
    out = program(word=word, x=x)
    np.testing.assert_array_equal(out["product"], np.array([2, 3, 0, -0.5], np.float32))
    assert out["verdict"].tolist() == ["yes", "yes", "maybe", "no"]
    assert out["verdict"].dtype == object
    (verdict,) = program.run(["verdict"], {"word": np.array(["yes"]), "x": np.array([-1], np.float32)})
    assert verdict.tolist() == ["no"]


def test_the_report_names_what_runs_on_the_host() -> None:
    report = str(ds.compile(words_to_words(), cache=False).report())
    assert "on the host, in Python" in report
    assert "LabelEncoder 'number_labels'" in report and "LabelEncoder 'verdict_labels'" in report
    assert "strings: 1 kernels" in report  # the rest


def test_onnxruntime_agrees() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(words_to_words().SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"word": np.array(["maybe", "yes", "unheard of"], object), "x": np.array([1, 2, 3], np.float32)}
    expected = session.run(None, feeds)
    for a, b in zip(ds.compile(words_to_words(), cache=False).run(None, feeds), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_strings_between_two_programs_are_refused() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["text"], to=TensorProto.STRING),
        encoder("text", "number", keys_strings=["1", "2"], values_floats=[5.0, 6.0]),
        helper.make_node("Neg", ["number"], ["y"], "negation"),
    ]
    proto = model(nodes, {"x": TensorProto.FLOAT}, {"y": TensorProto.FLOAT})
    proto.graph.node.insert(0, helper.make_node("Neg", ["z"], ["x"]))
    proto.graph.input[0].name = "z"
    proto.graph.output.append(helper.make_tensor_value_info("text", TensorProto.STRING, ["N"]))
    with pytest.raises(ds.CompileError, match=r"reads 'number', which depends on strings.*at 'negation'"):
        ds.compile(proto, cache=False)


def test_operators_that_strings_do_not_reach() -> None:
    nodes = [helper.make_node("Unique", ["x"], ["y"], "distinct")]
    with pytest.raises(ds.CompileError, match=r"Unique: '\w' is a tensor of strings.*at 'distinct'"):
        ds.compile(model(nodes, {"x": TensorProto.STRING}, {"y": TensorProto.STRING}), cache=False)


def test_what_the_host_meets_is_an_error_of_the_call() -> None:
    node = helper.make_node("StringConcat", ["a", "b"], ["c"])
    program = ds.compile(model([node], {"a": TensorProto.STRING, "b": TensorProto.STRING}, {"c": 8}), cache=False)
    assert program(a=np.array(["x"]), b=np.array(["y", "z"]))["c"].tolist() == ["xy", "xz"]
    with pytest.raises(ds.ExecutionError, match="on the host"):
        program(a=np.array(["x", "y"]), b=np.array(["x", "y", "z"]))
    with pytest.raises(ds.InputError, match="input 'b' is missing"):
        program(a=np.array(["x"]))


@pytest.mark.parametrize("shape", [(7,), (3, 7), (0, 7), (2, 1)])
@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
def test_ngrams_of_integers(shape: tuple[int, ...], mode: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    node = helper.make_node(
        "TfIdfVectorizer", ["x"], ["y"], mode=mode, min_gram_length=1, max_gram_length=3, max_skip_count=2,
        ngram_counts=[0, 3, 7], ngram_indexes=[5, 0, 2, 1, 7, 4], pool_int64s=[1, 2, 3, 1, 2, 2, 2, 1, 2, 3],
        weights=[0.5, 1.0, 2.0, 3.0, 4.0, 0.25],
    )  # fmt: skip
    axes = ["N", "L"][-len(shape) :]
    values = [helper.make_tensor_value_info("x", TensorProto.INT64, axes)]
    graph = helper.make_graph([node], "ngrams", values, [helper.make_tensor_value_info("y", 1, None)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    proto.ir_version = 10
    x = np.random.default_rng(3).integers(1, 4, shape)
    if 0 in shape:  # onnxruntime refuses it
        expected = np.zeros((*shape[:-1], 8), np.float32)
    else:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (expected,) = session.run(None, {"x": x})
    (found,) = ds.compile(proto, cache=False).run(None, {"x": x})
    np.testing.assert_array_equal(found, expected)
