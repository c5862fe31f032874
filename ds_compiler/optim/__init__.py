"""Optimizers as pure functions of structures of arrays, schedules of the learning rate, and what works on gradients.

In:   parameters (a `Model`, or any structure of arrays), gradients in the same form, a state.
Out:  new parameters and a new state, to be returned from the compiled step.
Read: `optimizers`.
"""

from ds_compiler.optim.gradients import accumulate, clip_by_global_norm, global_norm
from ds_compiler.optim.optimizers import SGD, Adam, AdamW, Optimizer, State
from ds_compiler.optim.schedules import Schedule, constant, cosine, linear_warmup, step_decay

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "Schedule",
    "State",
    "accumulate",
    "clip_by_global_norm",
    "constant",
    "cosine",
    "global_norm",
    "linear_warmup",
    "step_decay",
]
