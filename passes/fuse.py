"""Group operations that one kernel computes into ``fusion`` operations.

    %2 = dot_general %0, %w                %5 = fusion(%0, %w, %b) strategy=matmul {
    %3 = broadcast %b                          dot_general, broadcast, add, max → yield
    %4 = add %2, %3                 →      }
    %5 = max %4, %zero

Two kinds of groups. A *contraction* (matrix product, convolution, pooling, attention) takes the elementwise
operations that follow it as its epilogue. All other operations form *loop* groups, grown from a last operation
towards its producers: elementwise chains, data movement, and reductions that share one set of axes (softmax and layer
norm come out as one kernel). Growth keeps one rule: nothing is computed more than once per element, except
what is cheaper to compute again than to load.

What stays outside: constants, sizes, `reshape` (a view), control flow.
"""

from __future__ import annotations

from ds_compiler.ir import Block, Builder, Module, Operation
from ds_compiler.ops import Composite, DotGeneral, Fusion, Transpose
from ds_compiler.passes.fusion.contractions import with_epilogue
from ds_compiler.passes.fusion.groups import Grouping
from ds_compiler.passes.fusion.kernels import inline, rewrite
from ds_compiler.passes.fusion.kinds import WHOLE, contraction_strategy, is_copy, is_loop
from ds_compiler.passes.fusion.loops import LoopGrowth
from ds_compiler.passes.manager import register
from ds_compiler.passes.matching import walks_as_one


@register("fuse")
def fuse(module: Module, *, max_ops: int = 64, whole: str = WHOLE) -> None:
    """Form kernels in every block; `max_ops` bounds the operations of one, `whole` names the composites that are one
    kernel each (others become what they mean)."""
    for function in module.functions.values():
        _fuse_block(function.block, max_ops, frozenset(whole.split()))


def _fuse_block(block: Block, max_ops: int, whole: frozenset[str]) -> None:
    for op in block:
        if not isinstance(op, Fusion | Composite):
            for region in op.regions:
                _fuse_block(region.block, max_ops, whole)
    _inline_unknown(block, whole)
    _absorb_transposes(block)
    grouping = Grouping(block, max_ops)
    _form_groups(grouping)
    rewrite(grouping)


def _inline_unknown(block: Block, whole: frozenset[str]) -> None:
    """Composites that no kernel computes as a whole become what they mean."""
    for composite in list(block):
        if isinstance(composite, Composite) and composite.callee not in whole:
            before = Builder(before=composite)
            composite.replace_with(*inline(composite, before.insert, {}))


def _absorb_transposes(block: Block) -> None:
    """Let a matrix product read a transposed operand in place."""
    for op in block:
        if not isinstance(op, DotGeneral):
            continue
        for side in ("lhs", "rhs"):
            source = getattr(op, side).defining_op
            if not isinstance(source, Transpose) or len(getattr(op, f"{side}_free")) > 1:
                continue
            permutation = source.permutation
            contract = getattr(op, f"{side}_contract")
            if walks_as_one(contract) and not walks_as_one([permutation[a] for a in contract]):
                continue
            for role in ("batch", "contract"):
                key = f"{side}_{role}"
                op.attributes[key] = tuple(permutation[a] for a in op.attributes[key])
            op.set_operand(0 if side == "lhs" else 1, source.operand)
            if not source.result.uses:
                source.erase()


def _form_groups(grouping: Grouping) -> None:
    """Contractions first: what follows them is theirs; loops take the rest, from the last operation upwards."""
    group_of = grouping.group_of
    for op in grouping.ops:
        strategy = contraction_strategy(op)
        if strategy is not None and op not in group_of:
            grouping.adopt(with_epilogue(grouping, op, strategy))
    for op in reversed(grouping.ops):
        if op not in group_of and is_loop(op) and (not is_copy(op) or _read_elsewhere(op, grouping)):
            grouping.adopt(LoopGrowth(grouping, op).grow())


def _read_elsewhere(op: Operation, grouping: Grouping) -> bool:
    """A cheap producer needs a kernel of its own only for readers that can't compute it themselves."""
    group_of = grouping.group_of
    return any(user not in group_of or op not in group_of[user].copies for user in op.results[0].users)
