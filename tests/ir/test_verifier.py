"""The verifier: what it says of each way to break a module, and where it points."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ds_compiler.ir import Block, CompileError, Module, Operation, TensorType, dtypes, symbol
from ds_compiler.ir.parser import parse_module
from ds_compiler.ir.verifier import verify
from ds_compiler.ops import Return, Unary, Yield
from ds_compiler.passes import manager

TEXT = """\
func @main(%x: tensor<n x 4 x f32>, %c: tensor<bool>, %k: tensor<i64>) -> (y: tensor<n x 4 x f32>, z: tensor<i64>) {
  %a = exp %x : tensor<n x 4 x f32>  // enc/exp (Exp)
  %b = add %a, %x : tensor<n x 4 x f32>  // enc/add (Add)
  bind %k symbol="_k"
  %i = iota shape=[_k] axis=0 dtype=i64 : tensor<_k x i64>
  %j = if %c : tensor<n x 4 x f32> then {  // enc/if (If)
    %t = neg %b : tensor<n x 4 x f32>
    yield %t
  } orelse {
    yield %b
  }
  %f = fusion %j strategy="loop" : tensor<n x 4 x f32> body(%p: tensor<n x 4 x f32>) {
    %q = abs %p : tensor<n x 4 x f32>
    yield %q
  }
  %s = call %f callee="side" types=[tensor<n x 4 x f32>] : tensor<n x 4 x f32>
  %d = size dim=n+_k : tensor<i64>
  return %s, %d
}

