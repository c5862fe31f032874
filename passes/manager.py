"""Passes by name: registration, the text form of pipelines, and running them.

    @register("cse")
    def eliminate_common_subexpressions(module: Module) -> None: ...

    run(module, "canonicalize,cse,fuse{max-ops=64}", dump=lambda name, module: ...)

A pass is a function on a module with keyword options of type bool, int, float or str. A pipeline is a
comma-separated list of pass names and names of other pipelines (`PIPELINES`).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ds_compiler.ir import CompileError, Module

_F = TypeVar("_F", bound=Callable[..., None])

PIPELINES: dict[str, str] = {
    "cleanup": "simplify-shapes,canonicalize,cse,dce",
    "default": "dequantised-products,cleanup,hoist,fold-affine,conv-forms,attention,merge-matmuls,integer-products,"
    "layout,cleanup,fuse",
    "traced": "grad,inline,default",
    "traced-gpu": "grad{narrow},inline,gpu",
    "gpu": "cleanup,hoist,fold-affine,conv-forms,attention{narrow},merge-matmuls,layout,cleanup,fuse",
}


@dataclass(frozen=True, slots=True)
class Pass:
    """A registered pass.

    Attributes:
        name: as pipelines write it.
        function: takes the module and the options as keywords.
        options: default value by option name (with dashes); the default's type is the option's.
    """

    name: str
    function: Callable[..., None]
    options: Mapping[str, bool | int | float | str]

    @property
    def summary(self) -> str:
        """First line of the function's documentation."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


@dataclass(frozen=True, slots=True)
class Invocation:
    """A pass with the options it is to run with (by Python name)."""

    pass_: Pass
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        text = ",".join(f"{k.replace('_', '-')}={_option_text(v)}" for k, v in self.options.items())
        return f"{self.pass_.name}{{{text}}}" if text else self.pass_.name


PASSES: dict[str, Pass] = {}


def register(name: str) -> Callable[[_F], _F]:
    """Make a function the pass called `name`; its keyword parameters, all with defaults, are the options.

    Raises:
        ValueError: the name is taken, or an option has no default of a supported type.
    """

    def add(function: _F) -> _F:
        if name in PASSES or name in PIPELINES:
            raise ValueError(f"pass '{name}' is registered twice")
        options: dict[str, bool | int | float | str] = {}
        for parameter in list(inspect.signature(function).parameters.values())[1:]:
            if not isinstance(parameter.default, bool | int | float | str):
                raise ValueError(f"pass '{name}': option '{parameter.name}' needs a bool, int, float or str default")
            options[parameter.name.replace("_", "-")] = parameter.default
        PASSES[name] = Pass(name, function, options)
        return function

    return add


def parse_pipeline(text: str) -> list[Invocation]:
    """The passes that `text` names, pipelines expanded.

    Raises:
        CompileError: an unknown pass or option (the known ones are listed), or a malformed text.
    """
    return _expand(text, ())


def _expand(text: str, within: tuple[str, ...]) -> list[Invocation]:
    invocations: list[Invocation] = []
    for item in _split(text):
        name, brace, rest = item.partition("{")
        name = name.strip()
        if brace and not rest.endswith("}"):
            raise CompileError(f"pipeline: '{item}' lacks its closing brace")
        if name in PIPELINES:
            if brace or name in within:
                why = "takes no options" if brace else "contains itself"
                raise CompileError(f"pipeline '{name}' {why}")
            invocations.extend(_expand(PIPELINES[name], (*within, name)))
        elif name in PASSES:
            invocations.append(Invocation(PASSES[name], _options(PASSES[name], rest[:-1] if brace else "")))
        else:
            known = ", ".join(sorted((*PASSES, *PIPELINES)))
            raise CompileError(f"unknown pass '{name}'", help=f"known: {known}")
    return invocations


def _split(text: str) -> list[str]:
    """Items between commas that are not inside braces."""
    items, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            items.append(text[start:index])
            start = index + 1
    items.append(text[start:])
    return [item.strip() for item in items if item.strip()]


def _options(pass_: Pass, text: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in pass_.options:
            known = ", ".join(pass_.options) or "none"
            raise CompileError(f"pass '{pass_.name}' has no option '{key}'", help=f"known: {known}")
        default = pass_.options[key]
        try:
            options[key.replace("-", "_")] = _option_value(type(default), value if equals else "true")
        except ValueError:
            wanted = type(default).__name__
            raise CompileError(f"pass '{pass_.name}': option '{key}' takes {wanted}, not '{value}'") from None
    return options


def _option_value(wanted: type, text: str) -> Any:
    if wanted is bool:
        if text not in ("true", "false"):
            raise ValueError(text)
        return text == "true"
    return wanted(text)


def _option_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run(
    module: Module,
    pipeline: str | Iterable[Invocation],
    *,
    verify: bool = False,
    dump: Callable[[str, Module], None] | None = None,
    timing: MutableMapping[str, float] | None = None,
) -> None:
    """Run passes on `module`, in place.

    Args:
        verify: check the IR after each pass.
        dump: called with the pass's name and the module after each pass.
        timing: seconds are added under each pass's name.

    Raises:
        CompileError: as `parse_pipeline`; or a pass broke the IR, which then is named.
    """
    invocations = parse_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
    for invocation in invocations:
        name = invocation.pass_.name
        start = time.perf_counter()
        invocation.pass_.function(module, **invocation.options)
        if timing is not None:
            timing[name] = timing.get(name, 0.0) + time.perf_counter() - start
        if verify:
            _verify(module, name)
        if dump is not None:
            dump(name, module)


def _verify(module: Module, after: str) -> None:
    from ds_compiler.ir.verifier import verify

    try:
        verify(module)
    except CompileError as error:
        what = f"pass '{after}' broke the IR: {error.what}"
        raise CompileError(what, location=error.location, help=error.help, snippet=error.snippet) from error
