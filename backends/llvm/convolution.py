"""Choosing how a convolution runs: depthwise, Winograd, transposed, or the implicit matrix product.

One object answers all that a caller needs: how to pack the constant weight, how much scratch a task
needs, and the code. The choice depends on static sizes only, never on the number of tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ds_compiler.backends.llvm.builder import FunctionBuilder, V
from ds_compiler.backends.llvm.conv import conv_scratch_bytes, emit_conv, pack_conv_weight
from ds_compiler.backends.llvm.conv_transpose import (
    conv_transpose_scratch_bytes,
    emit_conv_transpose,
    pack_conv_transpose_weight,
)
from ds_compiler.backends.llvm.depthwise import emit_depthwise, pack_depthwise_weight
from ds_compiler.backends.llvm.target import Target
from ds_compiler.backends.llvm.window import ConvShape, Epilogue
from ds_compiler.backends.llvm.winograd import (
    emit_winograd,
    pack_winograd_weight,
    winograd_pays,
    winograd_scratch_bytes,
)

Algorithm = Literal["product", "depthwise", "winograd", "transposed"]


@dataclass(frozen=True)
class Convolution:
    """A convolution with its algorithm chosen; make one with `choose`.

    Attributes:
        shape: as `choose` got it. Its run-time sizes may be placeholders: `emit` takes the real ones.
        element: ``float`` or ``double``.
    """

    algorithm: Algorithm
    shape: ConvShape
    target: Target
    element: str

    def pack(self, w: NDArray[np.generic]) -> NDArray[np.generic]:
        """The constant weight as `emit` reads it.

        Args:
            w: ONNX's layout: ``[co, ci / groups, kh, kw]``, transposed ``[ci, co / groups, kh, kw]``.

        Raises:
            ValueError: the weight's shape is not the one that `shape` says.
        """
        if self.algorithm == "depthwise":
            return pack_depthwise_weight(w, self.target.lanes(self.element))
        if self.algorithm == "winograd":
            return pack_winograd_weight(w, self.shape, self.target)
        if self.algorithm == "transposed":
            return pack_conv_transpose_weight(w, self.shape, self.target)
        return pack_conv_weight(w, self.shape, self.target)

    def scratch_bytes(self) -> int:
        """Bytes of scratch that each task needs; independent of run-time sizes, a few MiB at most."""
        if self.algorithm == "depthwise":
            return 0
        if self.algorithm == "winograd":
            return winograd_scratch_bytes(self.shape, self.target)
        if self.algorithm == "transposed":
            return conv_transpose_scratch_bytes(self.shape, self.target, self.element)
        return conv_scratch_bytes(self.shape, self.target, self.element)

    def emit(
        self,
        fb: FunctionBuilder,
        *,
        shape: ConvShape,
        x: V,
        w: V,
        task: V,
        tasks: V,
        scratch: V,
        epilogue: Epilogue,
    ) -> None:
        """Emit the convolution of ``x: [n, h, w, ci]`` by the packed weight `w`.

        Each output vector goes to ``epilogue(fb, image, pixel, channel, lanes, mask, value)`` once, from one of the
        `tasks`, with pixel = oh * OW + ow within the image and a mask ``<lanes x i1>`` (else None) where only the
        first lanes are channels. Results do not depend on the number of tasks.

        Args:
            shape: as given to `choose`, with the run-time sizes of this function.
            scratch: this task's own `scratch_bytes`, aligned to 64 bytes.
        """
        fb.comment(f"convolution: {self.algorithm}")
        if self.algorithm == "depthwise":
            emit_depthwise(
                fb,
                self.target,
                shape=shape,
                x=x,
                w=w,
                task=task,
                tasks=tasks,
                epilogue=epilogue,
                element=self.element,
            )
        elif self.algorithm == "winograd":
            emit_winograd(
                fb, self.target, shape=shape, x=x, w=w, task=task, tasks=tasks, scratch=scratch, epilogue=epilogue
            )
        else:
            emit = emit_conv_transpose if self.algorithm == "transposed" else emit_conv
            emit(
                fb,
                self.target,
                shape=shape,
                x=x,
                w=w,
                task=task,
                tasks=tasks,
                scratch=scratch,
                epilogue=epilogue,
                element=self.element,
            )


def choose(
    shape: ConvShape,
    target: Target,
    *,
    transposed: bool = False,
    winograd: bool = True,
    element: str = "float",
) -> Convolution:
    """The convolution of `shape` with the algorithm expected to be fastest.

    Args:
        transposed: `shape` is a transposed convolution (see `conv_transpose`).
        winograd: allow Winograd, whose rounding error is up to twice the direct sum's (see `winograd`) and
            which spreads an infinity or NaN to its 4x4 tile.
    """
    algorithm: Algorithm = "product"
    if transposed:
        algorithm = "transposed"
    elif shape.groups == shape.ci > 1:
        algorithm = "depthwise"
    elif winograd and element == "float" and winograd_pays(shape, target):
        algorithm = "winograd"
    return Convolution(algorithm, shape, target, element)
