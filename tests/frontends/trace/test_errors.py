"""What cannot be traced is an error that names the user's file and line, and what to use instead."""

from __future__ import annotations

import inspect
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds

xp = ds.numpy
X = np.ones((2, 3), np.float32)
leaked: list[Any] = []


def branching(x: Any) -> Any:
    if xp.sum(x) > 0:  # HERE
        return x
    return -x


def repeating(x: Any) -> Any:
    while xp.sum(x) > 0:  # HERE
        x = x - 1
    return x


def counting(x: Any) -> Any:
    for _ in range(xp.argmax(x)):  # HERE
        x = x + 1
    return x


def iterating(x: Any) -> Any:
    return sum(row for row in x)  # HERE


def converting_to_int(x: Any) -> Any:
    return int(x[0, 0])  # HERE


def converting_to_float(x: Any) -> Any:
    return float(x[0, 0])  # HERE


def reading(x: Any) -> Any:
    return x.item()  # HERE


def calling_numpy(x: Any) -> Any:
    return np.linalg.svd(x)  # HERE


def calling_a_ufunc(x: Any) -> Any:
    return np.spacing(x)  # HERE


def writing_with_numpy(x: Any) -> Any:
    return np.add(x, 1, out=X)  # HERE


def using_torch_methods(x: Any) -> Any:
    return x.unsqueeze(0)  # HERE


def going_backward(x: Any) -> Any:
    return x.backward()  # HERE


def formatting(x: Any) -> Any:
    return f"{x[0, 0]:.2f}"  # HERE


def pickling(x: Any) -> Any:
    return pickle.dumps(x)  # HERE


def taking_the_larger(x: Any) -> Any:
    return max(x, 0)  # HERE


def becoming_an_array(x: Any) -> Any:
    return np.asarray(x)  # HERE


def assigning(x: Any) -> Any:
    x[0] = 1  # HERE
    return x


def mixing(x: Any) -> Any:
    return x + xp.arange(3)  # HERE


def mixing_numbers(x: Any) -> Any:
    return xp.arange(3) * 0.5  # HERE


def mismatching(x: Any) -> Any:
    return x + xp.ones((4,))  # HERE


def multiplying(x: Any) -> Any:
    return x @ xp.ones((2, 2))  # HERE


def reshaping(x: Any) -> Any:
    return xp.reshape(x, (4, -1))  # HERE


def masking(x: Any) -> Any:
    return x[x > 0]  # HERE


def slicing_by_data(x: Any) -> Any:
    return x[: xp.argmax(x)]  # HERE


def indexing_too_far(x: Any) -> Any:
    return x[2]  # HERE


def indexing_too_much(x: Any) -> Any:
    return x[0, 0, 0]  # HERE


def using_a_list(x: Any) -> Any:
    return xp.sum([x, x])  # HERE


def reducing_a_missing_axis(x: Any) -> Any:
    return xp.sum(x, axis=2)  # HERE


def measuring_an_integer(x: Any) -> Any:
    return xp.sin(xp.arange(3))  # HERE


def asking_for_membership(x: Any) -> Any:
    return 1.0 in x  # HERE


def making_an_array_of_traced_numbers(x: Any) -> Any:
    return np.array([x[0, 0], x[0, 1]])  # HERE


def filling_with_numpy(x: Any) -> Any:
    return np.full((3,), x[0, 0])  # HERE


def indexing_a_list(x: Any) -> Any:
    return [1, 2, 3][xp.argmax(x[0])]  # HERE


def repeating_a_list(x: Any) -> Any:
    return [0] * xp.argmax(x[0])  # HERE


def taking_the_root_with_math(x: Any) -> Any:
    return math.sqrt(x[0, 0])  # HERE


def adding_a_list(x: Any) -> Any:
    return x + [1, 2, 3]  # noqa: RUF005  # HERE


def adding_none(x: Any) -> Any:
    return None - x  # HERE


def counting_the_largest_by_data(x: Any) -> Any:
    return xp.top_k(x, xp.argmax(x[0]))  # HERE


def splitting_by_data(x: Any) -> Any:
    return xp.split(x, xp.argmax(x[0]))  # HERE


def naming_an_axis(x: Any) -> Any:
    return xp.sum(x, axis="rows")  # HERE


def asking_numpy_where(x: Any) -> Any:
    return np.where(x > 0)  # HERE


def repeating_by_data(x: Any) -> Any:
    return xp.repeat(x, xp.argmax(x, axis=0), axis=1)  # HERE


