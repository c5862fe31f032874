"""Which function imports which ATen operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Handler = Callable[..., Any]
"""Called with the `Emitter` and the operator's arguments as ATen names them: tensors as `Value`, sizes as `Dim`."""

_Handler = TypeVar("_Handler", bound=Handler)

_HANDLERS: dict[str, Handler] = {}
_CONDITIONS: dict[str, Callable[[Any], bool]] = {}


def aten(*names: str, when: Callable[[Any], bool] | None = None) -> Callable[[_Handler], _Handler]:
    """Register a handler for operators, each written ``aten.add.Tensor``; `when` tells of a graph's node whether it is
    in the handler's power."""

    def register(handler: _Handler) -> _Handler:
        for name in names:
            if name in _HANDLERS:
                raise ValueError(f"{name} has two handlers")
            _HANDLERS[name] = handler
            if when is not None:
                _CONDITIONS[name] = when
        return handler

    return register


def find_handler(target: Any) -> Handler | None:
    """The handler of an operator overload; None if there is none."""
    return _HANDLERS.get(str(target))


def handles(node: Any) -> bool:
    """Whether the operator of a node can be imported with the node's arguments."""
    name = str(node.target)
    return name in _HANDLERS and (name not in _CONDITIONS or _CONDITIONS[name](node))


def names() -> tuple[str, ...]:
    """All operators that are imported."""
    return tuple(sorted(_HANDLERS))
