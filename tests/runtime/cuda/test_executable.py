"""Running GPU programs against a driver that records: launches, memory, graphs, errors."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from ds_compiler.runtime.cuda.arrays import DeviceArray
from ds_compiler.runtime.cuda.device import Device
from ds_compiler.runtime.cuda.driver import Driver
from ds_compiler.runtime.cuda.executable import GpuExecutable
from ds_compiler.runtime.cuda.plan import Code, Copy, GpuProgram, Kernel, Launch, Place
from ds_compiler.runtime.errors import ExecutionError, InputError, LoadError
from ds_compiler.runtime.manifest import Constant, Manifest, Symbol, Tensor
from tests.runtime.cuda.fake import FakeLibrary

SHARED = 100 << 10


def program(target: str = "cuda:90", checks: tuple[str, ...] = ()) -> GpuProgram:
    """y = x * w (elementwise, w a constant of 4) by way of the arena, n rows of 4."""
    manifest = Manifest(
        inputs=(Tensor("x", "float32", ("n", "4")),),
        outputs=(Tensor("y", "float32", ("n", "4")),),
        symbols=(Symbol("n", 0, 0),),
        arena="16*n+64",
        constants=(Constant("w", "float32", (4,), 0),),
        constants_bytes=16,
        checks=checks,
    )
    kernel = Kernel("scale", "", (("in0", "*fp32"), ("in1", "*fp32"), ("out0", "*fp32"), ("s_n", "i64")), 4, 3)
    x, w, arena, y = Place("input"), Place("constant"), Place("arena", "64"), Place("output")
    steps: list[Any] = [Launch(0, "ceildiv(4*n, 8)", (x, w, arena, "n"), 0), Copy(y, arena, "16*n")]
    if checks:
        steps.append(Copy(Place("flag"), w, "1"))
    return GpuProgram(target, manifest, (kernel,), tuple(steps), (("scale", "16*n"),))


CODES = (Code("scale", "", b"image", 128, SHARED),)
WEIGHTS = np.array([1, 2, 3, 4], np.float32)


def scale(name: str, grid: int, parameters: list[int]) -> None:
    """The kernel, on the memory that its parameters point to."""
    values = [ctypes.c_uint64.from_address(p).value for p in parameters]
    assert name == "scale" and len(values) == 6 and values[4:] == [0, 0]
    count = values[3]
    assert grid == -(-4 * count // 8)

    def floats(address: int, size: int) -> np.ndarray[Any, Any]:
        return np.ctypeslib.as_array(ctypes.cast(address, ctypes.POINTER(ctypes.c_float)), (size,))

    floats(values[2], 4 * count)[:] = floats(values[0], 4 * count) * np.tile(floats(values[1], 4), count)


def executable(library: FakeLibrary, **options: Any) -> GpuExecutable:
    return GpuExecutable(program(**options), CODES, WEIGHTS.tobytes(), Device(Driver(library)))


def test_results_and_what_the_driver_was_asked() -> None:
    library = FakeLibrary(scale)
    run = executable(library)
    for n in (3, 5, 3):
        x = np.random.default_rng(n).standard_normal((n, 4)).astype(np.float32)
        np.testing.assert_array_equal(run(x)["y"], x * WEIGHTS)
        np.testing.assert_array_equal(run({"x": x})["y"], x * WEIGHTS)
    launch = library.named("cuLaunchKernel")[0]
    assert launch[1:8] == (2, 1, 1, 128, 1, 1, SHARED)
    assert [a[1:] for a in library.named("cuFuncSetAttribute")] == [(8, SHARED)]
    uploads = [a for a in library.named("cuMemcpyHtoDAsync_v2") if a[2] == 16]
    assert len(uploads) == 1, "weights are uploaded once"


def test_the_second_call_with_the_same_shape_is_a_graph() -> None:
    library = FakeLibrary(scale)
    run = executable(library)
    for turn in range(4):
        x = np.full((2, 4), turn, np.float32)
        np.testing.assert_array_equal(run(x)["y"], x * WEIGHTS)
    assert len(library.named("cuLaunchKernel")) == 2  # directly, and while capturing
    assert len(library.named("cuGraphLaunch")) == 3
    run(np.zeros((7, 4), np.float32))
    assert len(library.named("cuGraphLaunch")) == 3


class OnDevice:
    """Somebody else's array."""

    def __init__(self, data: np.ndarray[Any, Any], strides: tuple[int, ...] | None = None) -> None:
        self.data = data
        self.__cuda_array_interface__ = {
            "shape": data.shape, "typestr": data.dtype.str, "data": (data.ctypes.data, False), "strides": strides,
            "version": 3,
        }  # fmt: skip


