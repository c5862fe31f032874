"""Text format: what is printed, that it reads back the same, and what the parser says about bad text."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ds_compiler.ir import Block, Builder, CompileError, Function, Location, Module, Region, TensorType, dtypes, symbol
from ds_compiler.ir.literals import content_hash, load_constants, save_constants, side_file
from ds_compiler.ir.parser import load_module, parse_module
from ds_compiler.ir.printer import print_module, save_module
from ds_compiler.ops import Composite, Constant, Return, Size, Unary, Yield
from tests.passes.helpers import module_of, tensor

TEXT = """\
meta "producer" = "a \\"b\\"\\n"

func @main(%x: tensor<batch x 4 x f32>, %"in 1": tensor<i64>) -> (y: tensor<batch x 4 x f32>, "out 1": tensor<2xi64>) {
  %zero = constant 0.0 : tensor<f32>
  %0 = broadcast %zero shape=[batch, 4] axes=[] : tensor<batch x 4 x f32>  // relu_3, "weird, (name)" (Relu)
  %y = max %x, %0 : tensor<batch x 4 x f32>  // (Relu)
  bind %"in 1" symbol="_k"
  %1 = size dim=2*_k+floordiv(batch+1, 2) : tensor<i64>
  %"7" = constant [1, -2] : tensor<2xi64>
  %2 = constant true : tensor<bool>
  %3 = if %2 : tensor<batch x 4 x f32> then {  // If_0
    %4 = neg %y : tensor<batch x 4 x f32>
    yield %4
  } orelse {
    yield %y
  }
  %5 = fusion %3 strategy="loop" : tensor<batch x 4 x f32> body(%a: tensor<batch x 4 x f32>) {  // a.py:3
    %b = exp %a : tensor<batch x 4 x f32>
    yield %b
  }
  %6, %7 = top_k %5 k=2 largest=false : tensor<batch x 2 x f32>, tensor<batch x 2 x i64>
  %8 = dynamic_slice %5, [%1, %"in 1"] sizes=[1, 2] : tensor<1x2xf32>
  return %5, %"7"
}
"""


def test_prints_what_it_read() -> None:
    module = parse_module(TEXT)
    assert print_module(module) == TEXT
    assert module.metadata == {"producer": 'a "b"\n'}
    assert module.main.result_names == ["y", "out 1"] and module.main.arguments[1].hint == "in 1"
    broadcast = module.main.block.first.next
    assert broadcast.location == Location(("relu_3", "weird, (name)"), "Relu")
    assert broadcast.next.location == Location((), "Relu")
    assert broadcast.attributes == {"shape": (symbol("batch"), 4), "axes": ()}


def test_comments_and_layout_do_not_matter() -> None:
    text = (
        "// CHECK: func\nfunc @main(%x:tensor<f32>)->(tensor<f32>){\n// a comment\n%y=exp %x // a, b (K)\n return %y}"
    )
    module = parse_module(text)
    assert module.main.block.first.location == Location(("a", "b"), "K")
    assert module.main.result_names == []


def test_names_are_unique_and_stable() -> None:
    block = Block([tensor("4")], ["x"])
    builder = Builder(block)
    value = block.arguments[0]
    for hint in ("bias", "bias", "bias_1", "", "3", "/m/Conv_0", 'q"', "ß y", "x", "//", "%", "bias"):
        value = builder.emit(Unary(value, "exp"), hint)
    builder.insert(Return((value,)))
    text = print_module(Module([Function("f-1", Region(block))]))
    assert [line.split()[0] for line in text.splitlines()[1:-2]] == [
        "%bias", "%bias_1", "%bias_1_1", "%0", '%"3"', "%/m/Conv_0", '%"q\\""', '%"ß', "%x_1", '%"//"',
        '%"%"', "%bias_2",
    ]  # fmt: skip
    assert print_module(parse_module(text)) == text


@pytest.mark.parametrize("name", [n for n in dtypes.names() if n != "str"])
def test_small_constants_round_trip_bit_for_bit(name: str) -> None:
    dtype = dtypes.dtype(name)
    raw = np.random.default_rng(0).integers(0, 256, 16 * dtype.itemsize, dtype=np.uint8)
    if dtype.kind == "b" or dtype.bits < 8:  # bits that the type lacks are nothing to keep
        raw &= 1 if dtype.kind == "b" else (1 << (dtype.bits - 1)) - 1
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, 0.1, 1 / 3, 1e-30] if dtype.is_float else [0, 1]
    for array in (
        raw.view(dtype.numpy).reshape(2, 8),
        np.array(special).astype(dtype.numpy),
        raw.view(dtype.numpy)[:0],
    ):
        assert same_bits(constant_of(text_of(array)), array)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def text_of(array: np.ndarray[Any, Any], constants: dict[str, Any] | None = None) -> str:
    return print_module(module_of(lambda b: b.emit(Constant(array))), constants)


def constant_of(text: str, constants: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
    return parse_module(text, constants).main.block.first.attributes["value"]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.float32(0.1), "0.1 : tensor<f32>"),
        (np.float16(65504), "6.55e+04 : tensor<f16>"),
        (np.array([[1, 2], [3, 4]], np.int8), "[[1, 2], [3, 4]] : tensor<2x2xi8>"),
        (np.array(["a:b", 'c"'], object), r'["a:b", "c\""] : tensor<2xstr>'),
        (np.zeros((3, 50), np.float32), "splat(0.0) : tensor<3x50xf32>"),
        (np.full(17, -0.0, np.float32), "splat(-0.0) : tensor<17xf32>"),
        (np.full(20, True), "splat(true) : tensor<20xbool>"),
        (np.full(20, np.uint64(2**64 - 1)), "splat(18446744073709551615) : tensor<20xu64>"),
        (np.zeros((2, 0, 3), np.int32), "[] : tensor<2x0x3xi32>"),
        (np.array(0.1, ml_dtypes.bfloat16), "0.1 : tensor<bf16>"),
    ],
)
def test_literals(array: Any, text: str) -> None:
    array = np.asarray(array)
    assert f"constant {text}" in text_of(array)
    back = constant_of(text_of(array))
    assert back.dtype == array.dtype and (back == array).all() and back.shape == array.shape
    assert array.dtype == object or same_bits(back, array)


@pytest.mark.parametrize("name", ["f32", "bf16", "i4", "f8e4m3fnuz", "bool", "u64"])
def test_large_constants_go_to_the_side_file(name: str, tmp_path: Path) -> None:
    dtype = dtypes.dtype(name)
    array = np.arange(40).reshape(5, 8).__and__(7).astype(dtype.numpy)
    module = module_of(lambda b: b.emit(Constant(array.T)))
    path = tmp_path / "m.dsir"
    save_module(module, path)
    assert side_file(path).name == "m.dsir.safetensors" and content_hash(array.T) in path.read_text()
    assert same_bits(load_module(path).main.block.first.attributes["value"], array.T)


def test_missing_and_exchanged_constants_are_reported(tmp_path: Path) -> None:
    constants: dict[str, Any] = {}
    text = text_of(np.arange(20), constants)
    (key,) = constants
    with pytest.raises(
        CompileError, match=rf"line 2:17: constant @{key} is missing: no constants were given.*keep FILE"
    ):
        parse_module(text)
    with pytest.raises(CompileError, match="it is not among the constants given"):
        parse_module(text, {})
    for other in (np.arange(20) + 1, np.arange(21), np.arange(20).astype(np.float64)):
        with pytest.raises(CompileError, match=f"constant @{key} has other contents"):
            parse_module(text, {key: other})
    save_constants(tmp_path / "m.dsir", constants)
    side_file(tmp_path / "m.dsir").write_bytes(b"garbage")
    with pytest.raises(CompileError, match=r"m\.dsir\.safetensors' cannot be read"):
        load_constants(tmp_path / "m.dsir")


def test_attribute_values_of_every_kind() -> None:
    options = (
        ("none", None), ("flag", True), ("n", -3), ("scale", 0.1), ("tiny", 1e-300), ("inf", -float("inf")),
        ("text", 'a"\n'), ("dims", (symbol("none"), symbol("f32") * 2 + 1, symbol("n"), 4)), ("type", dtypes.bf16),
        ("types", (TensorType((symbol("x"), symbol("x")), dtypes.f32), TensorType((), dtypes.i64))), ("empty", ()),
        ("whole", 2.0),
    )  # fmt: skip

    def body(b: Builder, x: Any) -> Any:
        block = Block([x.type])
        block.append(Yield((block.arguments[0],)))
        return b.emit(Composite((x,), Region(block), "softmax", options))

    text = print_module(module_of(body, "none f32 n x"))
    op = parse_module(text).main.block.first
    assert op.attributes["options"] == options
    assert [type(v) for _, v in op.attributes["options"]] == [type(v) for _, v in options]
    assert print_module(parse_module(text)) == text


def test_array_attributes() -> None:
    array = np.arange(30, dtype=np.int16)

    def body(b: Builder, x: Any) -> Any:
        block = Block([x.type])
        block.append(Yield((block.arguments[0],)))
        return b.emit(Composite((x,), Region(block), "f", (("small", array[:3]), ("large", array))))

    constants: dict[str, Any] = {}
    text = print_module(module_of(body, "4"), constants)
    small, large = (v for _, v in parse_module(text, constants).main.block.first.attributes["options"])
    assert same_bits(small, array[:3]) and same_bits(large, array)


def in_main(line: str, results: str = "tensor<4xf32>", returned: str = "%x") -> str:
    return f"func @main(%x: tensor<4xf32>, %n: tensor<i64>) -> ({results}) {{\n  {line}\n  return {returned}\n}}\n"


@pytest.mark.parametrize(
    ("text", "message", "caret"),
    [
        (in_main("%y = exq %x"), r"^m.dsir:2:8: unknown operation 'exq'; did you mean eq, exp",
         "  %y = exq %x\n       ^"),
        (in_main("%y = add %x, %z"), r"2:16: %z is not defined here", "  %y = add %x, %z\n               ^"),
        (in_main("%y = add %x, %n"), r"2:8: add: operand 1 is tensor<i64>, operand 0 is tensor<4xf32>", "^"),
        (in_main("%y = exp %x : tensor<5xf32>"), r"2:17: exp gives tensor<4xf32>, the text says tensor<5xf32>", "^"),
        (in_main("%x = exp %x"), "%x is defined twice", "  %x = exp %x\n  ^"),
        (in_main("exp %x"), "exp has 1 results, 0 are named", "^"),
        (in_main("%y = exp %x foo=3"), r"exp: attribute 'foo' \(known: kind\)", "^"),
        (in_main("%y = reduce %x axes=[0] axes=[0] how=\"sum\""), r"attribute 'axes' \(given twice\)", "^"),
        (in_main("%y = reduce %x axes=[0]"), r"reduce lacks how", "^"),
        (in_main("%y = reduce %x axes=0 how=\"sum\""), r"reduce: attributes of the wrong form", "^"),
        (in_main("%y = exp %x : tensor<4xf33>"), "malformed type: unknown element type 'f33'", "^"),
        (in_main("%y = exp %x : tensor<4+xf32>"), "malformed type: '4\\+' is not a size", "^"),
        (in_main("%y = constant [1, 2] : tensor<3xi64>"), "2 elements, the type says 3", "^"),
        (in_main("%y = constant [1, 2.5] : tensor<2xi64>"), "2.5 is not a i64", "^"),
        (in_main("%y = constant 300 : tensor<u8>"), "300 is not a u8", "^"),
        (in_main("%y = constant [1, 2] : tensor<n x i64>"), "a constant has a static type", "^"),
        (in_main("return %x"), "nothing follows a return", "  return %x\n  ^"),
        (in_main("%y = exp %x", "tensor<i64>"), r"function 'main' returns tensor<4xf32>", "^"),
        (in_main('%y = fusion %x strategy="loop" { }'), "expected region 'body'", "^"),
        (in_main('%y = fusion %x strategy="loop" body(%a: tensor<4xf32>) { }'), "'body' does not end in a yield", "^"),
        (in_main('%y = fusion %x strategy="loop" body(%a: tensor<4xf32>) { yield %a }', returned="%a"),
         "%a is not visible here; a region's values stay inside it", "^"),
        ("func @main() -> () { ", "function 'main' does not end in a return", "^"),
        ("func @main() -> () { return } func @main() -> () { return }", "function 'main' is defined twice", "^"),
        ("module {", "expected 'func'", "  module {\n  ^"),
    ],
)  # fmt: skip
def test_parser_errors_show_the_place(text: str, message: str, caret: str) -> None:
    with pytest.raises(CompileError, match=message) as raised:
        parse_module(text, source="m.dsir")
    assert caret in str(raised.value)
    assert len(str(raised.value).splitlines()) == 3


def test_parser_error_names_the_source_location() -> None:
    with pytest.raises(CompileError, match=r"at 'conv_1' \(Add\)"):
        parse_module(in_main("%y = add %x, %n  // conv_1 (Add)"))


def test_garbage_never_escapes_as_another_exception() -> None:
    rng = np.random.default_rng(0)
    for _ in range(400):
        text = list(TEXT)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(text)))
            match rng.integers(3):
                case 0:
                    del text[at : at + int(rng.integers(1, 20))]
                case 1:
                    text.insert(at, str(rng.choice(list('%@"(){}[]<>:=,x 0-\n/\\'))))
                case _:
                    text[at] = str(rng.choice(list('%@"(){}[]<>:=,x 0-\n/\\')))
        with contextlib.suppress(CompileError):
            parse_module("".join(text))


def test_size_of_a_symbol_that_is_a_keyword() -> None:
    text = print_module(
        module_of(lambda b, x: b.emit(Size(x.type.shape[0])), TensorType((symbol("None"),), dtypes.f32))
    )
    assert print_module(parse_module(text)) == text