CASES = [
    (making_an_array_of_traced_numbers, "the contents of a traced array", "asarray([…])"),
    (filling_with_numpy, "the contents of a traced array", "ds.numpy"),
    (indexing_a_list, "the value of a traced array", "index arrays with it"),
    (repeating_a_list, "a traced array and a list have no operators", "ds.numpy.asarray"),
    (taking_the_root_with_math, "the value of a traced array", "calculate with the array itself"),
    (adding_a_list, "a traced array and a list have no operators", "ds.numpy.asarray"),
    (adding_none, "a traced array and a NoneType have no operators", "ds.numpy.asarray"),
    (counting_the_largest_by_data, "the value of a traced array", "ds.scan"),
    (splitting_by_data, "the number of parts is not known", "give an integer"),
    (naming_an_axis, "an axis is a str, expected an integer", ""),
    (asking_numpy_where, "np.where: missing a required argument", "ds.numpy"),
    (repeating_by_data, "depends on counts that are traced", "give an integer"),
    (branching, "the truth of a traced array", "ds.cond"),
    (repeating, "the truth of a traced array", "ds.while_loop"),
    (counting, "the value of a traced array", "ds.fori_loop"),
    (calling_numpy, "np.linalg.svd does not trace", "ds.numpy"),
    (calling_a_ufunc, "np.spacing does not trace", "ds.numpy"),
    (writing_with_numpy, "write a traced array into another", "result"),
    (using_torch_methods, "no attribute 'unsqueeze'", "expand_dims"),
    (going_backward, "no attribute 'backward'", "ds.grad"),
    (formatting, "the value of a traced array", "print it outside"),
    (pickling, "the contents of a traced array", "return the array"),
    (taking_the_larger, "the truth of a traced array", "ds.where"),
    (iterating, "not iterated over", "ds.scan"),
    (converting_to_int, "the value of a traced array", "astype"),
    (converting_to_float, "the value of a traced array", "astype"),
    (reading, "the value of a traced array", "return the array"),
    (becoming_an_array, "the contents of a traced array", "ds.numpy"),
    (assigning, "not changed in place", "x.at[index].set(value)"),
    (mixing, "float32 and int64 do not mix", ".astype()"),
    (mixing_numbers, "float 0.5 does not mix with an array of int64", ".astype()"),
    (mismatching, "shapes (2, 3) and (4,) do not broadcast", ""),
    (multiplying, "has size 3, axis 0 of (2, 2) has size 2", ""),
    (reshaping, "(2, 3) has 6 elements", ""),
    (masking, "a shape that depends on data", "ds.where"),
    (slicing_by_data, "the bound of a slice is a traced array", "ds.dynamic_slice"),
    (indexing_too_far, "index 2 is out of range for axis 0 of size 2", ""),
    (indexing_too_much, "3 indices for an array of shape (2, 3)", ""),
    (using_a_list, "a list is given where an array is expected", "stack"),
    (reducing_a_missing_axis, "axis 2 is out of range", ""),
    (measuring_an_integer, "needs floating-point arrays, got int64", ".astype()"),
    (asking_for_membership, "membership of a traced array", "any"),
]


@pytest.mark.parametrize(("function", "what", "help"), CASES, ids=[c[0].__name__ for c in CASES])
def test_the_error_names_line_and_remedy(function: Any, what: str, help: str) -> None:
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "# HERE" in text)
    with pytest.raises(ds.TraceError) as error:
        ds.compile(function, cache=False)(X)
    text = str(error.value)
    assert what in text and help in text
    assert f"test_errors.py:{line}'" in text


def test_a_traced_array_that_leaks_is_told_where_it_was_made() -> None:
    def f(x: Any) -> Any:
        leaked.append(x * 2)
        return x

    with pytest.raises(ds.TraceError, match=r"f stores a traced array in 'leaked'.*test_errors\.py"):
        ds.compile(f, cache=False)(X)
    array = leaked.pop()
    with pytest.raises(ds.TraceError, match=r"outside of any trace.*made at test.*test_errors\.py"):
        ds.compile(lambda x: x, cache=False)(array)
    with pytest.raises(ds.TraceError, match=r"after the function or branch that made it has ended.*test_errors\.py"):
        ds.compile(lambda x: x + array, cache=False)(X)
    with pytest.raises(ds.TraceError, match=r"nothing is being traced|has ended"):
        array + 1


def test_a_value_that_leaves_its_branch() -> None:
    def f(x: Any) -> Any:
        ds.cond(xp.sum(x) > 0, lambda: leaked.append(x * 2) or x, lambda: x)
        return leaked.pop() + 1

    with pytest.raises(ds.TraceError, match=r"branch that made it has ended.*test_errors\.py"):
        ds.compile(f, cache=False)(X)


def test_arguments_that_are_no_arrays() -> None:
    f = ds.compile(lambda x: x, cache=False)
    with pytest.raises(ds.TraceError, match="neither an array nor hashable"):
        f({1, 2})
    with pytest.raises(ds.TraceError, match="complex128 is no element type"):
        f(np.ones(2, np.complex128))


def test_operations_carry_the_users_line() -> None:
    def f(x: Any) -> Any:
        return xp.tanh(x)

    g = ds.compile(f, cache=False)
    g(X)
    line = inspect.getsourcelines(f)[1] + 1
    assert f"test_errors.py:{line} (tanh)" in g.ir("import")


def looking_up(x: Any) -> Any:
    return {0: 1.0}[xp.argmax(x)]  # HERE


def parsing_an_f_string(x: Any) -> Any:
    return float(f"{x[0, 0]}")  # HERE


def making_zeros(x: Any) -> Any:
    return np.zeros(xp.argmax(x))  # HERE


def dumping(x: Any) -> Any:
    return json.dumps(x)  # HERE


def setting_an_attribute(x: Any) -> Any:
    x.name = "x"  # HERE


@pytest.mark.parametrize("function", [looking_up, parsing_an_f_string, making_zeros, dumping, setting_an_attribute])
def test_errors_of_python_are_told_the_line_too(function: Any) -> None:
    """They keep their class, which the user's own code may expect."""
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "# HERE" in text)
    with pytest.raises((KeyError, ValueError, TypeError, AttributeError)) as error:
        ds.compile(function, cache=False)(X)
    (note,) = error.value.__notes__
    assert f"test_errors.py:{line}, while ds.compile traced {function.__name__}" in note and "stand-ins" in note
