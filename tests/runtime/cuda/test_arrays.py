"""Arrays on the device, on a driver that records: protocols in and out, order among streams, donation, memory."""

from __future__ import annotations

import gc
import sys
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from ds_compiler.runtime.cuda import dlpack
from ds_compiler.runtime.cuda.arrays import DeviceArray, put
from ds_compiler.runtime.cuda.device import Device
from ds_compiler.runtime.cuda.driver import Driver, OutOfMemory
from ds_compiler.runtime.cuda.executable import GpuExecutable
from ds_compiler.runtime.cuda.plan import GpuProgram
from ds_compiler.runtime.errors import ExecutionError, InputError
from ds_compiler.runtime.manifest import Overwritable
from tests.runtime.cuda.fake import FakeLibrary
from tests.runtime.cuda.test_executable import CODES, WEIGHTS, OnDevice, aligned, program, scale

Array = np.ndarray[Any, Any]


def device(**options: Any) -> tuple[Device, FakeLibrary]:
    library = FakeLibrary(scale, **options)
    return Device(Driver(library)), library


def loaded(on: Device, prog: GpuProgram | None = None) -> GpuExecutable:
    return GpuExecutable(prog or program(), CODES, WEIGHTS.tobytes(), on)


def uploads(library: FakeLibrary) -> int:
    return len(library.named("cuMemcpyHtoDAsync_v2"))


class Capsules:
    """Somebody else's array that speaks DLPack alone."""

    def __init__(self, data: Array, number: int = 0, versioned: bool = False) -> None:
        self.data, self.number, self.versioned = data, number, versioned
        self.shape, self.dtype = data.shape, data.dtype
        self.asked: list[int | None] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.number

    def __dlpack__(self, stream: int | None = None) -> Any:
        self.asked.append(stream)
        address = self.data.ctypes.data
        return dlpack.export_capsule(address, self.shape, self.dtype, self.number, self.data, versioned=self.versioned)


@pytest.mark.parametrize("versioned", [False, True])
def test_dlpack_goes_in_without_a_copy(versioned: bool) -> None:
    on, library = device()
    run = loaded(on)
    x = Capsules(aligned((3, 4)), versioned=versioned)
    x.data[:] = 2
    before = uploads(library)
    y = run(x)["y"]
    assert uploads(library) == before and x.asked == [on.stream]
    np.testing.assert_array_equal(y.numpy(), x.data * WEIGHTS)
    run(x, stream=0)
    assert x.asked[-1] == 1, "the default stream is 1 in this protocol"
    with pytest.raises(InputError, match="is on GPU 1, the program runs on GPU 0"):
        run(Capsules(x.data, number=1))


def test_the_producer_keeps_its_memory_until_the_work_is_done() -> None:
    on, library = device()
    run = loaded(on)
    library.failing["cuEventQuery"] = 600  # not ready
    gc.collect()
    exported = len(dlpack._exported)
    run(Capsules(aligned((3, 4))))
    gc.collect()
    assert len(dlpack._exported) == exported + 1
    del library.failing["cuEventQuery"]
    run(OnDevice(aligned((3, 4))))
    gc.collect()
    assert len(dlpack._exported) == exported


@pytest.mark.parametrize("version", [None, (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.bool_, np.int64])
def test_results_are_read_through_dlpack(version: Any, dtype: Any) -> None:
    on, library = device()
    array = put(on, np.ones((2, 3), dtype))
    assert array.__dlpack_device__() == (dlpack.CUDA, 0)
    found = dlpack.import_capsule(array.__dlpack__(stream=55, max_version=version))
    assert (found.address, found.shape, found.dtype) == (array.address, (2, 3), np.dtype(dtype))
    assert library.ordered()[-1] == (on.stream, 55)
    assert found.strides == (3 * array.dtype.itemsize, array.dtype.itemsize)
    count = len(library.ordered())
    dlpack.import_capsule(array.__dlpack__(stream=-1))
    assert len(library.ordered()) == count
    dlpack.import_capsule(array.__dlpack__())
    assert library.ordered()[-1] == (on.stream, 1)
    with pytest.raises(ValueError, match="stream 0"):
        array.__dlpack__(stream=0)
    with pytest.raises(BufferError, match="not on"):
        array.__dlpack__(dl_device=(dlpack.CUDA, 1))
    copy = dlpack.import_capsule(array.__dlpack__(copy=True))
    assert copy.address != array.address
    with pytest.raises(InputError, match="read before"):
        capsule = array.__dlpack__()
        dlpack.import_capsule(capsule)
        dlpack.import_capsule(capsule)


def test_memory_waits_for_those_who_read_it_elsewhere() -> None:
    on, library = device()
    array = put(on, np.ones((8, 4), np.float32))
    address = array.address
    found = dlpack.import_capsule(array.__dlpack__(stream=55))
    del array
    gc.collect()
    other = on.take(128, on.stream)
    assert other.address != address, "a capsule keeps it"
    del found
    gc.collect()
    count = len(library.ordered())
    assert on.take(128, on.stream).address == address
    assert (55, on.stream) in library.ordered()[count:]


def test_the_cuda_array_interface_orders_streams() -> None:
    on, library = device()
    run = loaded(on)
    x = OnDevice(aligned((3, 4)))
    run(x)
    assert not library.ordered(), "without a stream there is nothing to wait for"
    x.__cuda_array_interface__["stream"] = 9
    run(x)
    assert library.ordered() == [(9, on.stream), (on.stream, 9)], "before, and before the producer writes again"
    x.__cuda_array_interface__["stream"] = 0
    with pytest.raises(InputError, match="stream 0"):
        run(x)
    x.__cuda_array_interface__ |= {"stream": None, "mask": x}
    with pytest.raises(InputError, match="mask"):
        run(x)
    y = put(on, np.ones(3, ml_dtypes.bfloat16))
    assert getattr(y, "__cuda_array_interface__", None) is None


def test_an_axis_of_one_element_has_no_order() -> None:
    on, _ = device()
    run = loaded(on)
    x = OnDevice(aligned((1, 4)), strides=(4, 4))
    np.testing.assert_array_equal(run(x)["y"].numpy(), x.data * WEIGHTS)


class Tensor:
    """What is looked at of PyTorch's tensors."""

    is_cuda = True

    def __init__(self, data: Array, number: int = 0) -> None:
        self.data, self.shape, self.dtype = data, data.shape, f"torch.{data.dtype}"
        self.device = SimpleNamespace(index=number)

    def data_ptr(self) -> int:
        return int(self.data.ctypes.data)

    def is_contiguous(self) -> bool:
        return bool(self.data.flags.c_contiguous)


def test_pytorchs_tensors_run_on_its_current_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    current = SimpleNamespace(cuda_stream=123)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda d: current)))
    on, library = device()
    run = loaded(on)
    x = Tensor(aligned((3, 4)))
    x.data[:] = 3
    y = run(x)["y"]
    assert y.stream == 123 and library.named("cuLaunchKernel")[0][-3] == 123
    np.testing.assert_array_equal(y.numpy(), x.data * WEIGHTS)
    count = len(library.ordered())
    run(x, stream=77)
    assert set(library.ordered()[count:]) == {(123, 77), (77, 123)}
    with pytest.raises(InputError, match="is on GPU 1"):
        run(Tensor(x.data, 1))


