"""Max and average pooling over windows, channels last. (Global pooling is a reduction and not done here.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.window import Epilogue, Window, WindowBody, emit_windows, index


@dataclass(frozen=True, kw_only=True)
class PoolShape(Window):
    """Pooling ``[n, h, w, channels]`` to ``[n, oh, ow, channels]``; oh and ow as floor or ceil mode gave them."""

    channels: int


def emit_pool(
    fb: FunctionBuilder,
    target: Target,
    *,
    kind: Literal["max", "average"],
    shape: PoolShape,
    x: V,
    task: V,
    tasks: V,
    epilogue: Epilogue,
    count_include_pad: bool = False,
    element: str = "float",
) -> None:
    """Emit pooling of ``x: [n, h, w, channels]``.

    ``max`` propagates NaN, as NumPy and PyTorch do, and ignores the padding: a window of -inf gives -inf.
    (onnxruntime keeps or drops a NaN by its place in the window and gives -3.4e38 for such windows.)
    ``average`` divides by the taps on the image, or with `count_include_pad` by those on the padded image: what
    ceil mode adds beyond the padding is never counted, as in ONNX and PyTorch.

    Each output vector goes to ``epilogue(fb, image, pixel, channel, lanes, mask, value)`` once, from one of the
    `tasks`; results do not depend on the number of tasks.
    """
    if kind == "max":

        def largest(acc: V, value: V, _: V | None) -> V:
            # maxps when the comparison is ordered this way: a NaN in acc stays, one in value needs the second select.
            larger = fb.select(fb.fcmp("ogt", value, acc), value, acc)
            return fb.select(fb.fcmp("uno", value, value), value, larger)

        body = WindowBody(initial=float("-inf"), combine=largest, finish=lambda acc, count: acc)
    else:

        def mean(acc: V, count: V | None) -> V:
            assert count is not None
            return fb.fdiv(acc, fb.splat(count, acc.lanes))

        padded = tuple(fb.add(size, index(pad)) for size, pad in zip((shape.h, shape.w), shape.pads[2:]))
        body = WindowBody(
            initial=0.0,
            combine=lambda acc, value, _: fb.fadd(acc, value),
            finish=mean,
            count="padded" if count_include_pad else "valid",
            padded_size=(padded[0], padded[1]) if count_include_pad else None,
        )
    emit_windows(
        fb,
        target,
        shape,
        body,
        x=x,
        channels=shape.channels,
        element=element,
        task=task,
        tasks=tasks,
        epilogue=epilogue,
    )
