"""Size expressions: values, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds_compiler.runtime.dims import SizeError, compile_sizes, symbols_in


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("2*seq+1", 11),
        ("-seq + 20", 15),
        ("floordiv(h+1,2)", 4),
        ("ceildiv(h, 4)", 2),
        ("mod(h,4)", 3),
        ("-1 // 2", -1),
        ("floordiv(-h,2)", -4),
        ("max(seq, h, 3)", 7),
        ("min(seq,h)", 5),
        ("4*max(seq*h,ceildiv(x.1,16)*64)", 4 * 448),
        ("(lambda+in)*2", 26),
        ("seq <= h", 1),
        ("h % 2 == 0", 0),
    ],
)
def test_values(text: str, value: int) -> None:
    names = ["seq", "h", "x.1", "lambda", "in"]
    assert compile_sizes([text, "1"], names)([5, 7, 100, 6, 7]) == (value, 1)


def test_empty() -> None:
    assert compile_sizes([], [])([]) == ()


def test_symbols_in() -> None:
    assert symbols_in("max(a,2*b.c)+floordiv(d , 2)") == {"a", "b.c", "d"}


REFUSED = [
    *("", "n+", "2**n", "n/2", "open(n)", "__import__('os')", "n.real", "'a'", "n[0]", "s[0]", "(1,2)", "1.5", "True"),
    *(
        "[n for n in n]",
        "n if n else n",
        "n and n",
        "max(n)",
        "mod(n,2,3)",
        "min(*n)",
        "max(a=n, b=n)",
        "q",
        "max",
        "~n",
    ),
    *("9999999999999999999999", "n; n", "n\nn", "\0", "(" * 500 + "n" + ")" * 500, "lambda: n", "(n := 3)", "n # n"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    with pytest.raises(SizeError):
        compile_sizes([text], ["n"])


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(SizeError, match="size expression 'n\\+batch': unknown symbol 'batch'"):
        compile_sizes(["n+batch"], ["n"])
    with pytest.raises(SizeError, match="unknown function 'eval'"):
        compile_sizes(["eval(n)"], ["n"])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ns()[]{}+-*/%,.:=<>#'\"\\ 019_ax\n", max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        sizes = compile_sizes([text], ["n"])
    except SizeError:
        return
    try:
        (value,) = sizes([3])
    except ZeroDivisionError:
        return
    assert isinstance(value, int)
