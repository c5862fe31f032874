"""Functions, training steps and models compiled for a GPU, on a driver that records and launches nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn, optim
from ds_compiler import numpy as dnp
from ds_compiler.runtime.cuda.arrays import DeviceArray
from tests.runtime.cuda.fake import FakeLibrary
from tests.runtime.cuda.gpu import pretended

Array = np.ndarray[Any, Any]


@pytest.fixture
def gpu() -> Iterator[FakeLibrary]:
    with pretended() as library:
        yield library


def copies(library: FakeLibrary) -> tuple[int, int]:
    return len(library.named("cuMemcpyHtoDAsync_v2")), len(library.named("cuMemcpyDtoHAsync_v2"))


def ones(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def test_results_stay_on_the_device_and_come_back_when_read(gpu: FakeLibrary) -> None:
    @ds.compile(target="cuda")
    def f(x: Any, y: Any) -> Any:
        return {"product": x @ y, "sum": [dnp.sum(x), 7]}

    out = f(ones(4, 8), ones(8, 2))
    assert isinstance(out["product"], DeviceArray) and out["product"].shape == (4, 2) and out["sum"][1] == 7
    before = copies(gpu)
    again = f(out["product"], ones(2, 2))
    assert copies(gpu) == (before[0] + 1, before[1]), "the second argument alone comes from the host"
    assert again["product"].numpy().shape == (4, 2)
    assert copies(gpu)[1] == before[1] + 1


def test_programs_are_kept_and_made_anew_as_on_the_cpu(gpu: FakeLibrary) -> None:
    @ds.compile(target="cuda", dynamic={"x": "n"})
    def f(x: Any, flag: bool = False) -> Any:
        return x * 2 if flag else x + 1

    for size in (3, 5):
        assert f(ones(size, 2)).shape == (size, 2)
    f(ds.device_put(ones(9, 2)))
    assert len(f.programs) == 1
    f(ones(3, 2), True)
    report = f.report()
    assert len(report.programs) == 2 and report.calls == (3, 1)
    assert "flag = True is given, was not" in report.reasons[1]
    assert report.programs[0].target == "cuda:90" and report.programs[0].kernels and "cuda:90" in str(report)
    assert "fusion" in f.ir() and report.programs[0].memory["constants"] >= 0


def test_training_state_lives_on_the_device(gpu: FakeLibrary) -> None:
    class Net(nn.Model):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Any) -> Any:
            return self.norm(dnp.reshape(self.fc(x), (4, 4, 2, 2)))

    optimizer = optim.AdamW(1e-2)

    @ds.compile(target="cuda", donate=("model", "state"))
    def step(model: Any, state: Any, x: Any) -> Any:
        loss, grads = ds.value_and_grad(lambda m: dnp.mean(m(x) ** 2))(model)
        return *optimizer.update(model, grads, state), loss

    model: Any = Net()
    state = optimizer.init(model)
    first, state = ds.device_put((model, state))
    count = len(ds.tree_leaves((first, state)))
    place = first.fc.weight.address
    model, state, loss = step(first, state, ones(16, 8))
    assert model.fc.weight.address == place, "the new weight lies where the old one did"
    with pytest.raises(ds.ExecutionError, match="was donated"):
        first.fc.weight.numpy()
    before = copies(gpu)
    for _ in range(12):
        model, state, loss = step(model, state, ones(16, 8))
    assert copies(gpu) == (before[0] + 12, before[1]), "a batch a step, and nothing else"
    assert len(gpu.named("cuGraphLaunch")) >= 2
    assert isinstance(float(loss), float)
    back = ds.device_get((model, state))
    assert all(isinstance(leaf, np.ndarray) for leaf in ds.tree_leaves(back)) and count == len(ds.tree_leaves(back))
    assert isinstance(optimizer.init(model), type(state))


def test_a_model_compiled_for_the_gpu_takes_its_arrays_from_there(gpu: FakeLibrary) -> None:
    class Net(nn.Model):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Any) -> Any:
            return self.norm(x)

    model: Any = ds.device_put(Net())
    fast = ds.compile(model, target="cuda")
    assert isinstance(fast(ones(8, 4, 3, 3)), DeviceArray)
    before = copies(gpu)
    fast(ones(8, 4, 3, 3))
    assert copies(gpu) == (before[0] + 1, before[1])
    assert isinstance(model.norm.running_mean, DeviceArray)


def test_no_driver() -> None:
    from ds_compiler.runtime.cuda import driver

    driver.system_driver.cache_clear()

    def absent(name: str) -> Any:
        raise OSError(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver.ctypes, "CDLL", absent)
        with pytest.raises(ds.LoadError, match="no CUDA driver"):
            ds.compile(lambda x: x + 1, target="cuda")(ones(2))
        with pytest.raises(ds.LoadError, match="no CUDA driver"):
            ds.device_put(ones(2))


def test_a_gpu_that_is_not_supported() -> None:
    with (
        pretended(FakeLibrary(capability=70)),
        pytest.raises(ds.CompileError, match="this machine's GPU is an Fake GPU: unknown GPU target 'cuda:70'"),
    ):
        ds.compile(lambda x: x + 1, target="cuda")(ones(2))


def test_out_of_memory_names_the_plan() -> None:
    with pretended(FakeLibrary(memory=1 << 20)):
        f = ds.compile(lambda x: dnp.exp(x @ x) @ x, target="cuda")
        with pytest.raises(ds.ExecutionError, match=r"out of memory.*the plan's peak is \d+, its largest buffers: "):
            f(ones(400, 400))


def test_check_nan_reads_the_results(gpu: FakeLibrary) -> None:
    f = ds.compile(lambda x: dnp.log(x), target="cuda", check_nan=True)
    before = copies(gpu)
    f(ones(3))
    assert copies(gpu)[1] > before[1]
