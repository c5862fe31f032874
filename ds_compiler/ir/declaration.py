"""How an operation class is declared, and the table of all of them.

    @op("select")
    class Select(Operation):
        condition: Value
        on_true: Value
        on_false: Value
        def infer(self) -> TensorType: ...

`Select(c, a, b)` then builds a detached operation whose `result` has the inferred type; a `Builder`
inserts it. Field annotations decide the role: ``Value`` and ``Value | None`` one operand,
``tuple[Value, ...]`` any number, ``Region`` a region; everything else is an attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, dataclass_transform

from ds_compiler.ir.operation import Field, Operation

_OPERATION_CLASSES: dict[str, tuple[type[Operation], dict[str, Any]]] = {}
_T = TypeVar("_T", bound="Operation")


def operation_class(mnemonic: str) -> tuple[type[Operation], dict[str, Any]] | None:
    """The class that IR text writes as `mnemonic`, and the attributes that the word implies."""
    return _OPERATION_CLASSES.get(mnemonic)


def operation_names() -> list[str]:
    """Every mnemonic, sorted."""
    return sorted(_OPERATION_CLASSES)


@dataclass_transform()
def op(name: str, *, kinds: Iterable[str] = ()) -> Callable[[type[_T]], type[_T]]:
    """Declare an operation class called `name` in text.

    With `kinds`, the class has an attribute ``kind`` and text writes each kind as an operation of its own
    (``exp`` for ``Unary(x, "exp")``).
    """

    def declare(cls: type[_T]) -> type[_T]:
        fields: list[Field] = []
        for base in reversed(cls.__mro__):
            if not issubclass(base, Operation) or base is Operation:
                continue
            for field_name, annotation in inspect.get_annotations(base).items():
                text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
                if text.startswith("ClassVar"):
                    continue
                role = _ROLES.get(text, "attribute")
                required = field_name not in base.__dict__
                fields.append(Field(field_name, role, base.__dict__.get(field_name), required))
        cls.name = name
        cls.fields = tuple(fields)
        for field in fields:
            setattr(cls, field.name, _accessor(field, fields))
        names = {k: {"kind": k} for k in kinds} or {name: {}}
        for mnemonic, implied in names.items():
            if mnemonic in _OPERATION_CLASSES:
                raise ValueError(f"operation '{mnemonic}' is declared twice")
            _OPERATION_CLASSES[mnemonic] = (cls, implied)
        cls.has_kinds = bool(tuple(kinds))
        return cls

    return declare


_ROLES = {"Value": "operand", "Value | None": "optional", "tuple[Value, ...]": "variadic", "Region": "region"}


def _accessor(field: Field, fields: list[Field]) -> property:
    name = field.name
    if field.role == "attribute":
        return property(lambda self: self.attributes[name], doc=f"Attribute `{name}`.")
    if field.role == "region":
        position = [f.name for f in fields if f.role == "region"].index(name)
        return property(lambda self: self.regions[position], doc=f"Region `{name}`.")

    def read(self: Operation) -> Any:
        start, count = self._segments[name]
        if field.role == "variadic":
            return self._operands[start : start + count]
        return self._operands[start] if count else None

    return property(read, doc=f"Operand `{name}`.")
