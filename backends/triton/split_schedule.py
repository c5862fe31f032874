"""Whether a nest's inner axes are cut into parts (`backends.loops.split`): where its own programs leave most of the
GPU idle, and each of them has a long way to go. An estimate, which has not been compared with measurements yet."""

from __future__ import annotations

from ds_compiler.backends.loops.ir import Nest
from ds_compiler.backends.loops.split import can_split, count_nests
from ds_compiler.backends.triton.dot import find_product
from ds_compiler.backends.triton.dot_schedule import MULTIPROCESSORS, choose_parts
from ds_compiler.backends.triton.rows import row_tile
from ds_compiler.ir.dims import product
from ds_compiler.passes.arena import nominal

_LEAST_STEPS = 4  # blocks of inner points that a program must walk over before cutting pays for a further launch
_PART_STEPS = 2  # of each part


def parts_of(nest: Nest) -> int:
    """The number of parts that a nest is to be cut into; 1: it stays whole."""
    if not can_split(nest):
        return 1
    found = find_product(nest)
    if found is not None:
        return choose_parts(*found.sizes, found.dtype)
    dims, block = row_tile(nest)
    programs = max(nominal(product(tuple(d.count for d in dims))), 1)
    steps = -(-nominal(product(tuple(a.extent for a in nest.inner))) // block)
    if steps < _LEAST_STEPS * (count_nests(nest) - 1) or 2 * programs > MULTIPROCESSORS:
        return 1
    return max(min(2 * MULTIPROCESSORS // programs, steps // _PART_STEPS), 1)
