"""What people type who come from NumPy, JAX or PyTorch: it works, or the error says what to type instead."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn

xp = ds.numpy
X = (np.arange(6, dtype=np.float32) - 2).reshape(2, 3)
Y = np.cos(np.arange(12, dtype=np.float32)).reshape(3, 4)
Pair = namedtuple("Pair", "a b")


def in_place_sum(x: Any) -> Any:
    x += 1
    x *= 2
    return x


def unpacking(x: Any) -> Any:
    first, second = xp.unstack(x)
    return first * second


def early_return(x: Any) -> Any:
    if x.ndim != 2 or x.dtype != np.float32:
        raise ValueError("shape")
    return x


def numpy_pipeline(x: Any) -> Any:
    y = np.concatenate([np.maximum(x, 0), np.sqrt(np.abs(x))], axis=1)
    return np.mean(y, axis=0, keepdims=True) - np.std(y) + np.clip(np.transpose(y), -1, 1).sum()


WORKS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "np.sum": (np.sum, np.sum),
    "np.sum over an axis": (lambda x: np.sum(x, 1), lambda x: np.sum(x, 1)),
    "np.add.reduce": (lambda x: np.add.reduce(x), lambda x: np.add.reduce(x)),
    "np.exp": (lambda x: np.exp(x), np.exp),
    "array first": (lambda x: X * 2 + x, lambda x: X * 2 + x),
    "np.matmul": (lambda x: np.matmul(x, Y), lambda x: np.matmul(x, Y)),
    "np.dot": (lambda x: np.dot(x, Y), lambda x: np.dot(x, Y)),
    "np.einsum": (lambda x: np.einsum("ij,jk->ik", x, Y), lambda x: np.einsum("ij,jk->ik", x, Y)),
    "np.where": (lambda x: np.where(x > 0, x, 0), lambda x: np.where(x > 0, x, np.float32(0))),
    "np.stack": (lambda x: np.stack([x, x], axis=1), lambda x: np.stack([x, x], axis=1)),
    "np.vstack": (lambda x: np.vstack([x, x[0]]), lambda x: np.vstack([x, x[0]])),
    "np.hstack": (lambda x: np.hstack([x, x]), lambda x: np.hstack([x, x])),
    "np.zeros_like": (np.zeros_like, np.zeros_like),
    "np.var": (lambda x: np.var(x, axis=0, ddof=1), lambda x: np.var(x, axis=0, ddof=1)),
    "np.cumsum": (lambda x: np.cumsum(x, axis=1), lambda x: np.cumsum(x, axis=1)),
    "np.linalg.norm": (lambda x: np.linalg.norm(x, axis=1), lambda x: np.linalg.norm(x, axis=1)),
    "np.squeeze": (lambda x: np.squeeze(x[None]), lambda x: x),
    "np.argmax": (lambda x: np.argmax(x, axis=1), lambda x: np.argmax(x, axis=1)),
    "np.tril": (np.tril, np.tril),
    "np.outer": (lambda x: np.outer(x[0], x[1]), lambda x: np.outer(x[0], x[1])),
    "np.round": (lambda x: np.round(x / 3, 1), lambda x: np.round(x / 3, 1)),
    "numpy pipeline": (numpy_pipeline, numpy_pipeline),
    "methods": (
        lambda x: x.mean(axis=0).sum() + x.max() - x.std(ddof=1),
        lambda x: x.mean(axis=0).sum() + x.max() - x.std(ddof=1),
    ),
    "reshape of a tuple": (lambda x: x.reshape((3, -1)), lambda x: x.reshape(3, -1)),
    "copy": (lambda x: x.copy() + copy.deepcopy(x), lambda x: 2 * x),
    "assignment operators": (in_place_sum, lambda x: (x + 1) * 2),
    "unstack": (unpacking, lambda x: x[0] * x[1]),
    "checks of shape": (early_return, lambda x: x),
    "round()": (lambda x: round(x / 3), lambda x: np.round(x / 3)),
    "abs()": (abs, np.abs),
    "sum() of a list": (lambda x: sum([x, x, x]), lambda x: 3 * x),
    "divmod by operators": (lambda x: x // 2 + x % 2, lambda x: x // 2 + x % 2),
    "negative steps": (lambda x: x[:, ::-1], lambda x: x[:, ::-1]),
    "ellipsis and None": (lambda x: x[..., None, 0], lambda x: x[..., None, 0]),
    "list of scalars": (lambda x: xp.asarray([x[0, 0], 1.0, x[1, 2]]), lambda x: np.float32([x[0, 0], 1, x[1, 2]])),
    "is None": (lambda x: x if x is not None else 0, lambda x: x),
    "ordered dict": (lambda x: OrderedDict(b=x, a=-x)["a"], lambda x: -x),
    "f-string of a shape": (lambda x: {f"{x.shape}": x}["(2, 3)"], lambda x: x),
    "comprehension": (lambda x: xp.stack([x[i] * i for i in range(len(x))]), lambda x: x * np.float32([[0], [1]])),
    "walrus and ternary": (lambda x: y * 2 if (y := x + 1).shape[0] == 2 else y, lambda x: (x + 1) * 2),
    "nested functions": (lambda x: (lambda f: f(f(x)))(lambda v: v * 2), lambda x: x * 4),
}


@pytest.mark.parametrize("name", WORKS)
def test_works(name: str) -> None:
    ours, numpys = WORKS[name]
    result, expected = ds.compile(ours, cache=False, threads=1)(X), np.asarray(numpys(X))
    assert result.shape == expected.shape and result.dtype == expected.dtype
    np.testing.assert_allclose(result, expected, rtol=2e-6, atol=1e-6)


def view(x: Any) -> Any:
    return x.view(-1)  # HERE


def detach(x: Any) -> Any:
    return x.detach()  # HERE


def relu(x: Any) -> Any:
    return x.relu()  # HERE


def in_place(x: Any) -> Any:
    return x.add_(1)  # HERE


def size_of(x: Any) -> Any:
    return x.to("cuda")  # HERE


def math_function(x: Any) -> Any:
    return math.exp(x[0, 0])  # HERE


def sorting(x: Any) -> Any:
    return sorted(x[0])  # HERE


def comparing_with_none(x: Any) -> Any:
    return x == None  # noqa: E711  # HERE


def asserting(x: Any) -> Any:
    assert xp.all(x > -10)  # HERE
    return x


def indexing_a_dict(x: Any) -> Any:
    return {0: 1.0}[int(x[0, 0])]  # HERE


def histogram(x: Any) -> Any:
    return np.histogram(x)  # HERE


def numpy_indexed_by_a_traced_array(x: Any) -> Any:
    return Y[x[0].astype(xp.int64)]  # HERE


def boolean_and(x: Any) -> Any:
    return (x > 0) and (x < 1)  # HERE


def wrong_width(x: Any) -> Any:
    return nn.Linear(4, 2)(x)  # HERE


def mixing_types(x: Any) -> Any:
    return xp.where(x > 0, x, xp.asarray([1, 2, 3]))  # HERE


def float_index(x: Any) -> Any:
    return x[0.5]  # HERE


TOLD = {
    view: "reshape", detach: "ds.stop_gradient", relu: "ds.nn.relu", in_place: "not changed in place",
    size_of: "target", math_function: "calculate with the array itself", sorting: "ds.scan",
    comparing_with_none: "compared with a NoneType", asserting: "ds.cond", indexing_a_dict: "the value",
    histogram: "np.histogram does not trace", numpy_indexed_by_a_traced_array: "ds.numpy.take",
    boolean_and: "ds.where", wrong_width: "input has shape", mixing_types: "do not mix", float_index: "no index",
}  # fmt: skip


@pytest.mark.parametrize("function", TOLD, ids=lambda f: f.__name__)
def test_is_told(function: Any) -> None:
    lines, first = inspect.getsourcelines(function)
    line = first + next(i for i, text in enumerate(lines) if "# HERE" in text)
    with pytest.raises(ds.TraceError) as error:
        ds.compile(function, cache=False, threads=1)(X)
    assert TOLD[function] in str(error.value) and f"test_users.py:{line}" in str(error.value)


def test_arrays_of_other_libraries_are_inputs() -> None:
    torch = pytest.importorskip("torch")
    f = ds.compile(lambda x: x * 2, cache=False, threads=1)
    t = torch.ones(3)
    np.testing.assert_array_equal(f(t), np.full(3, 2, np.float32))
    t += 1
    np.testing.assert_array_equal(f(t), np.full(3, 4, np.float32))
    assert len(f.programs) == 1
    with pytest.raises(ds.TraceError, match=r"requires grad.*test_users\.py"):
        f(torch.ones(3, requires_grad=True))


def test_structures_of_all_kinds() -> None:
    @dataclasses.dataclass
    class Config:
        weight: Any
        scale: float

    f = ds.compile(lambda c, p: Pair(c.weight * c.scale, [p.b, {"x": p.a}, None, "tag"]), cache=False, threads=1)
    result = f(Config(X, 2.0), Pair(X, 3))
    assert isinstance(result, Pair) and result.b[0] == 3 and result.b[2:] == [None, "tag"]
    np.testing.assert_array_equal(result.a, X * 2)


def test_generators_and_coroutines_are_refused() -> None:
    def generator(x: Any) -> Any:
        yield x

    async def coroutine(x: Any) -> Any:
        return x

    for function in (generator, coroutine):
        with pytest.raises(TypeError, match=r"generator|coroutine"):
            ds.compile(function, cache=False)


def test_missing_names_are_explained() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'dot'; np\.dot traces too"):
        _ = xp.dot
    with pytest.raises(AttributeError, match=r"ds\.random"):
        _ = xp.random


def test_errors_of_the_function_itself_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        ds.compile(lambda x: x * (1 / 0), cache=False)(X)
    with pytest.raises(TypeError, match="positional argument"):
        ds.compile(lambda x: x, cache=False)(X, X)


def changing_a_dict(p: Any, x: Any) -> Any:
    p["w"] = p["w"] + x  # HERE
    return xp.sum(x)


def extending_a_list(p: Any, x: Any) -> Any:
    p["seen"].append(x)  # HERE
    return x


def test_arguments_that_are_changed() -> None:
    for function in (changing_a_dict, extending_a_list):
        with pytest.raises(ds.TraceError, match="changes its argument p") as error:
            ds.compile(function, cache=False, threads=1)({"w": X, "seen": []}, X)
        assert "return" in str(error.value) and "test_users.py" in str(error.value)

    def updating(p: Any, x: Any) -> Any:
        p["w"] = p["w"] + x
        return p

    np.testing.assert_array_equal(ds.compile(updating, cache=False, threads=1)({"w": X}, X)["w"], 2 * X)


def test_code_for_array_api_compat_traces_unchanged() -> None:
    compat = pytest.importorskip("array_api_compat")

    def standardized(x: Any) -> Any:
        namespace = compat.array_namespace(x)
        assert compat.is_array_api_obj(x) and compat.size(x) == 6
        y = namespace.asarray(x, device=compat.device(x), copy=True)
        y = (y - namespace.mean(y, axis=0)) / (namespace.std(y, axis=0) + 1e-6)
        return namespace.concat([y, namespace.astype(y > 0, namespace.float32)], axis=1)

    result = ds.compile(standardized, cache=False, threads=1)(X)
    np.testing.assert_allclose(result, standardized(X), rtol=1e-5, atol=1e-6)
