"""What is done to gradients before an optimizer sees them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.control import scan_sum
from ds_compiler.frontends.trace.frame import located, tracing
from ds_compiler.frontends.trace.tree import tree_leaves, tree_map
from ds_compiler.nn.model import Model


def global_norm(gradients: Any) -> Any:
    """The root of the sum of squares of all elements of all arrays.

    Raises:
        TraceError: there are no arrays.
    """
    squares = [xp.sum(xp.square(leaf)) for leaf in tree_leaves(gradients)]
    if not squares:
        raise located("global_norm: the structure holds no arrays")
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return xp.sqrt(total)


def clip_by_global_norm(gradients: Any, max_norm: float) -> tuple[Any, Any]:
    """Gradients scaled so that their global norm is at most `max_norm` (as ``torch.nn.utils.clip_grad_norm_``), and
    the norm that they had."""
    norm = global_norm(gradients)
    factor = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    return tree_map(lambda leaf: leaf * factor, gradients), norm


def accumulate(value_and_grad: Callable[..., Any], parts: int) -> Callable[..., Any]:
    """A function like `value_and_grad` that takes the batch in `parts` equal parts, one after the other.

    ``loss, grads = accumulate(ds.value_and_grad(loss_fn), 4)(params, x, y)``: the mean of the losses and of the
    gradients of the parts, hence what the whole batch gives if the loss is a mean over it. It is a loop
    of the program, whose code does not grow with `parts`, and only one part's intermediate values exist at a time.

    Args:
        value_and_grad: from ``(params, *batch)`` to ``(loss, gradients)``; arrays in `batch` are cut along their
            first axis.

    Raises:
        ValueError: `parts` is less than 1.
        TraceError: when called: a first axis does not divide into parts.
    """
    if parts < 1:
        raise ValueError(f"a batch has at least one part, got {parts}")

    def whole(parameters: Any, *batch: Any) -> Any:
        slices = tree_map(lambda x: _parts(x, parts), batch)
        if not tree_leaves(batch):
            raise located("accumulate: the batch holds no arrays")
        if tracing():
            total = _looped(value_and_grad, parameters, slices)
        else:
            each = (value_and_grad(parameters, *tree_map(lambda x, i=i: x[i], slices)) for i in range(parts))
            total = functools.reduce(lambda a, b: tree_map(lambda x, y: x + y, a, b), each)
        return tree_map(lambda leaf: leaf / parts, total)

    return whole


def _looped(value_and_grad: Callable[..., Any], parameters: Any, slices: Any) -> Any:
    """The sum over all parts, as a loop of the program. Buffers that a model sets go from part to part."""
    model = parameters if isinstance(parameters, Model) else None

    def body(buffers: dict[str, Any], own: Any) -> Any:
        given = parameters if model is None else model.replace(buffers)
        result = value_and_grad(given, *own)
        return ({} if model is None else dict(given.named_buffers())), result

    buffers, total = scan_sum(body, {} if model is None else dict(model.named_buffers()), slices)
    if model is not None:
        model.assign(buffers)
    return total


def _parts(x: Any, parts: int) -> Any:
    """[n, ...] → [parts, n / parts, ...]."""
    x = xp.asarray(x)
    if not x.ndim or not isinstance(x.shape[0], int) or x.shape[0] % parts:
        raise located(f"accumulate: the first axis of an array of shape {x.shape} is not cut into {parts} equal parts")
    return xp.reshape(x, (parts, x.shape[0] // parts, *x.shape[1:]))
