"""`Model`: a network as a class, and as a structure of arrays that traced functions take and return."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ds_compiler.frontends.trace.array import TracedArray
from ds_compiler.frontends.trace.frame import tracing
from ds_compiler.frontends.trace.tree import register_node
from ds_compiler.nn import state
from ds_compiler.runtime.cuda.arrays import DeviceArray

PARAMETER, BUFFER, LOCAL, MODULE = "parameter", "buffer", "local", "module"
"""Roles of attributes: trained; kept and saved; kept only; a part that is a model itself."""


class _Marked:
    """An array on its way to an attribute that is trained."""

    def __init__(self, array: Any) -> None:
        self.array = array if isinstance(array, TracedArray | DeviceArray) else np.asarray(array)


def Parameter(array: Any) -> Any:
    """Mark an array as trained: ``self.weight = Parameter(array)``. Reading the attribute gives the array."""
    return _Marked(array)


@dataclass(frozen=True)
class Form:
    """What a model is besides its arrays: guards compare it, and a new model is built from it.

    Attributes:
        roles: attributes that hold arrays and models, in the order of their registration.
        statics: all other attributes, with containers in them made comparable.
        values: those attributes as they are.
    """

    cls: type[Model]
    roles: tuple[tuple[str, str], ...]
    statics: tuple[Any, ...]
    values: Mapping[str, Any] = field(compare=False)

    def __hash__(self) -> int:
        return hash((self.cls, self.roles))

    def __str__(self) -> str:
        return f"{self.cls.__name__}({', '.join(f'{name}={value!r}' for name, value in self.values.items())})"


class Model:
    """Base class of networks.

    A subclass registers arrays and parts by assigning them in ``__init__`` (`Parameter`, `register_buffer`, other
    models) and defines ``forward``. Names and initial values are PyTorch's, so that state dicts move both ways.

    Calling a model on NumPy arrays compiles ``forward`` once for each form of its arguments. In a traced function a
    model is an argument and a result like any array: all its arrays are inputs of the program, everything else
    (sizes, rates, `training`) is part of it. There `forward` may assign to buffers, as batch normalisation does.
    """

    training: bool
    _roles: dict[str, str]

    def __init__(self) -> None:
        object.__setattr__(self, "_roles", {})
        self.training = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        register_node(cls, _flatten, _unflatten)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model computes; subclasses define it."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward()")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``forward``, compiled if it is not called in a traced function.

        Raises:
            CompileError: it cannot be traced; names the line.
            InputError: arguments do not fit.
        """
        if tracing():
            return self.forward(*args, **kwargs)
        from ds_compiler.nn.call import call

        return call(self, args, kwargs)

    # -- attributes ---------------------------------------------------------------------------------
    def __setattr__(self, name: str, value: Any) -> None:
        roles = self.__dict__.get("_roles")
        if roles is None:
            raise AttributeError(f"{type(self).__name__}.__init__ must call super().__init__() before it sets {name!r}")
        role = roles.get(name)
        if isinstance(value, _Marked):
            roles[name], value = PARAMETER, value.array
        elif isinstance(value, Model):
            roles[name] = MODULE
        elif isinstance(value, np.ndarray | np.generic | TracedArray | DeviceArray):
            if role in (None, MODULE):
                roles[name] = LOCAL
        elif role in (PARAMETER, BUFFER, LOCAL) and value is not None:
            raise TypeError(f"{type(self).__name__}.{name} is a {role}: it takes an array, got {type(value).__name__}")
        elif role == MODULE:
            del roles[name]
        else:
            _check_static(type(self).__name__, name, value)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        self._roles.pop(name, None)
        object.__delattr__(self, name)

    def register_buffer(self, name: str, array: Any, persistent: bool = True) -> None:
        """Add an array that is kept but not trained; `persistent` ones are part of the state dict."""
        self._roles[name] = BUFFER if persistent else LOCAL
        object.__setattr__(self, name, array)

    # -- parts --------------------------------------------------------------------------------------
    def named_children(self) -> Iterator[tuple[str, Model]]:
        """Models that are attributes of this one."""
        for name, role in self._roles.items():
            if role == MODULE:
                yield name, getattr(self, name)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Model]]:
        """This model and all inside of it, with their paths."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Model]:
        """This model and all inside of it."""
        return (module for _, module in self.named_modules())

    def _named_arrays(self, wanted: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for path, module in self.named_modules():
            for name, role in module._roles.items():
                array = module.__dict__[name]
                if role in wanted and array is not None:
                    yield (f"{path}.{name}" if path else name), array

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Arrays that are trained, by their paths (``fc1.weight``)."""
        return self._named_arrays((PARAMETER,))

    def parameters(self) -> Iterator[Any]:
        """Arrays that are trained."""
        return (array for _, array in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Any]]:
        """Arrays that are kept but not trained."""
        return self._named_arrays((BUFFER, LOCAL))

    def buffers(self) -> Iterator[Any]:
        """Arrays that are kept but not trained."""
        return (array for _, array in self.named_buffers())

    def replace(self, arrays: Mapping[str, Any]) -> Self:
        """A model like this one with other arrays at some paths; this one stays as it is.

        Raises:
            KeyError: a path names no array of the model.
        """
        made = self.copy()
        made.assign(arrays)
        return made

    def assign(self, arrays: Mapping[str, Any]) -> None:
        """Set arrays by their paths.

        Raises:
            KeyError: a path names no array of the model.
        """
        modules = dict(self.named_modules())
        for path, array in arrays.items():
            owner, _, name = path.rpartition(".")
            if owner not in modules or modules[owner]._roles.get(name, MODULE) == MODULE:
                raise KeyError(f"{type(self).__name__} has no array {path!r}")
            object.__setattr__(modules[owner], name, array)

    def copy(self) -> Self:
        """A model of the same arrays; assigning to one does not change the other."""
        children, form = _flatten(self)
        made: Self = _unflatten(form, [c.copy() if isinstance(c, Model) else c for c in children])
        return made

    # -- modes --------------------------------------------------------------------------------------
    def train(self, mode: bool = True) -> Self:
        """Switch dropout and batch statistics on (or off), here and in all parts."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch dropout and batch statistics off, here and in all parts."""
        return self.train(False)

    # -- saving -------------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Parameters and persistent buffers by path, in PyTorch's order and under its names."""
        return dict(self._named_arrays((PARAMETER, BUFFER)))

    def load_state_dict(self, arrays: Mapping[str, Any], strict: bool = True) -> state.Mismatch:
        """Copy arrays in: NumPy's, or torch tensors.

        Args:
            strict: every name of either side must be on the other.

        Returns:
            the names that are missing, and those that are unexpected.

        Raises:
            ValueError: names or shapes do not fit; names them all, and nothing is changed.
        """
        return state.load_into(self, arrays, strict)

    def save(self, path: str) -> None:
        """Write the state dict as a safetensors file."""
        state.save_file(self.state_dict(), path)

    def load(self, path: str, strict: bool = True) -> state.Mismatch:
        """Read a safetensors file; see `load_state_dict`."""
        return self.load_state_dict(state.load_file(path), strict)

    def __repr__(self) -> str:
        own = ", ".join(f"{n}={v!r}" for n, v in self._statics().items() if n != "training")
        parts = [f"({n}): {c!r}".replace("\n", "\n  ") for n, c in self.named_children()]
        return f"{type(self).__name__}({own}" + "".join(f"\n  {p}" for p in parts) + ("\n)" if parts else ")")

    def _statics(self) -> dict[str, Any]:
        return {n: v for n, v in self.__dict__.items() if n not in self._roles and n != "_roles"}