def test_results_stay_on_the_device_when_asked_to() -> None:
    on, library = device()
    run = loaded(on)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = run(x, keep=True)["y"]
    assert isinstance(y, DeviceArray) and not library.named("cuMemcpyDtoHAsync_v2")
    before = uploads(library)
    z = run(y)["y"]
    assert uploads(library) == before
    np.testing.assert_array_equal(np.asarray(z), x * WEIGHTS * WEIGHTS)
    assert z.ndim == 2 and z.size == 12 and len(z) == 3 and "float32[3, 4] on cuda:0" in repr(z)


def in_place() -> GpuProgram:
    from dataclasses import replace

    prog = program()
    return replace(prog, manifest=replace(prog.manifest, overwritable=(Overwritable(0, 0),)))


def test_a_donated_array_gives_its_memory_to_the_result() -> None:
    on, library = device()
    run = loaded(on, in_place())
    x = np.full((3, 4), 2, np.float32)
    state: Any = x
    address = 0
    for turn in range(1, 5):
        old = state
        state = run(old, donated=frozenset({0}), keep=True)["y"]
        if turn > 1:
            assert state.address == address
            with pytest.raises(ExecutionError, match="was donated"):
                old.numpy()
        address = state.address
    np.testing.assert_array_equal(state.numpy(), x * WEIGHTS**4)
    assert uploads(library) == 2  # the weights and the first state
    assert len(library.named("cuGraphLaunch")) == 3, "addresses stay, so that a graph can be launched"


def test_what_another_input_reads_is_not_overwritten() -> None:
    from dataclasses import replace

    prog = in_place()
    second = replace(prog.manifest.inputs[0], name="other")
    prog = replace(prog, manifest=replace(prog.manifest, inputs=(*prog.manifest.inputs, second)))
    on, _ = device()
    run = loaded(on, prog)
    x = put(on, np.ones((3, 4), np.float32))
    address = x.address
    y = run(x, x, donated=frozenset({0}), keep=True)["y"]
    assert y.address != address


def test_two_alternating_results_are_two_graphs() -> None:
    on, library = device()
    run = loaded(on)
    x, kept = put(on, np.ones((3, 4), np.float32)), []
    for _ in range(8):
        kept = [*kept[-1:], run(x)["y"]]
    assert len(library.named("cuGraphLaunch")) >= 4
    np.testing.assert_array_equal(kept[0].numpy(), kept[1].numpy())


def test_calls_on_two_streams_follow_each_other() -> None:
    on, library = device()
    run = loaded(on)
    x = OnDevice(aligned((3, 4)))
    run(x, stream=5)
    count = len(library.ordered())
    run(x, stream=6)
    assert (5, 6) in library.ordered()[count:], "both use the same memory for what lies between"


def test_idle_memory_is_returned_before_there_is_none() -> None:
    on, library = device(memory=1 << 20)
    first = put(on, np.zeros(600 << 10, np.uint8))
    del first
    gc.collect()
    assert on.idle_bytes == 600 << 10
    second = put(on, np.zeros(700 << 10, np.uint8))
    assert on.idle_bytes == 0 and second.nbytes == 700 << 10
    with pytest.raises(OutOfMemory, match=r"cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY \(2\)"):
        put(on, np.zeros(700 << 10, np.uint8))
    assert len(library.named("cuMemFree_v2")) == 1
