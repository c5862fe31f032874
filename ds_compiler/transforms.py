"""Functions that make functions: `grad`, `value_and_grad`, `vjp`, `jvp`, `custom_vjp`, `stop_gradient`, `vmap`.

The function is traced into a function of the module, and an operation names it (`ds_compiler.ops.derivative`); the
pass ``grad`` computes what it stands for. Outside of a traced function, results are computed by a program compiled
for the purpose. What the function reads from its surroundings is constant to the derivative.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ds_compiler.frontends.trace import compose, tree
from ds_compiler.frontends.trace.array import TracedArray, is_array, is_unknown_number, read, wrap
from ds_compiler.frontends.trace.axes import axis_of
from ds_compiler.frontends.trace.batching import Lane, example_type, replay
from ds_compiler.frontends.trace.dtypes import name_of
from ds_compiler.frontends.trace.frame import current, located, placing_errors, tracing
from ds_compiler.frontends.trace.function import Callee, Output, trace_callee
from ds_compiler.frontends.trace.tree import Structure
from ds_compiler.ir import TensorType, Value
from ds_compiler.ops import Call, CustomCall, Jvp, StopGradient, Vjp


def grad(function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False) -> Callable[..., Any]:
    """A function that gives the gradient of `function`'s scalar result, in the form of the argument.

    Args:
        argnums: positions of the arguments to differentiate by; of several, the gradients come as a tuple. Of one
            `nn.Model`, they are those of its parameters, by name, and its buffers are set as `function` sets them
            (in a traced function).
        has_aux: `function` returns ``(loss, anything)``; the gradient function then ``(gradient, anything)``.

    Raises:
        TraceError: when called: the result is no scalar of a floating-point type, or an argument holds other arrays.
    """
    compute = value_and_grad(function, argnums, has_aux)

    @functools.wraps(function)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, result = compute(*args, **kwargs)
        return (result, value[1]) if has_aux else result

    return gradient


def value_and_grad(
    function: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """A function that gives ``(result, gradient)``; see `grad`. With `has_aux`: ``((loss, aux), gradient)``."""
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    def inside(*args: Any, **kwargs: Any) -> Any:
        chosen = [_position(p, len(args)) for p in positions]
        if isinstance(argnums, int) and _is_network(args[chosen[0]]):
            from ds_compiler.nn.gradient import value_and_grad_of_model

            by_arrays = functools.partial(value_and_grad, has_aux=True)
            return value_and_grad_of_model(by_arrays, function, chosen[0], has_aux, args, kwargs)
        differentiated = _Differentiated(function, args, kwargs, chosen)
        callee = differentiated.callee
        loss = callee.structure
        if has_aux:
            if loss.node is not tuple or len(loss.children) != 2:
                raise located("grad: with has_aux=True, the function returns (loss, aux)")
            loss = loss.children[0]
        first = callee.leaves[0] if callee.leaves else None
        if loss.node is not None or not isinstance(first, Output):
            raise located(f"grad: the function's result is {loss}, expected one scalar", help="sum or average the loss")
        type_ = callee.types[first.index]
        if type_.rank or not type_.dtype.is_float:
            raise located(
                f"grad: the function's result has shape {compose.shown(type_.shape)} and is of {name_of(type_.dtype)}, "
                "expected a floating-point scalar",
                help="sum or average the loss; other values go beside it with has_aux=True",
            )
        seeds = [compose.full(int(i == first.index), t.shape, t.dtype) for i, t in enumerate(callee.types)]
        values = differentiated.vjp(seeds)
        gradients = differentiated.in_form(values[len(callee.types) :])
        result = gradients if not isinstance(argnums, int) else gradients[0]
        return callee.result(values), result

    return _compiled_outside(function, inside)


def vjp(function: Callable[..., Any], *primals: Any, has_aux: bool = False) -> Any:
    """``(result, pullback)``: the pullback takes a cotangent in the result's form and gives a tuple of gradients, one
    for each of `primals`. With `has_aux`: ``(result, pullback, aux)``.

    Raises:
        TraceError: an argument holds arrays that are not of a floating-point type.
    """
    if not tracing():
        from ds_compiler.api import compile

        result = compile(function)(*primals)
        pull = compile(lambda values, cotangent: vjp(function, *values, has_aux=has_aux)[1](cotangent))
        outside = functools.partial(pull, primals)
        return (result[0], outside, result[1]) if has_aux else (result, outside)
    with placing_errors("vjp"):
        differentiated = _Differentiated(function, primals, {}, range(len(primals)))
        callee = differentiated.callee
        values = current().insert(Call(differentiated.operands(), callee.function.name, callee.types))
        result = callee.result(values)
        if has_aux and not (isinstance(result, tuple) and len(result) == 2):
            raise located("vjp: with has_aux=True, the function returns (result, aux)")

    def pullback(cotangent: Any) -> Any:
        with placing_errors("vjp"):
            form = callee.structure.children[0] if has_aux else callee.structure
            given, found = tree.flatten(cotangent)
            if found != form:
                raise located(f"vjp: the cotangent has the form {found}, the result {form}")
            seeds = [compose.full(0, t.shape, t.dtype) for t in callee.types]
            for leaf, place in zip(given, callee.leaves):
                if isinstance(place, Output):
                    seeds[place.index] = _as(leaf, callee.types[place.index], "vjp: a cotangent")
            gradients = differentiated.vjp(seeds)[len(callee.types) :]
            return tuple(differentiated.in_form(gradients))

    return (result[0], pullback, result[1]) if has_aux else (result, pullback)


def jvp(function: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """``(result, tangent)``: the function's result, and its derivative in the direction of `tangents`, which have the
    form of `primals`.

    Raises:
        TraceError: the forms differ, or an argument holds arrays that are not of a floating-point type.
    """
    if not tracing():
        from ds_compiler.api import compile

        return compile(lambda p, t: jvp(function, p, t))(tuple(primals), tuple(tangents))
    with placing_errors("jvp"):
        differentiated = _Differentiated(function, tuple(primals), {}, range(len(primals)))
        callee = differentiated.callee
        given, found = tree.flatten(tuple(tangents))
        if found != differentiated.structure:
            raise located(f"jvp: tangents have the form {found}, arguments {differentiated.structure}")
        moved = [leaf for leaf, t in zip(given, differentiated.types) if t is not None]
        wanted = [t for t in differentiated.types if t is not None]
        directions = tuple(_as(leaf, t, "jvp: a tangent") for leaf, t in zip(moved, wanted))
        operation = Jvp(
            differentiated.operands(), directions, callee.function.name, tuple(range(len(wanted))), callee.types
        )
        values = current().insert(operation)
        count = len(callee.types)
        return callee.result(values[:count]), callee.result(values[count:])


def stop_gradient(x: Any) -> Any:
    """`x` (any structure of arrays), which derivatives take for a constant."""
    if not tracing():
        return x
    with placing_errors("stop_gradient"):
        return tree.tree_map(
            lambda leaf: wrap(current().emit(StopGradient(leaf.read()))) if isinstance(leaf, TracedArray) else leaf, x
        )


class custom_vjp:
    """A function whose derivative is stated (used as a decorator, then `defvjp`).

    @ds.custom_vjp
    def f(x): return ...
    f.defvjp(forward, backward)

    ``forward(*args)`` gives ``(result, residuals)``; ``backward(residuals, cotangent)`` a tuple with one gradient for
    each argument, in its form, or None where there is none. None of the three reads traced arrays from outside. Where
    a rule calls the function itself, that is the function without a stated derivative.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._rules: tuple[Callable[..., Any], Callable[..., Any]] | None = None
        self._in_rules: set[int] = set()

    def defvjp(self, forward: Callable[..., Any], backward: Callable[..., Any]) -> None:
        """State the derivative."""
        self._rules = forward, backward

    def __call__(self, *args: Any) -> Any:
        """The function's result.

        Raises:
            TraceError: no derivative is stated, or results and gradients do not fit the function.
        """
        thread = threading.get_ident()
        if not tracing() or thread in self._in_rules:
            return self._function(*args)
        self._in_rules.add(thread)
        try:
            with placing_errors("custom_vjp"):
                return self._call(args)
        finally:
            self._in_rules.remove(thread)

    def _call(self, args: tuple[Any, ...]) -> Any:
        name = getattr(self._function, "__name__", "function")
        if self._rules is None:
            raise located(f"{name}: no derivative is stated", help=f"call {name}.defvjp(forward, backward)")
        leaves, structure = tree.flatten(args)
        values = [read(leaf) if is_array(leaf) else None for leaf in leaves]
        types = [None if v is None else v.type for v in values]
        operands = [v for v in values if v is not None]
        plain = trace_callee(self._function, structure, leaves, types, add=True)
        forward = trace_callee(self._rules[0], structure, leaves, types, add=True)
        form = forward.structure
        if form.node is not tuple or len(form.children) != 2 or form.children[0] != plain.structure:
            raise located(
                f"custom_vjp: forward of {name} returns {form}, expected (result, residuals), the result like that of "
                f"{name}: {plain.structure}"
            )
        count = len(plain.types)
        if forward.types[:count] != plain.types:
            raise located(f"custom_vjp: {name} returns {plain.types}, its forward {forward.types[:count]}")
        backward = self._backward(name, plain, forward, structure, types)
        for callee in (plain, forward, backward):
            if callee.captured:
                raise located(
                    f"custom_vjp: {callee.function.name.rpartition('_')[0]} reads a traced array from its surroundings",
                    help="pass it as an argument, or among the residuals",
                )
        names = plain.function.name, forward.function.name, backward.function.name
        return plain.result(current().insert(CustomCall(tuple(operands), *names, plain.types)))

    def _backward(
        self, name: str, plain: Callee, forward: Callee, arguments: Structure, types: Sequence[TensorType | None]
    ) -> Callee:
        assert self._rules is not None
        rule = self._rules[1]
        residuals = list(forward.leaves[len(plain.leaves) :])
        places = [forward.types[x.index] if isinstance(x, Output) else None for x in residuals]
        # Of results that have no derivative there is no cotangent.
        seeds = [plain.types[x.index] if isinstance(x, Output) else None for x in plain.leaves]
        seeds = [t if t is not None and t.dtype.is_float else None for t in seeds]
        holders = [None if isinstance(x, Output) and t is None else x for x, t in zip(plain.leaves, seeds)]
        pair = tree.together(forward.structure.children[1], plain.structure)

        def gradients(kept: Any, cotangent: Any) -> list[Any]:
            found = rule(kept, cotangent)
            children = arguments.children
            if not isinstance(found, tuple) or len(found) != len(children):
                raise located(
                    f"custom_vjp: backward of {name} returns {tree.flatten(found)[1]}, expected a tuple of "
                    f"{len(children)}"
                )
            flat: list[Any] = []
            rest = iter(types)
            for gradient, child in zip(found, children):
                wanted = [next(rest) for _ in range(child.leaves)]
                given = [None] * child.leaves if gradient is None else tree.flatten(gradient)[0]
                if len(given) != len(wanted):
                    raise located(f"custom_vjp: a gradient of {name} has another form than its argument: {child}")
                for leaf, type_ in zip(given, wanted):
                    if type_ is None or not type_.dtype.is_float:
                        continue
                    if leaf is None:
                        flat.append(wrap(compose.full(0, type_.shape, type_.dtype)))
                    else:
                        flat.append(wrap(_as(leaf, type_, f"custom_vjp: a gradient of {name}")))
            return flat

        gradients.__name__ = f"{name}_backward"
        return trace_callee(gradients, pair, [*residuals, *holders], [*places, *seeds], add=True)