def _check_static(owner: str, name: str, value: Any) -> None:
    """Arrays and models in a container would be taken for fixed; say so."""
    inside = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    for item in inside:
        if isinstance(item, Model):
            raise TypeError(f"{owner}.{name} is a {type(value).__name__} of models: use ModuleList or Sequential")
        if isinstance(item, _Marked | np.ndarray | TracedArray | DeviceArray):
            raise TypeError(f"{owner}.{name} is a {type(value).__name__} of arrays: make each an attribute of its own")


def _frozen(value: Any) -> Hashable:
    """A value with its type, containers as tuples, so that equal forms are equal programs."""
    if isinstance(value, list | tuple):
        return (type(value), *map(_frozen, value))
    if isinstance(value, dict):
        return (dict, *((key, _frozen(item)) for key, item in value.items()))
    return (type(value), value)


def _flatten(model: Model) -> tuple[list[Any], Form]:
    statics = model._statics()
    frozen = tuple((name, _frozen(value)) for name, value in statics.items())
    held = model.__dict__
    return [held[n] for n in model._roles], Form(type(model), tuple(model._roles.items()), frozen, statics)


def _unflatten(form: Any, children: Sequence[Any]) -> Any:
    made = object.__new__(form.cls)
    held = made.__dict__
    held["_roles"] = dict(form.roles)
    held.update(zip(held["_roles"], children))
    for name, value in form.values.items():
        held[name] = copy.copy(value) if isinstance(value, list | dict) else value
    return made


register_node(Model, _flatten, _unflatten)
