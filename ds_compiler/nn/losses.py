"""Losses, with PyTorch's definitions and defaults."""

from __future__ import annotations

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.array import ArrayLike, TracedArray
from ds_compiler.frontends.trace.frame import located
from ds_compiler.frontends.trace.public import public
from ds_compiler.nn.functional import log_softmax, softplus


def _reduced(losses: TracedArray, reduction: str) -> TracedArray:
    if reduction == "mean":
        return xp.mean(losses)
    if reduction == "sum":
        return xp.sum(losses)
    if reduction == "none":
        return losses
    raise located(f"reduction is 'mean', 'sum' or 'none', not {reduction!r}")


def _same_shape(name: str, x: ArrayLike, target: ArrayLike) -> tuple[TracedArray, TracedArray]:
    x, target = xp.asarray(x), xp.asarray(target)
    if x.shape != target.shape:
        raise located(f"{name}: predictions have shape {x.shape}, targets {target.shape}")
    return x, target


@public
def mse_loss(x: ArrayLike, target: ArrayLike, reduction: str = "mean") -> TracedArray:
    """Squared differences."""
    x, target = _same_shape("mse_loss", x, target)
    return _reduced(xp.square(x - target), reduction)


@public
def l1_loss(x: ArrayLike, target: ArrayLike, reduction: str = "mean") -> TracedArray:
    """Absolute differences."""
    x, target = _same_shape("l1_loss", x, target)
    return _reduced(xp.abs(x - target), reduction)


@public
def binary_cross_entropy_with_logits(x: ArrayLike, target: ArrayLike, reduction: str = "mean") -> TracedArray:
    """``-t log(sigmoid(x)) - (1-t) log(1-sigmoid(x))`` for targets in [0, 1], without overflow."""
    x, target = _same_shape("binary_cross_entropy_with_logits", x, target)
    return _reduced(softplus(x) - x * target, reduction)


bce_with_logits = binary_cross_entropy_with_logits


def _picked(log_probabilities: TracedArray, target: TracedArray) -> TracedArray:
    """Elements at `target` of the last axis. Comparing positions costs a pass over what is read anyway, and the
    derivative is elementwise too; gathering would make it a scatter."""
    count = log_probabilities.shape[-1]
    hit = xp.expand_dims(target, axis=-1) == xp.arange(count, dtype=target.dtype)
    return xp.sum(xp.where(hit, log_probabilities, 0), axis=-1)


def _classes(name: str, x: ArrayLike, target: ArrayLike, axis: int) -> tuple[TracedArray, TracedArray]:
    x, target = xp.asarray(x), xp.asarray(target)
    if not x.ndim:
        raise located(f"{name}: needs an axis of classes")
    x = xp.moveaxis(x, axis, -1)
    if target.shape != x.shape[:-1] or target.dtype.kind not in "iu":
        raise located(
            f"{name}: targets are {target.dtype} of shape {target.shape}, expected integers of shape {x.shape[:-1]}",
            help="targets are class numbers, one for each position outside of the axis of classes",
        )
    return x, target


def _negative_likelihood(
    log_probabilities: TracedArray, target: TracedArray, ignore_index: int, smoothing: float, reduction: str
) -> TracedArray:
    losses = -_picked(log_probabilities, target)
    if smoothing:
        losses = (1 - smoothing) * losses - smoothing * xp.mean(log_probabilities, axis=-1)
    if ignore_index < 0 and target.dtype.kind == "u":
        counted = xp.full_like(target, True, dtype=xp.bool)
    else:
        counted = target != ignore_index
    losses = xp.where(counted, losses, 0)
    if reduction != "mean":
        return _reduced(losses, reduction)
    return xp.sum(losses) / xp.sum(counted.astype(losses.dtype))


@public
def nll_loss(
    log_probabilities: ArrayLike,
    target: ArrayLike,
    ignore_index: int = -100,
    reduction: str = "mean",
    axis: int = -1,
) -> TracedArray:
    """Minus the log-probability of each target; targets that are `ignore_index` count for nothing, in the mean too."""
    x, target = _classes("nll_loss", log_probabilities, target, axis)
    return _negative_likelihood(x, target, ignore_index, 0.0, reduction)


@public
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    axis: int = -1,
) -> TracedArray:
    """`nll_loss` of `log_softmax`.

    Args:
        logits: [..., classes], or with the classes on `axis` (PyTorch's is 1).
        target: class numbers [...], or probabilities in the shape of `logits` (then nothing is ignored).
        label_smoothing: share of each target that is spread over all classes.

    Raises:
        CompileError: shapes do not fit.
    """
    x, wanted = xp.asarray(logits), xp.asarray(target)
    if wanted.dtype.kind == "f" and wanted.shape == x.shape:
        log_probabilities = log_softmax(x, axis)
        spread = (1 - label_smoothing) * wanted + label_smoothing / xp.asarray(x.shape[axis], dtype=x.dtype)
        return _reduced(-xp.sum(spread * log_probabilities, axis=axis), reduction)
    x, wanted = _classes("cross_entropy", x, wanted, axis)
    return _negative_likelihood(log_softmax(x), wanted, ignore_index, label_smoothing, reduction)