class _Differentiated:
    """A function as one of the module, whose explicit arguments are what to differentiate by."""

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], chosen: Sequence[int]
    ) -> None:
        def of_chosen(*given: Any) -> Any:
            everything = list(args)
            for position, value in zip(chosen, given):
                everything[position] = value
            return function(*everything, **kwargs)

        of_chosen.__name__ = getattr(function, "__name__", "function")
        self.leaves, self.structure = tree.flatten(tuple(args[p] for p in chosen))
        values = [_operand(leaf) for leaf in self.leaves]
        self.types = [None if v is None else v.type for v in values]
        for value in values:
            if value is not None and not value.type.dtype.is_float:
                raise located(
                    f"an argument to differentiate by holds an array of {name_of(value.type.dtype)}",
                    help="only floating-point arrays have derivatives; choose others with argnums=",
                )
        self.explicit = [wrap(v) for v in values if v is not None]
        self.callee = trace_callee(of_chosen, self.structure, self.leaves, self.types, add=True)
        self.captured = [wrap(v) for v in self.callee.captured]

    def operands(self) -> tuple[Value, ...]:
        return tuple(x.read() for x in (*self.explicit, *self.captured))

    def vjp(self, seeds: Sequence[Value]) -> list[Value]:
        wrt = tuple(range(len(self.explicit)))
        return current().insert(Vjp(self.operands(), tuple(seeds), self.callee.function.name, wrt))

    def in_form(self, gradients: Sequence[Value]) -> Any:
        """Gradients in the form of the chosen arguments; leaves that are no arrays stay as they are."""
        rest = iter(gradients)
        return tree.unflatten(
            self.structure, [leaf if t is None else wrap(next(rest)) for leaf, t in zip(self.leaves, self.types)]
        )


