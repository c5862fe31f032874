"""Nested structures of arrays: flattening, and building them again.

Nodes are dicts (keys in sorted order where they sort), lists, tuples, named tuples, dataclasses, None, and classes
registered with `register_node`; everything else is a leaf. A `Structure` is hashable, so it can be part of a guard.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Final

import numpy as np

from ds_compiler.ir import CompileError

_NUMBERS = frozenset({bool, int, float, str})


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Structure:
    """The form of a tree; there is one object for each form, so that they are compared by identity.

    Attributes:
        node: the class of the node; None for a leaf.
        context: what else building it needs (keys, field names).
        children: structures of the children; `names` says how each is reached in messages (``['w']``, ``.bias``).
        leaves: how many there are.
    """

    node: type | None
    context: Hashable = ()
    children: tuple[Structure, ...] = ()
    names: tuple[str, ...] = ()
    leaves: int = 1

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
_NONE: Final = Structure(type(None), leaves=0)
_known: Final[dict[tuple[type, Hashable, tuple[Structure, ...]], Structure]] = {}


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


def is_registered(cls: type) -> bool:
    """Whether `register_node` was called for `cls`."""
    return cls in _registered


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """Leaves in order, and the form of what held them."""
    leaves: list[Any] = []
    return leaves, _flatten(tree, leaves)


def _flatten(tree: Any, leaves: list[Any]) -> Structure:
    cls = type(tree)
    if cls is np.ndarray or cls in _NUMBERS:  # the common cases first: this runs at each call of a compiled function
        leaves.append(tree)
        return _LEAF
    if cls is dict:
        try:
            keys = tuple(sorted(tree))
        except TypeError:
            keys = tuple(tree)
        return _node(cls, keys, [_flatten(tree[k], leaves) for k in keys])
    if cls is tuple or cls is list:
        return _node(cls, (), [_flatten(x, leaves) for x in tree])
    if tree is None:
        return _NONE
    if cls in _registered:
        items, context = _registered[cls].flatten(tree)
        return _node(cls, context, [_flatten(x, leaves) for x in items])
    if isinstance(tree, dict):
        return _node(cls, tuple(tree), [_flatten(x, leaves) for x in tree.values()])
    if isinstance(tree, tuple) and hasattr(cls, "_fields"):
        return _node(cls, cls._fields, [_flatten(x, leaves) for x in tree])
    if dataclasses.is_dataclass(cls):
        names = tuple(f.name for f in dataclasses.fields(cls) if f.init)
        return _node(cls, names, [_flatten(getattr(tree, n), leaves) for n in names])
    leaves.append(tree)
    return _LEAF


def _node(cls: type, context: Hashable, children: list[Structure]) -> Structure:
    key = (cls, context, tuple(children))
    found = _known.get(key)
    if found is None:
        count = sum(child.leaves for child in children)
        made = Structure(cls, context, key[2], _child_names(cls, context, len(children)), count)
        found = _known.setdefault(key, made)
    return found


def _child_names(cls: type, context: Any, count: int) -> tuple[str, ...]:
    """How each child is reached."""
    if cls not in _registered and issubclass(cls, dict):
        return tuple(f"[{key!r}]" for key in context)
    if cls not in _registered and cls not in (list, tuple):
        return tuple(f".{name}" for name in context)
    return tuple(f"[{index}]" for index in range(count))


def together(*structures: Structure) -> Structure:
    """The form of a tuple of trees of these forms."""
    return _node(tuple, (), list(structures))


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
