"""Learning rates that depend on the number of the step: functions of it, counted from 0, known or traced."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ds_compiler.frontends.trace import namespace as xp

Schedule = Callable[[Any], Any]


def constant(rate: float) -> Schedule:
    """`rate` at all steps."""
    return lambda step: rate


def linear_warmup(after: Schedule | float, steps: int, start: float = 0.0) -> Schedule:
    """From `start` times what `after` begins with, in a straight line over `steps` steps; then `after`, which counts
    its steps from the end of the warm-up.

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"a warm-up takes at least one step, got {steps}")
    schedule = as_schedule(after)

    def rate(step: Any) -> Any:
        step = xp.asarray(step)
        share = start + (1 - start) * _float(step) / steps
        return xp.where(step < steps, share * schedule(0), schedule(xp.maximum(step - steps, 0)))

    return rate


def cosine(rate: float, steps: int, end: float = 0.0) -> Schedule:
    """From `rate` to `end` over `steps` steps along half a cosine, then `end` (Loshchilov & Hutter 2017).

    Raises:
        ValueError: `steps` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"the cosine takes at least one step, got {steps}")

    def at(step: Any) -> Any:
        share = xp.minimum(_float(step) / steps, 1.0)
        return end + (rate - end) * 0.5 * (1 + xp.cos(math.pi * share))

    return at


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """`rate`, times `factor` after each `every` steps.

    Raises:
        ValueError: `every` is less than 1, or `factor` is not positive.
    """
    if every < 1 or factor <= 0:
        raise ValueError(f"every is at least 1 and factor positive, got {every} and {factor}")
    return lambda step: rate * xp.exp(math.log(factor) * _float(xp.floor_divide(xp.asarray(step), every)))


def as_schedule(rate: Schedule | float) -> Schedule:
    """A number as the schedule that is always it."""
    return rate if callable(rate) else constant(rate)


def _float(step: Any) -> Any:
    return xp.astype(xp.asarray(step), xp.float32)
