"""What `gpu_check` measures beyond single kernels: attention, launches, networks, training steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from bench.gpu_machine import Machine, Row, relative
from bench.gpu_networks import NETWORKS
from bench.networks import CASES, Case, Transformer, loss_of, torch_loss
from bench.networks import twin as twin_of

#: Rounding of one type, in units of the largest element, that a network's result may differ by.
ALLOWED = {torch.bfloat16: 3e-2, torch.float32: 2e-3}
LENGTHS = (2048, 4096, 8192, 16384)
MANY = 200


def bandwidth(machine: Machine) -> None:
    """Bytes a second of a copy: what memory-bound kernels are measured by."""

    def run() -> Row:
        count = 1 << (10 if machine.dry else 29)
        source = torch.zeros(count, dtype=torch.uint8, device=machine.device)
        target = torch.empty_like(source)
        took = machine.milliseconds(lambda: target.copy_(source))
        machine.bandwidth = 2 * count / took * 1e3
        return {"ok": True, "GB_per_s": machine.bandwidth / 1e9, "ms": took}

    machine.attempt("bandwidth", "copy", run)


def attention(machine: Machine) -> None:
    """`scaled_dot_product_attention`, causal, forward and with its derivative, through the PyTorch backend."""

    def forward(q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def case(size: int, length: int) -> Row:
        rows, heads = max(1, 16384 // length), 2048 // size
        shape = (1, 2, 64, size) if machine.dry else (rows, heads, length, size)
        inputs = [machine.tensor(*shape) for _ in range(3)]
        fast = machine.ours(forward)
        with torch.no_grad():
            error = relative(fast(*inputs), forward(*inputs))
            row: Row = {
                "ours_ms": machine.milliseconds(lambda: fast(*inputs), 5),
                "torch_ms": machine.milliseconds(lambda: forward(*inputs), 5),
            }
        grown = [t.requires_grad_() for t in inputs]
        seed = torch.ones_like(inputs[0])

        def both(function: Callable[..., Any]) -> Any:
            return torch.autograd.grad(function(*grown), grown, seed)

        errors = [relative(a, b) for a, b in zip(both(fast), both(forward), strict=True)]
        row |= {
            "ours_both_ms": machine.milliseconds(lambda: both(fast), 5),
            "torch_both_ms": machine.milliseconds(lambda: both(forward), 5),
        }
        row["forward_ratio"] = row["torch_ms"] / row["ours_ms"]
        backward = max(row["ours_both_ms"] - row["ours_ms"], 1e-6)
        row["backward_ratio"] = max(row["torch_both_ms"] - row["torch_ms"], 1e-6) / backward
        worst = max(error, *errors)
        return {"ok": worst <= 3e-2, "error": worst, **row}

    for size in (64, 128):
        for length in LENGTHS[:1] if machine.dry else LENGTHS:
            machine.attempt("attention", f"head {size}, {length} tokens", lambda s=size, n=length: case(s, n))


def launches(machine: Machine) -> None:
    """A program of many small kernels against the replay of a CUDA graph of the same in PyTorch."""
    import ds_compiler as ds

    width, many = 64, 4 if machine.dry else MANY

    def chain(x: Any, w: Any) -> Any:
        for _ in range(many):
            x = ds.numpy.tanh(x @ w)
        return x

    def in_torch(x: Any, w: Any) -> Any:
        for _ in range(many):
            x = torch.tanh(x @ w)
        return x

    def run() -> Row:
        x, w = (machine.tensor(width, width, dtype=torch.float32) for _ in range(2))
        given = [machine.given(t) for t in (x, w)]
        function: Any = ds.compile(chain, target="cuda")
        result = function(*given)
        error = 0.0 if machine.dry else relative(torch.from_dlpack(result), in_torch(x, w))
        replay = lambda: in_torch(x, w)  # noqa: E731
        if not machine.dry:
            graph = torch.cuda.CUDAGraph()
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                in_torch(x, w)
            torch.cuda.current_stream().wait_stream(side)
            with torch.cuda.graph(graph):
                in_torch(x, w)
            replay = graph.replay
        ours, theirs = machine.milliseconds(lambda: function(*given)), machine.milliseconds(replay)
        begin = time.perf_counter()
        for _ in range(20):
            function(*given)
        host = (time.perf_counter() - begin) / 20 * 1e3
        machine.synchronize()
        return {"ok": error <= 1e-3, "error": error, "ours_ms": ours, "torch_graph_ms": theirs, "host_ms": host}

    machine.attempt("launches", f"{many} kernels", run)


def networks(machine: Machine) -> None:
    """Inference of `NETWORKS` in bf16 and f32: ours and eager for all, then Inductor, its slow mode last."""
    kinds = (torch.bfloat16, torch.float32)

    def prepared(name: str, dtype: Any) -> tuple[Any, Any]:
        torch.manual_seed(0)
        network = NETWORKS[name]
        module = network.make(machine.dry).eval().to(machine.device)
        x = network.inputs(machine.dry).to(machine.device)
        return module.to(dtype), x.to(dtype) if x.is_floating_point() else x

    def ours(name: str, dtype: Any) -> Row:
        module, x = prepared(name, dtype)
        with torch.no_grad():
            expected = copy.deepcopy(module).float()(x.float() if x.is_floating_point() else x)
            eager_error = relative(module(x), expected)
            fast = machine.ours(module)
            begin = time.perf_counter()
            got = fast(x)
            machine.synchronize()
            compiled = time.perf_counter() - begin
            error = relative(got, expected)
            row = {
                "ours_ms": machine.milliseconds(lambda: fast(x)),
                "eager_ms": machine.milliseconds(lambda: module(x)),
            }
        ok = error <= max(2 * eager_error, ALLOWED[dtype])
        row |= {"error": error, "eager_error": eager_error, "compile_s": compiled}
        return {"ok": ok, **row, "eager_ratio": row["eager_ms"] / row["ours_ms"]}

    def theirs(name: str, dtype: Any, mode: str | None) -> Row:
        module, x = prepared(name, dtype)
        with torch.no_grad():
            fast = machine.compiled(module, mode)
            fast(x)
            return {"ok": True, "ms": machine.milliseconds(lambda: fast(x))}

    every = [(name, dtype) for dtype in kinds for name in NETWORKS]
    for name, dtype in every:
        machine.attempt("networks", f"{name} {_short(dtype)}", lambda n=name, d=dtype: ours(n, d), 15)
    for mode, needs in ((None, 45.0), ("max-autotune", 90.0)):
        label = "inductor" if mode is None else mode
        for name, dtype in every:
            machine.attempt(label, f"{name} {_short(dtype)}", lambda n=name, d=dtype, m=mode: theirs(n, d, m), needs)


def training(machine: Machine) -> None:
    """A step in bf16, AdamW included: `ds.compile` of all of it, and PyTorch's engines on the twin network."""
    import ml_dtypes

    import ds_compiler as ds
    from ds_compiler import nn, optim

    def narrow(x: Any) -> Any:
        kind = ml_dtypes.bfloat16
        return x.astype(kind) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x

    def start(name: str) -> tuple[Any, Any, Any]:
        nn.seed(0)
        case = _small() if machine.dry else CASES[name]
        x, y = case.batch(0)
        return ds.tree_map(narrow, case.make()), x, y

    def ours(name: str) -> Row:
        model, x, y = start(name)
        optimizer = optim.AdamW(1e-3)

        @ds.compile(target="cuda", donate=("model", "state"))
        def step(model: Any, state: Any, x: Any, y: Any) -> Any:
            loss, grads = ds.value_and_grad(loss_of)(model, x, y)
            return *optimizer.update(model, grads, state), loss

        model, state, x, y = ds.device_put((model, optimizer.init(model), x, y))
        held = [model, state]
        losses = []

        def run() -> None:
            held[0], held[1], loss = step(held[0], held[1], x, y)
            losses.append(loss)
            del losses[1:-1]  # a loss that nobody reads is memory

        begin = time.perf_counter()
        run()
        first = float(losses[0])
        compiled = time.perf_counter() - begin
        took = machine.milliseconds(run)
        last = float(losses[-1])
        ok = machine.dry or (np.isfinite(last) and last < first)
        return {"ok": bool(ok), "ms": took, "compile_s": compiled, "first_loss": first, "last_loss": last}

    def theirs(name: str, wrap: Callable[[Any], Any]) -> Row:
        model, x, y = start(name)
        module = twin_of(_small() if machine.dry else CASES[name], ds.tree_map(_wide, model)).to(
            machine.device, torch.bfloat16
        )
        inputs, targets = (torch.from_numpy(a.copy()).to(machine.device) for a in (x, y))
        optimizer = torch.optim.AdamW(module.parameters(), 1e-3, fused=not machine.dry)
        loss_function = wrap(lambda: torch_loss(module, inputs, targets))
        losses = []

        def run() -> None:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_function()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            del losses[1:-1]

        run()
        took = machine.milliseconds(run)
        return {"ok": True, "ms": took, "first_loss": float(losses[0]), "last_loss": float(losses[-1])}

    engines: dict[str, tuple[Callable[[str], Row], float]] = {
        "ds.compile": (ours, 15),
        "eager": (lambda n: theirs(n, lambda f: f), 5),
        "torch.compile ds": (lambda n: theirs(n, machine.ours), 30),
        "inductor": (lambda n: theirs(n, machine.compiled), 45),
        "max-autotune": (lambda n: theirs(n, lambda f: machine.compiled(f, "max-autotune")), 90),
    }
    for engine, (run, needs) in engines.items():
        for name in ("transformer", "gpt2"):
            machine.attempt("training", f"{name} bf16, {engine}", lambda n=name, r=run: r(n), needs)


def _small() -> Case:
    """What stands for all cases when the script is tried out."""

    def twin() -> Any:
        from bench.torch_networks import Transformer as Twin

        return Twin(32, 16, 2, 1, 8)

    ids = np.arange(18).reshape(2, 9)
    return Case(lambda: Transformer(32, 16, 2, 1, 8), lambda step: (ids[:, :-1], ids[:, 1:]), twin)


def _wide(x: Any) -> Any:
    return x.astype(np.float32) if isinstance(x, np.ndarray) and x.dtype.kind == "V" else x


def _short(dtype: Any) -> str:
    return "bf16" if dtype == torch.bfloat16 else "f32"
