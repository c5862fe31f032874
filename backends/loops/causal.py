"""Whether a function of attention scores hides all keys behind the query."""

from __future__ import annotations

import math

from ds_compiler.backends.loops.ir import Axis, Index, Node, of_axis, walk


def hides_later_keys(scores: Node, total: Node, query: Axis, key: Axis) -> bool:
    """Whether `scores`, a function of `total`, is -inf wherever the key's position is above the query's.

    Seen through further selections of -inf and through additions: -inf plus a number that is not +inf stays -inf.
    """
    while True:
        if scores.op == "add":
            dependent = [o for o in scores.operands if total in walk([o])]
            if len(dependent) != 1:
                return False
            (scores,) = dependent
        elif scores.op == "select":
            condition, on_true, on_false = scores.operands
            if _is_minus_inf(on_false):
                if _orders(condition, key, query, ("le", "ge")):
                    return True
                scores = on_true
            elif _is_minus_inf(on_true):
                if _orders(condition, key, query, ("gt", "lt")):
                    return True
                scores = on_false
            else:
                return False
        else:
            return False


def _is_minus_inf(node: Node) -> bool:
    return node.op == "const" and node.payload == -math.inf


def _orders(condition: Node, first: Axis, second: Axis, kinds: tuple[str, str]) -> bool:
    """``first <kinds[0]> second``, or ``second <kinds[1]> first``."""
    if condition.op not in kinds:
        return False
    places = [_position(o) for o in condition.operands]
    wanted = [of_axis(first), of_axis(second)]
    return places == (wanted if condition.op == kinds[0] else wanted[::-1])


def _position(node: Node) -> Index | None:
    """The index whose value an integer node is."""
    while node.op == "cast" and not node.dtype.is_float and not node.operands[0].dtype.is_float:
        node = node.operands[0]
    return node.index if node.op == "index" else None
