"""Nested structures of arrays: flattening, and building them again.

Nodes are dicts (keys in sorted order where they sort), lists, tuples, named tuples, dataclasses, None, and classes
registered with `register_node`; everything else is a leaf. A `Structure` is hashable, so it can be part of a guard.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

from ds_compiler.ir import CompileError

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Structure:
    """The form of a tree.

    Attributes:
        node: the class of the node; None for a leaf.
        context: what else building it needs (keys, field names).
        children: structures of the children; `names` says how each is reached in messages (``['w']``, ``.bias``).
    """

    node: type | None
    context: Hashable = ()
    children: tuple[Structure, ...] = ()
    names: tuple[str, ...] = dataclasses.field(default=(), compare=False)
    leaves: int = dataclasses.field(default=1, compare=False)
    _hash: int = dataclasses.field(default=0, compare=False)

    def __post_init__(self) -> None:
        if self.node is not None:
            object.__setattr__(self, "leaves", sum(c.leaves for c in self.children))
        object.__setattr__(self, "_hash", hash((self.node, self.context, self.children)))

    def __hash__(self) -> int:
        return self._hash

    def paths(self, prefix: str = "") -> Iterator[str]:
        """How each leaf is reached."""
        if self.node is None:
            yield prefix
        for name, child in zip(self.names, self.children):
            yield from child.paths(prefix + name)

    def __str__(self) -> str:
        if self.node is None:
            return "*"
        inner = ", ".join(f"{n}: {c}" for n, c in zip(self.names, self.children))
        return f"{self.node.__name__}({inner})"


_LEAF: Final = Structure(None)


@dataclasses.dataclass(frozen=True)
class _Registered:
    flatten: Callable[[Any], tuple[Iterable[Any], Hashable]]
    unflatten: Callable[[Any, Sequence[Any]], Any]


_registered: dict[type, _Registered] = {}


def register_node(
    cls: type,
    flatten: Callable[[Any], tuple[Iterable[Any], Hashable]],
    unflatten: Callable[[Any, Sequence[Any]], Any],
) -> None:
    """Let objects of `cls` be structures of arrays.

    Args:
        flatten: object → (children, context); the context is hashable and compared by guards.
        unflatten: (context, children) → object.

    Raises:
        ValueError: the class is registered already.
    """
    if cls in _registered:
        raise ValueError(f"{cls.__name__} is registered twice")
    _registered[cls] = _Registered(flatten, unflatten)


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Leaves in order, and the form of what held them."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Any]) -> Structure:
    cls = type(tree)
    if tree is None:
        return Structure(type(None), leaves=0)
    if cls in _registered:
        children, context = _registered[cls].flatten(tree)
        children = list(children)
        return _node(cls, context, children, [f"[{i}]" for i in range(len(children))], leaves)
    if isinstance(tree, dict):
        try:
            keys = sorted(tree)
        except TypeError:
            keys = list(tree)
        return _node(cls, tuple(keys), [tree[k] for k in keys], [f"[{k!r}]" for k in keys], leaves)
    if isinstance(tree, tuple) and hasattr(cls, "_fields"):
        return _node(cls, (), list(tree), [f".{f}" for f in cls._fields], leaves)
    if cls in (list, tuple):
        return _node(cls, (), list(tree), [f"[{i}]" for i in range(len(tree))], leaves)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        names = [f.name for f in dataclasses.fields(tree) if f.init]
        return _node(cls, tuple(names), [getattr(tree, n) for n in names], [f".{n}" for n in names], leaves)
    leaves.append(tree)
    return _LEAF


def _node(cls: type, context: Hashable, children: list[Any], names: list[str], leaves: list[Any]) -> Structure:
    return Structure(cls, context, tuple(_flatten(c, leaves) for c in children), tuple(names))


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The tree of form `structure` with `leaves` in their order."""
    return _unflatten(structure, iter(leaves))


def _unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    cls = structure.node
    if cls is None:
        return next(leaves)
    if cls is type(None):
        return None
    children = [_unflatten(child, leaves) for child in structure.children]
    if cls in _registered:
        return _registered[cls].unflatten(structure.context, children)
    if issubclass(cls, dict):
        keys: Any = structure.context
        made = dict(zip(keys, children))
        return made if cls is dict or not issubclass(cls, OrderedDict) else cls(made)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return cls(*children)
    if cls in (list, tuple):
        return cls(children)
    fields: Any = structure.context
    return cls(**dict(zip(fields, children)))


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """`function` of each leaf (and of the leaves at the same places of `others`), in the form of `tree`.

    Raises:
        CompileError: the forms differ.
    """
    leaves, structure = flatten(tree)
    columns = [leaves]
    for other in others:
        more, form = flatten(other)
        if form != structure:
            raise CompileError(f"trees of different forms: {structure} and {form}")
        columns.append(more)
    return unflatten(structure, [function(*row) for row in zip(*columns)])


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves, in order."""
    return flatten(tree)[0]
