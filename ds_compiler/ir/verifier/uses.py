"""Whether use lists and operands say the same."""

from __future__ import annotations

from collections.abc import Mapping

from ds_compiler.ir.module import Function, Module
from ds_compiler.ir.operation import Operation
from ds_compiler.ir.value import Value
from ds_compiler.ir.verifier.failing import fail, value_name


def verify_uses(module: Module) -> None:
    """Every operand is in its value's use list, and every use is an operand of an operation in the module."""
    inside = {op: function for function in module.functions.values() for op in function.walk()}
    for op, function in inside.items():
        for index, operand in enumerate(op.operands):
            if (op, index) not in operand.uses:
                fail(function, f"operand {index} is missing in the use list of what it reads", op, index)
        for block in (b for region in op.regions for b in region.blocks):
            for argument in block.arguments:
                _verify_users(function, argument, op, inside)
        for result in op.results:
            _verify_users(function, result, op, inside)
    for function in module.functions.values():
        for value in function.arguments:
            _verify_users(function, value, None, inside)


def _verify_users(function: Function, value: Value, op: Operation | None, inside: Mapping[Operation, Function]) -> None:
    for user, index in value.uses:
        if user not in inside:
            name = value_name(function, value)
            fail(function, f"{name} is still in use by a {user.mnemonic} that stands nowhere in the module", op)
        if index >= len(user.operands) or user.operands[index] is not value:
            name = value_name(function, value)
            fail(function, f"the use list of {name} names operand {index} of a {user.mnemonic} that reads another", op)
