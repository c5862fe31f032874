"""Models called outside of traced functions, and models given to `ds_compiler.compile`.

What is compiled is ``forward`` with the model as its first argument, so that all models of one class and form share a
program, whatever their arrays hold. Buffers that it assigns to (running statistics) are results, and are set after
the call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from ds_compiler.function import CompiledFunction
from ds_compiler.nn.model import Model


def _functional(cls: type[Model]) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """``forward`` that also returns the buffers that it has set."""

    @functools.wraps(cls.forward)
    def forward(self: Model, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        before = dict(self.named_buffers())
        result = self.forward(*args, **kwargs)
        return result, changed_buffers(self, before)

    return forward


def changed_buffers(model: Model, before: Mapping[str, Any]) -> dict[str, Any]:
    """Buffers that are other arrays than they were."""
    return {path: array for path, array in model.named_buffers() if before.get(path) is not array}


@functools.cache
def _compiled(cls: Hashable) -> CompiledFunction[..., tuple[Any, dict[str, Any]]]:
    assert isinstance(cls, type) and issubclass(cls, Model)
    return CompiledFunction(_functional(cls), {}, None, ())


def call(model: Model, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run ``forward`` on NumPy arrays; set the buffers that it changes."""
    cls: Hashable = type(model)  # type: ignore[assignment]
    result, buffers = _compiled(cls)(model, *args, **kwargs)
    model.assign(buffers)
    return result


class CompiledModule(CompiledFunction[..., Any]):
    """A model whose calls take options of `ds_compiler.compile`; it reads the model's arrays as they are at each call.

    Attributes:
        model: the model.
    """

    def __init__(
        self,
        model: Model,
        options: Mapping[str, Any],
        dynamic: bool | Mapping[str, Any] | None,
        donate: Sequence[str],
    ) -> None:
        self.model = model
        super().__init__(_functional(type(model)), options, dynamic, donate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``model.forward`` of the arguments.

        Raises:
            CompileError, ExecutionError: as for a compiled function.
        """
        result, buffers = super().__call__(self.model, *args, **kwargs)
        self.model.assign(buffers)
        return result
