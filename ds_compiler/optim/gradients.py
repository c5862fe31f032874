"""What is done to gradients before an optimizer sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.frame import located
from ds_compiler.frontends.trace.tree import tree_leaves, tree_map


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
    gradients of the parts, hence what the whole batch gives if the loss is a mean over it. Only one part's
    intermediate values exist at a time.

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
        total: Any = None
        for index in range(parts):
            own = tree_map(lambda x, i=index: _part(x, i, parts), batch)
            result = value_and_grad(parameters, *own)
            total = result if total is None else tree_map(lambda a, b: a + b, total, result)
        return tree_map(lambda leaf: leaf / parts, total)

    return whole


def _part(x: Any, index: int, parts: int) -> Any:
    x = xp.asarray(x)
    if not x.ndim or not isinstance(x.shape[0], int) or x.shape[0] % parts:
        raise located(f"accumulate: the first axis of an array of shape {x.shape} is not cut into {parts} equal parts")
    size = x.shape[0] // parts
    return x[index * size : (index + 1) * size]
