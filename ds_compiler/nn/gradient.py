"""Gradients of a model: by its parameters only, with the buffers that the loss function sets carried out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ds_compiler.nn.call import changed_buffers
from ds_compiler.nn.model import Model


def value_and_grad_of_model(
    compute: Callable[..., Any], function: Callable[..., Any], argument: int, has_aux: bool, args: Any, kwargs: Any
) -> Any:
    """What `ds_compiler.value_and_grad` gives where the argument to differentiate by is a model.

    Args:
        compute: `value_and_grad` for a function of a dict of arrays that returns ``(loss, aux)``.

    Returns:
        ``(loss, gradients)``, or ``((loss, aux), gradients)``; gradients by the parameters' paths. The model's
        buffers are set to what `function` made of them.
    """
    model: Model = args[argument]

    def of_parameters(parameters: dict[str, Any]) -> Any:
        inner = model.replace(parameters)
        before = dict(inner.named_buffers())
        result = function(*args[:argument], inner, *args[argument + 1 :], **kwargs)
        loss, aux = result if has_aux else (result, None)
        return loss, (aux, changed_buffers(inner, before))

    of_parameters.__name__ = getattr(function, "__name__", "function")
    (loss, (aux, buffers)), gradients = compute(of_parameters)(dict(model.named_parameters()))
    model.assign(buffers)
    return ((loss, aux) if has_aux else loss), gradients