def _operand(leaf: Any) -> Value | None:
    """Arrays and Python floats are differentiated by; integers, strings and the like are not."""
    is_float = isinstance(leaf, float) or (is_unknown_number(leaf) and leaf.is_float)
    return read(leaf) if is_array(leaf) or is_float else None


def _as(leaf: Any, wanted: TensorType, what: str) -> Value:
    """`leaf` as a value of type `wanted`."""
    value = read(leaf, wanted.dtype)
    if value.type.dtype != wanted.dtype or value.type.rank != wanted.rank:
        raise located(f"{what} is {value.type}, expected {wanted}")
    return compose.broadcast_to(value, wanted.shape) if value.type != wanted else value


def _position(position: int, count: int) -> int:
    if not -count <= position < count:
        raise located(f"grad: there is no argument {position}; {count} are given in order")
    return position % count


def _compiled_outside(function: Callable[..., Any], inside: Callable[..., Any]) -> Callable[..., Any]:
    """`inside` under a trace; elsewhere compiled, once for all calls."""
    compiled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if tracing():
            with placing_errors("grad"):
                return inside(*args, **kwargs)
        if not compiled:
            from ds_compiler.api import compile

            compiled.append(compile(call))
        return compiled[0](*args, **kwargs)

    return call


def vmap(function: Callable[..., Any], in_axes: Any = 0, out_axes: int = 0) -> Callable[..., Any]:
    """A function that applies `function` to all examples of a batch, which lie along one axis of its arguments.

    Args:
        in_axes: that axis, None for an argument without it; of several arguments a tuple, an entry for each, which may
            be a structure of axes in the form of the argument.
        out_axes: where the axis lies in the results.

    Raises:
        TraceError: when called: no argument has the axis, or its sizes differ.
    """

    def inside(*args: Any) -> Any:
        axes = tuple(in_axes) if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
        if len(axes) != len(args):
            raise located(f"vmap: in_axes has {len(axes)} entries for {len(args)} arguments")
        leaves, structure = tree.flatten(args)
        places: list[int | None] = []
        for arg, axis in zip(args, axes):
            count = tree.flatten(arg)[1].leaves
            places += [axis] * count if axis is None or isinstance(axis, int) else tree.tree_leaves(axis)
        if len(places) != len(leaves):
            raise located("vmap: in_axes has another form than the arguments")
        size: Any = None
        values: list[Value | None] = []
        types: list[TensorType | None] = []
        for leaf, place in zip(leaves, places):
            value = read(leaf) if is_array(leaf) else None
            if value is not None and place is not None:
                axis = axis_of(place, value.type.rank)
                extent = value.type.shape[axis]
                if isinstance(size, int) and isinstance(extent, int) and size != extent:
                    raise located(f"vmap: the axis has size {size} in one argument and {extent} in another")
                size = extent if size is None or isinstance(extent, int) else size
                value = compose.moved(value, axis, 0)
            elif place is not None:
                raise located(f"vmap: an argument is a {type(leaf).__name__}, which has no axis", help="in_axes=None")
            values.append(value)
            types.append(None if value is None else example_type(value.type, 0) if place is not None else value.type)
        if size is None:
            raise located("vmap: no argument has the axis")
        callee = trace_callee(function, structure, leaves, types, add=False)
        lanes = [Lane(v, p is not None) for v, p in zip(values, places) if v is not None]
        lanes += [Lane(v, False) for v in callee.captured]
        results = []
        for lane in replay(callee.function, lanes, size):
            shape = lane.value.type.shape
            full = lane.value if lane.batched else compose.broadcast_to(lane.value, (size, *shape))
            results.append(compose.moved(full, 0, axis_of(out_axes, full.type.rank)))
        return callee.result(results)

    return _compiled_outside(function, inside)


def _is_network(argument: Any) -> bool:
    home = sys.modules.get("ds_compiler.nn.model")  # without it, there are no models
    return home is not None and isinstance(argument, home.Model)
