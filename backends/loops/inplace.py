"""Results that may take the memory of an operand."""

from __future__ import annotations

from ds_compiler.backends.loops.ir import Kernel, Reduction, Store, step_nodes, walk


def inplace_results(kernel: Kernel, together: bool = False) -> dict[int, tuple[int, ...]]:
    """Results that may overwrite an input: read only at the place written, and not again afterwards.

    Args:
        together: all of a point's values are computed before the first is stored, so that no store comes before a load.
    """
    if len(kernel.nests) != 1:
        return {}
    (nest,) = kernel.nests
    allowed: dict[int, tuple[int, ...]] = {}
    for position, step in enumerate(nest.steps):
        store = step.keep if isinstance(step, Reduction) else step
        if not isinstance(store, Store) or store.mode != "set":
            continue
        found: list[int] = []
        for number in range(kernel.inputs):
            if kernel.buffers[number].dtype.itemsize != kernel.buffers[store.buffer].dtype.itemsize:
                continue
            split = len(nest.steps) if together else position + 1
            before = [n for s in nest.steps[:split] for n in walk(step_nodes(s)) if n.op == "load"]
            after = [n for s in nest.steps[split:] for n in walk(step_nodes(s)) if n.op == "load"]
            same = all(n.index == store.index for n in before if n.payload == number)
            if same and any(n.payload == number for n in before) and all(n.payload != number for n in after):
                found.append(number)
        result = store.buffer - kernel.inputs
        first = result not in allowed  # a result kept by a reduction is stored twice: both must allow it
        allowed[result] = tuple(i for i in found if first or i in allowed[result])
    return {result: inputs for result, inputs in allowed.items() if inputs}