func @side(%r: tensor<m x 4 x f32>) -> (tensor<m x 4 x f32>) {
  %u = tanh %r : tensor<m x 4 x f32>
  return %u
}
"""


class Broken:
    """The module of `TEXT`, with its values and operations by name."""

    def __init__(self) -> None:
        self.module = parse_module(TEXT)
        self.values = {r.hint: r for op in self.module.walk() for r in op.results}
        self.values |= {a.hint: a for f in self.module.functions.values() for a in f.arguments}
        fusion = self.values["f"].op
        self.values["p"] = fusion.body.block.arguments[0]

    def op(self, name: str) -> Operation:
        return self.values[name].op

    def reading(self, name: str, index: int, value: str) -> None:
        self.op(name).set_operand(index, self.values[value])


def test_a_sound_module_passes() -> None:
    verify(parse_module(TEXT))


def later(m: Broken) -> None:
    m.reading("a", 0, "b")


def from_ended_region(m: Broken) -> None:
    m.reading("f", 0, "t")


def isolated(m: Broken) -> None:
    m.reading("q", 0, "b")


def other_function(m: Broken) -> None:
    m.reading("b", 1, "r")


def nowhere(m: Broken) -> None:
    loose = Unary(m.values["x"], "exp")
    m.op("b").set_operand(0, loose.result)


def wrong_type(m: Broken) -> None:
    m.values["b"].type = TensorType((4,), dtypes.f32)


def wrong_operand_type(m: Broken) -> None:
    m.reading("b", 1, "k")


def wrong_attribute(m: Broken) -> None:
    m.op("i").attributes["axis"] = 3


def malformed_attribute(m: Broken) -> None:
    m.op("i").attributes["shape"] = 5


def mutable_attribute(m: Broken) -> None:
    m.op("i").attributes["shape"] = [symbol("_k")]


def missing_attribute(m: Broken) -> None:
    del m.op("i").attributes["axis"]


def unknown_attribute(m: Broken) -> None:
    m.op("i").attributes["axes"] = 1


def operand_count(m: Broken) -> None:
    op = m.op("b")
    m.values["x"].uses[op, 2] = None
    op._operands = (*op._operands, m.values["x"])


def operand_of_wrong_field(m: Broken) -> None:
    m.op("b")._segments["rhs"] = (1, 0)


def result_count(m: Broken) -> None:
    m.op("d").results.append(m.op("d").results[0])


def region_count(m: Broken) -> None:
    m.op("j").regions.pop()


def two_blocks(m: Broken) -> None:
    m.op("f").regions[0].add_block(Block())


def empty_region(m: Broken) -> None:
    for op in reversed(list(m.op("f").body.block)):
        op.drop()


def without_terminator(m: Broken) -> None:
    m.op("f").body.block.terminator.drop()


def without_return(m: Broken) -> None:
    m.module.main.block.terminator.drop()


def return_in_region(m: Broken) -> None:
    block = m.op("f").body.block
    block.terminator.drop()
    block.append(Return((m.values["q"],)))


def yield_in_function(m: Broken) -> None:
    block = m.module.functions["side"].block
    block.terminator.drop()
    block.append(Yield((m.values["u"],)))


def code_behind_terminator(m: Broken) -> None:
    m.module.main.block.append(Unary(m.values["x"], "exp"))


def region_of_another(m: Broken) -> None:
    m.op("j").regions[0].parent = m.op("f")


def branches_differ(m: Broken) -> None:
    m.op("j").orelse.block.terminator.set_operand(0, m.values["k"])


def region_arguments(m: Broken) -> None:
    m.op("f").body.block.add_argument(TensorType((), dtypes.i64), "extra")


def broken_link(m: Broken) -> None:
    m.op("b")._previous = None


def wrong_parent(m: Broken) -> None:
    m.op("b").parent = m.op("f").body.block


def argument_place(m: Broken) -> None:
    m.module.main.arguments[1].index = 0


def result_place(m: Broken) -> None:
    m.values["b"].index = 1


def use_missing(m: Broken) -> None:
    del m.values["a"].uses[m.op("b"), 0]


def use_of_dropped(m: Broken) -> None:
    Unary(m.values["a"], "neg")


def use_of_another(m: Broken) -> None:
    m.values["k"].uses[m.op("b"), 0] = None


def unbound_size(m: Broken) -> None:
    m.op("i").previous.drop()  # type: ignore[union-attr]


def size_bound_later(m: Broken) -> None:
    bind = m.op("i").previous
    assert bind is not None and bind.parent is not None
    bind.parent.insert_before(m.op("j"), bind.detach())


def size_bound_in_a_branch(m: Broken) -> None:
    bind = m.op("i").previous
    assert bind is not None
    m.op("j").then.block.insert_before(m.op("t"), bind.detach())
    m.op("i").erase()


def bind_of_an_input(m: Broken) -> None:
    m.op("i").previous.attributes["symbol"] = "n"  # type: ignore[union-attr]


def bind_of_no_name(m: Broken) -> None:
    m.op("i").previous.attributes["symbol"] = "1"  # type: ignore[union-attr]


def size_of_no_axis(m: Broken) -> None:
    m.module.functions["side"].arguments[0].type = TensorType((2 * symbol("m"), 4), dtypes.f32)


def result_names(m: Broken) -> None:
    m.module.main.result_names.append("w")


def repeated_results(m: Broken) -> None:
    m.module.main.result_names[1] = "y"


def repeated_arguments(m: Broken) -> None:
    m.values["c"].hint = "x"


def callee_unknown(m: Broken) -> None:
    m.op("s").attributes["callee"] = "sides"


def callee_result(m: Broken) -> None:
    type_ = TensorType((symbol("n"), 5), dtypes.f32)
    m.op("s").attributes["types"], m.values["s"].type = (type_,), type_


def callee_argument(m: Broken) -> None:
    m.reading("s", 0, "k")


def callee_takes_fewer(m: Broken) -> None:
    function = m.module.functions["side"]
    function.block.add_argument(TensorType((), dtypes.f32), "v")


def foreign_key(m: Broken) -> None:
    m.module.functions["other"] = m.module.functions.pop("side")


def no_main(m: Broken) -> None:
    del m.module.functions["main"]


CASES: list[tuple[Callable[[Broken], None], str, str]] = [
    (later, "exp: operand 0 reads %b, which is defined later; $", "%a = exp «%b»"),
    (from_ended_region, "fusion: operand 0 reads %t, which belongs to a region that ends before", "%f = fusion «%t»"),
    (isolated, "abs: operand 0 reads %b, which is outside of the fusion; a fusion reads only its own", "%q = abs «%b»"),
    (other_function, "add: operand 1 reads .*, which belongs to function 'side'", "%b = add %a, «%"),
    (nowhere, "add: operand 0 reads .*, which is defined nowhere in the module", "%b = add «%"),
    (wrong_type, r"add: result 0 has the type tensor<4xf32>, its declaration gives tensor<n x 4 x f32>", "%b = «add»"),
    (wrong_operand_type, r"add: operand 1 is tensor<i64>, operand 0 is tensor<n x 4 x f32>", "%b = «add» %a, %k"),
    (wrong_attribute, "iota: axis 3 is out of range for rank 1", "%i = «iota»"),
    (malformed_attribute, r"iota: attributes of the wrong form \(", "%i = «iota»"),
    (mutable_attribute, "iota: attribute 'shape' holds a list; attributes are numbers, strings", "%i = «iota»"),
    (missing_attribute, "iota: lacks the attribute 'axis'", ""),
    (unknown_attribute, "iota: does not declare the attribute 'axes'", "%i = «iota»"),
    (operand_count, "add: has 3 operands, its fields hold 2", "%b = «add»"),
    (operand_of_wrong_field, "add: operand 'rhs' has 0 values at place 1", "%b = «add»"),
    (result_count, "size: result 1 belongs to another operation or place", "%d, %d = «size»"),
    (region_count, "if: has 1 regions, declares 2", ""),
    (two_blocks, "fusion: region 'body' has 2 blocks, expected one", "%f = «fusion»"),
    (empty_region, "fusion: region 'body' does not end in a yield", "%f = «fusion»"),
    (without_terminator, "abs: region 'body' does not end in a yield", "%q = «abs»"),
    (without_return, "size: the body does not end in a return", "%d = «size»"),
    (return_in_region, "return: region 'body' ends in a return, expected a yield", "«return» %q"),
    (yield_in_function, "yield: the body ends in a yield, expected a return", "«yield» %u"),
    (code_behind_terminator, "exp: nothing may follow a return", "= «exp» %x"),
    (region_of_another, "if: region 'then' belongs to another operation", "%j = «if»"),
    (branches_differ, r"if: the regions yield \[tensor<n x 4 x f32>\] and \[tensor<i64>\]", "%j = «if»"),
    (region_arguments, r"fusion: the body takes \[.*\], expected \[tensor<n x 4 x f32>\]", "%f = «fusion»"),
    (broken_link, "add: stands in two places: the links of its block are broken", "%b = «add»"),
    (wrong_parent, "add: stands in two places", "%b = «add»"),
    (argument_place, "function 'main': argument 1 of the body belongs to another block or place", "«func» @main"),
    (result_place, "add: result 0 belongs to another operation or place", "%b = «add»"),
    (use_missing, "add: operand 0 is missing in the use list of what it reads", "%b = add «%a»"),
    (use_of_dropped, "exp: %a is still in use by a neg that stands nowhere in the module", "%a = «exp»"),
    (use_of_another, "function 'main': the use list of %k names operand 0 of a add that reads another", "«func» @main"),
    (unbound_size, "iota: attribute 'shape' mentions the size '_k', which nothing has bound here", "%i = «iota»"),
    (size_bound_later, "iota: attribute 'shape' mentions the size '_k', which nothing has bound", "%i = «iota»"),
    (size_bound_in_a_branch, "size: attribute 'dim' mentions the size '_k', which nothing has bound", "%d = «size»"),
    (bind_of_an_input, "bind: 'n' is a size of the function's arguments and stays as it is", "«bind» %k"),
    (bind_of_no_name, "bind: attributes of the wrong form .'1' is not a valid name", "«bind» %k"),
    (size_of_no_axis, r"function 'side': argument r has the size '2\*m', but no argument has an axis", "«func» @side"),
    (result_names, "return: 3 results are named, 2 returned", "«return» %s, %d"),
    (repeated_results, "function 'main': two results are called 'y'", "«func» @main"),
    (repeated_arguments, "function 'main': two arguments are called 'x'", "«func» @main"),
    (callee_unknown, "call: there is no function 'sides'; functions: main, side", "%s = «call»"),
    (callee_result, "call: states tensor<n x 5 x f32> for result 0, 'side' returns tensor<n x 4", "%s = «call»"),
    (callee_argument, r"call: argument 0 is tensor<i64>, 'side' takes tensor<m x 4 x f32>", "%s = call «%k»"),
    (callee_takes_fewer, "call: 1 arguments given, 'side' takes 2", "%s = «call»"),
    (foreign_key, "function 'side' is kept under the name 'other'", ""),
    (no_main, "the module has no function 'main'; functions: side", ""),
]  # fmt: skip


@pytest.mark.parametrize(("break_it", "message", "line"), CASES, ids=[c[0].__name__ for c in CASES])
def test_what_is_broken_is_said(break_it: Callable[[Broken], None], message: str, line: str) -> None:
    broken = Broken()
    break_it(broken)
    with pytest.raises(CompileError) as raised:
        verify(broken.module)
    assert re.match(message, f"{raised.value.what}; {raised.value.help}"), str(raised.value)
    assert line in marked(raised.value.snippet), str(raised.value)
    assert bool(line) == bool(raised.value.snippet)


def marked(snippet: str) -> str:
    """The line of a snippet with «» around what the carets are under."""
    if not snippet:
        return ""
    line, carets = snippet.splitlines()
    start, end = carets.index("^"), carets.rindex("^") + 1
    assert carets[start:end] == "^" * (end - start)
    return f"{line[:start]}«{line[start:end]}»{line[end:]}"


def test_the_source_location_is_named() -> None:
    broken = Broken()
    isolated(broken)
    from_ended_region(broken)
    wrong_operand_type(broken)
    with pytest.raises(CompileError, match=r"at 'enc/add' \(Add\)"):
        verify(broken.module)


def test_the_pass_that_broke_it_is_named() -> None:
    @manager.register("test-break")
    def break_it(module: Module) -> None:
        (add,) = (op for op in module.walk() if op.mnemonic == "add")
        add.results[0].type = TensorType((4,), dtypes.f32)

    try:
        with pytest.raises(CompileError, match="pass 'test-break' broke the IR: add: result 0 has") as raised:
            manager.run(parse_module(TEXT), "cse,test-break,dce", verify=True)
    finally:
        del manager.PASSES["test-break"]
    assert "%b = «add» %a, %x" in marked(raised.value.snippet)
    assert raised.value.location.kind == "Add"


def test_ir_that_cannot_be_printed_is_still_reported() -> None:
    broken = Broken()
    broken.op("i").attributes["shape"] = {"n": 1}
    with pytest.raises(CompileError, match="attribute 'shape' holds a dict"):
        verify(broken.module)


def test_recursion_through_another_function() -> None:
    text = """
        func @main(%x: tensor<f32>) -> (tensor<f32>) {
          %y = call %x callee="f" types=[tensor<f32>] : tensor<f32>
          return %y
        }
        func @f(%x: tensor<f32>) -> (tensor<f32>) {
          %y = call %x callee="g" types=[tensor<f32>] : tensor<f32>
          return %y
        }
        func @g(%x: tensor<f32>) -> (tensor<f32>) {
          %y = call %x callee="f" types=[tensor<f32>] : tensor<f32>
          return %y
        }
    """
    with pytest.raises(CompileError, match="call: calls itself \\(f → g → f\\)"):
        verify(parse_module(text))


def test_sizes_of_a_call_follow_from_its_arguments() -> None:
    text = """
        func @main(%x: tensor<n+1 x f32>, %k: tensor<n x f32>) -> (tensor<2*n+2 x f32>) {{
          %y = call %x callee="twice" types=[{type}] : {type}
          return %y
        }}
        func @twice(%x: tensor<n x f32>) -> (tensor<2*n x f32>) {{
          %y = concat %x, %x axis=0
          return %y
        }}
    """
    verify(parse_module(text.format(type="tensor<2*n+2 x f32>")))
    with pytest.raises(CompileError, match=r"states tensor<2\*n x f32> for result 0, 'twice' returns"):
        verify(parse_module(text.format(type="tensor<2*n x f32>").replace("-> (tensor<2*n+2", "-> (tensor<2*n", 1)))


def test_a_size_that_only_the_callee_knows_cannot_be_returned() -> None:
    text = """
        func @main(%x: tensor<i64>) -> (tensor<_k x i64>) {
          bind %x symbol="_k"
          %y = call %x callee="range" types=[tensor<_k x i64>]
          return %y
        }
        func @range(%x: tensor<i64>) -> (tensor<_m x i64>) {
          bind %x symbol="_m"
          %y = iota shape=[_m] axis=0 dtype=i64
          return %y
        }
    """
    with pytest.raises(CompileError, match="result 0 of 'range' has the size '_m', which its arguments do not tell"):
        verify(parse_module(text))


BIND_N, BIND_M = 'bind %n symbol="_k"', 'bind %m symbol="_k"'
BIND_E = 'bind %e symbol="_k"'


@pytest.mark.parametrize(
    ("line", "known"),
    [
        (f"if %c then {{ {BIND_N} yield }} orelse {{ {BIND_M} yield }}", True),
        (f"if %c then {{ {BIND_N} yield }} orelse {{ yield }}", False),
        (f"scan [], [%a] length=4 body(%e: tensor<i64>) {{ {BIND_E} yield }}", False),
        (
            f"%r = while %n condition(%e: tensor<i64>) {{ {BIND_E} yield %c }} body(%f: tensor<i64>) {{ yield %f }}",
            True,
        ),
        (
            f"%r = while %n condition(%f: tensor<i64>) {{ yield %c }} body(%e: tensor<i64>) {{ {BIND_E} yield %e }}",
            False,
        ),
    ],
)
def test_sizes_bound_on_every_way_are_known_behind(line: str, known: bool) -> None:
    module = parse_module(f"""
        func @main(%c: tensor<bool>, %n: tensor<i64>, %m: tensor<i64>, %a: tensor<4xi64>) -> (tensor<i64>) {{
          {line}
          %s = size dim=_k
          return %s
        }}
    """)
    if known:
        verify(module)
    else:
        with pytest.raises(CompileError, match="size: attribute 'dim' mentions the size '_k'"):
            verify(module)
