"""SGD, Adam, AdamW: PyTorch's formulas on structures of arrays.

An optimizer holds numbers only. ``state = optimizer.init(params)`` and
``params, state = optimizer.update(params, grads, state)`` are functions without side effects; in a compiled step they
are elementwise code on arrays, one kernel for each parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ds_compiler.frontends.trace import namespace as xp
from ds_compiler.frontends.trace.frame import located
from ds_compiler.frontends.trace.tree import flatten, unflatten
from ds_compiler.nn.model import Model
from ds_compiler.optim.schedules import Schedule, as_schedule
from ds_compiler.runtime.cuda.arrays import DeviceArray


class State(NamedTuple):
    """What an optimizer keeps between steps.

    Attributes:
        step: updates made so far.
        moments: structures like the parameters, as many as the method needs.
    """

    step: Any
    moments: tuple[Any, ...]


class Optimizer:
    """The part that all methods share; a method defines `moments` and `_updated`.

    Args:
        rate: the learning rate, or a function of the step's number.
    """

    def __init__(self, rate: Schedule | float) -> None:
        if not callable(rate) and rate < 0:
            raise ValueError(f"the learning rate is {rate}")
        self.rate = rate

    @property
    def moments(self) -> int:
        """How many structures like the parameters the state holds."""
        return 0

    def init(self, params: Any) -> State:
        """The state before the first step."""
        leaves, form = flatten(_trained(params))
        zeros = (unflatten(form, [_zeros(leaf) for leaf in leaves]) for _ in range(self.moments))
        return State(np.zeros((), np.int32), tuple(zeros))

    def update(self, params: Any, grads: Any, state: State | None = None) -> Any:
        """Parameters and state after a step.

        Args:
            params: a `Model`, or any structure of arrays.
            grads: in the same form; of a model by name, as `value_and_grad` gives them.
            state: from `init` or the last update; a method without any (SGD at a constant rate, without momentum)
                may do without.

        Returns:
            ``(params, state)``; without a state, `params` alone.

        Raises:
            TraceError: the forms differ, or a state is needed.
        """
        name = type(self).__name__
        if state is None and (self.moments or callable(self.rate)):
            raise located(
                f"{name}.update needs a state",
                help="state = optimizer.init(params), then params, state = optimizer.update(params, grads, state)",
            )
        given = State(np.zeros((), np.int32), ()) if state is None else state
        weights, form = flatten(_trained(params))
        slopes, found = flatten(_trained(grads))
        if found != form:
            raise located(f"{name}: gradients have the form {found}, parameters {form}")
        moments = [flatten(m)[0] for m in given.moments]
        if len(moments) != self.moments or any(len(m) != len(weights) for m in moments):
            raise located(f"{name}: the state is not of these parameters", help="make it with optimizer.init(params)")
        scalars = self._scalars(given.step, as_schedule(self.rate)(given.step))
        rows = [self._updated(p, g, m, scalars) for p, g, *m in zip(weights, slopes, *moments)]
        columns = [unflatten(form, column) for column in zip(*rows)]
        made = params.replace(columns[0]) if isinstance(params, Model) else columns[0]
        return made if state is None else (made, State(given.step + 1, tuple(columns[1:])))

    def _scalars(self, step: Any, rate: Any) -> Sequence[Any]:
        """What is the same for all parameters."""
        return (rate,)

    def _updated(self, p: Any, g: Any, moments: Sequence[Any], scalars: Sequence[Any]) -> Sequence[Any]:
        """The new parameter, then its new moments."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"


def _trained(params: Any) -> Any:
    return dict(params.named_parameters()) if isinstance(params, Model) else params


def _zeros(leaf: Any) -> Any:
    return (
        np.zeros(leaf.shape, leaf.dtype)
        if isinstance(leaf, np.ndarray | np.generic | DeviceArray)
        else xp.zeros_like(leaf)
    )


class SGD(Optimizer):
    """``v = momentum * v + g + weight_decay * p``; ``p -= rate * v`` (or, with `nesterov`, what the next v would be).

    Raises:
        ValueError: `nesterov` without momentum.
    """

    def __init__(
        self, rate: Schedule | float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(rate)
        if nesterov and not momentum:
            raise ValueError("nesterov needs a momentum")
        self.momentum, self.weight_decay, self.nesterov = momentum, weight_decay, nesterov

    @property
    def moments(self) -> int:
        return 1 if self.momentum else 0

    def _updated(self, p: Any, g: Any, moments: Sequence[Any], scalars: Sequence[Any]) -> Sequence[Any]:
        (rate,) = scalars
        if self.weight_decay:
            g = g + self.weight_decay * p
        if not self.momentum:
            return (p - rate * g,)
        velocity = self.momentum * moments[0] + g
        return p - rate * (g + self.momentum * velocity if self.nesterov else velocity), velocity


class Adam(Optimizer):
    """Kingma & Ba 2015; `weight_decay` is added to the gradient.

    Raises:
        ValueError: a beta lies outside of [0, 1).
    """

    _decoupled = False

    def __init__(
        self,
        rate: Schedule | float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(rate)
        if not all(0 <= b < 1 for b in betas):
            raise ValueError(f"betas lie in [0, 1), got {betas}")
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay

    @property
    def moments(self) -> int:
        return 2

    def _scalars(self, step: Any, rate: Any) -> Sequence[Any]:
        count = xp.astype(xp.asarray(step), xp.float32) + 1.0
        first, second = (_missing(beta, count) for beta in self.betas)
        return rate, rate / first, 1.0 / xp.sqrt(second)

    def _updated(self, p: Any, g: Any, moments: Sequence[Any], scalars: Sequence[Any]) -> Sequence[Any]:
        rate, size, scale = scalars
        b1, b2 = self.betas
        if self.weight_decay and self._decoupled:
            p = p * (1 - rate * self.weight_decay)
        elif self.weight_decay:
            g = g + self.weight_decay * p
        mean = moments[0] + (1 - b1) * (g - moments[0])
        square = b2 * moments[1] + (1 - b2) * (g * g)
        return p - size * (mean / (xp.sqrt(square) * scale + self.eps)), mean, square


class AdamW(Adam):
    """Loshchilov & Hutter 2019: Adam whose `weight_decay` shrinks parameters directly."""

    _decoupled = True

    def __init__(
        self,
        rate: Schedule | float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(rate, betas, eps, weight_decay)


def _missing(beta: float, count: Any) -> Any:
    """``1 - beta**count`` by expm1: in f32 the difference itself would be off by 1e-5 at the first steps."""
    return -xp.expm1(count * math.log(beta)) if beta else xp.ones_like(count)
