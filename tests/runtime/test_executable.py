"""Calling programs: results, threads, inputs that do not fit."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from small_programs import four_in_two_out, positives, reverse_scaled

from ds_compiler.backends.llvm.parallel import pool_object
from ds_compiler.runtime import Executable, ExecutionError, InputError, LoadError, Manifest

C = np.array([0.5, -1.0, 3.0, 8.0], np.float32)


def load(program: tuple[bytes, Manifest], constants: Any = None, threads: int = 1) -> Executable:
    return Executable(*program, constants, pool_object=pool_object(), threads=threads)


def expected(x: np.ndarray) -> np.ndarray:
    return (np.float32(2) * x + C[np.arange(len(x)) % 4])[::-1]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000, 40000])
def test_two_kernels_and_a_barrier(threads: int, n: int) -> None:
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    result = load(reverse_scaled(), {"c": C}, threads)(x)
    assert list(result) == ["y"]
    np.testing.assert_array_equal(result["y"], expected(x))


@pytest.mark.parametrize(("threads", "calls"), [(1, 10000), (2, 10000), (3, 2000)])
def test_many_calls(threads: int, calls: int) -> None:
    executable = load(reverse_scaled(), {"c": C}, threads)
    x = np.arange(64, dtype=np.float32)
    want = expected(x)
    for call in range(calls):
        x[call % 64] += 1
        want[63 - call % 64] += 2
        got = executable.run(None, {"x": x})[0]
        assert np.array_equal(got, want), call


def test_ways_to_call() -> None:
    executable = load(four_in_two_out())
    xs = [np.full((2, 2), i, np.float32) for i in range(4)]
    feeds = {f"x{i}": x for i, x in enumerate(xs)}
    for result in (executable(feeds), executable(*xs), executable(**feeds)):
        assert result["a"][0, 0] == 1 and result["b"][1, 1] == 5
    assert [a[0, 0] for a in executable.run(["b", "a"], feeds)] == [5, 1]
    assert len(executable.run(None, feeds)) == 2


def test_inputs_are_made_contiguous_and_aligned() -> None:
    executable = load(reverse_scaled(), {"c": C})
    base = np.arange(40, dtype=np.float32)
    for x in (base[::2], base[::-1], np.broadcast_to(np.float32(3), 9)):
        np.testing.assert_array_equal(executable(x)["y"], expected(x))
    frozen = base.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(executable(frozen)["y"], expected(base))
    shifted = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float32)
    np.testing.assert_array_equal(executable(shifted)["y"], expected(base))


def test_whatever_holds_the_right_elements_will_do() -> None:
    executable = load(four_in_two_out())
    x = np.array([[1, 2], [3, 4]], np.float32)
    subclass = x.view(np.matrix)
    memory = memoryview(x)
    for value in (subclass, memory, x.T.T, np.asfortranarray(x)):
        np.testing.assert_array_equal(executable(value, x, x, value)["a"], 2 * x)
    torch_like = type("TorchLike", (), {"dtype": "torch.float32", "shape": (2, 2), "__array__": lambda *_, **__: x})()
    np.testing.assert_array_equal(executable(torch_like, x, x, x)["a"], 2 * x)


def test_outputs_are_fresh_and_large_ones_aligned() -> None:
    executable = load(reverse_scaled(), {"c": C})
    x = np.ones(100_000, np.float32)
    first, second = executable(x)["y"], executable(x)["y"]
    assert not np.may_share_memory(first, second)
    assert first.ctypes.data % 64 == 0 and first.flags.writeable


def test_out() -> None:
    executable = load(reverse_scaled(), {"c": C})
    x, y = np.ones(8, np.float32), np.zeros(8, np.float32)
    assert executable(x, out={"y": y})["y"] is y
    np.testing.assert_array_equal(y, expected(x))
    for out, message in [
        ({"z": y}, "unknown output 'z'; known: y"),
        ({"y": np.zeros(7, np.float32)}, r"out 'y': expected f32\[8\], got f32\[7\]"),
        ({"y": np.zeros(8)}, r"out 'y': expected f32\[8\], got f64\[8\]"),
        ({"y": np.zeros(16, np.float32)[::2]}, "contiguous"),
        ({"y": x}, "shares memory"),
    ]:
        with pytest.raises(InputError, match=message):
            executable(x, out=out)


def test_data_dependent_shape() -> None:
    executable = load(positives())
    x = np.array([1, -2, 3, 0, 5], np.float32)
    np.testing.assert_array_equal(executable(x)["values"], [1, 3, 5])
    assert executable(-np.ones(3, np.float32))["values"].shape == (0,)
    with pytest.raises(InputError, match="depends on data"):
        executable(x, out={"values": np.zeros(3, np.float32)})
    assert len(executable.profile({"x": x}, repeat=2)) == len(executable.manifest.kernels)


def test_failed_check_names_the_node_and_leaves_the_program_usable() -> None:
    executable = load(positives())
    with pytest.raises(ExecutionError, match="Gather_7: the input must not be empty"):
        executable(np.zeros(0, np.float32))
    assert executable(np.ones(2, np.float32))["values"].shape == (2,)


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_input_errors_name_the_input() -> None:
    executable = load(four_in_two_out())
    ok = np.zeros((2, 2), np.float32)
    feeds = {f"x{i}": ok for i in range(4)}
    cases: list[tuple[Callable[[], Any], str]] = [
        (
            lambda: executable({**feeds, "x1": np.zeros((2, 3), np.float32)}),
            "input 'x1': expected f32[2,2], got f32[2,3]; axis 1 is 3, must be 2",
        ),
        (
            lambda: executable({**feeds, "x1": np.zeros(2, np.float32)}),
            "input 'x1': expected f32[2,2], got f32[2]; it has 1 dimensions, must have 2",
        ),
        (
            lambda: executable({**feeds, "x2": np.zeros((2, 2))}),
            "input 'x2': expected f32[2,2], got f64[2,2]; convert it with .astype('float32') if that is what you mean",
        ),
        (lambda: executable({**feeds, "x2": "text"}), "input 'x2': expected f32[2,2], got str[]"),
        (lambda: executable({**feeds, "x9": ok}), "unknown input 'x9'; known: x0, x1, x2, x3"),
        (lambda: executable(ok), "expected 4 inputs (x0: f32[2,2], x1: f32[2,2], x2: f32[2,2], x3: f32[2,2]), got 1"),
        (lambda: executable(ok, ok, x2=ok, x3=ok), "got 2 in order and 2 by name"),
        (lambda: executable.run(["c"], feeds), "unknown output 'c'"),
    ]
    for call, text in cases:
        assert text in message_of(call)
    del feeds["x3"]
    assert message_of(lambda: executable(feeds)).startswith("missing input 'x3'; the program takes x0: f32[2,2]")
    assert "foreign byte order" in message_of(lambda: executable(ok.astype(">f4"), ok, ok, ok))


def test_constraint() -> None:
    executable = load(reverse_scaled(), {"c": C})
    message = message_of(lambda: executable(np.zeros(1_000_001, np.float32)))
    assert message == "n <= 1000000 must hold, got n = 1000001 (axis 0 of 'x')"


def test_constants_must_fit() -> None:
    with pytest.raises(LoadError, match=re.escape("constant 'c': expected f32[4], got nothing")):
        load(reverse_scaled(), {})
    with pytest.raises(LoadError, match=re.escape("constant 'c': expected f32[4], got f32[3]")):
        load(reverse_scaled(), {"c": C[:3]})
    with pytest.raises(LoadError, match="the program needs 16 bytes, got 0"):
        load(reverse_scaled())
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(load(reverse_scaled(), C.tobytes())(x)["y"], expected(x))


def test_thread_counts() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        load(reverse_scaled(), {"c": C}, 0)
    executable = load(reverse_scaled(), {"c": C}, 1)
    x = np.arange(50, dtype=np.float32)
    for count in (2, 1, 3, 2):
        executable.threads = count
        np.testing.assert_array_equal(executable(x)["y"], expected(x))


@pytest.mark.parametrize("threads", [1, 2])
def test_python_threads_share_an_executable(threads: int) -> None:
    executable = load(reverse_scaled(), {"c": C}, threads)
    failures: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(300):
            x = rng.standard_normal(rng.integers(0, 3000)).astype(np.float32)
            if not np.array_equal(executable(x)["y"], expected(x)):
                failures.append(f"seed {seed}, n {len(x)}")

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures


def test_profile() -> None:
    executable = load(reverse_scaled(), {"c": C}, 2)
    scale, reverse = executable.profile({"x": np.zeros(100_000, np.float32)}, repeat=3)
    assert (scale.name, scale.nodes, scale.flops, scale.bytes) == ("scale", ("Mul_1", "Add_2"), 200_000, 800_000)
    assert reverse.name == "reverse"
    assert 1e-6 < scale.seconds < 1.0


def test_memory_is_reported() -> None:
    executable = load(reverse_scaled(), {"c": C})
    executable(np.zeros(1000, np.float32))
    memory = executable.memory()
    assert memory["code"] >= 4096 and memory["constants"] == 16 and memory["arena"] >= 4000