def aligned(shape: tuple[int, ...], shift: int = 0) -> np.ndarray[Any, Any]:
    memory = np.zeros(int(np.prod(shape)) * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 16 + shift
    return memory[start : start + int(np.prod(shape)) * 4].view(np.float32).reshape(shape)


@pytest.mark.parametrize("shift", [0, 4])
def test_arrays_on_the_device_go_in_and_out_in_place(shift: int) -> None:
    library = FakeLibrary(scale)
    run = executable(library)
    x = aligned((3, 4), shift)
    x[:] = np.arange(12).reshape(3, 4)
    before = len(library.named("cuMemcpyHtoDAsync_v2"))
    y = run(OnDevice(x), stream=77)["y"]
    assert isinstance(y, DeviceArray) and y.shape == (3, 4) and y.__cuda_array_interface__["stream"] == 77
    assert len(library.named("cuMemcpyHtoDAsync_v2")) == before
    first = ctypes.c_uint64.from_address(int(library.named("cuLaunchKernel")[0][-2][0])).value
    assert (first == x.ctypes.data) == (shift == 0), "an array that is not aligned is copied first"
    np.testing.assert_array_equal(y.numpy(), x * WEIGHTS)
    address = y.address
    del y
    assert run(OnDevice(x))["y"].address == address


def test_inputs_that_do_not_fit() -> None:
    run = executable(FakeLibrary(scale))
    with pytest.raises(InputError, match="axis 1 is 5, must be 4"):
        run(np.zeros((2, 5), np.float32))
    with pytest.raises(InputError, match=r"expected f32\[n,4\], got f64\[2,4\]"):
        run(np.zeros((2, 4)))
    with pytest.raises(InputError, match="make it contiguous"):
        run(OnDevice(aligned((2, 4)), strides=(4, 8)))
    with pytest.raises(InputError, match="expected the inputs x, got z"):
        run(z=1)


def test_out_of_memory_names_the_plan() -> None:
    run = executable(FakeLibrary(scale, memory=1 << 20))
    with pytest.raises(
        ExecutionError, match=r"intermediate values.*the plan's peak is 480064, its largest.*scale \(480000\)"
    ):
        run(np.zeros((30000, 4), np.float32))
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(run(x)["y"], x * WEIGHTS)


def test_devices_that_cannot_run_the_code() -> None:
    with pytest.raises(LoadError, match=r"compiled for cuda:90, this GPU \(Fake GPU\) is cuda:80"):
        executable(FakeLibrary(capability=80))
    with pytest.raises(LoadError, match="only compiled"):
        executable(FakeLibrary(), target="hip:gfx942")
    executable(FakeLibrary(capability=89), target="cuda:80")
    broken = FakeLibrary()
    broken.failing["cuInit"] = 100
    with pytest.raises(LoadError, match=r"no usable GPU: CUDA: cuInit: error \(100\); is a GPU there"):
        Driver(broken)


def test_a_failed_launch_names_the_kernel() -> None:
    library = FakeLibrary(scale)
    run = executable(library)
    library.failing["cuLaunchKernel"] = 700
    with pytest.raises(
        ExecutionError,
        match=r"launch of scale: CUDA_ERROR_ILLEGAL_ADDRESS \(700\): an illegal memory access.*new process",
    ):
        run(np.zeros((2, 4), np.float32))


def test_checks_are_looked_at_after_the_run() -> None:
    run = executable(FakeLibrary(scale), checks=("node: index out of range",))
    with pytest.raises(ExecutionError, match="node: index out of range"):  # the first byte of 1.0f is 0
        run(np.zeros((2, 4), np.float32))


def test_without_a_driver() -> None:
    from ds_compiler.runtime.cuda import driver

    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        with pytest.raises(LoadError, match="no CUDA driver"):
            driver.system_driver()
