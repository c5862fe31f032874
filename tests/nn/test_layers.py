"""Layers, functions and losses against PyTorch: results and all gradients, with the same parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ds_compiler as ds
from ds_compiler import nn

torch = pytest.importorskip("torch", reason="PyTorch is the reference")
F = torch.nn.functional
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((4, 6, 9, 8)).astype(np.float32)
ROWS = RANDOM.standard_normal((5, 7, 6)).astype(np.float32)

LAYERS: dict[str, tuple[Callable[[], Any], Callable[[], Any], Any]] = {
    "linear": (lambda: nn.Linear(6, 4), lambda: torch.nn.Linear(6, 4), ROWS),
    "linear without bias": (lambda: nn.Linear(6, 4, bias=False), lambda: torch.nn.Linear(6, 4, bias=False), ROWS),
    "conv": (lambda: nn.Conv2d(6, 5, 3), lambda: torch.nn.Conv2d(6, 5, 3), IMAGES),
    "conv strided": (
        lambda: nn.Conv2d(6, 8, (3, 2), 2, (1, 0), groups=2),
        lambda: torch.nn.Conv2d(6, 8, (3, 2), 2, (1, 0), groups=2),
        IMAGES,
    ),
    "conv same": (
        lambda: nn.Conv2d(6, 3, (4, 3), padding="same", dilation=2, bias=False),
        lambda: torch.nn.Conv2d(6, 3, (4, 3), padding="same", dilation=2, bias=False),
        IMAGES,
    ),
    "depthwise": (
        lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
        lambda: torch.nn.Conv2d(6, 6, 3, padding=1, groups=6),
        IMAGES,
    ),
    "batch norm": (lambda: nn.BatchNorm2d(6), lambda: torch.nn.BatchNorm2d(6), IMAGES),
    "batch norm without statistics": (
        lambda: nn.BatchNorm2d(6, affine=False, track_running_stats=False),
        lambda: torch.nn.BatchNorm2d(6, affine=False, track_running_stats=False),
        IMAGES,
    ),
    "layer norm": (lambda: nn.LayerNorm(6), lambda: torch.nn.LayerNorm(6), ROWS),
    "layer norm of two axes": (lambda: nn.LayerNorm((7, 6)), lambda: torch.nn.LayerNorm((7, 6)), ROWS),
    "layer norm without bias": (
        lambda: nn.LayerNorm(6, eps=1e-3, bias=False),
        lambda: torch.nn.LayerNorm(6, eps=1e-3, bias=False),
        ROWS,
    ),
    "rms norm": (lambda: nn.RMSNorm(6), lambda: torch.nn.RMSNorm(6), ROWS),
    "relu": (nn.ReLU, torch.nn.ReLU, ROWS),
    "gelu": (nn.GELU, torch.nn.GELU, ROWS),
    "gelu tanh": (lambda: nn.GELU("tanh"), lambda: torch.nn.GELU("tanh"), ROWS),
    "silu": (nn.SiLU, torch.nn.SiLU, ROWS),
    "tanh": (nn.Tanh, torch.nn.Tanh, ROWS),
    "flatten": (nn.Flatten, torch.nn.Flatten, IMAGES),
    "max pool": (lambda: nn.MaxPool2d(2), lambda: torch.nn.MaxPool2d(2), IMAGES),
    "max pool padded": (lambda: nn.MaxPool2d(3, 2, 1), lambda: torch.nn.MaxPool2d(3, 2, 1), IMAGES),
    "average pool": (lambda: nn.AvgPool2d((3, 2)), lambda: torch.nn.AvgPool2d((3, 2)), IMAGES),
    "average pool padded": (
        lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        lambda: torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        IMAGES,
    ),
    "global pool": (lambda: nn.AdaptiveAvgPool2d(1), lambda: torch.nn.AdaptiveAvgPool2d(1), IMAGES),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((3, 4)), lambda: torch.nn.AdaptiveAvgPool2d((3, 4)), IMAGES),
}


def close(ours: Any, theirs: Any, what: str = "") -> None:
    expected = theirs.detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6 * max(1.0, np.abs(expected).max()), err_msg=what)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    ours, theirs, x = LAYERS[name][0](), LAYERS[name][1](), LAYERS[name][2]
    theirs.load_state_dict({n: torch.tensor(np.asarray(a)) for n, a in ours.state_dict().items()})
    given = torch.tensor(x, requires_grad=True)
    y = theirs(given)
    weights = RANDOM.standard_normal(tuple(y.shape)).astype(np.float32)
    (y * torch.tensor(weights)).sum().backward()

    def loss(model: Any, x: Any) -> Any:
        result = model(x)
        return ds.numpy.sum(result * weights), result

    (_, result), grads = ds.value_and_grad(loss, has_aux=True)(ours, x)
    close(result, y)
    for parameter, tensor in theirs.named_parameters():
        close(grads[parameter], tensor.grad, parameter)
    by_input = ds.grad(loss, argnums=1, has_aux=True)(ours, x)[0]
    close(by_input, given.grad, "input")
    ours(x)
    for buffer, tensor in theirs.named_buffers():
        close(dict(ours.named_buffers())[buffer], tensor, buffer)


@pytest.mark.parametrize("name", ["batch norm"])
def test_layer_in_evaluation(name: str) -> None:
    ours, theirs, x = LAYERS[name][0](), LAYERS[name][1](), LAYERS[name][2]
    for _ in range(2):
        close(ours(x), theirs(torch.tensor(x)))
    close(ours.eval()(x), theirs.eval()(torch.tensor(x)))


def test_embedding_adds_up_gradients_of_equal_rows() -> None:
    ours, theirs = nn.Embedding(5, 3), torch.nn.Embedding(5, 3)
    theirs.load_state_dict({"weight": torch.tensor(ours.weight)})
    ids = np.array([[0, 4, 4], [1, 0, 4]])
    theirs(torch.tensor(ids)).square().sum().backward()
    grads = ds.grad(lambda m: ds.numpy.sum(ds.numpy.square(m(ids))))(ours)
    close(ours(ids), theirs(torch.tensor(ids)))
    close(grads["weight"], theirs.weight.grad)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("crossed", [False, True])
def test_attention(causal: bool, crossed: bool) -> None:
    ours = nn.MultiHeadAttention(12, 3, causal=causal)
    theirs = torch.nn.MultiheadAttention(12, 3, batch_first=True)
    theirs.load_state_dict({n: torch.tensor(a) for n, a in ours.state_dict().items()})
    x, other = (RANDOM.standard_normal((2, n, 12)).astype(np.float32) for n in (5, 7))
    context = other if crossed else x
    hidden = torch.ones(5, context.shape[1]).triu(1).bool() if causal else None
    y, _ = theirs(*map(torch.tensor, (x, context, context)), attn_mask=hidden)
    y.square().sum().backward()
    grads = ds.grad(lambda m: ds.numpy.sum(ds.numpy.square(m(x, other if crossed else None))))(ours)
    close(ours(x, other if crossed else None), y)
    for name, tensor in theirs.named_parameters():
        close(grads[name], tensor.grad, name)


@pytest.mark.parametrize("rows", [1, 2])
def test_attention_of_one_row(rows: int) -> None:
    """A batch of one adds an axis of size 1 to every reshape into heads."""
    ours = nn.MultiHeadAttention(32, 4, causal=True, rotary_base=100.0, bias=False)
    x = RANDOM.standard_normal((rows, 16, 32)).astype(np.float32)
    three = np.concatenate([x, x, x])
    np.testing.assert_allclose(ours(x), ours(three)[:rows], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["bool", "added"])
def test_attention_masks(kind: str) -> None:
    q, k, v = (RANDOM.standard_normal((2, 3, n, 4)).astype(np.float32) for n in (5, 6, 6))
    mask = RANDOM.standard_normal((2, 1, 5, 6)).astype(np.float32)
    given = mask > -1 if kind == "bool" else mask
    theirs = F.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)), attn_mask=torch.tensor(given))
    close(nn.scaled_dot_product_attention(q, k, v, given), theirs)


def test_rotary_turns_pairs_by_their_position() -> None:
    x = RANDOM.standard_normal((1, 2, 5, 6)).astype(np.float32)
    pairs = x[..., :3].astype(np.float64) + 1j * x[..., 3:]
    angles = np.arange(2, 7)[:, None] * 100.0 ** (-np.arange(3) / 3)
    turned = pairs * np.exp(1j * angles)
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(nn.rotary(x, 100.0, offset=2), expected, rtol=1e-5, atol=1e-6)


LOGITS = RANDOM.standard_normal((6, 5)).astype(np.float32) * 3
CLASSES = np.array([0, 4, 2, 2, -100, 1])
UNIT = RANDOM.random((6, 5)).astype(np.float32)
SHARES = UNIT / UNIT.sum(1, keepdims=True)
LOSSES: dict[str, tuple[Callable[..., Any], Callable[..., Any], Any]] = {
    "cross entropy": (nn.cross_entropy, F.cross_entropy, CLASSES),
    "cross entropy smoothed": (
        lambda x, t: nn.cross_entropy(x, t, label_smoothing=0.1),
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
        CLASSES,
    ),
    "cross entropy ignoring": (
        lambda x, t: nn.cross_entropy(x, t, ignore_index=2, reduction="sum"),
        lambda x, t: F.cross_entropy(x, t, ignore_index=2, reduction="sum"),
        np.abs(CLASSES % 5),
    ),
    "cross entropy of shares": (
        lambda x, t: nn.cross_entropy(x, t, label_smoothing=0.2),
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.2),
        SHARES,
    ),
    "nll": (lambda x, t: nn.nll_loss(nn.log_softmax(x), t), lambda x, t: F.nll_loss(F.log_softmax(x, -1), t), CLASSES),
    "mse": (nn.mse_loss, F.mse_loss, UNIT),
    "l1": (nn.l1_loss, F.l1_loss, UNIT),
    "l1 of equals": (nn.l1_loss, F.l1_loss, LOGITS),
    "bce": (nn.bce_with_logits, F.binary_cross_entropy_with_logits, UNIT),
    "bce sum": (
        lambda x, t: nn.bce_with_logits(x, t, "sum"),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="sum"),
        UNIT,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [1.0, 0.0, 100.0])
def test_loss(name: str, scale: float) -> None:
    ours, theirs, target = LOSSES[name]
    x = LOGITS * np.float32(scale)
    given = torch.tensor(x, requires_grad=True)
    expected = theirs(given, torch.tensor(target))
    expected.backward()
    loss, grad = ds.value_and_grad(ours)(x, target)
    close(loss, expected)
    close(grad, given.grad)


def test_losses_of_unsigned_classes() -> None:
    signed = np.abs(CLASSES % 5)
    np.testing.assert_array_equal(nn.cross_entropy(LOGITS, signed.astype(np.uint8)), nn.cross_entropy(LOGITS, signed))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: nn.cross_entropy(LOGITS, CLASSES[:3]),
            r"targets are int64 of shape \(3,\), expected integers of shape",
        ),
        (lambda: nn.mse_loss(LOGITS, LOGITS[:1]), r"predictions have shape \(6, 5\), targets \(1, 5\)"),
        (lambda: nn.l1_loss(LOGITS, LOGITS, "max"), "reduction is 'mean', 'sum' or 'none', not 'max'"),
        (lambda: nn.Conv2d(3, 2, 3)(IMAGES), "weight has 3 input channels in each of 1 groups, input has 6"),
        (lambda: nn.BatchNorm2d(3)(IMAGES), r"takes \[batch, 3, height, width\], got \(4, 6, 9, 8\)"),
        (lambda: nn.MaxPool2d(2, padding=2)(IMAGES), "is more than half of the window"),
        (lambda: nn.AdaptiveAvgPool2d(2)(IMAGES), r"sizes \(9, 8\) do not divide into \(2, 2\) equal parts"),
        (lambda: nn.MultiHeadAttention(4, 2)(ROWS), r"takes \[batch, positions, 4\], got \(5, 7, 6\)"),
        (lambda: nn.gelu(ROWS, "fast"), "approximate is 'none' or 'tanh', not 'fast'"),
    ],
)
def test_wrong_use_is_explained(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ds.CompileError, match=message):
        call()
