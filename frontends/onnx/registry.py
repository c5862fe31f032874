"""The table of ONNX operators: handlers by domain, name and the opset version from which they hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ds_compiler.frontends.onnx.emitter import Emitter
    from ds_compiler.frontends.onnx.listed import Entry
    from ds_compiler.frontends.onnx.node import Node

Handler: TypeAlias = "Callable[[Emitter, Node], Entry | Sequence[Entry | None]]"

_HANDLERS: dict[tuple[str, str], list[tuple[int, Handler]]] = {}
_TAKE_LISTS: set[tuple[str, str]] = set()


def onnx_op(*names: str, since: int = 1, domain: str = "", lists: bool = False) -> Callable[[Handler], Handler]:
    """Register a handler for operators `names`, from opset version `since` until a later registration.

    A handler appends primitives through the emitter and returns the node's results (one, or a sequence).

    Args:
        lists: it takes sequences and optionals too; for others a node that reads one is an error.
    """

    def register(handler: Handler) -> Handler:
        for name in names:
            versions = _HANDLERS.setdefault((domain, name), [])
            if any(version == since for version, _ in versions):
                raise ValueError(f"operator '{name}' is registered twice for opset {since}")
            versions.append((since, handler))
            if lists:
                _TAKE_LISTS.add((domain, name))
            versions.sort(key=lambda entry: entry[0])
        return handler

    return register


def canonical_domain(domain: str) -> str:
    """The default domain has two spellings."""
    return "" if domain == "ai.onnx" else domain


def find_handler(domain: str, name: str, opset: int) -> Handler | None:
    """The handler that holds at `opset`, if there is one."""
    found = None
    for since, handler in _HANDLERS.get((canonical_domain(domain), name), ()):
        if since <= opset:
            found = handler
    return found


def takes_lists(domain: str, name: str) -> bool:
    """Whether handlers of the operator take sequences and optionals."""
    return (canonical_domain(domain), name) in _TAKE_LISTS


def supported_operators() -> list[tuple[str, str, tuple[int, ...]]]:
    """(domain, operator, opset versions at which its handler changes), sorted."""
    return [(domain, name, tuple(v for v, _ in versions)) for (domain, name), versions in sorted(_HANDLERS.items())]
