"""Graphs of CUDA tensors without a GPU: fake tensors say where they are, a driver that records runs them."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from ds_compiler import CompileError
from ds_compiler.gpu import GpuModel
from ds_compiler.torch import backend
from ds_compiler.torch import program as programs
from tests.runtime.cuda.gpu import pretended


def captured(function: Callable[..., Any], *shapes: tuple[int, ...], device: str = "cuda", first: Any = None) -> Any:
    """The graph of ATen operators of a function of fake tensors on a device."""
    with FakeTensorMode():
        tensors = [torch.empty(shape, device=device) for shape in shapes]
        if first is not None:
            tensors[0] = torch.empty(shapes[0], device=first)
        graph = make_fx(function, decomposition_table=backend.decompositions())(*tensors)
    return graph, tensors


def moved(graph: Any) -> Any:
    """A graph captured on the CPU as one of CUDA tensors: PyTorch's autograd starts no thread for a GPU without one."""
    with FakeTensorMode():
        for node in graph.graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor):
                strides = value.stride()
                node.meta["val"] = torch.empty_strided(value.shape, strides, dtype=value.dtype, device="cuda")
    return graph


def step(x: Any, w: Any) -> Any:
    """A value and its gradient: what AOTAutograd's two graphs hold."""
    with torch.enable_grad():
        w = w.detach().requires_grad_()
        loss = torch.nn.functional.gelu(x @ w).square().mean()
        (gradient,) = torch.autograd.grad(loss, w)
    return loss.detach(), gradient


def test_graphs_of_cuda_tensors_are_compiled_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[programs.Program] = []
    of = programs.Program.of
    monkeypatch.setattr(backend.Program, "of", lambda *a, **k: made.append(of(*a, **k)) or made[-1])  # type: ignore[func-returns-value]
    with pretended() as library:
        graph, tensors = captured(step, (8, 16), (16, 4), device="cpu")
        moved(graph)
        call = backend.compile_graph(graph, tensors, kind="forward", options={"threads": 1})
        (program,) = made
        assert isinstance(program.model, GpuModel) and program.model.program.target == "cuda:90"
        # From here on the device's memory is the host's, as the driver has it.
        program._device = torch.device("cpu")
        monkeypatch.setattr(programs, "current_stream", lambda device: 42)
        memory = torch.ones(8 * 16 + 8)
        x, w = memory[: 8 * 16].view(8, 16), torch.ones(16, 4)
        loss, gradient = call([x, w])
        assert loss.shape == () and gradient.shape == (16, 4) and gradient.dtype == torch.float32
        launches = library.named("cuLaunchKernel")
        assert launches and {a[-3] for a in launches} == {42}, "PyTorch's current stream"
        passed = {ctypes.c_uint64.from_address(int(p)).value for a in launches for p in a[-2]}
        assert gradient.data_ptr() in passed
        for shift, same in ((0, True), (1, False)):
            at = len(library.named("cuLaunchKernel"))
            call([memory[shift : shift + 8 * 16].view(8, 16), w])
            seen = library.named("cuLaunchKernel")[at:]
            found = {ctypes.c_uint64.from_address(int(p)).value for a in seen for p in a[-2]}
            assert not seen or (memory.data_ptr() in found) is same, "a tensor that is not aligned is copied"
        assert not library.named("cuMemcpyHtoDAsync_v2")[1:], "nothing but constants is copied to the device"


def test_a_number_on_the_host_is_an_operand_on_the_gpu() -> None:
    graph, _ = captured(lambda s, x: x * s, (), (4,), first="cpu")
    assert backend.device_of(graph).type == "cuda"


@pytest.mark.parametrize(
    ("function", "first", "message"),
    [
        (lambda x, y: (x + 1, y + 1), "cpu", "several devices"),
        (lambda x, y: (x.cpu(), y), None, "several devices"),
        (lambda x, y: (x + y).sum().cpu(), None, "several devices"),
        (lambda x, y: x + y, "cuda:1", "several devices"),
    ],
)
def test_graphs_on_several_devices_are_pytorchs(function: Any, first: Any, message: str) -> None:
    if first == "cuda:1":
        graph, _ = captured(lambda x: x + 1, (4,), device="cuda:1")
        message = "on the device 'cuda:1' are not compiled yet"
    else:
        graph, _ = captured(function, (4,), (4,), first=first)
    with pytest.raises(CompileError, match=message):
        backend.device_of(graph)


def test_a_target_that_contradicts_the_tensors() -> None:
    graph, tensors = captured(step, (8, 16), (16, 4), device="cpu")
    with pytest.warns(UserWarning, match="target='cuda', but the tensors are on the device 'cpu'"):
        backend.compile_graph(graph, tensors, kind="forward", options={"target": "cuda"})
